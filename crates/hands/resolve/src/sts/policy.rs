//! What domains publish for MTA-STS: the TXT record and the policy file (RFC 8461 §3).

use std::fmt;
use std::time::Duration;

/// Octets of a policy file at most (RFC 8461 §3.3 wants a limit, such as 64 kilobytes).
pub const POLICY_OCTETS_MAX: usize = 64 * 1024;
/// Patterns for exchangers in one policy at most; a policy with more is refused whole.
const MX_MAX: usize = 100;
/// The longest a policy may ask to be kept: about a year (RFC 8461 §3.2).
const MAX_AGE_MAX: u64 = 31_557_600;
/// Octets of a record's id (RFC 8461 §3.1).
const ID_OCTETS_MAX: usize = 32;

/// How a policy wants to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StsMode {
    /// Mail goes only to exchangers that fit.
    Enforce,
    /// Mail goes anyway, and what did not fit is reported.
    Testing,
    /// As if there were no policy.
    None,
}

impl StsMode {
    /// The policy file's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Enforce, Self::Testing, Self::None].into_iter().find(|mode| mode.word() == text)
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsPolicy {
    /// How it wants to be taken.
    pub mode: StsMode,
    /// How long it may be kept.
    pub max_age: Duration,
    /// Patterns for exchangers' names, in lower case: a name, or `*.` and a name for any one label before it.
    pub mx: Vec<Box<str>>,
}

/// Why a policy file is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StsPolicyError {
    /// It is too large.
    TooLarge,
    /// A line is not a key and a value in ASCII.
    Line,
    /// It does not begin with `version: STSv1`.
    Version,
    /// `mode` is missing or unknown.
    Mode,
    /// `max_age` is missing, no number, or beyond a year.
    MaxAge,
    /// An `mx` is no name or pattern, there are too many, or there is none where there must be one.
    Mx,
}

impl fmt::Display for StsPolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the policy is too large",
            Self::Line => "a line of the policy is not a key and a value",
            Self::Version => "the policy does not begin with version: STSv1",
            Self::Mode => "the policy's mode is missing or unknown",
            Self::MaxAge => "the policy's max_age is missing or no number of seconds up to a year",
            Self::Mx => "the policy's mx patterns are missing, malformed or too many",
        })
    }
}

impl StsPolicy {
    /// Reads a policy file.
    pub fn parse(text: &[u8]) -> Result<Self, StsPolicyError> {
        use StsPolicyError as E;
        if text.len() > POLICY_OCTETS_MAX {
            return Err(E::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| E::Line)?;
        let (mut version, mut mode, mut max_age, mut mx) = (false, None, None, Vec::new());
        for (n, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.trim_matches([' ', '\t']).is_empty() {
                continue;
            }
            let (key, value) = line.split_once(':').ok_or(E::Line)?;
            let (key, value) = (key.trim_matches([' ', '\t']), value.trim_matches([' ', '\t']));
            if value.chars().any(char::is_control) {
                return Err(E::Line);
            }
            match key {
                "version" if n == 0 => version = value == "STSv1",
                // Of a key that stands there twice the first counts (RFC 8461 §3.2).
                "mode" if mode.is_none() => mode = Some(StsMode::parse(value).ok_or(E::Mode)?),
                "max_age" if max_age.is_none() => {
                    let digits =
                        !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) && value.len() <= 10;
                    let seconds =
                        value.parse::<u64>().ok().filter(|seconds| digits && *seconds <= MAX_AGE_MAX);
                    max_age = Some(Duration::from_secs(seconds.ok_or(E::MaxAge)?));
                }
                "mx" => {
                    if mx.len() >= MX_MAX {
                        return Err(E::Mx);
                    }
                    mx.push(pattern(value).ok_or(E::Mx)?);
                }
                _ => {}
            }
        }
        if !version {
            return Err(E::Version);
        }
        let mode = mode.ok_or(E::Mode)?;
        let max_age = max_age.ok_or(E::MaxAge)?;
        if mx.is_empty() && mode != StsMode::None {
            return Err(E::Mx);
        }
        Ok(Self { mode, max_age, mx })
    }

    /// True if a policy lets mail go to an exchanger of that name.
    pub fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            // The wildcard stands for one label (RFC 8461 §4.1).
            Some(parent) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
            None => **pattern == *host,
        })
    }

    /// The file that `parse` reads.
    pub fn to_text(&self) -> String {
        let mut text = format!("version: STSv1\nmode: {}\n", self.mode.word());
        for mx in &self.mx {
            text += &format!("mx: {mx}\n");
        }
        text + &format!("max_age: {}\n", self.max_age.as_secs())
    }
}

/// A name, or a wildcard before one, in lower case.
fn pattern(text: &str) -> Option<Box<str>> {
    let (wild, name) = match text.strip_prefix("*.") {
        Some(name) => ("*.", name),
        None => ("", text),
    };
    let name = mail::Domain::parse(name).ok()?;
    Some(format!("{wild}{name}").into())
}

/// The id of the one MTA-STS record among a name's TXT records; `None` if there is not just one (RFC 8461 §3.1).
pub fn sts_id<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Option<Box<str>> {
    let mut found = None;
    for record in records {
        let Some(rest) = record.strip_prefix(b"v=STSv1") else { continue };
        let rest = rest.trim_ascii_start();
        if !rest.starts_with(b";") {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some(id_of(rest));
    }
    found.flatten()
}

fn id_of(fields: &[u8]) -> Option<Box<str>> {
    let fields = std::str::from_utf8(fields).ok()?;
    let mut ids = fields.split(';').filter_map(|field| field.trim().strip_prefix("id="));
    let id = ids.next()?;
    let fits = (1..=ID_OCTETS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    (fits && ids.next().is_none()).then(|| id.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_as_they_are_met() {
        let policy = StsPolicy::parse(
            b"version: STSv1\r\nmode: enforce\r\nmx: mail.Example.com\r\nmx: *.example.net\r\nmx: backupmx.example.com\r\nmax_age: 604800\r\n",
        )
        .unwrap();
        assert_eq!((policy.mode, policy.max_age.as_secs()), (StsMode::Enforce, 604_800));
        for (host, fits) in [
            ("mail.example.com", true),
            ("MAIL.example.com.", true),
            ("backupmx.example.com", true),
            ("x.example.net", true),
            ("example.net", false),
            (".example.net", false),
            ("a.b.example.net", false),
            ("mail.example.com.evil.test", false),
            ("xmail.example.com", false),
        ] {
            assert_eq!(policy.allows(host), fits, "{host}");
        }
        assert_eq!(StsPolicy::parse(policy.to_text().as_bytes()).unwrap(), policy);
        // Line feeds alone, blanks, keys of tomorrow, the first of two modes, no end of line.
        let policy = StsPolicy::parse(
            b"version:STSv1\nmode:\ttesting \nfuture: x\nmode: enforce\nmx:a.test\nmax_age: 0",
        )
        .unwrap();
        assert_eq!((policy.mode, policy.max_age), (StsMode::Testing, Duration::ZERO));
        assert!(StsPolicy::parse(b"version: STSv1\nmode: none\nmax_age: 86400\n").unwrap().mx.is_empty());
    }

    #[test]
    fn what_is_no_policy() {
        use StsPolicyError as E;
        let many =
            format!("version: STSv1\nmode: enforce\nmax_age: 1\n{}", "mx: a.test\n".repeat(MX_MAX + 1));
        let large = vec![b' '; POLICY_OCTETS_MAX + 1];
        for (text, error) in [
            (&b""[..], E::Version),
            (b"mode: enforce\nversion: STSv1\nmx: a.test\nmax_age: 1\n", E::Version),
            (b"version: STSv2\nmode: enforce\nmx: a.test\nmax_age: 1\n", E::Version),
            (b"version: STSv1\nmx: a.test\nmax_age: 1\n", E::Mode),
            (b"version: STSv1\nmode: Enforce\nmx: a.test\nmax_age: 1\n", E::Mode),
            (b"version: STSv1\nmode: enforce\nmx: a.test\n", E::MaxAge),
            (b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: -1\n", E::MaxAge),
            (b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 31557601\n", E::MaxAge),
            (b"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 00000000001\n", E::MaxAge),
            (b"version: STSv1\nmode: enforce\nmax_age: 1\n", E::Mx),
            (b"version: STSv1\nmode: testing\nmax_age: 1\n", E::Mx),
            (b"version: STSv1\nmode: enforce\nmx: *\nmax_age: 1\n", E::Mx),
            (b"version: STSv1\nmode: enforce\nmx: a.*.test\nmax_age: 1\n", E::Mx),
            (b"version: STSv1\nmode: enforce\nmx: *.*.test\nmax_age: 1\n", E::Mx),
            (b"<html>\n<body>not found</body>\n", E::Line),
            (b"version: STSv1\nmode\n", E::Line),
            (b"version: STSv1\nmode: enforce\x00\n", E::Line),
            (b"version: STSv1\nmode: \xff\n", E::Line),
            (many.as_bytes(), E::Mx),
            (&large, E::TooLarge),
        ] {
            assert_eq!(
                StsPolicy::parse(text),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(&text[..text.len().min(80)])
            );
        }
    }

    #[test]
    fn records_that_name_an_id() {
        let id = |records: &[&str]| sts_id(records.iter().map(|text| text.as_bytes()));
        for (records, expected) in [
            (&["v=STSv1; id=20160831085700Z;"][..], Some("20160831085700Z")),
            (&["v=STSv1;id=a1"], Some("a1")),
            (&["v=STSv1 ; id=a1; more=x"], Some("a1")),
            (&["google-site-verification=x", "v=STSv1; id=1"], Some("1")),
            (&[], None),
            (&["v=STSv1"], None),
            (&["v=STSv1;"], None),
            (&["v=STSv10; id=1"], None),
            (&["v=stsv1; id=1"], None),
            (&[" v=STSv1; id=1"], None),
            (&["v=STSv1; id="], None),
            (&["v=STSv1; id=a-b"], None),
            (&["v=STSv1; id=1; id=2"], None),
            (&["v=STSv1; id=123456789012345678901234567890123"], None),
            // Two records are none.
            (&["v=STSv1; id=1", "v=STSv1; id=1"], None),
        ] {
            assert_eq!(id(records).as_deref(), expected, "{records:?}");
        }
        assert_eq!(sts_id([&b"v=STSv1; id=\xff"[..]]), None);
    }
}
