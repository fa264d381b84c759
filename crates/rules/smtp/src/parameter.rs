//! Parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152, RFC 3030), SMTPUTF8 (RFC 6531), REQUIRETLS
//! (RFC 8689), AUTH (RFC 4954) and those of DSN (RFC 3461). Reading and writing, for both machines.

use crate::xtext;
use mail::{BodyType, Notify, Ret};

/// Longest ENVID and ORCPT taken, in octets, as RFC 3461 §4.4 and §4.2 allow them.
const ENVID_MAX: usize = 100;
const ORCPT_MAX: usize = 500;

/// What stands after the reverse-path of MAIL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParameters<'a> {
    /// SIZE, in octets; a number past `u64` reads as the largest.
    pub size: Option<u64>,
    /// BODY.
    pub body: Option<BodyType>,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// REQUIRETLS.
    pub require_tls: bool,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, in xtext.
    pub envid: Option<&'a str>,
    /// AUTH, in xtext: a mailbox or `<>`.
    pub auth: Option<&'a str>,
}

/// What stands after the forward-path of RCPT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RcptParameters<'a> {
    /// NOTIFY.
    pub notify: Notify,
    /// ORCPT: `addr-type;xtext`.
    pub orcpt: Option<&'a str>,
}

/// Why parameters were not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterError {
    /// A keyword nobody here knows: 555 5.5.4.
    Unknown,
    /// A known keyword with a wrong or missing value, or given twice: 501 5.5.4.
    Syntax,
}

impl std::fmt::Display for ParameterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "parameter not recognised",
            Self::Syntax => "parameter has a wrong value",
        })
    }
}

impl std::error::Error for ParameterError {}

impl<'a> MailParameters<'a> {
    /// Reads what follows the path, the leading space included; empty text is no parameters.
    pub fn parse(text: &'a str) -> Result<Self, ParameterError> {
        let mut found = Self::default();
        for word in words(text)? {
            let (keyword, value) = word?;
            if is(keyword, "SIZE") {
                set(&mut found.size, read_size(value)?)?;
            } else if is(keyword, "BODY") {
                set(&mut found.body, read_body(value)?)?;
            } else if is(keyword, "SMTPUTF8") {
                set_flag(&mut found.smtputf8, value)?;
            } else if is(keyword, "REQUIRETLS") {
                set_flag(&mut found.require_tls, value)?;
            } else if is(keyword, "RET") {
                set(&mut found.ret, read_ret(value)?)?;
            } else if is(keyword, "ENVID") {
                let value = value.filter(|v| v.len() <= ENVID_MAX && xtext::is_printable(v.as_bytes()));
                set(&mut found.envid, value.ok_or(ParameterError::Syntax)?)?;
            } else if is(keyword, "AUTH") {
                let value = value.filter(|v| xtext::is_printable(v.as_bytes()));
                set(&mut found.auth, value.ok_or(ParameterError::Syntax)?)?;
            } else {
                return Err(ParameterError::Unknown);
            }
        }
        Ok(found)
    }

    /// Appends the parameters, each with a space before it.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(size) = self.size {
            out.extend_from_slice(b" SIZE=");
            out.extend_from_slice(size.to_string().as_bytes());
        }
        if let Some(body) = self.body {
            out.extend_from_slice(match body {
                BodyType::SevenBit => b" BODY=7BIT",
                BodyType::EightBitMime => b" BODY=8BITMIME",
                BodyType::BinaryMime => b" BODY=BINARYMIME",
            });
        }
        if self.smtputf8 {
            out.extend_from_slice(b" SMTPUTF8");
        }
        if self.require_tls {
            out.extend_from_slice(b" REQUIRETLS");
        }
        if let Some(ret) = self.ret {
            out.extend_from_slice(match ret {
                Ret::Full => b" RET=FULL",
                Ret::Headers => b" RET=HDRS",
            });
        }
        for (keyword, value) in [("ENVID", self.envid), ("AUTH", self.auth)] {
            if let Some(value) = value {
                write_pair(keyword, value, out);
            }
        }
    }
}

impl<'a> RcptParameters<'a> {
    /// Reads what follows the path, the leading space included; empty text is no parameters.
    pub fn parse(text: &'a str) -> Result<Self, ParameterError> {
        let mut notify = None;
        let mut found = Self::default();
        for word in words(text)? {
            let (keyword, value) = word?;
            if is(keyword, "NOTIFY") {
                set(&mut notify, read_notify(value)?)?;
            } else if is(keyword, "ORCPT") {
                let value = value.filter(|v| is_orcpt(v)).ok_or(ParameterError::Syntax)?;
                set(&mut found.orcpt, value)?;
            } else {
                return Err(ParameterError::Unknown);
            }
        }
        found.notify = notify.unwrap_or_default();
        Ok(found)
    }

    /// Appends the parameters, each with a space before it.
    pub fn write(&self, out: &mut Vec<u8>) {
        if !self.notify.is_absent() {
            write_pair("NOTIFY", &self.notify.to_string(), out);
        }
        if let Some(orcpt) = self.orcpt {
            write_pair("ORCPT", orcpt, out);
        }
    }
}

fn write_pair(keyword: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(keyword.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
}

fn is(keyword: &str, name: &str) -> bool {
    keyword.eq_ignore_ascii_case(name)
}

fn set<T>(place: &mut Option<T>, value: T) -> Result<(), ParameterError> {
    if place.replace(value).is_some() { Err(ParameterError::Syntax) } else { Ok(()) }
}

fn set_flag(place: &mut bool, value: Option<&str>) -> Result<(), ParameterError> {
    if value.is_some() || std::mem::replace(place, true) { Err(ParameterError::Syntax) } else { Ok(()) }
}

type Word<'a> = Result<(&'a str, Option<&'a str>), ParameterError>;

/// The `keyword=value` and `keyword` words of `text`, which is empty or begins with a space.
fn words(text: &str) -> Result<impl Iterator<Item = Word<'_>>, ParameterError> {
    if !text.is_empty() && !text.starts_with(' ') {
        return Err(ParameterError::Syntax);
    }
    Ok(text.split(' ').filter(|word| !word.is_empty()).map(|word| {
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        let keyword_ok = keyword.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && keyword.bytes().next().is_some_and(|b| b != b'-');
        let value_ok =
            value.is_none_or(|v| !v.is_empty() && v.bytes().all(|b| b > b' ' && b != b'=' && b != 127));
        if keyword_ok && value_ok { Ok((keyword, value)) } else { Err(ParameterError::Syntax) }
    }))
}

/// RFC 1870 §5: one to twenty digits.
fn read_size(value: Option<&str>) -> Result<u64, ParameterError> {
    let digits = value.ok_or(ParameterError::Syntax)?;
    if digits.len() > 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParameterError::Syntax);
    }
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn read_body(value: Option<&str>) -> Result<BodyType, ParameterError> {
    match value {
        Some(v) if is(v, "7BIT") => Ok(BodyType::SevenBit),
        Some(v) if is(v, "8BITMIME") => Ok(BodyType::EightBitMime),
        Some(v) if is(v, "BINARYMIME") => Ok(BodyType::BinaryMime),
        _ => Err(ParameterError::Syntax),
    }
}

fn read_ret(value: Option<&str>) -> Result<Ret, ParameterError> {
    match value {
        Some(v) if is(v, "FULL") => Ok(Ret::Full),
        Some(v) if is(v, "HDRS") => Ok(Ret::Headers),
        _ => Err(ParameterError::Syntax),
    }
}

fn read_notify(value: Option<&str>) -> Result<Notify, ParameterError> {
    let value = value.ok_or(ParameterError::Syntax)?;
    let mut notify = Notify::ABSENT;
    for word in value.split(',') {
        let one = [
            ("NEVER", Notify::NEVER),
            ("SUCCESS", Notify::SUCCESS),
            ("FAILURE", Notify::FAILURE),
            ("DELAY", Notify::DELAY),
        ]
        .into_iter()
        .find_map(|(name, one)| is(word, name).then_some(one));
        notify = notify.with(one.ok_or(ParameterError::Syntax)?);
    }
    Notify::from_bits(notify.bits()).ok_or(ParameterError::Syntax)
}

/// `addr-type;xtext`, or `utf-8;` with the forms of RFC 6533 §3.
fn is_orcpt(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let kind_ok = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !kind_ok || address.is_empty() || value.len() > ORCPT_MAX {
        return false;
    }
    if is(kind, "utf-8") { is_utf8_address(address) } else { xtext::is_printable(address.as_bytes()) }
}

/// Characters themselves, `\x{HEX}` and `+HH`; none of them a control character.
fn is_utf8_address(address: &str) -> bool {
    let mut rest = address;
    while let Some(at) = rest.find("\\x{") {
        let Some((digits, tail)) = rest[at + 3..].split_once('}') else { return false };
        let code = if digits.len() <= 6 { u32::from_str_radix(digits, 16).ok() } else { None };
        if code.and_then(char::from_u32).is_none_or(char::is_control) {
            return false;
        }
        rest = tail;
    }
    let mut bytes = address.bytes();
    while let Some(b) = bytes.next() {
        if b == b'+' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) if high >= 2 && (high, low) != (7, 15) => {}
                _ => return false,
            }
        }
    }
    !address.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_mail() {
        let text = " SIZE=1000 body=8bitmime SMTPUTF8  REQUIRETLS RET=hdrs ENVID=a+2Bb AUTH=<>";
        let found = MailParameters::parse(text).unwrap();
        assert_eq!(found.size, Some(1000));
        assert_eq!(found.body, Some(BodyType::EightBitMime));
        assert_eq!(found.ret, Some(Ret::Headers));
        assert_eq!((found.envid, found.auth), (Some("a+2Bb"), Some("<>")));
        assert!(found.smtputf8 && found.require_tls);
        assert_eq!(MailParameters::parse(" SIZE=99999999999999999999").unwrap().size, Some(u64::MAX));
    }

    #[test]
    fn parameters_that_are_wrong() {
        for (text, error) in [
            (" SIZE", ParameterError::Syntax),
            (" SIZE=", ParameterError::Syntax),
            (" SIZE=-1", ParameterError::Syntax),
            (" SIZE=+1", ParameterError::Syntax),
            (" SIZE=1 SIZE=1", ParameterError::Syntax),
            (" SIZE=12345678901234567890123456", ParameterError::Syntax),
            ("SIZE=1", ParameterError::Syntax),
            (" BODY=9BIT", ParameterError::Syntax),
            (" SMTPUTF8=1", ParameterError::Syntax),
            (" ENVID=a+0Db", ParameterError::Syntax),
            (" ENVID=a+00b", ParameterError::Syntax),
            (" ENVID=a b", ParameterError::Unknown),
            (" AUTH=+0A", ParameterError::Syntax),
            (" HOLDFOR=1", ParameterError::Unknown),
            (" =1", ParameterError::Syntax),
        ] {
            assert_eq!(MailParameters::parse(text), Err(error), "{text}");
        }
        let long = format!(" ENVID={}", "a".repeat(101));
        assert_eq!(MailParameters::parse(&long), Err(ParameterError::Syntax));
    }

    #[test]
    fn parameters_of_rcpt() {
        let found = RcptParameters::parse(" NOTIFY=success,DELAY ORCPT=rfc822;a+40b").unwrap();
        assert_eq!(found.notify, Notify::SUCCESS.with(Notify::DELAY));
        assert_eq!(found.orcpt, Some("rfc822;a+40b"));
        assert!(RcptParameters::parse(" ORCPT=utf-8;\u{e9}\\x{20AC}@x").is_ok());
        for text in [
            " NOTIFY=",
            " NOTIFY=NEVER,DELAY",
            " NOTIFY=NEVER NOTIFY=NEVER",
            " NOTIFY=SOMETIMES",
            " ORCPT=rfc822",
            " ORCPT=rfc822;",
            " ORCPT=;a",
            " ORCPT=rfc822;a+0D+0AX:y",
            " ORCPT=utf-8;a+0Ab",
            " ORCPT=utf-8;a\\x{A}b",
            " ORCPT=utf-8;a\\x{A",
        ] {
            assert_eq!(RcptParameters::parse(text), Err(ParameterError::Syntax), "{text}");
        }
    }
}
