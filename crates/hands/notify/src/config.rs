//! What an operator may set about notices.

use crate::url::WebhookUrl;
use mail::Mailbox;
use settings::{Node, Problems, Text};
use std::path::PathBuf;
use std::time::Duration;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

settings::table! {
    /// Who is told when a rule for replies says `notify`, when a source is disabled by a rule, and the like. The log
    /// tells in any case.
    #[derive(Eq)]
    #[check(Config::check)]
    pub struct Config {
        /// Mailboxes that are written to. The mail leaves like any other, with the null reverse-path; what receivers
        /// answer to it is not told of. At most 20.
        pub mail: Vec<Text<Mailbox>> = Vec::new(),
        /// The longest a notice waits for others to go out in the same mail.
        #[in(0s..=1h)]
        pub mail_wait: Duration = seconds(10),
        /// Where each notice is posted as JSON: an `http` or `https` URL, which may name any address. Redirects are
        /// not followed.
        #[secret]
        pub webhook: Option<Text<WebhookUrl>> = None,
        /// The longest one post may take, from the connection to the answer.
        #[in(100ms..=2m)]
        pub webhook_timeout: Duration = seconds(10),
        /// The waits before a post is tried again that failed or was answered with a 5yz, 408, 425 or 429. Empty:
        /// once is enough. At most 10.
        pub webhook_waits: Vec<Duration> = vec![seconds(1), seconds(5), seconds(30)],
        /// PEM file of the certificates that may vouch for the webhook's server; left out, the machine's own.
        pub webhook_ca_file: Option<PathBuf> = None,
        /// The same subject (a source's mail to a site, and a rule) is told of at most once in this time; what came
        /// in between is told at its end, with the number that was kept back.
        #[in(1s..=7d)]
        pub every: Duration = seconds(900),
    }
}

impl Config {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.mail.len() > 20 {
            problems
                .error(
                    node.at("mail"),
                    format!("`notify.mail` has {} mailboxes; at most 20", self.mail.len()),
                )
                .hint("a mailing list reaches more people");
        }
        if self.webhook_waits.len() > 10 {
            problems.error(node.at("webhook_waits"), "`notify.webhook_waits` has at most 10 waits");
        }
        if self.webhook_waits.iter().any(|wait| *wait > seconds(3_600)) {
            problems.error(node.at("webhook_waits"), "a wait of `notify.webhook_waits` is at most 1h");
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
