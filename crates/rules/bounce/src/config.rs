//! Rules of classes as an operator writes them.

use mail::BounceClass;
use replies::{Stage, check};
use settings::{Node, Placed, Problems, Text};

use crate::status::StatusPattern;

/// Octets of a category at most.
const CATEGORY_MAX_OCTETS: usize = 64;

settings::table! {
    /// What failures mean.
    pub struct BounceConfig {
        /// Use the rules of classes that come with the server, after those below. `tuma bounce shipped` prints them.
        pub shipped: bool = true,
        /// Rules that give failures a class.
        pub class: Vec<ClassRule> = Vec::new(),
    }
}

settings::table! {
    /// A rule that gives failures a class. It holds if all its conditions do. Rules are tried in the order of the file,
    /// and after them those that come with the server; the first that holds decides.
    #[check(ClassRule::check)]
    pub struct ClassRule {
        /// What `tuma bounce classify` calls it; left out, its pattern.
        pub name: Option<String> = None,
        /// A regular expression, looked for anywhere in `code enhanced-code text`, such as `mailbox .{0,20}full`. Case
        /// does not matter; lines of a reply are joined by spaces.
        pub r#match: Option<Placed<String>> = None,
        /// The stages at which the reply came; empty is all. A bounce that came as mail has none and is looked at by
        /// rules without stages only.
        pub stage: Vec<Stage> = Vec::new(),
        /// Enhanced codes, such as `5.1.1`, `5.1.*` or `*.1.1`; empty is all, and none.
        pub status: Vec<Text<StatusPattern>> = Vec::new(),
        /// Codes, such as 552; empty is all.
        pub code: Vec<u16> = Vec::new(),
        /// The class.
        pub class: Text<BounceClass>,
        /// A word of your own for the column `bounceCat` of PowerMTA's CSV and the field `category`, in place of the
        /// class's; letters, digits and hyphens.
        pub category: Option<String> = None,
    }
}

impl ClassRule {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if let Some(pattern) = &self.r#match
            && let Err(reason) = check(pattern)
        {
            problems.error(pattern.place, format!("`match` is no regular expression: {reason}"));
        }
        if self.r#match.is_none() && self.stage.is_empty() && self.status.is_empty() && self.code.is_empty() {
            problems
                .error(node.place, "this rule holds for every failure")
                .hint("add `match`, `status`, `code` or `stage`");
        }
        for (n, code) in self.code.iter().enumerate() {
            if !(400..600).contains(code) {
                problems.error(node.at(&format!("code.{n}")), format!("{code} is not the code of a failure"));
            }
        }
        if let Some(category) = &self.category {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if category.is_empty() || category.len() > CATEGORY_MAX_OCTETS || !category.chars().all(word) {
                problems
                    .error(node.at("category"), "`category` is not a word of letters, digits and hyphens")
                    .hint(format!("at most {CATEGORY_MAX_OCTETS} of them"));
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
        assert_eq!(settings::mistakes(&BounceConfig::schema()), Vec::<String>::new());
    }
}
