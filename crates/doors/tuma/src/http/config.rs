//! What an operator may set about HTTP.

use mail::Domain;
use routing::TagText;
use settings::{Node, Problems, Size, Text};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

settings::table! {
    /// The HTTP listener: messages handed in, questions and orders, metrics. Closed by default: who asks has an API key,
    /// or sits on this machine.
    #[check(HttpConfig::check)]
    pub struct HttpConfig {
        /// Where to listen; left out, nowhere.
        pub listen: Option<SocketAddr> = None,
        /// Requests from this machine need no API key and may do everything. Off, they need one too. A request that a
        /// proxy on this machine passes on needs one in any case.
        pub loopback_trusted: bool = true,
        /// The certificate's chain, a PEM file; with it HTTPS is spoken. Read again at a reload.
        pub certificate: Option<PathBuf> = None,
        /// Its private key, a PEM file.
        pub key: Option<PathBuf> = None,
        /// Instead of these two: the table under `tls` whose certificate is shown.
        pub tls: Option<String> = None,
        /// Speak HTTP without TLS on an address that others can reach: behind a proxy that ends TLS.
        pub allow_plain: bool = false,
        /// Longest body of a request that hands in messages.
        #[in(64KiB..=1GiB)]
        pub body_max: Size = Size::mib(128),
        /// Recipients of one request at most.
        #[in(1..=2_000_000)]
        pub recipients_max: usize = 1_000_000,
        /// Recipients that the spool keeps with one copy of the content.
        #[in(1..=10_000)]
        pub recipients_per_message_max: usize = 1_000,
        /// How far ahead a message may be handed in with `send_at`.
        #[in(1m..=30d)]
        pub send_later_max: Duration = Duration::from_secs(3 * 86_400),
        /// Idempotency keys remembered at most; beyond it the oldest are forgotten.
        #[in(1_000..=10_000_000)]
        pub idempotency_keys_max: usize = 1_000_000,
        /// How long an idempotency key is remembered.
        #[in(1m..=7d)]
        pub idempotency_keeps: Duration = Duration::from_secs(86_400),
        /// Connections at once.
        #[in(1..=100_000)]
        pub connections_max: usize = 2_000,
        /// How long a client may take to send the head of a request, idle time between two included.
        #[in(1s..=10m)]
        pub head_timeout: Duration = Duration::from_secs(60),
        /// How long a client may take to send a body, and one second more for each 64 KiB of it.
        #[in(1s..=10m)]
        pub body_timeout: Duration = Duration::from_secs(30),
    }
}

impl HttpConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.certificate.is_some() != self.key.is_some() {
            problems.error(node.at("certificate"), "`http.certificate` and `http.key` go together");
        }
        if self.tls.is_some() && self.certificate.is_some() {
            problems.error(node.at("tls"), "`http.tls` and `http.certificate` both name the certificate");
        }
        let open = self.listen.is_some_and(|address| !address.ip().is_loopback());
        if open && self.certificate.is_none() && self.tls.is_none() && !self.allow_plain {
            problems
                .error(node.at("listen"), "`http.listen` is not a loopback address, and there is no `http.certificate`")
                .hint(
                    "API keys would cross the network for all to read: set `tls`, or `certificate` and `key`, or `allow_plain = true` \
                     behind a proxy that ends TLS",
                );
        }
    }
}

settings::table! {
    /// One whose mail is kept apart: in limits, in reports, and in what its API keys may see and do. The key is the name
    /// that tags carry.
    pub struct TenantConfig {
        /// Domains it may send from, in From and as reverse-path, by HTTP; those below them too. Empty is all.
        pub from_domains: Vec<Text<Domain>> = Vec::new(),
        /// Pools it may choose by HTTP; empty is all. The first one is its own if it chooses none.
        pub pools: Vec<Text<TagText>> = Vec::new(),
        /// Recipients an hour at most, by HTTP. What is not used in one hour cannot be saved for the next.
        #[in(1..=1_000_000_000)]
        pub recipients_per_hour_max: Option<u64> = None,
        /// Recipients a day at most, by HTTP.
        #[in(1..=10_000_000_000)]
        pub recipients_per_day_max: Option<u64> = None,
        /// It may hand in nothing by HTTP.
        pub suspended: bool = false,
    }
}
