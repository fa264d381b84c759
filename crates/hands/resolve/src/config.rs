//! What an operator may set about DNS and routes: one table, read by the resolver, its memory and the routes.

use settings::{Node, Problems, Size};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

settings::words! {
    /// Which addresses of an exchanger are tried, and which first.
    pub enum IpStrategy {
        /// IPv4 and IPv6 in turn, IPv4 first: large sites judge mail by IPv6 more harshly.
        #[word("v4_first")]
        V4First,
        /// IPv6 and IPv4 in turn, IPv6 first.
        #[word("v6_first")]
        V6First,
        /// IPv4 only.
        #[word("v4_only")]
        V4Only,
        /// IPv6 only.
        #[word("v6_only")]
        V6Only,
    }
}

settings::words! {
    /// Whether DNSSEC is looked at.
    pub enum DnssecUse {
        /// Not at all, and so neither are TLSA records (DANE).
        Off,
        /// For mail's exchangers and their TLSA records; signatures are checked by this server. The name servers must
        /// pass them on: with one that does not, no mail leaves.
        Validate,
        /// The same, checked by the name servers: what they mark as authentic (the AD bit) is believed. All of them must
        /// be on loopback, and validate.
        Trust,
    }
}

settings::table! {
    /// How name servers are asked, what is remembered of their answers, and how routes are made of them.
    #[derive(Eq)]
    #[check(Config::check)]
    pub struct Config {
        /// Recursive name servers, address and port. Empty: those of the system (`/etc/resolv.conf`). One on
        /// this machine or its own network is best: it is quick, and nobody in between forges answers.
        pub nameservers: Vec<SocketAddr> = Vec::new(),
        /// How long one question may take at one name server.
        #[in(10ms..=1m)]
        pub query_timeout: Duration = Duration::from_secs(5),
        /// Times a question is asked again after a timeout.
        #[in(0..=10)]
        pub attempts: u32 = 2,
        /// Questions open at once; further ones wait.
        #[in(1..=65_536)]
        pub queries_max: u32 = 256,
        /// Send names in random case and expect them back so (draft-vixie-dnsext-dns0x20): one more thing that
        /// who forges an answer must guess. A few old name servers cannot do it.
        pub case_randomization: bool = true,
        /// Whether DNSSEC is looked at, for DANE (RFC 7672).
        pub dnssec: DnssecUse = DnssecUse::Off,
        /// File of DNSKEY records of the root that signatures are checked by, for `validate`; left out, those that ICANN publishes.
        pub dnssec_anchor_file: Option<PathBuf> = None,
        /// Look into `/etc/hosts` before asking.
        pub hosts_file: bool = false,
        /// Memory for remembered answers, estimated. A name and its record take about 300 octets; absent names
        /// are remembered too.
        pub cache_max: Size = Size::mib(16),
        /// Records are believed at least this long, whatever their TTL: a TTL of 0 must not mean a question for
        /// every message.
        #[in(0s..=1d)]
        pub ttl_min: Duration = Duration::from_secs(10),
        /// Records are believed at most this long.
        #[in(0s..=7d)]
        pub ttl_max: Duration = Duration::from_secs(3600),
        /// The absence of a name or record is believed at least this long.
        #[in(0s..=1d)]
        pub negative_ttl_min: Duration = Duration::from_secs(10),
        /// The absence of a name or record is believed at most this long.
        #[in(0s..=7d)]
        pub negative_ttl_max: Duration = Duration::from_secs(600),
        /// After SERVFAIL, a timeout and the like, the question is not asked again for this long; nor is a route
        /// that failed or lacks an exchanger because of one made again.
        #[in(0s..=1h)]
        pub failure_ttl: Duration = Duration::from_secs(10),
        /// Exchangers of a domain that are looked up, the most preferred.
        #[in(1..=100)]
        pub exchangers_max: usize = 20,
        /// Addresses of an exchanger that are tried.
        #[in(1..=64)]
        pub addresses_max: usize = 8,
        /// Which addresses are tried, and which first.
        pub ip_strategy: IpStrategy = IpStrategy::V4First,
        /// Take an MX record that names an IP address where a host name belongs, instead of passing it over.
        pub mx_may_be_address: bool = false,
        /// Memory for remembered routes, estimated. A common route takes about 500 octets; failures are
        /// remembered too.
        pub routes_max: Size = Size::mib(16),
        /// How long making a route may take in all; then it is a temporary failure.
        #[in(100ms..=10m)]
        pub route_timeout: Duration = Duration::from_secs(60),
    }
}

impl Config {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.ttl_min > self.ttl_max {
            problems.error(node.at("ttl_min"), "`ttl_min` must not exceed `ttl_max`");
        }
        if self.negative_ttl_min > self.negative_ttl_max {
            problems
                .error(node.at("negative_ttl_min"), "`negative_ttl_min` must not exceed `negative_ttl_max`");
        }
        if self.dnssec == DnssecUse::Trust {
            for (n, server) in self.nameservers.iter().enumerate().filter(|(_, at)| !at.ip().is_loopback()) {
                problems
                    .error(
                        node.at(&format!("nameservers.{n}")),
                        format!(
                            "{server} is not on this machine: anybody on the way could vouch in its name"
                        ),
                    )
                    .hint("run a validating resolver here, or write `dnssec = \"validate\"`");
            }
            if self.dnssec_anchor_file.is_some() {
                problems
                    .error(
                        node.at("dnssec_anchor_file"),
                        "no signatures are checked here with `dnssec = \"trust\"`",
                    )
                    .hint("leave it out");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&Config::schema()), Vec::<String>::new());
    }
}
