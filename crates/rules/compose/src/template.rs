//! Texts with substitutions: Jinja templates, run within bounds.
//!
//! A template sees its substitutions, and `email` and `name` of its recipient; it opens no file, includes no other
//! template, and its steps and its output are paid from one purse ([`FUEL`]). HTML and AMP are escaped unless the
//! template says `|safe`.

use crate::field::tame;
use crate::parts::Mistake;
use crate::sheet::Stamp;
use crate::write::View;
use crate::{Parts, Person};
use mail::{Host, Mailbox};
use minijinja::value::{Enumerator, Object, Value};
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior};
use std::borrow::Cow;
use std::sync::Arc;

/// Steps of one text of one message at most; sixty-four octets of output or memory cost as much as a step. A text of
/// 20 KiB with a hundred substitutions takes some five hundred.
pub const FUEL: u64 = 200_000;
/// Octets of one template at most.
pub const TEMPLATE_MAX_OCTETS: usize = 4 * 1024 * 1024;
/// Octets of what one template gives at most.
const OUTPUT_MAX_OCTETS: usize = 8 * 1024 * 1024;
/// How deep loops, calls and the like may nest. Each level takes some stack.
const DEPTH_MAX: usize = 60;

/// The values that a recipient's templates are filled in with.
#[derive(Clone, Debug, Default)]
pub struct Substitutions(Option<Value>);

impl Substitutions {
    /// Reads a JSON object; an empty text has no values.
    pub fn parse(json: &str) -> Result<Self, String> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        let value: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        match value.kind() {
            minijinja::value::ValueKind::Map => Ok(Self(Some(value))),
            _ => Err("substitutions are a JSON object".into()),
        }
    }

    fn get(&self, key: &Value) -> Option<Value> {
        let value = self.0.as_ref()?.get_item(key).ok()?;
        (!value.is_undefined()).then_some(value)
    }
}

/// What a message is written for: one recipient and his values.
#[derive(Clone, Copy, Debug)]
pub struct Rendering<'a> {
    /// The recipient.
    pub to: &'a Mailbox,
    /// His name, if he is to be shown with one.
    pub name: Option<&'a str>,
    /// His own values; they go before the common ones.
    pub own: &'a Substitutions,
    /// Everybody's values.
    pub common: &'a Substitutions,
}

impl Rendering<'_> {
    /// The recipient as a header field shows him.
    pub(crate) fn person(&self) -> Person {
        Person { email: self.to.as_str().to_owned(), name: self.name.map(str::to_owned) }
    }

    pub(crate) fn context(&self) -> Value {
        Value::from_object(Layers {
            own: self.own.clone(),
            common: self.common.clone(),
            email: self.to.as_str().into(),
            name: self.name.unwrap_or("").into(),
        })
    }
}

/// A recipient's values over everybody's over what is known of any recipient.
#[derive(Debug)]
struct Layers {
    own: Substitutions,
    common: Substitutions,
    email: Value,
    name: Value,
}

impl Object for Layers {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.own.get(key).or_else(|| self.common.get(key)).or_else(|| match key.as_str()? {
            "email" => Some(self.email.clone()),
            "name" => Some(self.name.clone()),
            _ => None,
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}

/// An engine whose templates whose names end in `html` are escaped.
pub(crate) fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_fuel(Some(FUEL));
    engine.set_recursion_limit(DEPTH_MAX);
    engine.set_undefined_behavior(UndefinedBehavior::Chainable);
    engine.set_auto_escape_callback(|name| match name.ends_with("html") {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    // It shows the whole of the state, which nobody wants in a message.
    engine.remove_global("debug");
    engine
}

/// Adds a text to an engine if it is a template at all.
pub(crate) fn add(
    engine: &mut Environment<'static>,
    name: String,
    text: &str,
    pointer: &str,
) -> Result<(), Mistake> {
    if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
        return Ok(());
    }
    if text.len() > TEMPLATE_MAX_OCTETS {
        return Err(Mistake::new(pointer, format!("a template has at most {TEMPLATE_MAX_OCTETS} octets")));
    }
    engine.add_template_owned(name, text.to_owned()).map_err(|error| Mistake::new(pointer, told(&error)))
}

/// What is wrong with a template, in one line.
fn told(error: &Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    message::one_line(&format!("{}{line}{detail}", error.kind()), 300)
}

/// A text filled in: of the template of that name, or as it is if there is none.
pub(crate) fn fill<'a>(
    engine: &Environment<'static>,
    name: &str,
    text: &'a str,
    context: &Value,
) -> Result<Cow<'a, str>, String> {
    let Ok(template) = engine.get_template(name) else { return Ok(Cow::Borrowed(text)) };
    let output = template.render(context.clone()).map_err(|error| told(&error))?;
    if output.len() > OUTPUT_MAX_OCTETS {
        return Err(format!("a text has more than {OUTPUT_MAX_OCTETS} octets"));
    }
    Ok(Cow::Owned(output))
}

/// Parts whose texts are templates, ready to be filled in.
#[derive(Debug)]
pub struct Template {
    parts: Parts,
    engine: Environment<'static>,
}

impl Template {
    /// Compiles the texts of parts that were checked.
    pub fn compile(parts: Parts) -> Result<Self, Mistake> {
        let mut engine = engine();
        let name = parts.from.as_ref().and_then(|from| from.name.as_ref());
        let texts = [
            ("name", "/from/name", name),
            ("subject", "/subject", parts.subject.as_ref()),
            ("text", "/text", parts.text.as_ref()),
            ("html", "/html", parts.html.as_ref()),
            ("amp.html", "/amp", parts.amp.as_ref()),
        ];
        for (name, pointer, text) in texts {
            if let Some(text) = text {
                add(&mut engine, name.to_owned(), text, pointer)?;
            }
        }
        for (n, (field, value)) in parts.headers.iter().enumerate() {
            add(&mut engine, format!("h{n}"), value, &format!("/headers/{field}"))?;
        }
        Ok(Self { parts, engine })
    }

    /// The parts as they were given.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Writes the message of one recipient, or says in one line why it cannot be.
    pub fn write(&self, rendering: &Rendering<'_>, host: &Host, stamp: Stamp) -> Result<Vec<u8>, String> {
        let (parts, context) = (&self.parts, rendering.context());
        let fill = |name: &str, text: &'_ str| fill(&self.engine, name, text, &context).map(Cow::into_owned);
        let filled = |name: &str, text: &Option<String>| -> Result<Option<Cow<'static, str>>, String> {
            text.as_deref().map(|text| fill(name, text).map(Cow::Owned)).transpose()
        };
        let from = parts.from.as_ref().ok_or("a message needs a From address")?;
        let name = filled("name", &from.name)?.map(|name| tame(&name)).filter(|name| !name.is_empty());
        let mut headers = Vec::with_capacity(parts.headers.len());
        for (n, (field, value)) in parts.headers.iter().enumerate() {
            headers.push((&**field, Cow::Owned(tame(&fill(&format!("h{n}"), value)?))));
        }
        let view = View {
            parts,
            from: Cow::Owned(Person { email: from.email.clone(), name }),
            to: match parts.to.is_empty() {
                true => Cow::Owned(vec![rendering.person()]),
                false => Cow::Borrowed(&parts.to),
            },
            subject: filled("subject", &parts.subject)?.map(|subject| Cow::Owned(tame(&subject))),
            headers,
            text: filled("text", &parts.text)?,
            html: filled("html", &parts.html)?,
            amp: filled("amp.html", &parts.amp)?,
        };
        let mut out = Vec::new();
        view.write(&mut out, host, stamp);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{SpoolId, UnixMillis};

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn from() -> Option<Person> {
        Some(Person::parse("Acme <news@acme.test>").unwrap())
    }

    fn rendered(parts: Parts, name: Option<&str>, own: &str) -> Result<String, String> {
        let mut parts = Parts { from: from(), ..parts };
        parts.check().map_err(|mistake| mistake.to_string())?;
        let template = Template::compile(parts).map_err(|mistake| mistake.to_string())?;
        let (own, common) =
            (Substitutions::parse(own)?, Substitutions::parse("{\"shop\":\"Acme\",\"x\":\"common\"}")?);
        let to = Mailbox::parse("ann@b.test").unwrap();
        let rendering = Rendering { to: &to, name, own: &own, common: &common };
        let stamp = Stamp { id: SpoolId(5), index: 3, at: UnixMillis(0) };
        let octets = template.write(&rendering, &Host::parse("mx.test").unwrap(), stamp)?;
        Ok(String::from_utf8(octets).unwrap())
    }

    #[test]
    fn values_are_filled_in() {
        let parts = Parts {
            subject: text("Hello {{ first }} from {{ shop }}"),
            text: text(
                "{{ x }}, {{ email }}, {{ name }}{% for n in list %}, {{ n }}{% endfor %}, {{ no.such.thing }}.",
            ),
            html: text("<p>{{ first }} {{ first|safe }}</p>"),
            ..Parts::default()
        };
        let own = r#"{"first":"<Zoë>","list":[1,2.5,"c"],"x":"own"}"#;
        let message = rendered(parts, Some("Ann"), own).unwrap();
        assert!(message.contains("Subject: =?utf-8?q?"), "{message}");
        assert!(message.contains("\r\n\r\nown, ann@b.test, Ann, 1, 2.5, c, .\r\n"), "{message}");
        assert!(message.contains("<p>&lt;Zo=C3=AB&gt; <Zo=C3=AB></p>"), "{message}");
        assert!(
            message.contains("To: Ann <ann@b.test>\r\n")
                && message.contains("Message-ID: <00000000005.3@mx.test>")
        );
    }

    #[test]
    fn values_add_no_header_field() {
        let parts = Parts {
            from: None,
            subject: text("{{ v }}"),
            headers: vec![("X-V".into(), "{{ v }}".into())],
            text: text("t"),
            ..Parts::default()
        };
        let message = rendered(parts, None, r#"{"v":"a\r\nBcc: b@c.test\n\nbody\u0000"}"#).unwrap();
        let names = message::Fields::new(message.as_bytes()).map(|field| field.name.to_vec());
        assert!(!names.into_iter().any(|name| name == b"Bcc"), "{message}");
        assert!(message.contains("X-V: a  Bcc: b@c.test  body\r\n"), "{message}");
    }

    #[test]
    fn a_template_that_will_not_end_ends() {
        for evil in [
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            "{{ 'x' * 99999999 }}",
            "{% set x = 'x' * 1000 %}{% for a in range(9999) %}{{ x }}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{{ range(100000)|list|join('x') * 1000 }}",
            "{{ 10 ** 100000 }}",
            "{% for a in range(99999) %}{{ [1,2,3]|tojson|upper|replace('1', '111111111111') * 9999 }}{% endfor %}",
        ] {
            let error = rendered(Parts { text: text(evil), ..Parts::default() }, None, "").expect_err(evil);
            assert!(error.len() < 320, "{error}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_place() {
        for (parts, place) in [
            (Parts { text: text("{{ x"), ..Parts::default() }, "/text: "),
            (Parts { html: text("\n{% for %}"), ..Parts::default() }, "/html: syntax error in line 2"),
            (Parts { subject: text("{% include 'x' %}"), text: text("t"), ..Parts::default() }, ""),
            (Parts { text: text("{{ debug() }}"), ..Parts::default() }, "unknown function"),
            (Parts { text: text(&"{{ (".repeat(10_000)), ..Parts::default() }, "/text: "),
        ] {
            let error = rendered(parts, None, "").expect_err(place);
            assert!(error.contains(place), "{error}");
        }
        assert!(Substitutions::parse("[1]").is_err() && Substitutions::parse("{").is_err());
    }
}
