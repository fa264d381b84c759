//! Limits and choices of a session, and the facts about its connection.

use mail::Domain;
use std::sync::Arc;
use std::time::Duration;

/// What to do with a bare CR or LF in content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BareNewline {
    /// The message is read to its real end and refused with 550 5.6.11.
    #[default]
    Refuse,
    /// Each becomes CRLF. A line made so never ends the content.
    Normalise,
}

/// What to do with a line of content longer than `body_line_max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongLine {
    /// The message is read to its end and refused with 554 5.6.0.
    #[default]
    Refuse,
    /// The line is broken with CRLF and a space, not within a UTF-8 character. Breaks signatures.
    Fold,
}

/// Which names are taken in HELO, EHLO and LHLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HelloName {
    /// Letters, digits and `. - _ : [ ]`, at most 255 of them: what real clients send, and nothing that could
    /// break a Received field.
    #[default]
    Lenient,
    /// Only a domain name or an address literal (RFC 5321 §4.1.1.1).
    Strict,
}

/// The limits and choices of a session. Shared by every session of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name this server gives itself in its greeting and in reply to EHLO; also the domain of
    /// `<postmaster>`.
    pub hostname: Domain,
    /// What the greeting says after the host name. Printable ASCII.
    pub banner: Box<str>,

    /// Longest command line, in octets without CRLF; AUTH lines have their own limit. RFC 5321 asks for 510,
    /// and extensions add some 700. At least 510.
    pub command_line_max: usize,
    /// Octets of an overlong or malformed line that are thrown away before the session is closed.
    pub command_line_discard_max: u64,
    /// Longest AUTH command or response line, in octets without CRLF. RFC 4954 asks for 12,288.
    pub auth_line_max: usize,
    /// Largest message, in octets; also what SIZE tells clients.
    pub message_size_max: u64,
    /// Octets read past `message_size_max`, so that the client may read our 552, before the session is closed.
    pub message_overrun_max: u64,
    /// Largest header section, in octets: all that stands before the first empty line.
    pub header_size_max: u64,
    /// Most header fields in a message.
    pub header_count_max: u32,
    /// Longest line of content, in octets without CRLF. RFC 5321 says 998. At least 64.
    pub body_line_max: usize,
    /// What to do with a longer one.
    pub long_line: LongLine,
    /// What to do with a bare CR or LF in content.
    pub bare_newline: BareNewline,
    /// Recipients in a transaction, at least 1; the excess is answered 452, so the client sends them in another one.
    /// RFC 5321 asks for 100 at least.
    pub recipients_max: u32,
    /// Transactions in a session; after them the session ends with 421.
    pub transactions_max: u32,
    /// BDAT commands in a transaction. Chunks of one octet would cost us a reply each.
    pub chunks_max: u32,
    /// Wrong commands in a session (unknown, malformed, out of order); after them it ends with 421.
    pub errors_max: u32,
    /// Wrong commands that are answered at once; each one after them makes the client wait `error_delay`.
    pub errors_prompt_max: u32,
    /// How long a client waits after a wrong command.
    pub error_delay: Duration,
    /// MAIL, RCPT and messages refused for good in a session; after them it ends with 421.
    pub refusals_max: u32,
    /// RSET, NOOP, VRFY, EXPN, HELP and repeated HELO since the last accepted message; after them the session
    /// ends with 421.
    pub idle_commands_max: u32,
    /// Failed AUTH exchanges in a session; after them it ends with 421.
    pub auth_failures_max: u32,
    /// Octets of replies not yet taken by the client; past them nothing more is read from it.
    pub output_max: usize,

    /// Longest wait for a whole command. RFC 5321 §4.5.3.2.7 asks for five minutes.
    pub command_timeout: Duration,
    /// Longest silence within content.
    pub data_timeout: Duration,
    /// Least octets a second of content, on average, once `data_rate_grace` is over. 0 turns it off.
    pub data_rate_min: u32,
    /// How long content may come at any rate.
    pub data_rate_grace: Duration,
    /// Longest session.
    pub session_time_max: Duration,
    /// Longest wait for QUIT after a greeting that refused.
    pub refused_timeout: Duration,

    /// Which names are taken in HELO.
    pub hello_name: HelloName,
    /// Whether one space is tolerated after `FROM:` and `TO:`.
    pub space_after_colon: bool,
    /// Whether AUTH is offered without TLS.
    pub auth_without_tls: bool,
    /// Whether VRFY asks the driver; if not it is answered 252.
    pub vrfy: bool,
    /// Whether EXPN asks the driver; if not it is answered 502.
    pub expn: bool,
    /// Whether SMTPUTF8 is offered.
    pub smtputf8: bool,
    /// Whether DSN is offered.
    pub dsn: bool,
    /// Whether CHUNKING is offered.
    pub chunking: bool,
    /// Whether BINARYMIME is offered; it needs CHUNKING.
    pub binarymime: bool,
    /// Whether REQUIRETLS is offered under TLS.
    pub requiretls: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: Domain::parse("localhost").expect("localhost is a domain name"),
            banner: "ESMTP".into(),
            command_line_max: 2_048,
            command_line_discard_max: 64 * 1024,
            auth_line_max: 12_288,
            message_size_max: 50 * 1024 * 1024,
            message_overrun_max: 50 * 1024 * 1024,
            header_size_max: 256 * 1024,
            header_count_max: 1_000,
            body_line_max: 998,
            long_line: LongLine::Refuse,
            bare_newline: BareNewline::Refuse,
            recipients_max: 1_000,
            transactions_max: 100_000,
            chunks_max: 20_000,
            errors_max: 20,
            errors_prompt_max: 5,
            error_delay: Duration::from_secs(1),
            refusals_max: 1_000,
            idle_commands_max: 100,
            auth_failures_max: 3,
            output_max: 64 * 1024,
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            data_rate_min: 256,
            data_rate_grace: Duration::from_secs(60),
            session_time_max: Duration::from_secs(6 * 3600),
            refused_timeout: Duration::from_secs(10),
            hello_name: HelloName::Lenient,
            space_after_colon: true,
            auth_without_tls: false,
            vrfy: false,
            expn: false,
            smtputf8: true,
            dsn: true,
            chunking: true,
            binarymime: true,
            requiretls: true,
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
