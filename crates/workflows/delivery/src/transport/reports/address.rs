//! Where a domain wants its reports: the TXT record at `_smtp._tls` (RFC 8460 §3).

use mail::{Domain, Mailbox};

/// Addresses taken from one record.
const ADDRESSES_MAX: usize = 5;

/// A place for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReportTo {
    /// By mail.
    Mail(Mailbox),
    /// By HTTPS: host, port, path.
    Https(Domain, u16, String),
}

/// The addresses of the one record there is; none if there is not just one that can be read.
pub(super) fn report_to<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<ReportTo> {
    let mut found: Option<&[u8]> = None;
    for record in records {
        let Some(rest) = record.strip_prefix(b"v=TLSRPTv1") else { continue };
        let rest = rest.trim_ascii_start();
        if !rest.starts_with(b";") {
            continue;
        }
        if found.replace(rest).is_some() {
            return Vec::new();
        }
    }
    let Some(fields) = found.and_then(|fields| std::str::from_utf8(fields).ok()) else { return Vec::new() };
    let Some(rua) = fields.split(';').find_map(|field| field.trim().strip_prefix("rua=")) else {
        return Vec::new();
    };
    rua.split(',').filter_map(|uri| one(uri.trim())).take(ADDRESSES_MAX).collect()
}

fn one(uri: &str) -> Option<ReportTo> {
    let after = |scheme: &str| {
        let head = uri.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &uri[scheme.len()..])
    };
    if let Some(rest) = after("mailto:") {
        let address = rest.split('?').next().unwrap_or_default();
        return Mailbox::parse(&decoded(address)?).ok().filter(Mailbox::is_ascii).map(ReportTo::Mail);
    }
    let rest = after("https://")?;
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, "/"),
    };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (authority, 443),
    };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let sound = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    Some(ReportTo::Https(Domain::parse(host).ok()?, port, path)).filter(|_| sound)
}

/// Percent signs and two digits become octets (RFC 3986 §2.1): commas and semicolons in an address must be written so.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        if octet != b'%' {
            out.push(octet);
            continue;
        }
        let digit = |octet: Option<u8>| char::from(octet?).to_digit(16);
        out.push((digit(octets.next())? * 16 + digit(octets.next())?) as u8);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_records() {
        let to = |texts: &[&str]| report_to(texts.iter().map(|text| text.as_bytes()));
        let mail = |address: &str| ReportTo::Mail(Mailbox::parse(address).unwrap());
        let https =
            |host: &str, port, path: &str| ReportTo::Https(Domain::parse(host).unwrap(), port, path.into());
        for (records, expected) in [
            (&["v=TLSRPTv1; rua=mailto:tls@a.test"][..], vec![mail("tls@a.test")]),
            (
                &["other", "v=TLSRPTv1;rua=https://r.a.test/v1/x?y=1"],
                vec![https("r.a.test", 443, "/v1/x?y=1")],
            ),
            (
                &["v=TLSRPTv1; rua=MAILTO:a%2Bb@a.test?x,https://r.a.test:8443"],
                vec![mail("a+b@a.test"), https("r.a.test", 8443, "/")],
            ),
            (&["v=TLSRPTv1; rua=http://r.a.test/,ftp://x,mailto:,mailto:%zz@a.test"], vec![]),
            (&["v=TLSRPTv1; rua=https://user@r.a.test/,https://r.a.test:0/,https://r.a.test/a b"], vec![]),
            (&["v=TLSRPTv1;"], vec![]),
            (&["v=TLSRPTv2; rua=mailto:a@a.test"], vec![]),
            (&["v=TLSRPTv1; rua=mailto:a@a.test", "v=TLSRPTv1; rua=mailto:a@a.test"], vec![]),
            (&[], vec![]),
        ] {
            let found = to(records);
            assert_eq!(found, expected, "{records:?}");
        }
        assert!(report_to([&b"v=TLSRPTv1; rua=mailto:\xff"[..]]).is_empty());
    }
}
