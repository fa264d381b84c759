//! What an operator may set about delivery.

use queue::{Backoff, Schedule};
use settings::{Cidr, Node, Problems, Size};
use smtp::client::Timeouts;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

settings::words! {
    /// When a session to a next hop is encrypted by STARTTLS.
    pub enum TlsUse {
        /// Never.
        Off,
        /// When offered; certificates are not checked, and a handshake that fails is repeated in the clear.
        Opportunistic,
        /// Always, whatever the certificate says.
        Required,
        /// Always, with a certificate that is valid for the exchanger's name.
        Verified,
        /// Always, with a certificate that TLSA records say (RFC 7672); without such records, mail waits. Needs
        /// `dns.dnssec`.
        Dane,
    }
}

settings::table! {
    /// How mail leaves.
    #[check(Config::check)]
    pub struct Config {
        /// What we call ourselves in EHLO; left out, the server's host name.
        pub ehlo_name: Option<String> = None,
        /// Connections open at once to all destinations together.
        #[in(1..=100_000)]
        pub connections_total_max: u32 = 2_000,
        /// Longest wait for the connection and its greeting while other sites wait for a connection of
        /// `connections_total_max`: next hops that stall by the thousand must not keep all of them.
        #[in(100ms..=5m)]
        pub greeting_timeout_crowded: Duration = seconds(5),
        /// Addresses of a destination tried before giving up for now.
        #[in(1..=100)]
        pub addresses_max: u32 = 10,
        /// Longest wait for the last address to accept a connection.
        #[in(100ms..=5m)]
        pub connect_timeout: Duration = seconds(30),
        /// Longest wait for an address to accept a connection while there is another one to try.
        #[in(100ms..=5m)]
        pub connect_next_after: Duration = seconds(4),
        /// Longest wait for the greeting (RFC 5321 §4.5.3.2.1).
        #[in(100ms..=1h)]
        pub greeting_timeout: Duration = seconds(300),
        /// Longest wait for the replies to EHLO, STARTTLS and AUTH, and for the TLS handshake.
        #[in(100ms..=1h)]
        pub ehlo_timeout: Duration = seconds(300),
        /// Longest wait for the reply to MAIL (RFC 5321 §4.5.3.2.2).
        #[in(100ms..=1h)]
        pub mail_timeout: Duration = seconds(300),
        /// Longest wait for the reply to RCPT (RFC 5321 §4.5.3.2.3).
        #[in(100ms..=1h)]
        pub rcpt_timeout: Duration = seconds(300),
        /// Longest wait for the reply to DATA (RFC 5321 §4.5.3.2.4).
        #[in(100ms..=1h)]
        pub data_timeout: Duration = seconds(120),
        /// Longest wait for the peer to take a block of content (RFC 5321 §4.5.3.2.5).
        #[in(100ms..=1h)]
        pub block_timeout: Duration = seconds(180),
        /// Longest wait for the reply to the end of data (RFC 5321 §4.5.3.2.6). Shorter means duplicates.
        #[in(100ms..=2h)]
        pub end_timeout: Duration = seconds(600),
        /// How long a connection with nothing to send stays open for the next message.
        #[in(0s..=5m)]
        pub idle_timeout: Duration = seconds(5),
        /// Use PIPELINING when offered.
        pub pipelining: bool = true,
        /// Use CHUNKING when offered.
        pub chunking: bool = true,
        /// STARTTLS to destinations without a rule of their own. With `opportunistic` and `required`, what a domain
        /// publishes raises it for that domain's mail: TLSA records where `dns.dnssec` is on, and MTA-STS policies.
        pub tls: TlsUse = TlsUse::Opportunistic,
        /// PEM file of the certificates that may vouch for exchangers; left out, the machine's own.
        pub tls_ca_file: Option<PathBuf> = None,
        /// Exchangers whose TLS sessions are remembered, so that the next handshake is a short one. Each costs some
        /// kilobytes.
        #[in(1..=100_000)]
        pub tls_sessions_max: u32 = 1_024,
        /// How long an exchanger is spoken to in the clear after its TLS handshake failed, where TLS is
        /// `opportunistic`; 0s tries each time.
        #[in(0s..=7d)]
        pub tls_clear_for: Duration = seconds(3_600),
        /// Loopback, private and other special ranges to which mail may go although a public DNS answer should
        /// never name them. A `route` needs no mention here.
        pub allow: Vec<Cidr> = Vec::new(),
        /// The port exchangers found by DNS are tried at.
        #[in(1..=65_535)]
        pub port: u16 = 25,
        /// The pool that mail without one leaves by; left out, that called `default`, or all sources if there is
        /// none.
        pub default_pool: Option<String> = None,
        /// Turns a tenant gets among others at one site; one where nothing is said.
        #[in(1..=1_000)]
        pub tenant_weights: BTreeMap<String, u32> = BTreeMap::new(),
        /// Recipients queued at most; beyond it mail is answered 452. Each costs some eighty octets of memory.
        #[in(1_000..)]
        pub recipients_queued_max: u64 = 20_000_000,
        /// Domains whose exchangers are asked for at once.
        #[in(1..=10_000)]
        pub resolving_max: u32 = 256,
        /// The wait before a domain whose exchangers could not be looked up is asked for again; doubles each time.
        #[in(100ms..=1d)]
        pub resolve_again_min: Duration = seconds(30),
        /// The longest such wait.
        #[in(100ms..=1d)]
        pub resolve_again_max: Duration = seconds(900),
        /// Messages settled at once without a connection: expired, given up by an order, refused by DNS.
        #[in(1..=10_000)]
        pub settling_max: u32 = 256,
    }
}

impl Config {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.resolve_again_min > self.resolve_again_max {
            problems.error(
                node.at("resolve_again_min"),
                "`resolve_again_min` must not exceed `resolve_again_max`",
            );
        }
        if let Some(name) = &self.ehlo_name
            && mail::Host::parse(name).is_err()
        {
            problems.error(node.at("ehlo_name"), "`ehlo_name` must be a domain name or an address literal");
        }
    }

    /// The waits within a session.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            greeting: self.greeting_timeout,
            ehlo: self.ehlo_timeout,
            mail: self.mail_timeout,
            rcpt: self.rcpt_timeout,
            data: self.data_timeout,
            block: self.block_timeout,
            end: self.end_timeout,
            quit: seconds(10),
        }
    }
}

settings::table! {
    /// When a deferred recipient is tried again, and when it is given up.
    #[check(RetryConfig::check)]
    pub struct RetryConfig {
        /// The wait after each attempt, such as `["5m", "15m", "1h"]`; the last repeats. Left empty, waits grow
        /// from `first` by `factor` up to `max`.
        #[in(100ms..=7d)]
        pub waits: Vec<Duration> = Vec::new(),
        /// The wait after the first attempt.
        #[in(100ms..=1d)]
        pub first: Duration = seconds(600),
        /// What each wait is multiplied by.
        #[in(1.0..=10.0)]
        pub factor: f64 = 1.5,
        /// The longest wait.
        #[in(100ms..=7d)]
        pub max: Duration = seconds(4 * 3600),
        /// Part of each wait that is random, so that what was deferred together does not come back together.
        #[in(0.0..=1.0)]
        pub jitter: f64 = 0.1,
        /// How long a message is tried before it is given up.
        #[in(1s..=60d)]
        pub expire_after: Duration = seconds(5 * 86_400),
        /// The least wait after a connection was lost between the end of data and its reply: the next hop may
        /// have the message, and a moment later may say so (RFC 1047).
        #[in(0s..=1d)]
        pub ambiguous_wait: Duration = seconds(600),
    }
}

impl RetryConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.waits.is_empty() && self.first > self.max {
            problems.error(node.at("first"), "`first` must not exceed `max`");
        }
    }

    /// The schedule of the machine.
    pub fn schedule(&self) -> Schedule {
        let backoff = if self.waits.is_empty() {
            Backoff::Exponential { first: self.first, factor: self.factor, max: self.max }
        } else {
            Backoff::List(self.waits.clone())
        };
        Schedule { backoff, jitter: self.jitter }
    }
}

settings::words! {
    /// How much of a message a failure report returns when the client did not say (RET, RFC 3461 §4.3).
    pub enum Returned {
        /// The whole message, up to `returned_max`.
        Full,
        /// Its header.
        Headers,
    }
}

settings::table! {
    /// Mail about mail: delivery status notifications (RFC 3464).
    pub struct DsnConfig {
        /// Send them. Off, a failure is only in the accounting: for senders that read it there.
        pub enabled: bool = true,
        /// Tell the sender once when a recipient is still queued after this long; 0s never does.
        #[in(0s..=30d)]
        pub delay_after: Duration = seconds(4 * 3600),
        /// What a failure report returns when the client did not say.
        pub returned: Returned = Returned::Headers,
        /// Octets of a message a report returns; a larger one comes back as its header.
        #[in(1KiB..=64MiB)]
        pub returned_max: Size = Size::kib(64),
        /// The pool that notifications leave by; left out, the default pool. They are nobody's mail: neither tenant nor
        /// campaign of the message they tell of is theirs.
        pub pool: Option<String> = None,
    }
}

settings::table! {
    /// Where the mail of some domains goes. The key is a domain, `*.domain` for those below it, or `*` for all
    /// that have no route of their own.
    #[check(RouteConfig::check)]
    pub struct RouteConfig {
        /// The next hop: `host:port`, `[address]:port`, or several in the order they are tried, `;` between.
        /// A name is looked up by A and AAAA.
        pub next_hop: String,
        /// Speak LMTP (RFC 2033).
        pub lmtp: bool = false,
        /// STARTTLS to this next hop; left out, as `delivery.tls` says.
        pub tls: Option<TlsUse> = None,
        /// User for AUTH.
        pub user: Option<String> = None,
        /// Password for AUTH.
        #[secret]
        pub password: Option<String> = None,
        /// AUTH also without TLS.
        pub auth_without_tls: bool = false,
    }
}

impl RouteConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if let Err(text) = crate::route::parse_next_hops(&self.next_hop) {
            problems.error(node.at("next_hop"), text);
        }
        if self.user.is_some() != self.password.is_some() {
            problems.error(node.at("user"), "`user` and `password` are needed together");
        }
    }
}

settings::table! {
    /// How mail for some recipient domains is encrypted. The key is a domain, `*.domain` for those below it, or `*`
    /// for all that have no entry of their own. Mail that goes by a `route` is that route's affair.
    #[check(TlsPolicyConfig::check)]
    pub struct TlsPolicyConfig {
        /// STARTTLS to the domain's exchangers.
        pub tls: TlsUse,
        /// With `verified`: names that the certificate must be for one of; left out, the exchanger's own name.
        /// An exchanger's name is what DNS says, which somebody may forge; a name given here is not.
        pub names: Vec<String> = Vec::new(),
    }
}

impl TlsPolicyConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if !self.names.is_empty() && self.tls != TlsUse::Verified {
            problems.error(node.at("names"), "`names` are only looked at with `tls = \"verified\"`");
        }
        for (n, name) in self.names.iter().enumerate() {
            if mail::Domain::parse(name).is_err() {
                problems.error(node.at(&format!("names.{n}")), format!("`{name}` is not a host's name"));
            }
        }
    }
}

settings::table! {
    /// An egress source: an address that mail leaves from, and what it calls itself. PowerMTA's virtual MTA. With
    /// none, there is one called `default`, whose address the machine chooses.
    #[check(SourceConfig::check)]
    pub struct SourceConfig {
        /// Off, no mail leaves by it.
        pub enabled: bool = true,
        /// Local IPv4 address connections come from.
        pub v4: Option<Ipv4Addr> = None,
        /// Local IPv6 address connections come from.
        pub v6: Option<Ipv6Addr> = None,
        /// What it calls itself in EHLO; left out, as `delivery.ehlo_name` says.
        pub ehlo_name: Option<String> = None,
        /// A SOCKS5 server its connections leave through.
        pub socks5: Option<SocketAddr> = None,
        /// User at that server.
        pub socks5_user: Option<String> = None,
        /// Password at that server.
        #[secret]
        pub socks5_password: Option<String> = None,
        /// A proxy its connections leave through, which reads a PROXY header (version 2) and connects from the
        /// address that it names, such as HAProxy.
        pub proxy: Option<SocketAddr> = None,
        /// The IPv4 address that the proxy shall connect from.
        pub proxy_v4: Option<Ipv4Addr> = None,
        /// The IPv6 address that the proxy shall connect from.
        pub proxy_v6: Option<Ipv6Addr> = None,
        /// PEM file of the certificate it shows to servers that ask for one.
        pub certificate: Option<PathBuf> = None,
        /// PEM file of that certificate's private key.
        pub key: Option<PathBuf> = None,
    }
}

impl SourceConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if let Some(name) = &self.ehlo_name
            && mail::Host::parse(name).is_err()
        {
            problems.error(node.at("ehlo_name"), "`ehlo_name` must be a domain name or an address literal");
        }
        if self.socks5.is_some() && self.proxy.is_some() {
            problems.error(node.at("proxy"), "`socks5` and `proxy` cannot both be set");
        }
        if self.proxy.is_some() && self.proxy_v4.is_none() && self.proxy_v6.is_none() {
            problems.error(
                node.at("proxy"),
                "`proxy` needs the address to connect from: `proxy_v4` or `proxy_v6`",
            );
        }
        if self.proxy.is_none() && (self.proxy_v4.is_some() || self.proxy_v6.is_some()) {
            problems.error(node.place, "`proxy_v4` and `proxy_v6` need a `proxy`");
        }
        if self.socks5_user.is_some() != self.socks5_password.is_some() {
            problems.error(node.place, "`socks5_user` and `socks5_password` are needed together");
        }
        let long =
            |text: &Option<String>| text.as_ref().is_some_and(|text| text.is_empty() || text.len() > 255);
        if long(&self.socks5_user) || long(&self.socks5_password) {
            problems.error(node.place, "a SOCKS5 user and password have 1 to 255 octets (RFC 1929)");
        }
        if self.certificate.is_some() != self.key.is_some() {
            problems.error(node.place, "`certificate` and `key` are needed together");
        }
    }
}

settings::table! {
    /// Sources that share the mail of a pool, by weight.
    #[check(PoolConfig::check)]
    pub struct PoolConfig {
        /// Its sources and their weights, such as `{ a = 3, b = 1 }`.
        #[in(1..=10_000)]
        pub sources: BTreeMap<String, u32>,
    }
}

impl PoolConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.sources.is_empty() {
            problems.error(node.at("sources"), "a pool needs at least one source");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sound() {
        assert_eq!(settings::mistakes(&<Config as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&<RetryConfig as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&<DsnConfig as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&<RouteConfig as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(
            settings::mistakes(&<TlsPolicyConfig as settings::Setting>::schema()),
            Vec::<String>::new()
        );
        assert_eq!(settings::mistakes(&<SourceConfig as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&<PoolConfig as settings::Setting>::schema()), Vec::<String>::new());
    }
}
