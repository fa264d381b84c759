//! `POST /v1/messages`: what stands in its body.

use super::inject::{Injection, To};
use crate::http::refusal::{Refusal, hint};
use compose::{Attachment, Content, Mistake, Parts, Person, read_people};
use mail::{Mailbox, Priority, ReversePath, UnixMillis};
use reception::Asked;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Tags of one message at most, besides campaign and job.
const TAGS_MAX: usize = 20;
/// Octets of one recipient's substitutions at most.
const SUBSTITUTIONS_MAX_OCTETS: usize = 256 * 1024;

/// The body.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct MessageRequest<'a> {
    from: Option<PersonIn>,
    #[serde(default)]
    envelope: EnvelopeIn,
    #[serde(borrow)]
    recipients: Vec<RecipientIn<'a>>,
    content: ContentIn,
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    substitutions: Option<&'a RawValue>,
    tenant: Option<String>,
    campaign: Option<String>,
    job: Option<String>,
    reference: Option<String>,
    pool: Option<String>,
    priority: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    metadata: Option<serde_json::Map<String, Value>>,
    send_at: Option<TimeIn>,
    expires_at: Option<TimeIn>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EnvelopeIn {
    from: Option<String>,
}

/// `"Ann <a@b.example>"`, or `{"email": …, "name": …}`.
#[derive(Debug)]
pub(super) struct PersonIn(Person);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PersonFields {
    email: String,
    name: Option<String>,
}

/// `"a@b.example"`, or an object with the recipient's name and values.
#[derive(Debug)]
struct RecipientIn<'a>(RecipientFields<'a>);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RecipientFields<'a> {
    #[serde(borrow)]
    email: Cow<'a, str>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    substitutions: Option<&'a RawValue>,
}

/// A whole message as RFC 5322 has it, or its parts.
#[derive(Debug)]
enum ContentIn {
    Raw(String),
    Parts(Box<PartsIn>),
}

/// Parts; a stored template has the same form.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::http) struct PartsIn {
    template: Option<String>,
    from: Option<PersonIn>,
    reply_to: Option<PeopleIn>,
    to: Option<PeopleIn>,
    cc: Option<PeopleIn>,
    subject: Option<String>,
    headers: FieldsIn,
    text: Option<String>,
    html: Option<String>,
    amp: Option<String>,
    attachments: Vec<AttachmentIn>,
}

/// One person, a list in one text, or a list.
#[derive(Debug)]
struct PeopleIn(Vec<Person>);

/// Header fields in the order in which they were written.
#[derive(Debug, Default)]
struct FieldsIn(Vec<(String, String)>);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AttachmentIn {
    filename: Option<String>,
    #[serde(rename = "type")]
    media_type: String,
    content: String,
    content_id: Option<String>,
}

/// Milliseconds since 1970, or a text as RFC 3339 has it.
#[derive(Debug)]
struct TimeIn(UnixMillis);

// ---- reading what may be of more than one form ------------------------------------------------------------

/// Reads what is a text or an object.
macro_rules! text_or_object {
    ($name:ident, $what:literal, $text:expr, $fields:ty, $object:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Read;
                impl<'de> Visitor<'de> for Read {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        let read: fn(&str) -> Result<$name, String> = $text;
                        read(text).map_err(E::custom)
                    }

                    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<$name, M::Error> {
                        let make: fn($fields) -> $name = $object;
                        <$fields>::deserialize(MapAccessDeserializer::new(map)).map(make)
                    }
                }
                from.deserialize_any(Read)
            }
        }
    };
}

text_or_object!(
    PersonIn,
    "an address such as \"Ann <a@b.example>\", or an object with `email` and `name`",
    |text| Person::parse(text).map(PersonIn),
    PersonFields,
    |fields| PersonIn(Person { email: fields.email, name: fields.name })
);

text_or_object!(
    ContentIn,
    "a whole message as a text, or an object with its parts",
    |text| Ok(ContentIn::Raw(text.to_owned())),
    PartsIn,
    |parts| ContentIn::Parts(Box::new(parts))
);

impl<'de: 'a, 'a> Deserialize<'de> for RecipientIn<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = RecipientIn<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or an object with `email`, `name` and `substitutions`")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(RecipientIn(RecipientFields { email: text.into(), name: None, substitutions: None }))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let email = Cow::Owned(text.to_owned());
                Ok(RecipientIn(RecipientFields { email, name: None, substitutions: None }))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                RecipientFields::deserialize(MapAccessDeserializer::new(map)).map(RecipientIn)
            }
        }
        from.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for PeopleIn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = PeopleIn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("addresses: a text with commas between them, or a list")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PeopleIn, E> {
                read_people(text).map(PeopleIn).map_err(E::custom)
            }

            fn visit_seq<S: serde::de::SeqAccess<'de>>(self, mut list: S) -> Result<PeopleIn, S::Error> {
                let mut people = Vec::new();
                while let Some(PersonIn(person)) = list.next_element()? {
                    people.push(person);
                }
                Ok(PeopleIn(people))
            }
        }
        from.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for FieldsIn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = FieldsIn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of header fields, each a text")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<FieldsIn, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(FieldsIn(fields))
            }
        }
        from.deserialize_map(Read)
    }
}

impl<'de> Deserialize<'de> for TimeIn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = TimeIn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("milliseconds since 1970, or a time such as \"2026-12-24T18:00:00Z\"")
            }

            fn visit_u64<E: Error>(self, at: u64) -> Result<TimeIn, E> {
                Ok(TimeIn(UnixMillis(at)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TimeIn, E> {
                let at = crate::http::time::rfc3339(text);
                at.map(|at| TimeIn(UnixMillis(at))).ok_or_else(|| {
                    E::custom(format!(
                        "`{}` is no time such as \"2026-12-24T18:00:00Z\"",
                        message::one_line(text, 60)
                    ))
                })
            }
        }
        from.deserialize_any(Read)
    }
}

// ---- telling of what may be of more than one form ---------------------------------------------------------

/// Describes what is read by hand.
macro_rules! described {
    ($name:ty, $word:literal, |$all:ident| $schema:expr) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $word.into()
            }

            fn json_schema($all: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

described!(PersonIn, "Person", |all| {
    let fields = all.subschema_for::<PersonFields>();
    json_schema!({
        "description": "Such as `Ann <a@b.example>`, or an object.",
        "anyOf": [{ "type": "string" }, fields],
    })
});
described!(RecipientIn<'_>, "Recipient", |all| {
    let fields = all.subschema_for::<RecipientFields<'static>>();
    json_schema!({
        "description": "An address, or an object with the recipient's name and values.",
        "anyOf": [{ "type": "string" }, fields],
    })
});
described!(ContentIn, "Content", |all| {
    let parts = all.subschema_for::<PartsIn>();
    json_schema!({
        "description": "A whole message as RFC 5322 has it, or its parts.",
        "anyOf": [{ "type": "string" }, parts],
    })
});
described!(PeopleIn, "People", |all| {
    let person = all.subschema_for::<PersonIn>();
    json_schema!({
        "description": "Addresses: a text with commas between them, or a list.",
        "anyOf": [{ "type": "string" }, { "type": "array", "items": person }],
    })
});
described!(FieldsIn, "HeaderFields", |_all| json_schema!({
    "description": "Header fields, each a text.",
    "type": "object",
    "additionalProperties": { "type": "string" },
}));
described!(TimeIn, "Time", |_all| json_schema!({
    "description": "Milliseconds since 1970, or a time such as `2026-12-24T18:00:00Z`.",
    "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }],
}));

// ---- reading a body ---------------------------------------------------------------------------------------

/// Reads a body strictly, or says what is wrong with it and where.
pub(in crate::http) fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    crate::http::json::check(body).map_err(|unfit| Refusal::bad(format!("the body is refused: {unfit}")))?;
    serde_json::from_slice(body).map_err(|_| {
        // The place is found only where something is wrong.
        let mut reader = serde_json::Deserializer::from_slice(body);
        let read: Result<T, _> = serde_path_to_error::deserialize(&mut reader);
        let error = match read {
            Ok(_) => {
                let error = reader.end().err().map(|error| error.to_string()).unwrap_or_default();
                return Refusal::bad(format!("the body is no JSON: {error}"));
            }
            Err(error) => error,
        };
        let pointer = pointer_of(error.path());
        let inner = error.into_inner();
        let text = message::one_line(&inner.to_string(), 400);
        match inner.classify() {
            serde_json::error::Category::Data => Refusal::bad(told(&text)).at(pointer),
            _ => Refusal::bad(format!("the body is no JSON: {text}")),
        }
    })
}

fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer += &format!("/{index}"),
            Segment::Map { key } => pointer += &format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// What serde says, with the nearest name where a key is not known.
fn told(text: &str) -> String {
    let Some(rest) = text.strip_prefix("unknown field `") else { return text.to_owned() };
    let Some((wrong, rest)) = rest.split_once('`') else { return text.to_owned() };
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    format!("there is no `{wrong}` here{}", hint(wrong, known.into_iter()))
}

impl PartsIn {
    /// The template it begins with, if any.
    pub(in crate::http) fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Fills in what is left out from a stored template.
    fn over(&mut self, stored: Self) {
        self.from = self.from.take().or(stored.from);
        self.reply_to = self.reply_to.take().or(stored.reply_to);
        self.to = self.to.take().or(stored.to);
        self.cc = self.cc.take().or(stored.cc);
        self.subject = self.subject.take().or(stored.subject);
        self.text = self.text.take().or(stored.text);
        self.html = self.html.take().or(stored.html);
        self.amp = self.amp.take().or(stored.amp);
        let own = std::mem::take(&mut self.headers.0);
        let is_own = |name: &str| own.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let kept: Vec<_> = stored.headers.0.into_iter().filter(|(name, _)| !is_own(name)).collect();
        self.headers.0 = kept.into_iter().chain(own).collect();
        let own = std::mem::take(&mut self.attachments);
        self.attachments = stored.attachments.into_iter().chain(own).collect();
    }

    pub(super) fn into_parts(self, from: Option<PersonIn>) -> Parts {
        let people = |people: Option<PeopleIn>| people.map(|people| people.0).unwrap_or_default();
        Parts {
            from: self.from.or(from).map(|from| from.0),
            reply_to: people(self.reply_to),
            to: people(self.to),
            cc: people(self.cc),
            subject: self.subject,
            headers: self.headers.0,
            text: self.text,
            html: self.html,
            amp: self.amp,
            attachments: self
                .attachments
                .into_iter()
                .map(|file| Attachment {
                    filename: file.filename,
                    media_type: file.media_type,
                    content: file.content,
                    content_id: file.content_id,
                })
                .collect(),
        }
    }

    /// What is wrong with parts that are to be stored: they need no From yet, and their texts are templates.
    pub(in crate::http) fn check_stored(self) -> Result<(), Refusal> {
        if self.template.is_some() {
            return Err(Refusal::unfit("a template cannot begin with another one").at("/template"));
        }
        let anybody = || PersonIn(Person { email: "a@a.invalid".into(), name: None });
        let mut parts = self.into_parts(Some(anybody()));
        parts.check().map_err(|mistake| at(mistake, ""))?;
        compose::Template::compile(parts).map_err(|mistake| at(mistake, ""))?;
        Ok(())
    }
}

fn at(mistake: Mistake, before: &str) -> Refusal {
    Refusal::unfit(mistake.text).at(format!("{before}{}", mistake.pointer))
}

/// What a request is read with.
pub(in crate::http) struct Reading {
    /// Now.
    pub(in crate::http) now: UnixMillis,
    /// How far ahead a message may be handed in.
    pub(in crate::http) send_later_max: Duration,
    /// The content of a stored template.
    pub(in crate::http) stored: Option<PartsIn>,
}

impl<'a> MessageRequest<'a> {
    /// The stored template it names.
    pub(in crate::http) fn template(&self) -> Option<&str> {
        match &self.content {
            ContentIn::Parts(parts) => parts.template(),
            ContentIn::Raw(_) => None,
        }
    }

    /// The tenant it names.
    pub(in crate::http) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// What is to be done, everything checked that needs no other room.
    pub(in crate::http) fn into_injection(self, mut reading: Reading) -> Result<Injection<'a>, Refusal> {
        let has_values = self.substitutions.is_some()
            || self.recipients.iter().any(|recipient| recipient.0.substitutions.is_some());
        let templated = has_values || reading.stored.is_some();
        let (content, from) = match self.content {
            ContentIn::Raw(text) => {
                let octets = compose::tidy(&text).map_err(|mistake| at(mistake, "/content"))?;
                let text = String::from_utf8(octets).map_err(|_| Refusal::bad("the content is not UTF-8"))?;
                (Content::Raw(text), self.from.map(|from| from.0.email))
            }
            ContentIn::Parts(mut parts) => {
                if let Some(stored) = reading.stored.take() {
                    parts.over(stored);
                }
                let mut parts = parts.into_parts(self.from);
                parts.check().map_err(|mistake| match mistake.pointer.as_str() {
                    // It stands at the top as a rule.
                    "/from" => at(mistake, ""),
                    _ => at(mistake, "/content"),
                })?;
                let from = parts.from.as_ref().map(|from| from.email.clone());
                (Content::Parts(Box::new(parts)), from)
            }
        };
        let reverse_path = match self.envelope.from.as_deref().map(|text| text.trim_matches(['<', '>'])) {
            Some("") => ReversePath::Null,
            Some(text) => mailbox(text, "/envelope/from").map(ReversePath::Mailbox)?,
            None => match from.or_else(|| from_of(&content)) {
                Some(text) => mailbox(&text, "/from").map(ReversePath::Mailbox)?,
                None => {
                    let text = "say in `envelope.from` where bounces shall go: the content's From is not one plain address";
                    return Err(Refusal::unfit(text).at("/envelope/from"));
                }
            },
        };
        let tag = |text: Option<String>, pointer: &str| -> Result<Option<Box<str>>, Refusal> {
            let tag = text.as_deref().map(mail::tag).transpose();
            tag.map_err(|error| Refusal::unfit(format!("this is no tag: {error}")).at(pointer))
        };
        let priority = self.priority.map(|word| word.parse::<Priority>()).transpose();
        let asked = Asked {
            tenant: tag(self.tenant, "/tenant")?,
            campaign: tag(self.campaign, "/campaign")?,
            job: tag(self.job, "/job")?,
            envid: tag(self.reference, "/reference")?,
            pool: tag(self.pool, "/pool")?,
            priority: priority.map_err(|()| {
                Refusal::unfit("a priority is one of high, normal, low and bulk").at("/priority")
            })?,
        };
        let (send_at, expires_at) = times(self.send_at, self.expires_at, &reading)?;
        let common =
            self.substitutions.map(|raw| object_text(raw, "/substitutions")).transpose()?.unwrap_or("");
        let mut recipients = Vec::with_capacity(self.recipients.len());
        for (n, RecipientIn(fields)) in self.recipients.into_iter().enumerate() {
            let own = match fields.substitutions {
                Some(raw) => object_text(raw, "")
                    .map_err(|refusal| refusal.at(format!("/recipients/{n}/substitutions")))?,
                None => "",
            };
            recipients.push(To {
                email: fields.email,
                name: fields.name.unwrap_or_default(),
                own: own.into(),
            });
        }
        Ok(Injection {
            reverse_path,
            recipients,
            content,
            templated,
            common: common.into(),
            asked,
            send_at,
            expires_at,
            metadata: metadata(self.metadata, self.tags)?,
        })
    }
}

fn mailbox(text: &str, pointer: &str) -> Result<Mailbox, Refusal> {
    Mailbox::parse(text).map_err(|error| Refusal::unfit(error.to_string()).at(pointer))
}

/// The one address in the From field of a written message.
fn from_of(content: &Content) -> Option<String> {
    let Content::Raw(text) = content else { return None };
    let value = message::first_values(text.as_bytes(), &[&"From".parse().ok()?]).pop()??;
    match &read_people(&value).ok()?[..] {
        [one] => Some(one.email.clone()),
        _ => None,
    }
}

/// The text of an object that is kept as it was written.
fn object_text<'a>(raw: &'a RawValue, pointer: &str) -> Result<&'a str, Refusal> {
    let text = raw.get();
    if text == "null" {
        return Ok("");
    }
    if !text.starts_with('{') {
        return Err(Refusal::bad("substitutions are an object of values").at(pointer));
    }
    if text.len() > SUBSTITUTIONS_MAX_OCTETS {
        let text = format!("substitutions have at most {SUBSTITUTIONS_MAX_OCTETS} octets");
        return Err(Refusal::unfit(text).at(pointer));
    }
    Ok(text)
}

fn times(
    send_at: Option<TimeIn>,
    expires_at: Option<TimeIn>,
    reading: &Reading,
) -> Result<(Option<UnixMillis>, Option<UnixMillis>), Refusal> {
    let now = reading.now.0;
    let send_at = send_at.map(|at| at.0).filter(|at| at.0 > now);
    let longest = u64::try_from(reading.send_later_max.as_millis()).unwrap_or(u64::MAX);
    if send_at.is_some_and(|at| at.0 - now > longest) {
        let text = format!(
            "a message may be handed in {} ahead at most (`http.send_later_max`)",
            settings::show_duration(reading.send_later_max)
        );
        return Err(Refusal::unfit(text).at("/send_at"));
    }
    let expires_at = expires_at.map(|at| at.0);
    if expires_at.is_some_and(|end| end.0 <= now || send_at.is_some_and(|at| end <= at)) {
        return Err(Refusal::unfit("a message cannot expire before it is sent").at("/expires_at"));
    }
    Ok((send_at, expires_at))
}

/// Metadata and tags as one text.
fn metadata(
    map: Option<serde_json::Map<String, Value>>,
    tags: Vec<String>,
) -> Result<Option<Box<str>>, Refusal> {
    if map.is_none() && tags.is_empty() {
        return Ok(None);
    }
    if tags.len() > TAGS_MAX {
        return Err(Refusal::unfit(format!("a message has at most {TAGS_MAX} tags")).at("/tags"));
    }
    let mut map = map.unwrap_or_default();
    if !tags.is_empty() {
        for (n, tag) in tags.iter().enumerate() {
            if let Err(error) = mail::tag(tag) {
                return Err(Refusal::unfit(format!("this is no tag: {error}")).at(format!("/tags/{n}")));
            }
        }
        if map.insert("tags".to_owned(), json!(tags)).is_some() {
            return Err(Refusal::unfit("`tags` cannot be metadata too").at("/metadata/tags"));
        }
    }
    let text = Value::Object(map).to_string();
    if text.len() > mail::METADATA_MAX_OCTETS {
        let text = format!("metadata and tags have at most {} octets", mail::METADATA_MAX_OCTETS);
        return Err(Refusal::unfit(text).at("/metadata"));
    }
    Ok(Some(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading { now: UnixMillis(1_000), send_later_max: Duration::from_secs(60), stored: None }
    }

    fn read(body: &str) -> Result<Injection<'_>, Refusal> {
        read_json::<MessageRequest<'_>>(body.as_bytes())?.into_injection(reading())
    }

    /// The status, the place and the text of what is said against a body.
    fn wrong(body: &str) -> String {
        let refusal = read(body).map(|_| ()).expect_err(body);
        let shown = format!("{refusal:?}");
        let pointer = shown.split("pointer: Some(\"").nth(1).and_then(|rest| rest.split('"').next());
        format!("{} {} {}", refusal.status().as_u16(), pointer.unwrap_or("-"), refusal.text())
    }

    #[test]
    fn a_body_in_full() {
        let body = r#"{
            "from": "Acme <news@acme.test>", "envelope": {"from": "b@acme.test"},
            "recipients": ["a@b.test", {"email": "c@d.test", "name": "Zo\u00eb", "substitutions": {"x": [1]}}],
            "content": {"subject": "{{ x }}", "text": "t", "headers": {"X-B": "1", "X-A": "2"}, "reply_to": "r@acme.test",
                "cc": ["e@f.test", {"email": "g@h.test"}],
                "attachments": [{"type": "a/b", "content": "QUJD", "filename": "f"}]},
            "substitutions": {"y": 2}, "tenant": "t", "campaign": "c", "job": "j", "reference": "r", "pool": "p",
            "priority": "bulk", "tags": ["one"], "metadata": {"k": 1}, "send_at": 2000,
            "expires_at": "1970-01-01T00:00:03Z"
        }"#;
        let injection = read(body).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!(injection.reverse_path.as_str(), "b@acme.test");
        let to = &injection.recipients[1];
        assert_eq!((&*to.email, &*to.name, &*to.own), ("c@d.test", "Zo\u{eb}", r#"{"x": [1]}"#));
        assert!(injection.templated);
        assert_eq!(injection.common, r#"{"y": 2}"#);
        assert_eq!(injection.metadata.as_deref(), Some(r#"{"k":1,"tags":["one"]}"#));
        assert_eq!(
            (injection.send_at, injection.expires_at),
            (Some(UnixMillis(2_000)), Some(UnixMillis(3_000)))
        );
        let Content::Parts(parts) = &injection.content else { panic!("{:?}", injection.content) };
        assert_eq!(parts.headers[0].0, "X-B");
        assert_eq!(injection.asked.priority, Some(Priority::Bulk));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let with = |more: &str| {
            wrong(&format!(
                r#"{{"from":"a@b.test","recipients":["c@d.test"],"content":{{"text":"t"}},{more}}}"#
            ))
        };
        assert_eq!(
            with(r#""tennant":"x""#),
            "400 /tennant there is no `tennant` here; did you mean `tenant`?"
        );
        assert_eq!(
            with(r#""priority":"urgent""#),
            "422 /priority a priority is one of high, normal, low and bulk"
        );
        assert!(with(r#""campaign":" ""#).starts_with("422 /campaign "));
        assert!(with(r#""send_at":900000"#).starts_with("422 /send_at "));
        assert!(with(r#""send_at":"soon""#).starts_with("400 /send_at "));
        assert!(with(r#""expires_at":900"#).starts_with("422 /expires_at "));
        assert!(with(r#""expires_at":5000,"send_at":6000"#).starts_with("422 /expires_at "));
        assert!(with(r#""envelope":{"from":"x"}"#).starts_with("422 /envelope/from "));
        assert!(with(r#""substitutions":[1]"#).starts_with("400 /substitutions "));
        assert!(with(r#""tenant":"a","tenant":"b""#).contains("stands twice"));
        assert!(with(r#""metadata":{"a":{"b":1,"\u0062":2}}"#).contains("stands twice"));
        assert!(wrong("").starts_with("400 - the body is no JSON"));
        assert!(wrong("{} x").starts_with("400 "));
        assert!(wrong("{\"from\":").starts_with("400 - the body is no JSON"));
        assert!(wrong("[]").starts_with("400 "));
        let wrong_content = |content: &str| {
            wrong(&format!(r#"{{"from":"a@b.test","recipients":["c@d.test"],"content":{content}}}"#))
        };
        assert!(
            wrong_content(r#"{"subject":"a\r\nBcc: x@y.test","text":"t"}"#)
                .starts_with("422 /content/subject ")
        );
        assert!(
            wrong_content(r#"{"headers":{"Bcc":"x@y.test"},"text":"t"}"#)
                .starts_with("422 /content/headers/Bcc ")
        );
        assert!(
            wrong_content(r#"{"headers":{"X-A":1},"text":"t"}"#).starts_with("400 /content/headers/X-A ")
        );
        assert!(
            wrong_content(r#"{"attachments":[{"type":"a/b","content":"?"}]}"#)
                .starts_with("422 /content/attachments/0/content ")
        );
        assert!(wrong_content(r#""no header""#).starts_with("422 /content "));
        assert!(wrong_content("1").starts_with("400 /content "));
        assert!(wrong(r#"{"recipients":["c@d.test"],"content":{"text":"t"}}"#).starts_with("422 /from "));
        let lone = r#"{"from":"a@b.test","recipients":["\ud800"],"content":{"text":"t"}}"#;
        assert!(wrong(lone).starts_with("400 "), "{}", wrong(lone));
    }

    #[test]
    fn a_written_message_says_by_itself_who_sends_it() {
        let body =
            r#"{"recipients":["c@d.test"],"content":"From: Ann <a@b.test>\nBcc: x@y.test\nSubject: s\n\nt"}"#;
        let injection = read(body).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!(injection.reverse_path.as_str(), "a@b.test");
        let Content::Raw(text) = &injection.content else { panic!("{:?}", injection.content) };
        assert!(!text.contains("Bcc") && !injection.templated, "{text}");
        let two = r#"{"recipients":["c@d.test"],"content":"From: a@b.test, c@d.test\n\nt"}"#;
        assert!(wrong(two).starts_with("422 /envelope/from "), "{}", wrong(two));
    }
}
