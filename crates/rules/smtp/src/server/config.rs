//! Limits and choices of a session, and the facts about its connection.

use mail::Domain;
use settings::{Node, Problems, Size};
use std::sync::Arc;
use std::time::Duration;

settings::words! {
    /// What to do with a bare CR or LF in content.
    pub enum BareNewline {
        /// The message is read to its real end and refused with 550 5.6.11.
        Refuse,
        /// Each becomes CRLF. A line made so never ends the content.
        Normalise,
    }
}

settings::words! {
    /// What to do with a line of content longer than `body_line_max`.
    pub enum LongLine {
        /// The message is read to its end and refused with 554 5.6.0.
        Refuse,
        /// The line is broken with CRLF and a space, not within a UTF-8 character. Breaks signatures.
        Fold,
    }
}

settings::words! {
    /// Which names are taken in HELO, EHLO and LHLO.
    pub enum HelloName {
        /// Letters, digits and `. - _ : [ ]`, at most 255 of them: what real clients send, and nothing that could
        /// break a Received field.
        Lenient,
        /// Only a domain name or an address literal (RFC 5321 §4.1.1.1).
        Strict,
    }
}

/// What every session of a listener shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name this server gives itself in its greeting and in reply to EHLO; also the domain of
    /// `<postmaster>`.
    pub hostname: Domain,
    /// The limits and choices.
    pub session: SessionConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: Domain::parse("localhost").expect("localhost is a domain name"),
            session: SessionConfig::default(),
        }
    }
}

settings::table! {
    /// The limits and choices of a session.
    #[derive(Eq)]
    #[check(SessionConfig::check)]
    pub struct SessionConfig {
        /// What the greeting says after the host name. Printable ASCII.
        pub banner: String = "ESMTP".into(),
        /// Longest command line, in octets without CRLF; AUTH lines have their own limit. RFC 5321 asks for 510,
        /// and extensions add some 700.
        #[in(510..=65_536)]
        pub command_line_max: usize = 2_048,
        /// Octets of an overlong or malformed line that are thrown away before the session is closed.
        #[in(..=64MiB)]
        pub command_line_discard_max: Size = Size::kib(64),
        /// Longest AUTH command or response line, in octets without CRLF. RFC 4954 asks for 12,288.
        #[in(510..=262_144)]
        pub auth_line_max: usize = 12_288,
        /// Largest message; also what SIZE tells clients.
        #[in(64KiB..=4GiB)]
        pub message_size_max: Size = Size::mib(50),
        /// Octets read past `message_size_max`, so that the client may read our 552, before the session is closed.
        pub message_overrun_max: Size = Size::mib(50),
        /// Largest header section.
        #[in(4KiB..=16MiB)]
        pub header_size_max: Size = Size::kib(256),
        /// Most header fields in a message.
        #[in(10..)]
        pub header_count_max: u32 = 1_000,
        /// Longest line of content, in octets without CRLF. RFC 5321 says 998.
        #[in(64..=1_048_576)]
        pub body_line_max: usize = 998,
        /// What to do with a longer one.
        pub long_line: LongLine = LongLine::Refuse,
        /// What to do with a bare CR or LF in content.
        pub bare_newline: BareNewline = BareNewline::Refuse,
        /// Recipients in a transaction; the excess is answered 452, so the client sends them in another one.
        /// RFC 5321 asks for 100 at least.
        #[in(1..=100_000)]
        pub recipients_max: u32 = 1_000,
        /// Transactions in a session; after them the session ends with 421.
        #[in(1..)]
        pub transactions_max: u32 = 100_000,
        /// BDAT commands in a transaction. Chunks of one octet would cost us a reply each.
        #[in(1..)]
        pub chunks_max: u32 = 20_000,
        /// Wrong commands in a session (unknown, malformed, out of order); after them it ends with 421.
        #[in(1..)]
        pub errors_max: u32 = 20,
        /// Wrong commands that are answered at once; each one after them makes the client wait `error_delay`.
        pub errors_prompt_max: u32 = 5,
        /// How long a client waits after a wrong command.
        #[in(..=1m)]
        pub error_delay: Duration = Duration::from_secs(1),
        /// MAIL, RCPT and messages refused for good in a session; after them it ends with 421.
        #[in(1..)]
        pub refusals_max: u32 = 1_000,
        /// Transactions and recipients refused in a session that leave a `rejected` record each. The rest only
        /// count in the metric, so that a flood of junk does not fill the records.
        pub refusal_records_max: u32 = 1_000,
        /// RSET, NOOP, VRFY, EXPN, HELP and repeated HELO since the last accepted message; after them the session
        /// ends with 421. A RSET after a command that was refused by policy or for lack of room is not counted.
        #[in(1..)]
        pub idle_commands_max: u32 = 100,
        /// Failed AUTH exchanges in a session; after them it ends with 421.
        #[in(1..)]
        pub auth_failures_max: u32 = 3,
        /// Octets of replies not yet taken by the client; past them nothing more is read from it.
        #[in(4KiB..=16MiB)]
        pub output_max: Size = Size::kib(64),
        /// Longest wait for a whole command. RFC 5321 §4.5.3.2.7 asks for five minutes.
        #[in(1s..=1h)]
        pub command_timeout: Duration = Duration::from_secs(300),
        /// Longest silence within content.
        #[in(1s..=1h)]
        pub data_timeout: Duration = Duration::from_secs(180),
        /// Least octets a second of content, on average, once `data_rate_grace` is over. 0 turns it off.
        pub data_rate_min: u32 = 256,
        /// How long content may come at any rate.
        #[in(1s..=1h)]
        pub data_rate_grace: Duration = Duration::from_secs(60),
        /// Longest session.
        #[in(1m..=7d)]
        pub session_time_max: Duration = Duration::from_secs(6 * 3600),
        /// Longest wait for QUIT after a greeting that refused.
        #[in(1s..=10m)]
        pub refused_timeout: Duration = Duration::from_secs(10),
        /// Which names are taken in HELO.
        pub hello_name: HelloName = HelloName::Lenient,
        /// Whether one space is tolerated after `FROM:` and `TO:`.
        pub space_after_colon: bool = true,
        /// Whether AUTH is offered without TLS.
        pub auth_without_tls: bool = false,
        /// Whether VRFY asks the driver; if not it is answered 252.
        pub vrfy: bool = false,
        /// Whether EXPN asks the driver; if not it is answered 502.
        pub expn: bool = false,
        /// Whether SMTPUTF8 is offered.
        pub smtputf8: bool = true,
        /// Whether DSN is offered.
        pub dsn: bool = true,
        /// Whether CHUNKING is offered.
        pub chunking: bool = true,
        /// Whether BINARYMIME is offered; it needs CHUNKING.
        pub binarymime: bool = true,
        /// Whether REQUIRETLS is offered under TLS.
        pub requiretls: bool = true,
    }
}

impl SessionConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if !self.banner.bytes().all(|b| matches!(b, b' '..=b'~')) {
            problems.error(node.at("banner"), "`banner` must be printable ASCII");
        }
    }
}

/// What the machine must know of the connection it serves.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// TLS came first (RFC 8314).
    pub tls: bool,
    /// The listener speaks LMTP (RFC 2033).
    pub lmtp: bool,
    /// There is a certificate, so STARTTLS can be offered.
    pub starttls_available: bool,
    /// MAIL needs TLS first: 530.
    pub tls_required: bool,
    /// The AUTH mechanisms to offer, in upper case; empty offers none.
    pub auth_mechanisms: Arc<[Box<str>]>,
    /// MAIL needs AUTH first: 530 (RFC 6409).
    pub auth_required: bool,
    /// The peer is listed for XCLIENT.
    pub xclient_allowed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&SessionConfig::schema()), Vec::<String>::new());
    }
}
