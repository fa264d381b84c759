//! What an operator may set about the list.

use mail::{EnhancedStatusCode, Reply, ReplyCode};
use settings::{Node, Problems};

settings::words! {
    /// What is said to a client that names a recipient on the list.
    pub enum AtRcpt {
        /// RCPT is refused with `reply`. The client is told at once, and there is nothing to report later.
        Reject,
        /// RCPT is accepted; the recipient is settled as suppressed before any attempt. For clients that take a refused
        /// recipient for a refused message.
        Accept,
    }
}

settings::table! {
    /// Who is not written to. The list is kept in the state directory; `tuma suppression` and the HTTP listener change it.
    #[derive(Eq)]
    #[check(SuppressionConfig::check)]
    pub struct SuppressionConfig {
        /// What is said to a client that names a recipient on the list of all, or of the tenant its user or listener
        /// has. Whatever is said here, nobody on the list is written to.
        pub at_rcpt: AtRcpt = AtRcpt::Reject,
        /// The reply to such a RCPT, and the one that records have: a 5yz code, an enhanced code and a text.
        pub reply: String = "550 5.7.1 recipient is on a suppression list".into(),
        /// Entries at most; further ones are refused. Each takes 17 to 34 octets of memory.
        #[in(0..=1_000_000_000)]
        pub entries_max: u64 = 100_000_000,
    }
}

impl SuppressionConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.read_reply().is_none() {
            problems
                .error(node.at("reply"), "`suppression.reply` is not a reply that refuses")
                .hint("write a code from 500 to 599, an enhanced code that begins with 5, and a text");
        }
    }

    fn read_reply(&self) -> Option<Reply> {
        let mut parts = self.reply.splitn(3, ' ');
        let code = ReplyCode::new(parts.next()?.parse().ok()?)?;
        let enhanced = EnhancedStatusCode::parse(parts.next()?)?;
        let text = parts.next()?.trim();
        let plain = !text.is_empty()
            && text.len() <= 400
            && text.chars().all(|c| c.is_ascii() && !c.is_ascii_control());
        let reply = Reply { code, enhanced: Some(enhanced), text: text.to_owned().into() };
        (plain && reply.is_permanent() && enhanced.class() == 5).then_some(reply)
    }

    /// The reply for a recipient on the list.
    pub fn refusal(&self) -> Reply {
        // What cannot be read was refused when the configuration was.
        self.read_reply().unwrap_or_else(|| Reply::new(550, (5, 7, 1), "recipient is on a suppression list"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&SuppressionConfig::schema()), Vec::<String>::new());
        assert_eq!(
            SuppressionConfig::default().refusal().to_string(),
            "550 5.7.1 recipient is on a suppression list"
        );
    }

    #[test]
    fn a_reply_that_refuses_nobody_is_none() {
        for wrong in [
            "",
            "550",
            "550 x",
            "450 4.7.1 x",
            "550 4.7.1 x",
            "250 2.0.0 ok",
            "550 5.7.1 ",
            "550 5.7.1 \u{e4}",
        ] {
            let config = SuppressionConfig { reply: wrong.into(), ..SuppressionConfig::default() };
            assert!(config.read_reply().is_none(), "{wrong}");
        }
    }
}
