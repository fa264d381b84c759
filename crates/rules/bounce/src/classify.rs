//! From a failure to its class.

use std::sync::Arc;

use mail::{BounceClass, EnhancedStatusCode, Reply};
use replies::{Pattern, PatternSet, Stage, subject};
use settings::Place;

use crate::config::ClassRule;
use crate::status::{StatusPattern, class_of};

/// A failure to be classed.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// The reply that says so.
    pub reply: &'a Reply,
    /// Where in a session it came; `None` if it came as mail.
    pub stage: Option<Stage>,
}

/// The class of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classed {
    /// The class.
    pub class: BounceClass,
    /// The operator's own word for it, in place of PowerMTA's.
    pub category: Option<Arc<str>>,
    /// The rule that gave it; `None` if the code alone did.
    pub rule: Option<Arc<str>>,
}

impl Classed {
    /// A class that no rule gave.
    pub fn plain(class: BounceClass) -> Self {
        Self { class, category: None, rule: None }
    }

    /// The word for PowerMTA's column `bounceCat`.
    pub fn category(&self) -> &str {
        self.category.as_deref().unwrap_or_else(|| self.class.category())
    }
}

/// A compiled rule.
#[derive(Debug)]
struct Rule {
    pattern: Option<Pattern>,
    /// As [`Stage::set`] has them; `None` is any, and none.
    stages: Option<u16>,
    statuses: Box<[StatusPattern]>,
    codes: Box<[u16]>,
    classed: Classed,
}

impl Rule {
    fn holds(&self, failure: &Failure<'_>, text: &str) -> bool {
        let reply = failure.reply;
        self.stages.is_none_or(|set| failure.stage.is_some_and(|stage| stage.is_in(set)))
            && (self.codes.is_empty() || self.codes.contains(&reply.code.get()))
            && (self.statuses.is_empty()
                || reply
                    .enhanced
                    .is_some_and(|code| self.statuses.iter().any(|pattern| pattern.matches(code))))
            && self.pattern.as_ref().is_none_or(|pattern| pattern.confirm(text))
    }
}

/// The compiled rules. Immutable: a reload compiles new ones.
#[derive(Debug)]
pub struct ClassRules {
    rules: Box<[Rule]>,
    patterns: PatternSet,
}

impl ClassRules {
    /// Compiles layers of rules, the operator's first: of several rules that hold the first decides.
    pub fn compile<'a>(layers: impl IntoIterator<Item = &'a [ClassRule]>) -> Result<Self, (Place, String)> {
        let (mut rules, mut required) = (Vec::new(), Vec::new());
        for rule in layers.into_iter().flatten() {
            let (pattern, literals) = match &rule.r#match {
                Some(text) => {
                    let (pattern, literals) = Pattern::new(text).map_err(|reason| (text.place, reason))?;
                    (Some(pattern), literals)
                }
                None => (None, Vec::new()),
            };
            let name = rule.name.as_deref().or(rule.r#match.as_ref().map(|text| text.value.as_str()));
            rules.push(Rule {
                pattern,
                stages: (!rule.stage.is_empty()).then(|| Stage::set(&rule.stage)),
                statuses: rule.status.iter().map(|status| status.0).collect(),
                codes: rule.code.clone().into(),
                classed: Classed {
                    class: rule.class.0,
                    category: rule.category.as_deref().map(Into::into),
                    rule: Some(name.unwrap_or(rule.class.0.as_str()).into()),
                },
            });
            required.push(literals);
        }
        let patterns = PatternSet::new(&required).map_err(|reason| (Place::whole(0), reason))?;
        Ok(Self { rules: rules.into(), patterns })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The class of a failure. Every failure has one; [`BounceClass::Other`] is what nothing says more of.
    pub fn classify(&self, failure: &Failure<'_>) -> Classed {
        let (mut text, mut candidates) = (String::with_capacity(256), Vec::with_capacity(32));
        subject(failure.reply, &mut text);
        let found =
            self.patterns.first(&text, &mut candidates, |number| self.rules[number].holds(failure, &text));
        match found {
            Some(number) => self.rules[number].classed.clone(),
            None => Classed::plain(by_code(failure)),
        }
    }
}

/// The class of what no rule knows, by the codes and the stage.
fn by_code(failure: &Failure<'_>) -> BounceClass {
    use BounceClass as C;
    let (reply, code) = (failure.reply, failure.reply.code.get());
    // A status of another class than the reply's says nothing certain.
    let fits = |status: &EnhancedStatusCode| u16::from(status.class()) == code / 100;
    if let Some(class) = reply.enhanced.filter(fits).and_then(class_of) {
        return class;
    }
    if failure.stage == Some(Stage::Connect) {
        return C::NoAnswerFromHost;
    }
    match code {
        422 | 552 => C::QuotaIssues,
        400..500 => C::TransientFailure,
        523 => C::ContentRelated,
        500..506 | 555 => C::ProtocolErrors,
        530 | 538 => C::PolicyRelated,
        534 | 535 => C::AuthenticationFailed,
        521 | 556 => C::BadDomain,
        550 | 551 | 553 if failure.stage == Some(Stage::Rcpt) => C::BadMailbox,
        553 if failure.stage == Some(Stage::Mail) => C::InvalidSender,
        _ => C::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::{Placed, Text};

    fn rule(pattern: &str, class: BounceClass) -> ClassRule {
        ClassRule {
            name: None,
            r#match: Some(Placed { value: pattern.to_owned(), place: Place::whole(0) }),
            stage: Vec::new(),
            status: Vec::new(),
            code: Vec::new(),
            class: Text(class),
            category: None,
        }
    }

    fn class(rules: &ClassRules, reply: &Reply, stage: Option<Stage>) -> Classed {
        rules.classify(&Failure { reply, stage })
    }

    #[test]
    fn the_first_rule_of_the_first_layer_decides_and_all_its_conditions_must_hold() {
        let own = [
            ClassRule {
                stage: vec![Stage::Rcpt],
                code: vec![550],
                status: vec![Text("5.1.*".parse().unwrap())],
                category: Some("our-word".into()),
                name: Some("own".into()),
                ..rule("no such user", BounceClass::PolicyRelated)
            },
            ClassRule { r#match: None, code: vec![571], ..rule("", BounceClass::SpamBlock) },
        ];
        let shipped = [rule("no such", BounceClass::BadMailbox), rule("user", BounceClass::QuotaIssues)];
        let rules = ClassRules::compile([&own[..], &shipped[..]]).unwrap();
        assert_eq!(rules.len(), 4);
        let reply = Reply::new(550, (5, 1, 1), "No such User");
        let found = class(&rules, &reply, Some(Stage::Rcpt));
        assert_eq!((found.class, found.category()), (BounceClass::PolicyRelated, "our-word"));
        assert_eq!(found.rule.as_deref(), Some("own"));
        for (reply, stage) in [
            (Reply::new(550, (5, 1, 1), "No such user"), Some(Stage::End)),
            (Reply::new(550, (5, 1, 1), "No such user"), None),
            (Reply::new(553, (5, 1, 1), "No such user"), Some(Stage::Rcpt)),
            (Reply::new(550, (5, 7, 1), "No such user"), Some(Stage::Rcpt)),
            (Reply::bare(550, "No such user"), Some(Stage::Rcpt)),
        ] {
            let found = class(&rules, &reply, stage);
            assert_eq!(found.class, BounceClass::BadMailbox, "{reply} {stage:?}");
            assert_eq!((found.rule.as_deref(), found.category()), (Some("no such"), "bad-mailbox"));
        }
        assert_eq!(class(&rules, &Reply::bare(571, "x"), None).class, BounceClass::SpamBlock);
    }

    #[test]
    fn what_no_rule_knows_goes_by_its_codes() {
        let rules = ClassRules::compile([]).unwrap();
        assert!(rules.is_empty());
        let contradicting =
            Reply { enhanced: EnhancedStatusCode::parse("4.2.2"), ..Reply::bare(550, "mailbox") };
        for (reply, stage, expected) in [
            (Reply::new(550, (5, 1, 1), "x"), None, BounceClass::BadMailbox),
            (Reply::new(550, (5, 7, 26), "x"), None, BounceClass::AuthenticationFailed),
            // The reply says for good, its status for now.
            (contradicting, Some(Stage::Rcpt), BounceClass::BadMailbox),
            (Reply::bare(550, "x"), Some(Stage::Rcpt), BounceClass::BadMailbox),
            (Reply::bare(550, "x"), Some(Stage::End), BounceClass::Other),
            (Reply::bare(451, "x"), Some(Stage::Connect), BounceClass::NoAnswerFromHost),
            (Reply::bare(451, "x"), Some(Stage::End), BounceClass::TransientFailure),
            (Reply::bare(552, "x"), Some(Stage::End), BounceClass::QuotaIssues),
            (Reply::new(554, (5, 0, 0), "x"), Some(Stage::End), BounceClass::Other),
        ] {
            let found = class(&rules, &reply, stage);
            assert_eq!((found.class, found.rule), (expected, None), "{reply} {stage:?}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_where_it_stands() {
        let wrong = [rule("(", BounceClass::Other)];
        let (_, reason) = ClassRules::compile([&wrong[..]]).unwrap_err();
        assert_eq!(reason, "unclosed group");
    }
}
