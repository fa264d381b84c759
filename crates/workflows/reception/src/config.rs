//! What an operator may set about reception.

use mail::{Domain, FieldName, FieldNameError};
use routing::{DomainPattern, PriorityClass, TagText};
use settings::{Cidr, Node, Problems, Size, Text};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// This machine itself, both families.
fn loopback() -> Vec<Cidr> {
    ["127.0.0.0/8", "::1"].iter().filter_map(|text| text.parse().ok()).collect()
}

settings::words! {
    /// What a listener speaks.
    pub enum Speaks {
        /// SMTP (RFC 5321).
        Smtp,
        /// LMTP (RFC 2033).
        Lmtp,
    }
}

settings::words! {
    /// How a listener is encrypted.
    pub enum ListenerTls {
        /// Not at all.
        Off,
        /// When the client asks by STARTTLS (RFC 3207).
        Starttls,
        /// Before the client may say MAIL or AUTH.
        Required,
        /// From the first octet (RFC 8314), as at port 465.
        Implicit,
    }
}

settings::words! {
    /// A way to prove who one is.
    pub enum Mechanism {
        /// RFC 4616.
        #[word("PLAIN")]
        Plain,
        /// The old way of some clients.
        #[word("LOGIN")]
        Login,
        /// RFC 7677: the password never travels.
        #[word("SCRAM-SHA-256")]
        ScramSha256,
    }
}

settings::table! {
    /// One place where mail comes in. The key is its name in logs and accounting.
    #[check(ListenerConfig::check)]
    pub struct ListenerConfig {
        /// Address and port.
        pub listen: SocketAddr,
        /// SMTP or LMTP.
        pub speaks: Speaks = Speaks::Smtp,
        /// How it is encrypted. All but `off` need a certificate in `tls`.
        pub tls: ListenerTls = ListenerTls::Off,
        /// PEM file of the certificates that must vouch for every client: one that shows no good certificate does not
        /// get through the handshake. Left out, clients are asked for none.
        pub client_ca_file: Option<PathBuf> = None,
        /// Mechanisms of AUTH to offer, to the `users` of this file; empty offers none.
        pub auth: Vec<Mechanism> = Vec::new(),
        /// AUTH must come before MAIL, as at a submission port (RFC 6409).
        pub auth_required: bool = false,
        /// AUTH also without TLS. Passwords then cross the network for all to read.
        pub auth_without_tls: bool = false,
        /// Give messages without them a Date and a Message-ID (RFC 6409 §8).
        pub add_missing_fields: bool = false,
        /// Peers whose connections begin with a PROXY header, version 1 or 2. It is believed from no one else.
        pub proxy_from: Vec<Cidr> = Vec::new(),
        /// Peers that may use XCLIENT.
        pub xclient_from: Vec<Cidr> = Vec::new(),
        /// Whose mail comes in here, unless the user says so.
        pub tenant: Option<Text<TagText>> = None,
        /// The pool of egress sources that mail leaves by unless a header field, a rule or the user says otherwise.
        pub pool: Option<Text<TagText>> = None,
        /// What goes first, unless a header field or a rule says otherwise.
        pub priority: Option<PriorityClass> = None,
        /// Header fields may tag a message, as `tag_headers` names them; only of clients that may send to any
        /// domain, by `relay.networks` or as users.
        pub tag_headers: bool = false,
        /// Verify mail that strangers send here, as `verify` says: SPF, DKIM, DMARC and the like. For the listener that
        /// the world delivers to; off where only our own submit.
        pub verify: bool = false,
    }
}

impl ListenerConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.auth_required && self.auth.is_empty() {
            problems.error(node.at("auth_required"), "`auth_required` needs mechanisms in `auth`");
        }
        if !self.auth.is_empty() && self.tls == ListenerTls::Off && !self.auth_without_tls {
            problems.error(
                node.at("auth"),
                "`auth` is never offered here: `tls` is off and `auth_without_tls` is not set",
            );
        }
        if self.client_ca_file.is_some() && matches!(self.tls, ListenerTls::Off | ListenerTls::Starttls) {
            problems.error(
                node.at("client_ca_file"),
                "without TLS a client shows no certificate: `tls` must be `required` or `implicit`",
            );
        }
        if self.speaks == Speaks::Lmtp && self.listen.port() == 25 {
            problems.error(node.at("listen"), "LMTP must not be spoken at port 25 (RFC 2033 §5)");
        }
    }
}

settings::table! {
    /// Who may send to whom through this server. With nothing set nobody may send to anybody.
    pub struct RelayConfig {
        /// Clients that may send to any domain.
        pub networks: Vec<Cidr> = Vec::new(),
        /// Authenticated users may send to any domain.
        pub authenticated: bool = true,
        /// Domains that everybody may send to; `*.domain` means those below it.
        pub domains: Vec<Text<DomainPattern>> = Vec::new(),
        /// Domains that `networks` and authenticated users may send to; empty is all.
        pub to_domains: Vec<Text<DomainPattern>> = Vec::new(),
    }
}

settings::table! {
    /// A user who may authenticate. The key is the user's name, unless `name` says otherwise.
    #[check(UserConfig::check)]
    pub struct UserConfig {
        /// The user's name, where the key cannot hold it: when it comes from the environment.
        pub name: Option<String> = None,
        /// The password. Better from the environment: `password = "${SMTP_PASSWORD}"`.
        #[secret]
        pub password: Option<String> = None,
        /// What `tuma password` printed, in place of the password: `SCRAM-SHA-256$rounds:salt$keys`.
        #[secret]
        pub password_hash: Option<String> = None,
        /// Whose mail the user's is. Neither listener, header field nor rule has a say then.
        pub tenant: Option<Text<TagText>> = None,
        /// The pool of egress sources it leaves by unless a header field or a rule says otherwise.
        pub pool: Option<Text<TagText>> = None,
    }
}

impl UserConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.password.is_some() == self.password_hash.is_some() {
            problems.error(node.place, "a user needs either `password` or `password_hash`");
        }
        if self.password.as_deref() == Some("") {
            problems.error(node.at("password"), "`password` must not be empty");
        }
        if let Some(hash) = &self.password_hash
            && crate::auth::Verifier::parse(hash).is_none()
        {
            problems.error(node.at("password_hash"), "`password_hash` is not what `tuma password` prints");
        }
    }
}

/// A header field that tags messages, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagField(Option<FieldName>);

impl TagField {
    /// Its name; nothing if no field is asked for.
    pub fn name(&self) -> Option<&FieldName> {
        self.0.as_ref()
    }

    fn named(name: &str) -> Text<Self> {
        Text(Self(name.parse().ok()))
    }
}

impl FromStr for TagField {
    type Err = FieldNameError;

    fn from_str(text: &str) -> Result<Self, FieldNameError> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|name| Self(Some(name))) }
    }
}

impl fmt::Display for TagField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("", FieldName::as_str))
    }
}

settings::words! {
    /// What to do with a message whose header names a pool that is not configured.
    pub enum UnknownPool {
        /// Refuse it with 550.
        Reject,
        /// Take it as if the field were not there.
        Default,
    }
}

settings::table! {
    /// Header fields that tag a message, where a listener has `tag_headers`. The first field of a name counts, one
    /// without text says nothing, and an empty name here asks for none. A field that cannot be understood gets 550.
    #[derive(Eq)]
    pub struct TagHeadersConfig {
        /// The pool of egress sources.
        pub pool: Text<TagField> = TagField::named("x-virtual-mta"),
        /// The run of a mailing: what can be paused or cancelled as one.
        pub job: Text<TagField> = TagField::named("x-job"),
        /// The sender's own name for the message.
        pub envid: Text<TagField> = TagField::named("x-envid"),
        /// Whose mail it is, unless the user or the listener says so.
        pub tenant: Text<TagField> = TagField::named("x-tenant"),
        /// The mailing.
        pub campaign: Text<TagField> = TagField::named("x-campaign"),
        /// What goes first: high, normal, low or bulk.
        pub priority: Text<TagField> = TagField::named("x-priority-class"),
        /// Leave the fields in the message. Otherwise all of these names are taken out before it is stored.
        pub keep: bool = false,
        /// What to do when the pool is not configured.
        pub unknown_pool: UnknownPool = UnknownPool::Reject,
    }
}

settings::table! {
    /// Certificates that listeners show. With several, the client's SNI chooses; one called `default`, or else the
    /// first by name, is shown to those who ask for none of their names.
    #[check(CertificateConfig::check)]
    pub struct CertificateConfig {
        /// PEM file with the certificate and those that vouch for it.
        pub certificate: Option<PathBuf> = None,
        /// PEM file with its private key.
        pub key: Option<PathBuf> = None,
        /// Instead of files: the names that a certificate is got and renewed for, from the authority of `[acme]`.
        pub acme: Vec<Text<Domain>> = Vec::new(),
    }
}

/// Names in one certificate at most, as authorities have it.
const ACME_NAMES_MAX: usize = 100;

impl CertificateConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        match (&self.certificate, &self.key, self.acme.is_empty()) {
            (Some(_), Some(_), true) | (None, None, false) => {}
            (_, _, false) => {
                problems
                    .error(node.at("acme"), "a certificate comes from files or from `acme`, not both")
                    .hint("take `certificate` and `key` away, or `acme`");
            }
            (Some(_), None, true) => {
                problems.error(node.place, "this certificate needs its private key: `key` is missing");
            }
            (None, Some(_), true) => {
                problems.error(node.place, "this key needs its certificate: `certificate` is missing");
            }
            (None, None, true) => {
                problems
                    .error(node.place, "there is no certificate in this table")
                    .hint("write `certificate` and `key`, or `acme = [\"mail.example.com\"]`");
            }
        }
        if self.acme.len() > ACME_NAMES_MAX {
            problems.error(
                node.at("acme"),
                format!("a certificate has at most {ACME_NAMES_MAX} names: write several tables"),
            );
        }
        for (n, name) in self.acme.iter().enumerate() {
            if self.acme[..n].contains(name) {
                problems.error(node.at(&format!("acme.{n}")), "this name is here twice");
            }
        }
    }
}

settings::table! {
    /// What reception does besides the rules of a session.
    pub struct ReceptionConfig {
        /// Connections open at once, over all listeners; further ones get 421.
        #[in(1..=1_000_000)]
        pub connections_max: u32 = 25_000,
        /// Connections open at once from one client network; further ones get 421. 0 is no limit.
        #[in(0..=1_000_000)]
        pub connections_per_network_max: u32 = 100,
        /// Leading bits of an IPv4 address that name a client network.
        #[in(0..=32)]
        pub network_prefix_v4_bits: u8 = 32,
        /// Leading bits of an IPv6 address that name a client network.
        #[in(0..=128)]
        pub network_prefix_v6_bits: u8 = 64,
        /// Networks without a limit of their own; the limit over all holds for them too.
        pub networks_unlimited: Vec<Cidr> = loopback(),
        /// Received fields in a message beyond which it is refused as going in circles (RFC 5321 §6.3).
        #[in(10..=1_000)]
        pub hops_max: u32 = 100,
        /// Places between the spool and the queue. A client holds one from DATA to its reply; when there is none
        /// it waits, then gets 452. More than `connections_max`, so that slow clients cannot take them all.
        #[in(64..=2_000_000)]
        pub intake_max: u32 = 32_768,
        /// How long a client waits for a place before it gets 452, and in the midst of a message for memory before
        /// it gets 421.
        #[in(0s..=1m)]
        pub intake_wait: Duration = Duration::from_secs(5),
        /// Octets of messages being received that are held in memory, all sessions together; 0 is a quarter of
        /// the memory budget. At three quarters of it new messages get 452.
        pub messages_in_memory_max: Size = Size(0),
        /// Longest time a TLS handshake may take.
        #[in(1s..=5m)]
        pub tls_handshake_timeout: Duration = Duration::from_secs(30),
        /// Failed AUTH exchanges from one network, or for one user, within ten minutes, beyond which further
        /// ones are refused without a look.
        #[in(1..=10_000)]
        pub auth_failures_max: u32 = 20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sound() {
        assert_eq!(
            settings::mistakes(&<ListenerConfig as settings::Setting>::schema()),
            Vec::<String>::new()
        );
        assert_eq!(
            settings::mistakes(&<TagHeadersConfig as settings::Setting>::schema()),
            Vec::<String>::new()
        );
        assert_eq!(settings::mistakes(&<RelayConfig as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&<UserConfig as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(
            settings::mistakes(&<ReceptionConfig as settings::Setting>::schema()),
            Vec::<String>::new()
        );
        assert_eq!(
            settings::mistakes(&<CertificateConfig as settings::Setting>::schema()),
            Vec::<String>::new()
        );
    }
}
