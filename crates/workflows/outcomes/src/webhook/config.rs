//! What an operator may set about webhooks.

use accounting::Kind;
use notify::WebhookUrl;
use settings::{Node, Problems, Size, Text};
use std::path::PathBuf;
use std::time::Duration;

use super::sign::Secret;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

settings::table! {
    /// A webhook: records posted in batches, as JSON, signed as Standard Webhooks asks. What waits for it lies in a log of
    /// its own in the state directory, and never in the queue.
    #[derive(Eq)]
    #[check(WebhookConfig::check)]
    pub struct WebhookConfig {
        /// Where to: an `http` or `https` URL, which may name any address. Redirects are not followed.
        #[secret]
        pub url: Text<WebhookUrl>,
        /// What the posts are signed with: `whsec_` and 24 to 64 octets in base64. Left out, they are not signed.
        #[secret]
        pub secret: Option<Text<Secret>> = None,
        /// Which records; empty is all of them.
        pub events: Vec<Kind> = Vec::new(),
        /// Only records of mail of these tenants; empty is all mail.
        pub tenants: Vec<String> = Vec::new(),
        /// Records in one post at most.
        #[in(1..=1000)]
        pub batch_max: usize = 100,
        /// How long a post waits for more records.
        #[in(0s..=1m)]
        pub batch_wait: Duration = seconds(1),
        /// The longest one post may take, from the connection to the answer.
        #[in(100ms..=2m)]
        pub timeout: Duration = seconds(10),
        /// The waits before a post is tried again that was not answered with a 2yz; the last repeats.
        pub waits: Vec<Duration> = vec![seconds(5), seconds(30), seconds(120), seconds(600), seconds(1_800)],
        /// A batch that was not taken for so long is put aside: `tuma webhook dead` shows it, `tuma webhook replay` posts
        /// it again.
        #[in(1s..=30d)]
        pub give_up_after: Duration = seconds(3 * 86_400),
        /// Octets of records kept for this webhook, those that were taken included; the oldest go first. As much again is
        /// kept of what was put aside.
        #[in(1MiB..=1TiB)]
        pub log_max: Size = Size::mib(256),
        /// PEM file of the certificates that may vouch for its server; left out, the machine's own.
        pub ca_file: Option<PathBuf> = None,
    }
}

impl WebhookConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.waits.is_empty() || self.waits.len() > 20 {
            problems.error(node.at("waits"), "`waits` has 1 to 20 waits");
        }
        if self.waits.iter().any(|wait| *wait > seconds(86_400) || wait.is_zero()) {
            problems.error(node.at("waits"), "a wait is above 0 and at most 1d");
        }
    }
}
