//! Rules that give tags to messages: a list of conditions and of what follows when they hold.

use crate::gathered::{Gathered, PriorityClass, TagText, fill};
use crate::pattern::{AddressPattern, DomainPattern, Regex};
use mail::{Domain, Envelope, FieldName, Priority};
use settings::{Cidr, Node, Problems, Text};
use std::net::IpAddr;

settings::table! {
    /// A rule that gives tags to messages. It holds for a message if all its conditions do; a rule without conditions
    /// holds for every one. Rules are tried in the order of the file, and each sets only what is not set yet.
    #[derive(Eq)]
    #[check(AssignRule::check)]
    pub struct AssignRule {
        /// Condition: the message came in by one of these listeners.
        pub listeners: Vec<String> = Vec::new(),
        /// Condition: one of these users sent it; `*` is any who authenticated.
        pub users: Vec<String> = Vec::new(),
        /// Condition: the client's address is in one of these networks.
        pub networks: Vec<Cidr> = Vec::new(),
        /// Condition: what the client called itself in HELO or EHLO; `*.domain` is those below.
        pub hello: Vec<Text<DomainPattern>> = Vec::new(),
        /// Condition: the reverse-path. `a@b.example`, `*@b.example` or `b.example`, `*.b.example` for those below,
        /// `a@*`; `<>` is the null path.
        pub senders: Vec<Text<AddressPattern>> = Vec::new(),
        /// Condition: the first recipient, in the same forms. Only the first is looked at, since a message has one set
        /// of tags and may have recipients of many kinds.
        pub recipients: Vec<Text<AddressPattern>> = Vec::new(),
        /// Condition: it is mail of one of these tenants, as user, listener, header or an earlier rule said; `*` is any.
        pub tenants: Vec<String> = Vec::new(),
        /// Condition: SPF came to one of these results; of mail that was not verified none of these five hold.
        pub spf: Vec<VerdictWord> = Vec::new(),
        /// Condition: the best of the DKIM signatures came to one of these results.
        pub dkim: Vec<VerdictWord> = Vec::new(),
        /// Condition: DMARC came to one of these results.
        pub dmarc: Vec<VerdictWord> = Vec::new(),
        /// Condition: ARC came to one of these results.
        pub arc: Vec<VerdictWord> = Vec::new(),
        /// Condition: the message is marked for quarantine, or with `false`, is not.
        pub quarantined: Option<bool> = None,
        /// Condition: a field of the message's header.
        pub header: Option<HeaderCondition> = None,
        /// Whose mail it is, unless the user or the listener says so.
        pub tenant: Option<Text<TagText>> = None,
        /// The mailing it belongs to.
        pub campaign: Option<Text<TagText>> = None,
        /// The run of that mailing.
        pub job: Option<Text<TagText>> = None,
        /// The pool of egress sources it leaves by.
        pub pool: Option<Text<TagText>> = None,
        /// What goes first.
        pub priority: Option<PriorityClass> = None,
        /// When this rule holds, no later one is tried.
        pub r#final: bool = false,
    }
}

settings::table! {
    /// A condition on a header field.
    #[derive(Eq)]
    pub struct HeaderCondition {
        /// The field's name, in any case. Of several fields of this name the first counts.
        pub name: Text<FieldName>,
        /// A regular expression that is found in the field's text, in the syntax of the regex crate; `(?i)` in front
        /// disregards case. Left out, it is enough that the field is there.
        pub r#match: Option<Text<Regex>> = None,
    }
}

settings::words! {
    /// How a check of a message ended, in the words of RFC 8601 §2.7.
    pub enum VerdictWord {
        /// It is as it says.
        Pass,
        /// It is not.
        Fail,
        /// SPF: probably not.
        Softfail,
        /// Nothing is said of it, or a signature cannot be read.
        Neutral,
        /// There is nothing to check it by.
        None,
        /// DNS gave no answer.
        Temperror,
        /// What it is checked by is wrong.
        Permerror,
        /// A signature that is not believed here.
        Policy,
    }
}

impl VerdictWord {
    /// The word of RFC 8601, if it is one of these.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.word() == word)
    }
}

/// How the checks of a message ended; nothing where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// SPF.
    pub spf: Option<VerdictWord>,
    /// The best of the DKIM signatures.
    pub dkim: Option<VerdictWord>,
    /// DMARC.
    pub dmarc: Option<VerdictWord>,
    /// ARC.
    pub arc: Option<VerdictWord>,
    /// The name of the client's address.
    pub iprev: Option<VerdictWord>,
    /// The message is marked for quarantine.
    pub quarantined: bool,
}

impl AssignRule {
    fn check(&self, node: &Node, problems: &mut Problems) {
        let assigns = self.tenant.is_some()
            || self.campaign.is_some()
            || self.job.is_some()
            || self.pool.is_some()
            || self.priority.is_some();
        if !assigns && !self.r#final {
            problems
                .error(node.place, "this rule assigns nothing")
                .hint("add `tenant`, `campaign`, `job`, `pool` or `priority`; or `final = true` to end the rules here");
        }
    }
}

/// What is known of a message when it is accepted.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The listener it came by.
    pub listener: &'a str,
    /// Who authenticated.
    pub user: Option<&'a str>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// What the client called itself.
    pub hello: &'a str,
    /// From whom and to whom.
    pub envelope: &'a Envelope,
    /// How the checks of the message ended, if it was verified.
    pub verdicts: Option<&'a Verdicts>,
    /// The text of the first header field of a name, on one line. Asked for the names of [`Assign::fields`] only.
    pub field: &'a dyn Fn(&FieldName) -> Option<&'a str>,
}

/// The rules, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Assign {
    rules: Vec<AssignRule>,
    fields: Vec<FieldName>,
}

impl Assign {
    /// Makes them ready. The settings have been checked when they were read, so nothing can be wrong with them.
    pub fn compile(rules: &[AssignRule]) -> Self {
        let mut fields: Vec<FieldName> = Vec::new();
        for condition in rules.iter().filter_map(|rule| rule.header.as_ref()) {
            if !fields.contains(&condition.name) {
                fields.push(condition.name.0.clone());
            }
        }
        Self { rules: rules.to_vec(), fields }
    }

    /// The header fields that the rules ask for.
    pub fn fields(&self) -> &[FieldName] {
        &self.fields
    }

    /// Sets what the rules say of the message and nobody has set.
    pub fn apply(&self, facts: &Facts<'_>, tags: &mut Gathered) {
        if self.rules.is_empty() {
            return;
        }
        let hello = Domain::parse(facts.hello).ok();
        for rule in &self.rules {
            if !rule.holds(facts, hello.as_ref(), tags.tenant.as_deref()) {
                continue;
            }
            fill(&mut tags.tenant, rule.tenant.as_deref());
            fill(&mut tags.campaign, rule.campaign.as_deref());
            fill(&mut tags.job, rule.job.as_deref());
            fill(&mut tags.pool, rule.pool.as_deref());
            tags.priority = tags.priority.or(rule.priority.map(Priority::from));
            if rule.r#final {
                return;
            }
        }
    }
}

impl AssignRule {
    /// True if every condition holds; one that is not set does.
    fn holds(&self, facts: &Facts<'_>, hello: Option<&Domain>, tenant: Option<&str>) -> bool {
        let any_or_unset = |set: bool, holds: bool| !set || holds;
        let named = |user: &str| self.users.iter().any(|name| name == "*" || name == user);
        any_or_unset(!self.listeners.is_empty(), self.listeners.iter().any(|name| name == facts.listener))
            && any_or_unset(!self.users.is_empty(), facts.user.is_some_and(named))
            && any_or_unset(
                !self.networks.is_empty(),
                facts.peer.is_some_and(|peer| self.networks.iter().any(|network| network.contains(peer))),
            )
            && any_or_unset(
                !self.hello.is_empty(),
                hello.is_some_and(|domain| self.hello.iter().any(|pattern| pattern.covers(domain))),
            )
            && any_or_unset(
                !self.senders.is_empty(),
                self.senders.iter().any(|pattern| pattern.covers_path(&facts.envelope.reverse_path)),
            )
            && any_or_unset(
                !self.recipients.is_empty(),
                facts.envelope.recipients.first().is_some_and(|recipient| {
                    self.recipients.iter().any(|pattern| pattern.covers(&recipient.path.0))
                }),
            )
            && any_or_unset(
                !self.tenants.is_empty(),
                tenant.is_some_and(|tenant| self.tenants.iter().any(|name| name == "*" || name == tenant)),
            )
            && self.verdicts_hold(facts.verdicts)
            && self.header.as_ref().is_none_or(|condition| condition.holds(facts))
    }

    fn verdicts_hold(&self, verdicts: Option<&Verdicts>) -> bool {
        let one_of = |words: &[VerdictWord], verdict: fn(&Verdicts) -> Option<VerdictWord>| {
            words.is_empty() || verdicts.and_then(verdict).is_some_and(|verdict| words.contains(&verdict))
        };
        one_of(&self.spf, |verdicts| verdicts.spf)
            && one_of(&self.dkim, |verdicts| verdicts.dkim)
            && one_of(&self.dmarc, |verdicts| verdicts.dmarc)
            && one_of(&self.arc, |verdicts| verdicts.arc)
            && self.quarantined.is_none_or(|wanted| verdicts.is_some_and(|known| known.quarantined == wanted))
    }
}

impl HeaderCondition {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        self.holds_for((facts.field)(&self.name))
    }

    /// True if the condition holds for a message whose first field of this name has this text, or which has none.
    pub fn holds_for(&self, text: Option<&str>) -> bool {
        text.is_some_and(|text| self.r#match.as_ref().is_none_or(|regex| regex.is_match(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{Mailbox, Recipient, ReversePath};
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&AssignRule::schema()), Vec::<String>::new());
    }

    fn texts<T: std::str::FromStr<Err: std::fmt::Debug>>(list: &[&str]) -> Vec<Text<T>> {
        list.iter().map(|text| Text(text.parse().unwrap())).collect()
    }

    fn text(text: &str) -> Option<Text<TagText>> {
        Some(Text(text.parse().unwrap()))
    }

    fn header(name: &str, regex: Option<&str>) -> Option<HeaderCondition> {
        let regex = regex.map(|regex| Text(regex.parse().unwrap()));
        Some(HeaderCondition { name: Text(name.parse().unwrap()), r#match: regex })
    }

    /// The rules' word about a message that everything is known of.
    fn apply(rules: &[AssignRule], tags: &mut Gathered) {
        let recipients = ["first@one.test", "second@two.test"];
        let recipients = recipients.map(|text| Recipient::new(Mailbox::parse(text).unwrap()));
        let sender = ReversePath::Mailbox(Mailbox::parse("news@mail.sender.test").unwrap());
        let facts = Facts {
            listener: "submission",
            user: Some("app"),
            peer: Some("192.0.2.7".parse().unwrap()),
            hello: "host.CLIENT.test",
            envelope: &Envelope::new(sender, recipients.into()),
            verdicts: Some(&Verdicts {
                spf: Some(VerdictWord::Softfail),
                dkim: Some(VerdictWord::Pass),
                dmarc: Some(VerdictWord::Fail),
                quarantined: true,
                ..Verdicts::default()
            }),
            field: &|name| (name.as_str().eq_ignore_ascii_case("x-stream")).then_some("spring sale"),
        };
        Assign::compile(rules).apply(&facts, tags);
    }

    fn holds(rule: AssignRule) -> bool {
        let mut tags = Gathered::default();
        apply(&[AssignRule { campaign: text("held"), ..rule }], &mut tags);
        tags.campaign.is_some()
    }

    #[test]
    fn a_tenant_chooses_the_pool() {
        let rule = AssignRule { tenants: vec!["acme".into()], pool: text("theirs"), ..AssignRule::default() };
        let rules =
            [rule, AssignRule { tenants: vec!["*".into()], pool: text("tenants"), ..AssignRule::default() }];
        for (tenant, pool) in [(Some("acme"), Some("theirs")), (Some("b"), Some("tenants")), (None, None)] {
            let mut tags = Gathered { tenant: tenant.map(Into::into), ..Gathered::default() };
            apply(&rules, &mut tags);
            assert_eq!(tags.pool.as_deref(), pool);
        }
    }

    #[test]
    fn each_condition_holds_or_does_not() {
        let rule = AssignRule::default;
        assert!(holds(rule()), "a rule without conditions");
        use VerdictWord::{Fail, None as Nothing, Pass, Softfail};
        let cases: [(&str, AssignRule, bool); 28] = [
            ("spf", AssignRule { spf: vec![Fail, Softfail], ..rule() }, true),
            ("other spf", AssignRule { spf: vec![Pass], ..rule() }, false),
            ("dkim and dmarc", AssignRule { dkim: vec![Pass], dmarc: vec![Fail], ..rule() }, true),
            ("dkim and other dmarc", AssignRule { dkim: vec![Pass], dmarc: vec![Pass], ..rule() }, false),
            ("no arc", AssignRule { arc: vec![Nothing, Pass], ..rule() }, false),
            ("quarantined", AssignRule { quarantined: Some(true), ..rule() }, true),
            ("not quarantined", AssignRule { quarantined: Some(false), ..rule() }, false),
            ("user, other spf", AssignRule { users: vec!["*".into()], spf: vec![Pass], ..rule() }, false),
            ("listener", AssignRule { listeners: vec!["smtp".into(), "submission".into()], ..rule() }, true),
            ("other listener", AssignRule { listeners: vec!["smtp".into()], ..rule() }, false),
            ("user", AssignRule { users: vec!["app".into()], ..rule() }, true),
            ("any user", AssignRule { users: vec!["*".into()], ..rule() }, true),
            ("other user", AssignRule { users: vec!["App".into()], ..rule() }, false),
            ("network", AssignRule { networks: vec!["192.0.2.0/24".parse().unwrap()], ..rule() }, true),
            ("other network", AssignRule { networks: vec!["10.0.0.0/8".parse().unwrap()], ..rule() }, false),
            ("hello", AssignRule { hello: texts(&["*.client.test"]), ..rule() }, true),
            ("other hello", AssignRule { hello: texts(&["client.test"]), ..rule() }, false),
            ("sender", AssignRule { senders: texts(&["NEWS@mail.sender.test"]), ..rule() }, true),
            ("sender's domain", AssignRule { senders: texts(&["x.test", "*.sender.test"]), ..rule() }, true),
            ("other sender", AssignRule { senders: texts(&["*@sender.test"]), ..rule() }, false),
            ("null sender", AssignRule { senders: texts(&["<>"]), ..rule() }, false),
            ("first recipient", AssignRule { recipients: texts(&["one.test"]), ..rule() }, true),
            ("second recipient", AssignRule { recipients: texts(&["two.test"]), ..rule() }, false),
            ("field", AssignRule { header: header("X-STREAM", None), ..rule() }, true),
            ("field's text", AssignRule { header: header("x-stream", Some("^spring")), ..rule() }, true),
            ("field's other text", AssignRule { header: header("x-stream", Some("^sale")), ..rule() }, false),
            ("no such field", AssignRule { header: header("x-other", Some("")), ..rule() }, false),
            (
                "one of two",
                AssignRule { users: vec!["app".into()], listeners: vec!["smtp".into()], ..rule() },
                false,
            ),
        ];
        for (name, rule, expected) in cases {
            assert_eq!(holds(rule), expected, "{name}");
        }
    }

    #[test]
    fn a_later_rule_sets_what_is_not_set_and_none_follows_a_final_one() {
        let rule = AssignRule::default;
        let rules = [
            AssignRule { tenant: text("never"), users: vec!["nobody".into()], r#final: true, ..rule() },
            AssignRule { pool: text("p1"), priority: Some(PriorityClass::Bulk), ..rule() },
            AssignRule { pool: text("p2"), tenant: text("t"), priority: Some(PriorityClass::High), ..rule() },
            AssignRule { job: text("j"), r#final: true, ..rule() },
            AssignRule { campaign: text("too late"), ..rule() },
        ];
        let mut tags = Gathered { job: Some("the header's".into()), ..Gathered::default() };
        apply(&rules, &mut tags);
        tags.fill(Some(&"the user's".parse().unwrap()), None);
        let tags = tags.finish();
        assert_eq!((tags.tenant.as_deref(), tags.pool.as_deref()), (Some("t"), Some("p1")));
        assert_eq!((tags.job.as_deref(), tags.campaign), (Some("the header's"), None));
        assert_eq!(tags.priority, Priority::Bulk);
    }

    #[test]
    fn fields_are_asked_for_once() {
        let rule = |name| AssignRule { header: header(name, None), ..AssignRule::default() };
        let assign = Assign::compile(&[rule("X-A"), rule("x-a"), rule("X-B"), AssignRule::default()]);
        assert_eq!(assign.fields().iter().map(FieldName::as_str).collect::<Vec<_>>(), ["X-A", "X-B"]);
    }
}
