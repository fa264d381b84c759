//! A DMARC policy record (RFC 9989 §4.7).

use std::fmt;

/// Octets of a record that is looked at.
pub const RECORD_MAX_OCTETS: usize = 8 * 1024;
/// Addresses for reports taken from one record.
pub const REPORT_ADDRESSES_MAX: usize = 10;

/// What the owner of a domain wants done with mail that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Nothing.
    None,
    /// It is to be treated with suspicion.
    Quarantine,
    /// It is to be refused.
    Reject,
}

impl Policy {
    /// Its word in records and reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Quarantine, Self::Reject].into_iter().find(|p| text.eq_ignore_ascii_case(p.word()))
    }

    /// One step milder, as `t=y` asks (RFC 9989 §4.7).
    pub(super) fn milder(self) -> Self {
        match self {
            Self::Reject => Self::Quarantine,
            Self::Quarantine | Self::None => Self::None,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How close an authenticated domain must be to the author's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// Both have the same organizational domain.
    Relaxed,
    /// Both are the same.
    Strict,
}

impl Alignment {
    /// Its letter in records and reports.
    pub fn letter(self) -> &'static str {
        if self == Self::Strict { "s" } else { "r" }
    }
}

/// Whether the domain says of itself that others register below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublicSuffix {
    /// They do.
    Yes,
    /// They do not: it is an organizational domain.
    No,
    /// It does not say.
    Unsaid,
}

/// A policy record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What is wanted for the domain itself.
    pub policy: Policy,
    /// What is wanted for names below it that exist.
    pub subdomain_policy: Option<Policy>,
    /// What is wanted for names below it that do not exist.
    pub absent_policy: Option<Policy>,
    /// For DKIM.
    pub dkim_alignment: Alignment,
    /// For SPF.
    pub spf_alignment: Alignment,
    /// Whether others register below it.
    pub public_suffix: PublicSuffix,
    /// The owner is testing: what is wanted is done one step milder.
    pub testing: bool,
    /// Where aggregate reports go: mail addresses, at most [`REPORT_ADDRESSES_MAX`].
    pub report_to: Vec<Box<str>>,
    /// The failure reporting options, as written; they stand in aggregate reports.
    pub failure_options: Option<Box<str>>,
    /// False if the policy cannot be understood and nobody is named to tell: then there is no DMARC for the domain
    /// (RFC 9989 §4.10.1).
    pub usable: bool,
}

impl Record {
    /// Reads a TXT record; nothing if it is no DMARC record of this version.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text.get(..text.len().min(RECORD_MAX_OCTETS))?).ok()?;
        let mut tags = text.split(';').filter_map(|tag| {
            let (name, value) = tag.split_once('=')?;
            Some((name.trim_matches([' ', '\t']), value.trim_matches([' ', '\t'])))
        });
        // First, and in this very spelling (RFC 9989 §4.7).
        let (version, value) = tags.next()?;
        if !version.eq_ignore_ascii_case("v")
            || value != "DMARC1"
            || !text.trim_start().starts_with(['v', 'V'])
        {
            return None;
        }
        let mut record = Self {
            policy: Policy::None,
            subdomain_policy: None,
            absent_policy: None,
            dkim_alignment: Alignment::Relaxed,
            spf_alignment: Alignment::Relaxed,
            public_suffix: PublicSuffix::Unsaid,
            testing: false,
            report_to: Vec::new(),
            failure_options: None,
            usable: true,
        };
        let (mut has_policy, mut is_sound) = (false, true);
        for (name, value) in tags {
            let policy = || Policy::parse(value);
            match name.to_ascii_lowercase().as_str() {
                "p" => {
                    has_policy = policy().is_some();
                    record.policy = policy().unwrap_or(Policy::None);
                }
                "sp" => {
                    is_sound &= policy().is_some();
                    record.subdomain_policy = policy();
                }
                "np" => {
                    is_sound &= policy().is_some();
                    record.absent_policy = policy();
                }
                "adkim" => record.dkim_alignment = alignment(value),
                "aspf" => record.spf_alignment = alignment(value),
                "psd" if value.eq_ignore_ascii_case("y") => record.public_suffix = PublicSuffix::Yes,
                "psd" if value.eq_ignore_ascii_case("n") => record.public_suffix = PublicSuffix::No,
                "t" => record.testing = value.eq_ignore_ascii_case("y"),
                "rua" => record.report_to = addresses(value),
                "fo" if value.len() <= 16 && value.bytes().all(|b| b"01dsDS:".contains(&b)) => {
                    record.failure_options = Some(value.to_ascii_lowercase().into());
                }
                // Unknown tags and values mean nothing.
                _ => {}
            }
        }
        if !has_policy || !is_sound {
            // RFC 9989 §4.10.1: as `p=none` if there is somebody to tell, else not at all.
            record.policy = Policy::None;
            record.subdomain_policy = None;
            record.absent_policy = None;
            record.usable = !record.report_to.is_empty();
        }
        Some(record)
    }
}

impl fmt::Display for Record {
    /// The record as text that says the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v=DMARC1;p={}", self.policy)?;
        for (tag, policy) in [("sp", self.subdomain_policy), ("np", self.absent_policy)] {
            if let Some(policy) = policy {
                write!(f, ";{tag}={policy}")?;
            }
        }
        write!(f, ";adkim={};aspf={}", self.dkim_alignment.letter(), self.spf_alignment.letter())?;
        match self.public_suffix {
            PublicSuffix::Yes => f.write_str(";psd=y")?,
            PublicSuffix::No => f.write_str(";psd=n")?,
            PublicSuffix::Unsaid => {}
        }
        if self.testing {
            f.write_str(";t=y")?;
        }
        if let Some(options) = &self.failure_options {
            write!(f, ";fo={options}")?;
        }
        for (n, address) in self.report_to.iter().enumerate() {
            f.write_str(if n == 0 { ";rua=mailto:" } else { ",mailto:" })?;
            for octet in address.bytes() {
                match octet {
                    b'%' | b',' | b';' | b'!' | b'?' | b'=' | 0..=b' ' | 127.. => write!(f, "%{octet:02X}")?,
                    octet => write!(f, "{}", char::from(octet))?,
                }
            }
        }
        Ok(())
    }
}

fn alignment(value: &str) -> Alignment {
    if value.eq_ignore_ascii_case("s") { Alignment::Strict } else { Alignment::Relaxed }
}

/// The addresses of a list of `mailto:` URIs; other URIs are passed over. A size limit (`!10m`) of RFC 7489 is left
/// out, as RFC 9989 has none.
fn addresses(list: &str) -> Vec<Box<str>> {
    let address = |uri: &str| {
        let uri = uri.trim_matches([' ', '\t']);
        let scheme = uri.get(..7)?;
        if !scheme.eq_ignore_ascii_case("mailto:") {
            return None;
        }
        let address = uri[7..].split(['!', '?']).next()?;
        let address = percent_decoded(address)?;
        mail::Mailbox::parse(&address).is_ok().then(|| address.into_boxed_str())
    };
    list.split(',').filter_map(address).take(REPORT_ADDRESSES_MAX).collect()
}

/// `%2C` and the like, as URIs write what would end them.
fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(b) = octets.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || char::from(octets.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Record> {
        Record::parse(text.as_bytes())
    }

    #[test]
    fn what_is_no_record() {
        for text in [
            "",
            "v=DMARC1x; p=reject",
            "v=dmarc1; p=reject",
            "p=reject; v=DMARC1",
            "v=spf1 -all",
            "; v=DMARC1; p=none",
            "x; v=DMARC1; p=none",
            "v=DMARC2; p=none",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn tags() {
        let record = parse(
            "v=DMARC1 ;p = Reject; sp=quarantine;np=none ; adkim=s;aspf=S;psd=n;t=y; fo=1:d; x=y; pct=10;\
             rua=mailto:a@b.test!10m , https://x.test/ ,mailto:c%2Cd@e.test,mailto:no address;",
        )
        .unwrap();
        let expected = Record {
            policy: Policy::Reject,
            subdomain_policy: Some(Policy::Quarantine),
            absent_policy: Some(Policy::None),
            dkim_alignment: Alignment::Strict,
            spf_alignment: Alignment::Strict,
            public_suffix: PublicSuffix::No,
            testing: true,
            report_to: vec!["a@b.test".into()],
            failure_options: Some("1:d".into()),
            usable: true,
        };
        assert_eq!(Record { report_to: record.report_to[..1].to_vec(), ..record.clone() }, expected);
        assert!(record.report_to.len() <= 2, "{:?}", record.report_to);
        assert_eq!(parse(&record.to_string()), Some(record));
        let bare = parse("v=DMARC1;p=none").unwrap();
        assert_eq!(parse(&bare.to_string()).as_ref(), Some(&bare));
        assert_eq!((bare.subdomain_policy, bare.testing, bare.usable), (None, false, true));
        assert_eq!((bare.dkim_alignment, bare.public_suffix), (Alignment::Relaxed, PublicSuffix::Unsaid));
    }

    #[test]
    fn a_policy_that_cannot_be_understood_is_none_if_somebody_is_to_be_told() {
        for text in ["", ";p=", ";p=rejct", ";p=reject;sp=foo", ";p=reject;np=foo"] {
            let alone = parse(&format!("v=DMARC1{text}")).unwrap();
            assert!(!alone.usable, "{text}");
            let told = parse(&format!("v=DMARC1{text};rua=mailto:a@b.test")).unwrap();
            assert_eq!(
                (told.usable, told.policy, told.subdomain_policy),
                (true, Policy::None, None),
                "{text}"
            );
        }
        assert!(!parse("v=DMARC1;rua=https://b.test").unwrap().usable);
    }

    #[test]
    fn a_flood_of_addresses_is_bounded() {
        let list = vec!["mailto:a@b.test"; 1000].join(",");
        assert_eq!(parse(&format!("v=DMARC1;p=none;rua={}", &list[..7000])).unwrap().report_to.len(), 10);
    }
}
