//! What a message itself says of who signs it: PowerMTA's X-DKIM-Options.

use super::Signing;
use mail::{Domain, Message, Protocol};
use mailauth::dkim::TagList;
use message::Fields;
use spool::Content;
use std::fmt;

/// Octets of the field at most.
const OCTETS_MAX: usize = 1_000;

/// `d=a.example; s=s2026; i=@news.a.example`, of which `d` or `s` must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) domain: Option<Domain>,
    pub(crate) selector: Option<Domain>,
    pub(crate) identity: Option<Box<str>>,
}

impl Options {
    /// Reads a field's value, or says what is wrong with it.
    pub(crate) fn parse(value: &[u8]) -> Result<Self, String> {
        if value.len() > OCTETS_MAX {
            return Err(format!("it has more than {OCTETS_MAX} octets"));
        }
        let tags = TagList::parse(value, 3).map_err(|error| format!("write `d=…; s=…; i=…`: {error}"))?;
        let name = |tag: &str| match tags.value(tag) {
            Some(text) => Domain::parse(text).map(Some).map_err(|error| format!("{tag}=: {error}")),
            None => Ok(None),
        };
        let (domain, selector) = (name("d")?, name("s")?);
        if let Some((tag, _)) = tags.iter().find(|(tag, _)| !["d", "s", "i"].contains(tag)) {
            return Err(format!("{}= is not known here", settings::quote(tag)));
        }
        if domain.is_none() && selector.is_none() {
            return Err("it names neither d= nor s=".to_owned());
        }
        Ok(Self { domain, selector, identity: tags.value("i").map(Box::from) })
    }

    /// True if `i=` is left out or within a domain.
    pub(crate) fn fits(&self, domain: &Domain) -> bool {
        let Some(identity) = &self.identity else { return true };
        let parsed = identity.rsplit_once('@').and_then(|(_, domain)| Domain::parse(domain).ok());
        parsed.is_some_and(|parsed| parsed.is_within(domain))
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.domain, &self.selector) {
            (Some(domain), Some(selector)) => write!(f, "d={domain} and s={selector}"),
            (Some(domain), None) => write!(f, "d={domain}"),
            (None, Some(selector)) => write!(f, "s={selector}"),
            (None, None) => f.write_str("any name"),
        }
    }
}

impl Signing {
    /// True if the message may say itself who signs it.
    pub(crate) fn hears(&self, message: &Message) -> bool {
        let listener = &*message.origin.listener;
        message.origin.protocol != Protocol::Internal
            && self.config().options_from.iter().any(|name| name == listener)
    }

    /// The content without the fields that speak to us; `None` if it has none. The header is copied, the body is not.
    pub(crate) fn without_options(&self, message: &Message, content: &Content) -> Option<Content> {
        if !self.hears(message) {
            return None;
        }
        let name = self.config().options_field.as_str();
        let mut fields = Fields::new(&content.body);
        let mut kept = content.prefix.to_vec();
        let mut any = false;
        for field in fields.by_ref() {
            match field.is(name) {
                true => any = true,
                false => kept.extend_from_slice(&content.body[field.start..field.end]),
            }
        }
        any.then(|| Content { prefix: kept.into(), body: content.body.slice(fields.offset()..) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let options = Options::parse(b" d=A.test; s=s1; i=x@news.a.test").unwrap();
        assert_eq!(options.to_string(), "d=a.test and s=s1");
        let within = |domain: &str| options.fits(&Domain::parse(domain).unwrap());
        assert!(within("a.test") && within("news.a.test") && !within("b.test"));
        assert_eq!(Options::parse(b"s=s1;").unwrap().to_string(), "s=s1");
        for text in
            ["", "x", "i=@a.test", "d=", "d=a b", "d=a.test; d=b.test", "d=a.test; z=1", "d=a;s=b;i=c;z=1"]
        {
            assert!(Options::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Options::parse(&[b' '; 1_001]).is_err());
    }
}
