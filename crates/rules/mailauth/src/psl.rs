//! The public suffix list: where registrations begin, by a list that people keep.
//!
//! RFC 9989 finds that out from DNS; before it, DMARC used this list, and it is the older way still.

use crate::dns::Name;

/// The domain that was registered: one label below the longest public suffix. A public suffix stands for itself.
pub fn registered(name: &Name) -> Name {
    let domain = psl::domain(name.as_str().as_bytes());
    domain.and_then(|domain| Name::parse(domain.as_bytes())).unwrap_or_else(|| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations() {
        for (name, expected) in [
            ("mail.news.example.com", "example.com"),
            ("a.b.example.co.uk", "example.co.uk"),
            ("co.uk", "co.uk"),
            ("com", "com"),
            ("x.kobe.jp", "x.kobe.jp"),
            ("a.city.kobe.jp", "city.kobe.jp"),
            // No list knows this one; its last label is taken for a suffix.
            ("a.b.test", "b.test"),
        ] {
            let name = Name::parse(name.as_bytes()).unwrap();
            assert_eq!(registered(&name).as_str(), expected);
        }
    }
}
