//! What a message is filed under: gathered from its header fields where they may speak, the rules of `assign`, its
//! user and its listener.
//!
//! Who is heard first: for the tenant the user, the listener, the header, the rules, since whose mail it is must not
//! be for the mail to say; for everything else the header, the rules, the user, the listener.

use crate::config::{ListenerConfig, TagField, TagHeadersConfig, UnknownPool};
use crate::context::Rules;
use mail::{Envelope, FieldName, KEPT_FIELDS_MAX, KEPT_VALUE_MAX_OCTETS, KeptField, Origin, Reply, Tags};
use message::{first_values, take_out_fields};
use routing::{Assign, Facts, Gathered, TagText, Verdicts};
use std::collections::{HashMap, HashSet};

/// What a user's messages are filed under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserTags {
    /// Whose mail it is; nothing else has a say.
    pub tenant: Option<TagText>,
    /// The pool, unless a header field or a rule says otherwise.
    pub pool: Option<TagText>,
}

/// The rules about tags.
#[derive(Clone, Debug, Default)]
pub struct TagRules {
    /// The rules of `assign`.
    pub assign: Assign,
    /// Which header fields are tags.
    pub headers: TagHeadersConfig,
    /// The users that have tags, by name.
    pub users: HashMap<Box<str>, UserTags>,
    /// Header fields to keep for records, at most [`KEPT_FIELDS_MAX`].
    pub kept: Vec<FieldName>,
    /// The pools there are. Empty means that it is not known, and then no pool is refused.
    pub pools: HashSet<Box<str>>,
}

impl TagRules {
    /// The tenant of a session's mail as far as its user and its listener say; a header field or a rule may name one
    /// later.
    pub(crate) fn tenant_of<'a>(
        &'a self,
        user: Option<&str>,
        listener: &'a ListenerConfig,
    ) -> Option<&'a str> {
        let user = user.and_then(|user| self.users.get(user)).and_then(|user| user.tenant.as_ref());
        user.or(listener.tenant.as_deref()).map(|tenant| tenant.as_str())
    }
}

/// What was found out about one message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tagged {
    pub(crate) tags: Tags,
    pub(crate) headers: Vec<KeptField>,
    /// Where the content begins now that fields were taken out of it: 0 if none were.
    pub(crate) begins: usize,
}

/// What verification said of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verified<'a> {
    pub(crate) verdicts: &'a Verdicts,
    /// All of it in one line, for records.
    pub(crate) summary: &'a str,
}

/// Finds the tags of a message and takes the fields that held them out of its content.
pub(crate) fn tag(
    rules: &Rules,
    listener: &ListenerConfig,
    origin: &Origin,
    envelope: &Envelope,
    verified: Option<Verified<'_>>,
    content: &mut [u8],
) -> Result<Tagged, Reply> {
    let TagRules { assign, headers, users, kept, pools } = &rules.tags;
    let peer = origin.peer.map(|peer| peer.ip());
    // A stranger's fields are his own business: they neither tag his message nor are they ours to remove.
    let may_speak = listener.tag_headers && rules.relay.trusts(peer, origin.user.as_deref());
    let own: [Option<&FieldName>; 6] = if may_speak { headers.fields() } else { [None; 6] };
    let kept = &kept[..kept.len().min(KEPT_FIELDS_MAX)];
    let names: Vec<&FieldName> = own.into_iter().flatten().chain(assign.fields()).chain(kept).collect();
    // Most servers ask for none, and do not look.
    let values = if names.is_empty() { Vec::new() } else { first_values(content, &names) };
    let value = |name: &FieldName| {
        let at = names.iter().position(|known| *known == name)?;
        values.get(at)?.as_deref()
    };

    let [tenant, campaign, job, envid, pool, priority] = own.map(|name| Spoken(name, name.and_then(value)));
    let mut gathered = Gathered {
        tenant: None,
        campaign: campaign.tag()?,
        job: job.tag()?,
        envid: envid.tag()?,
        pool: pool.tag()?,
        priority: priority.priority()?,
    };
    let unknown = |pool: &str| !pools.is_empty() && !pools.contains(pool);
    if gathered.pool.as_deref().is_some_and(unknown) {
        match headers.unknown_pool {
            UnknownPool::Reject => return Err(pool.refusal((5, 7, 1), "no such pool")),
            UnknownPool::Default => gathered.pool = None,
        }
    }
    let user = origin.user.as_deref().and_then(|user| users.get(user));
    let by_user = user.and_then(|user| user.tenant.as_ref());
    gathered.fill(by_user.or(listener.tenant.as_deref()), None);
    if gathered.tenant.is_none() {
        gathered.tenant = tenant.tag()?;
    }
    let facts = Facts {
        listener: &origin.listener,
        user: origin.user.as_deref(),
        peer,
        hello: &origin.helo,
        envelope,
        verdicts: verified.map(|verified| verified.verdicts),
        field: &value,
    };
    assign.apply(&facts, &mut gathered);
    gathered.fill(None, user.and_then(|user| user.pool.as_ref()));
    gathered.fill(None, listener.pool.as_deref());
    gathered.priority = gathered.priority.or(listener.priority.map(Into::into));

    let keep = |name: &FieldName| {
        let text = match verified {
            // Our own field is not in the content yet, and says the same at greater length.
            Some(verified) if name.as_str().eq_ignore_ascii_case("authentication-results") => {
                verified.summary
            }
            _ => value(name)?,
        };
        kept_field(name, text)
    };
    let kept = kept.iter().filter_map(keep).collect();
    let begins = match headers.keep {
        // What was not found by name need not be searched for again.
        false if own.iter().flatten().any(|name| value(name).is_some()) => {
            let own = own.map(|name| name.map(FieldName::as_str));
            take_out_fields(content, |field| own.iter().flatten().any(|name| field.is(name)))
        }
        _ => 0,
    };
    Ok(Tagged { tags: gathered.finish(), headers: kept, begins })
}

/// The tags of a message that came with what its sender asks for, not with header fields: the rules of `assign` say
/// the rest.
pub(crate) fn tag_asked(
    rules: &Rules,
    asked: Gathered,
    origin: &Origin,
    envelope: &Envelope,
    content: &[u8],
) -> (Tags, Vec<KeptField>) {
    let TagRules { assign, kept, .. } = &rules.tags;
    let kept = &kept[..kept.len().min(KEPT_FIELDS_MAX)];
    let names: Vec<&FieldName> = assign.fields().iter().chain(kept).collect();
    let values = if names.is_empty() { Vec::new() } else { first_values(content, &names) };
    let value = |name: &FieldName| {
        let at = names.iter().position(|known| *known == name)?;
        values.get(at)?.as_deref()
    };
    let mut gathered = asked;
    let facts = Facts {
        listener: &origin.listener,
        user: origin.user.as_deref(),
        peer: origin.peer.map(|peer| peer.ip()),
        hello: &origin.helo,
        envelope,
        verdicts: None,
        field: &value,
    };
    assign.apply(&facts, &mut gathered);
    let kept = kept.iter().filter_map(|name| kept_field(name, value(name)?)).collect();
    (gathered.finish(), kept)
}

/// A field as records keep it.
fn kept_field(name: &FieldName, text: &str) -> Option<KeptField> {
    let text = &text[..text.floor_char_boundary(KEPT_VALUE_MAX_OCTETS)];
    Some(KeptField { name: name.as_str().into(), value: text.into() })
}

/// A header field that may tag the message, and what it says, if it is there.
struct Spoken<'a>(Option<&'a FieldName>, Option<&'a str>);

impl Spoken<'_> {
    /// What it says; a field without text says nothing.
    fn text(&self) -> Option<&str> {
        self.1.map(str::trim).filter(|text| !text.is_empty())
    }

    fn tag(&self) -> Result<Option<Box<str>>, Reply> {
        let tag = self.text().map(mail::tag).transpose();
        tag.map_err(|error| self.refusal((5, 6, 0), &error.to_string()))
    }

    fn priority(&self) -> Result<Option<mail::Priority>, Reply> {
        let priority = self.text().map(str::parse).transpose();
        priority.map_err(|()| self.refusal((5, 6, 0), "it is none of high, normal, low and bulk"))
    }

    /// The reply to a field that cannot be understood. Who may tag messages is no stranger and is told; losing the
    /// tag without a word would lose the mail in its reports.
    fn refusal(&self, status: (u8, u16, u16), why: &str) -> Reply {
        let name = self.0.map_or("", FieldName::as_str);
        Reply::new(550, status, format!("{name}: {why}"))
    }
}

impl TagHeadersConfig {
    /// Tenant, campaign, job, envelope id, pool and priority.
    fn fields(&self) -> [Option<&FieldName>; 6] {
        [&self.tenant, &self.campaign, &self.job, &self.envid, &self.pool, &self.priority]
            .map(|field| TagField::name(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Users;
    use crate::config::{ListenerTls, ReceptionConfig, RelayConfig, Speaks};
    use crate::relay::RelayRules;
    use crate::verify::{VerifyConfig, VerifyRules};
    use mail::{Domain, Mailbox, Priority, Recipient, ReversePath};
    use routing::{AssignRule, PriorityClass};
    use settings::Text;
    use std::sync::Arc;

    const CONTENT: &str = "Subject: s\r\nX-Virtual-MTA: p2\r\nx-job: 7\r\n 8\r\nX-ENVID: e\r\nX-Tenant: mallory\r\n\
        x-campaign:\r\nX-Job: second\r\nX-Priority-Class: BULK\r\nTo: t\r\n\r\nX-Job: in the body\r\n";
    const WITHOUT: &str = "Subject: s\r\nTo: t\r\n\r\nX-Job: in the body\r\n";

    fn text(text: &str) -> Option<Text<TagText>> {
        Some(Text(text.parse().unwrap()))
    }

    fn rules(tags: TagRules) -> Rules {
        let hostname = Domain::parse("mx.test").unwrap();
        let session = smtp::server::Config {
            hostname: hostname.clone(),
            session: smtp::server::SessionConfig::default(),
        };
        let relay = RelayConfig { networks: vec!["192.0.2.0/24".parse().unwrap()], ..RelayConfig::default() };
        Rules {
            suppressed: None,
            hostname,
            session: Arc::new(session.clone()),
            session_auth_in_clear: Arc::new(session),
            relay: RelayRules::new(&relay),
            users: Arc::new(Users::new(HashMap::new())),
            tags,
            verify: VerifyRules::new(&VerifyConfig::default(), &Domain::parse("mx.test").unwrap(), None),
            policy: None,
            report_reader: None,
            reception: ReceptionConfig::default(),
            recipients_queued_max: 1,
        }
    }

    fn listener(tag_headers: bool) -> ListenerConfig {
        ListenerConfig {
            client_ca_file: None,
            listen: "127.0.0.1:25".parse().unwrap(),
            speaks: Speaks::Smtp,
            tls: ListenerTls::Off,
            auth: Vec::new(),
            auth_required: false,
            auth_without_tls: false,
            add_missing_fields: false,
            proxy_from: Vec::new(),
            xclient_from: Vec::new(),
            tenant: None,
            pool: None,
            priority: None,
            tag_headers,
            verify: false,
        }
    }

    /// What a client at this address, or this user, gets for a content; with what is left of the content.
    fn check(
        rules: &Rules,
        listener: &ListenerConfig,
        peer: &str,
        user: Option<&str>,
        content: &str,
    ) -> Result<(Tagged, String), String> {
        let origin = Origin {
            peer: Some(peer.parse().unwrap()),
            user: user.map(Box::from),
            listener: "main".into(),
            ..Origin::default()
        };
        let mailbox = |text| Mailbox::parse(text).unwrap();
        let to = vec![Recipient::new(mailbox("b@c.test"))];
        let envelope = Envelope::new(ReversePath::Mailbox(mailbox("a@news.test")), to);
        let mut octets = content.as_bytes().to_vec();
        let tagged =
            tag(rules, listener, &origin, &envelope, None, &mut octets).map_err(|reply| reply.to_string())?;
        let left = String::from_utf8(octets.split_off(tagged.begins)).unwrap();
        Ok((tagged, left))
    }

    const OURS: &str = "192.0.2.7:1";
    const STRANGER: &str = "203.0.113.7:1";

    #[test]
    fn header_fields_tag_a_message_of_our_clients_and_are_taken_out() {
        let rules = rules(TagRules::default());
        let (tagged, left) = check(&rules, &listener(true), OURS, None, CONTENT).unwrap();
        let expected = Tags {
            tenant: Some("mallory".into()),
            campaign: None,
            job: Some("7 8".into()),
            envid: Some("e".into()),
            pool: Some("p2".into()),
            priority: Priority::Bulk,
        };
        assert_eq!((tagged.tags, left.as_str()), (expected, WITHOUT));
        let (tagged, _) = check(&rules, &listener(true), STRANGER, Some("app"), CONTENT).unwrap();
        assert_eq!(tagged.tags.envid.as_deref(), Some("e"), "a user is ours");

        // Nobody else's are looked at, nor where the listener does not say so.
        let nothing = |tagged: (Tagged, String)| {
            assert_eq!((tagged.0, tagged.1.as_str()), (Tagged::default(), CONTENT));
        };
        nothing(check(&rules, &listener(true), STRANGER, None, CONTENT).unwrap());
        nothing(check(&rules, &listener(false), OURS, None, CONTENT).unwrap());
    }

    #[test]
    fn fields_are_left_where_they_shall_be() {
        let headers = TagHeadersConfig { keep: true, ..TagHeadersConfig::default() };
        let keeping = rules(TagRules { headers, ..TagRules::default() });
        let (tagged, left) = check(&keeping, &listener(true), OURS, None, CONTENT).unwrap();
        assert_eq!((tagged.tags.pool.as_deref(), left.as_str()), (Some("p2"), CONTENT));
        // A field nobody asks for is no tag.
        let headers = TagHeadersConfig { job: Text("".parse().unwrap()), ..TagHeadersConfig::default() };
        let fewer = rules(TagRules { headers, ..TagRules::default() });
        let (tagged, left) = check(&fewer, &listener(true), OURS, None, CONTENT).unwrap();
        assert_eq!(tagged.tags.job, None);
        assert!(left.contains("x-job: 7") && left.contains("X-Job: second") && !left.contains("X-ENVID"));
        let (tagged, left) = check(&fewer, &listener(true), OURS, None, WITHOUT).unwrap();
        assert_eq!((tagged, left.as_str()), (Tagged::default(), WITHOUT));
    }

    #[test]
    fn who_is_heard_first() {
        let rule = AssignRule {
            senders: vec![Text("news.test".parse().unwrap())],
            tenant: text("the rule's"),
            campaign: text("the rule's"),
            job: text("the rule's"),
            pool: text("the rule's"),
            priority: Some(PriorityClass::Low),
            ..AssignRule::default()
        };
        let of_user = |tenant: Option<&str>, pool: Option<&str>| UserTags {
            tenant: tenant.map(|text| text.parse().unwrap()),
            pool: pool.map(|text| text.parse().unwrap()),
        };
        let users = HashMap::from([
            ("app".into(), of_user(Some("the user's"), Some("the user's"))),
            ("poor".into(), of_user(None, None)),
        ]);
        let with_rule =
            rules(TagRules { assign: Assign::compile(&[rule]), users: users.clone(), ..TagRules::default() });
        let without = rules(TagRules { users, ..TagRules::default() });
        let bare = listener(true);
        let full = ListenerConfig {
            tenant: text("the listener's"),
            pool: text("the listener's"),
            priority: Some(PriorityClass::High),
            ..listener(true)
        };
        let of = |rules: &Rules, listener: &ListenerConfig, user, content| {
            let tags = check(rules, listener, OURS, user, content).unwrap().0.tags;
            let word = |tag: Option<Box<str>>| tag.map(String::from).unwrap_or_default();
            (word(tags.tenant), word(tags.pool), word(tags.campaign), tags.priority)
        };
        let expect = |tenant: &str, pool: &str, campaign: &str, priority| {
            (tenant.to_owned(), pool.to_owned(), campaign.to_owned(), priority)
        };
        let (none, app, poor) = (None, Some("app"), Some("poor"));
        // The tenant: user, listener, header, rules. The rest: header, rules, user, listener.
        for (rules, listener, user, content, tenant, pool, campaign, priority) in [
            (&with_rule, &full, app, CONTENT, "the user's", "p2", "the rule's", Priority::Bulk),
            (&with_rule, &full, none, CONTENT, "the listener's", "p2", "the rule's", Priority::Bulk),
            (&with_rule, &bare, poor, CONTENT, "mallory", "p2", "the rule's", Priority::Bulk),
            (&with_rule, &bare, none, WITHOUT, "the rule's", "the rule's", "the rule's", Priority::Low),
            (&with_rule, &full, app, WITHOUT, "the user's", "the rule's", "the rule's", Priority::Low),
            (&without, &full, app, WITHOUT, "the user's", "the user's", "", Priority::High),
            (&without, &full, poor, WITHOUT, "the listener's", "the listener's", "", Priority::High),
            (&without, &bare, none, WITHOUT, "", "", "", Priority::Normal),
        ] {
            assert_eq!(of(rules, listener, user, content), expect(tenant, pool, campaign, priority));
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        let with_pools = |unknown_pool| {
            let headers = TagHeadersConfig { unknown_pool, ..TagHeadersConfig::default() };
            rules(TagRules { headers, pools: HashSet::from(["p1".into()]), ..TagRules::default() })
        };
        let refusal = |rules: &Rules, content: &str| {
            check(rules, &listener(true), OURS, None, content).map(|(tagged, _)| tagged.tags.pool)
        };
        let strict = with_pools(UnknownPool::Reject);
        let known = "X-Virtual-MTA: p1\r\n\r\n";
        assert_eq!(refusal(&strict, known), Ok(Some("p1".into())));
        let error = "550 5.7.1 x-virtual-mta: no such pool";
        assert_eq!(refusal(&strict, "X-Virtual-MTA: P1\r\n\r\n"), Err(error.into()));
        assert_eq!(refusal(&with_pools(UnknownPool::Default), "X-Virtual-MTA: p2\r\n\r\n"), Ok(None));
        assert_eq!(refusal(&rules(TagRules::default()), "X-Virtual-MTA: p2\r\n\r\n"), Ok(Some("p2".into())));

        let error = "550 5.6.0 x-job: it has more than 255 octets";
        assert_eq!(refusal(&strict, &format!("x-job: {}\r\n\r\n", "x".repeat(256))), Err(error.into()));
        let error = "550 5.6.0 x-envid: it holds a control character";
        assert_eq!(refusal(&strict, "x-envid: a\u{1b}b\r\n\r\n"), Err(error.into()));
        let error = "550 5.6.0 x-priority-class: it is none of high, normal, low and bulk";
        assert_eq!(refusal(&strict, "x-priority-class: 50\r\n\r\n"), Err(error.into()));
    }

    #[test]
    fn chosen_fields_are_kept_for_records() {
        let kept = ["Subject", "X-Job", "X-Absent"].map(|name| name.parse().unwrap()).to_vec();
        let rules = rules(TagRules { kept, ..TagRules::default() });
        let field = |name: &str, value: &str| KeptField { name: name.into(), value: value.into() };
        let (tagged, _) = check(&rules, &listener(true), OURS, None, CONTENT).unwrap();
        assert_eq!(tagged.headers, [field("Subject", "s"), field("X-Job", "7 8")]);
        let (tagged, left) = check(&rules, &listener(false), STRANGER, None, CONTENT).unwrap();
        assert_eq!((tagged.headers.len(), left.as_str()), (2, CONTENT));
        let long = format!("Subject: {}\r\n\r\n", "\u{e9}".repeat(200));
        let (tagged, _) = check(&rules, &listener(false), OURS, None, &long).unwrap();
        assert_eq!(tagged.headers, [field("Subject", &"\u{e9}".repeat(128))]);
        let odd = format!("Subject: x{}\r\n\r\n", "\u{e9}".repeat(200));
        let (tagged, _) = check(&rules, &listener(false), OURS, None, &odd).unwrap();
        assert_eq!(tagged.headers[0].value.len(), 255, "cut between characters");
    }
}
