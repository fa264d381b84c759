//! Rules on replies.

use replies::{Stage, check};
use settings::{Node, Placed, Problems, Text};

use super::action::{Action, Trigger, contradiction};

settings::table! {
    /// What is done at which reply.
    #[check(ReplyRule::check)]
    pub struct ReplyRule {
        /// What logs call it; left out, its pattern.
        pub name: Option<String> = None,
        /// A regular expression, looked for anywhere in `code enhanced-code text`, such as `^421 4\.7\.0 `. Case does
        /// not matter; lines of a reply are joined by spaces.
        pub r#match: Placed<String>,
        /// The stages at which it is looked for; empty is all.
        pub stage: Vec<Stage> = Vec::new(),
        /// When `do` is done: `at once`, after so many matches on a path within a time as `5/10m`, or at a share of
        /// the path's last attempts as `30% of 20`. `temporary` and `permanent` hold at every match.
        pub when: Text<Trigger> = Text(Trigger::AtOnce),
        /// What is done, of `backoff [TIME]`, `normal`, `slow FACTOR [TIME]`, `suspend path|queue|tenant|campaign
        /// TIME`, `disable source [TIME]`, `bounce queue`, `temporary`, `permanent`, `skip exchanger TIME`,
        /// `pool NAME`, `notify`. A path slows down once in a twentieth of the step's time at most. Empty: nothing, and no further rule is looked at.
        pub r#do: Vec<Text<Action>>,
    }
}

impl ReplyRule {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if let Err(reason) = check(&self.r#match) {
            problems.error(self.r#match.place, format!("`match` is no regular expression: {reason}"));
        }
        if let Some(reason) = contradiction(&self.actions()) {
            problems.error(node.at("do"), reason);
        }
    }

    /// What is done.
    pub(crate) fn actions(&self) -> Vec<Action> {
        self.r#do.iter().map(|action| action.0.clone()).collect()
    }
}
