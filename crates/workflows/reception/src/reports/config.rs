//! What an operator may set about aggregate reports of DMARC.

use mail::Mailbox;
use settings::{Node, Problems, Size, Text};
use std::time::Duration;

settings::table! {
    /// Aggregate reports of DMARC (RFC 9990): what was seen of a domain's mail, told to its owner once a day.
    #[check(ReportsConfig::check)]
    pub struct ReportsConfig {
        /// Collect and send them.
        pub enabled: bool = false,
        /// The organization's name in reports; left out, `hostname`.
        pub org_name: Option<String> = None,
        /// The address that reports come from, in the header and in the envelope; left out,
        /// `dmarc-reports@` and `hostname`. Receivers want its domain to pass DMARC itself.
        pub email: Option<Text<Mailbox>> = None,
        /// Where to find out more, such as a web page.
        pub contact: Option<String> = None,
        /// How much time a report is about. Owners expect a day, from midnight to midnight UTC.
        #[in(1s..=1d)]
        pub interval: Duration = Duration::from_secs(86_400),
        /// Octets kept on disk of one interval, about 400 for each message; what is over is left out.
        pub octets_max: Size = Size::mib(64),
        /// Domains reported to of one interval; others are left out.
        #[in(1..=1_000_000)]
        pub domains_max: usize = 20_000,
        /// Rows of one report: sources and results that differ.
        #[in(1..=1_000_000)]
        pub rows_max: usize = 20_000,
        /// Octets of one report, compressed; a larger one is not sent.
        pub report_max: Size = Size::mib(8),
    }
}

impl ReportsConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.interval.subsec_nanos() != 0 {
            problems.error(node.at("interval"), "`interval` must be whole seconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&ReportsConfig::schema()), Vec::<String>::new());
    }
}
