//! Aggregate reports (RFC 9990): what is kept of each message, how it adds up, and what is sent.
//!
//! What is kept of a message is one line of text, so that a day of them can lie in a file and be added up later.

use super::{Organization, Policy, Record};
use crate::dns::{Answer, Machine, Name, Question, Records, Step};
use crate::psl;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Fields of a line.
const FIELDS: usize = 12;
/// Octets of a line that is read.
pub const LINE_MAX_OCTETS: usize = 16 * 1024;
/// Signatures of one message that a line tells of.
const SIGNATURES_MAX: usize = 10;

/// What is told of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Where the policy was found.
    pub domain: &'a Name,
    /// All of it.
    pub record: &'a Record,
    /// How organizations are told apart here.
    pub organization: Organization,
    /// Who sent it.
    pub source: IpAddr,
    /// What was done about it.
    pub disposition: Disposition,
    /// A signature was aligned.
    pub dkim_aligned: bool,
    /// The sender was aligned.
    pub spf_aligned: bool,
    /// Why the policy was not followed, in the word of RFC 9990.
    pub reason: Option<&'static str>,
    /// The author's domain.
    pub header_from: &'a Name,
    /// The sender's domain; nothing for the null path.
    pub envelope_from: Option<&'a str>,
    /// What SPF was asked about, `mfrom` or `helo`, and its result.
    pub spf: Option<(&'a str, &'static str, &'static str)>,
    /// Of each signature its domain, selector and result.
    pub dkim: Vec<(&'a str, &'a str, &'static str)>,
}

/// What was done about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It passed, and nothing had to be done.
    Pass,
    /// It did not, and this was done.
    Done(Policy),
}

impl Disposition {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Done(policy) => policy.word(),
        }
    }
}

impl Row<'_> {
    /// The line, without its end. Whatever it is made of, it is one line of as many fields.
    pub fn to_line(&self) -> String {
        let word = |aligned| if aligned { "pass" } else { "fail" };
        let by = match self.organization {
            Organization::TreeWalk => "treewalk",
            Organization::PublicSuffixList => "psl",
        };
        let spf = self.spf.map(|(domain, scope, result)| format!("{} {scope} {result}", plain(domain)));
        let dkim: Vec<String> = self
            .dkim
            .iter()
            .take(SIGNATURES_MAX)
            .map(|(domain, selector, result)| format!("{} {} {result}", plain(domain), plain(selector)))
            .collect();
        let fields: [&str; FIELDS] = [
            self.domain.as_str(),
            &self.record.to_string(),
            by,
            &self.source.to_string(),
            self.disposition.word(),
            word(self.dkim_aligned),
            word(self.spf_aligned),
            self.reason.unwrap_or_default(),
            self.header_from.as_str(),
            &plain(self.envelope_from.unwrap_or_default()),
            &spf.unwrap_or_default(),
            &dkim.join(","),
        ];
        fields.map(|field| field.replace(['\t', '\n', '\r'], " ")).join("\t")
    }
}

/// A stranger's text as one word without commas.
fn plain(text: &str) -> String {
    text.chars().take(255).map(|c| if c.is_ascii_graphic() && c != ',' { c } else { '?' }).collect()
}

/// A day's lines, added up.
#[derive(Debug, Default)]
pub struct Aggregate {
    domains: BTreeMap<Box<str>, Day>,
    left_out: u64,
}

/// What is told of one policy domain.
#[derive(Debug, Default, PartialEq, Eq)]
struct Day {
    record: Box<str>,
    by: Box<str>,
    /// How often each line came, without the fields that all share.
    rows: BTreeMap<Box<str>, u64>,
}

/// What a report may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Domains that are reported to.
    pub domains_max: usize,
    /// Rows of one report.
    pub rows_max: usize,
}

impl Aggregate {
    /// Adds a line. What is no line, or beyond the bounds, is counted and left out.
    pub fn add(&mut self, line: &[u8], bounds: Bounds) {
        if self.try_add(line, bounds).is_none() {
            self.left_out += 1;
        }
    }

    fn try_add(&mut self, line: &[u8], bounds: Bounds) -> Option<()> {
        let line = std::str::from_utf8(line.get(..line.len().min(LINE_MAX_OCTETS))?).ok()?;
        if line.split('\t').count() != FIELDS {
            return None;
        }
        let (domain, rest) = line.split_once('\t')?;
        let (record, rest) = rest.split_once('\t')?;
        let (by, row) = rest.split_once('\t')?;
        // A line that was cut short by a power failure or changed by a hand makes no report.
        let (_, record_sound) = (Name::parse(domain.as_bytes())?, Record::parse(record.as_bytes())?);
        parse_row(row)?;
        if record_sound.report_to.is_empty() {
            return None;
        }
        if self.domains.len() >= bounds.domains_max && !self.domains.contains_key(domain) {
            return None;
        }
        let day = self.domains.entry(domain.into()).or_default();
        if day.rows.len() >= bounds.rows_max && !day.rows.contains_key(row) {
            return None;
        }
        // Of a policy that changed during the day the last is told.
        day.record = record.into();
        day.by = by.into();
        *day.rows.entry(row.into()).or_default() += 1;
        Some(())
    }

    /// Lines that are in no report.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// A report for each domain.
    pub fn into_reports(self) -> Vec<Report> {
        let report = |(domain, day): (Box<str>, Day)| {
            let record = Record::parse(day.record.as_bytes())?;
            Some(Report { domain: Name::parse(domain.as_bytes())?, record, by: day.by, rows: day.rows })
        };
        self.domains.into_iter().filter_map(report).collect()
    }
}

/// The report to one domain.
#[derive(Debug)]
pub struct Report {
    /// The domain.
    pub domain: Name,
    /// The policy that it published.
    pub record: Record,
    by: Box<str>,
    rows: BTreeMap<Box<str>, u64>,
}

/// Who reports, and about when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata<'a> {
    /// The organization's name.
    pub org_name: &'a str,
    /// Whom to write to about the report.
    pub email: &'a str,
    /// Where to find out more.
    pub contact: Option<&'a str>,
    /// The server's name.
    pub submitter: &'a str,
    /// Seconds since 1970, the first and the last that are reported about.
    pub begin: u64,
    /// The last.
    pub end: u64,
}

/// The fields of a line without those that a whole report shares.
fn parse_row(row: &str) -> Option<[&str; FIELDS - 3]> {
    let mut fields = row.split('\t');
    let mut out = [""; FIELDS - 3];
    for field in &mut out {
        *field = fields.next()?;
    }
    out[0].parse::<IpAddr>().ok()?;
    fields.next().is_none().then_some(out)
}

impl Report {
    /// Messages it tells of.
    pub fn messages(&self) -> u64 {
        self.rows.values().sum()
    }

    /// The same for the same domain and time, so that one that comes twice is known.
    pub fn id(&self, metadata: &Metadata<'_>) -> String {
        format!("{}.{}.{}", metadata.begin, metadata.end, self.domain.as_str().replace(' ', ""))
    }

    /// The name of its file (RFC 9990 §4.5).
    pub fn file_name(&self, metadata: &Metadata<'_>) -> String {
        format!("{}!{}!{}!{}.xml.gz", metadata.submitter, self.domain, metadata.begin, metadata.end)
    }

    /// The document (RFC 9990 appendix A).
    pub fn to_xml(&self, metadata: &Metadata<'_>) -> String {
        let mut xml = Xml::default();
        xml.open("feedback xmlns=\"urn:ietf:params:xml:ns:dmarc-2.0\"");
        xml.text("version", "1.0");
        xml.open("report_metadata");
        xml.text("org_name", metadata.org_name);
        xml.text("email", metadata.email);
        if let Some(contact) = metadata.contact {
            xml.text("extra_contact_info", contact);
        }
        xml.text("report_id", &self.id(metadata));
        xml.open("date_range");
        xml.text("begin", &metadata.begin.to_string());
        xml.text("end", &metadata.end.to_string());
        xml.close("date_range");
        xml.close("report_metadata");
        let record = &self.record;
        xml.open("policy_published");
        xml.text("domain", self.domain.as_str());
        xml.text("discovery_method", &self.by);
        xml.text("p", record.policy.word());
        // Consumers of RFC 7489 require it; left out by the owner, it is that of the domain.
        xml.text("sp", record.subdomain_policy.unwrap_or(record.policy).word());
        if let Some(policy) = record.absent_policy {
            xml.text("np", policy.word());
        }
        xml.text("adkim", record.dkim_alignment.letter());
        xml.text("aspf", record.spf_alignment.letter());
        if let Some(options) = &record.failure_options {
            xml.text("fo", options);
        }
        xml.text("testing", if record.testing { "y" } else { "n" });
        xml.close("policy_published");
        for (row, count) in &self.rows {
            if let Some(fields) = parse_row(row) {
                xml.row(&fields, *count);
            }
        }
        xml.close("feedback");
        xml.0
    }
}

/// A document being written; what is between tags is escaped.
#[derive(Debug)]
struct Xml(String);

impl Default for Xml {
    fn default() -> Self {
        Self("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned())
    }
}

impl Xml {
    fn open(&mut self, tag: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "<{tag}>");
    }

    fn close(&mut self, tag: &str) {
        let _ = writeln!(self.0, "</{tag}>");
    }

    fn text(&mut self, tag: &str, text: &str) {
        let _ = write!(self.0, "<{tag}>");
        for c in text.chars() {
            match c {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                // XML 1.0 has no place for these, escaped or not.
                c if c.is_control() => self.0.push('?'),
                c => self.0.push(c),
            }
        }
        let _ = writeln!(self.0, "</{tag}>");
    }

    fn row(&mut self, fields: &[&str; FIELDS - 3], count: u64) {
        let [source, disposition, dkim_aligned, spf_aligned, reason, header_from, envelope_from, spf, dkim] =
            fields;
        self.open("record");
        self.open("row");
        self.text("source_ip", source);
        self.text("count", &count.to_string());
        self.open("policy_evaluated");
        self.text("disposition", disposition);
        self.text("dkim", dkim_aligned);
        self.text("spf", spf_aligned);
        if !reason.is_empty() {
            self.open("reason");
            self.text("type", reason);
            self.close("reason");
        }
        self.close("policy_evaluated");
        self.close("row");
        self.open("identifiers");
        self.text("header_from", header_from);
        if !envelope_from.is_empty() {
            self.text("envelope_from", envelope_from);
        }
        self.close("identifiers");
        self.open("auth_results");
        for signature in dkim.split(',') {
            let mut words = signature.split(' ');
            if let (Some(domain), Some(selector), Some(result)) = (words.next(), words.next(), words.next()) {
                self.open("dkim");
                self.text("domain", domain);
                self.text("selector", selector);
                self.text("result", result);
                self.close("dkim");
            }
        }
        let mut words = spf.split(' ');
        if let (Some(domain), Some(scope), Some(result)) = (words.next(), words.next(), words.next()) {
            self.open("spf");
            self.text("domain", domain);
            self.text("scope", scope);
            self.text("result", result);
            self.close("spf");
        }
        self.close("auth_results");
        self.close("record");
    }
}

/// Which addresses agree to get reports about a domain that is not theirs (RFC 9990 §4): a machine that asks each
/// host outside the domain's own organization, as the public suffix list tells it.
#[derive(Debug)]
pub struct Receivers {
    domain: Name,
    /// Not asked about yet, the next one last.
    rest: Vec<Box<str>>,
    asking: Option<(Question, Box<str>)>,
    agreed: Vec<Box<str>>,
}

impl Receivers {
    /// Asks about the addresses that a record names.
    pub fn new(domain: &Name, addresses: &[Box<str>]) -> Self {
        let rest: Vec<Box<str>> = addresses.iter().rev().cloned().collect();
        let mut receivers = Self { domain: domain.clone(), rest, asking: None, agreed: Vec::new() };
        receivers.next();
        receivers
    }

    fn next(&mut self) {
        while let Some(address) = self.rest.pop() {
            let host = address.rsplit_once('@').and_then(|(_, host)| Name::parse(host.as_bytes()));
            let Some(host) = host else { continue };
            if psl::registered(&host) == psl::registered(&self.domain) {
                self.agreed.push(address);
                continue;
            }
            let label = format!("{}._report._dmarc", self.domain);
            if let Some(at) = host.below(&label) {
                self.asking = Some((Question::Txt(at), address));
                return;
            }
        }
        self.asking = None;
    }
}

impl Machine for Receivers {
    type Outcome = Vec<Box<str>>;

    fn step(&mut self) -> Step<'_, Self::Outcome> {
        match &self.asking {
            Some((question, _)) => Step::Ask(question),
            None => Step::Done(&self.agreed),
        }
    }

    fn answer(&mut self, answer: Answer) {
        let Some((_, address)) = self.asking.take() else { return };
        if let Answer::Found(Records::Txt(texts)) = answer {
            let own = address.rsplit_once('@').map(|(_, host)| host.to_ascii_lowercase());
            let records: Vec<&Box<[u8]>> = texts.iter().filter(|text| is_agreement(text)).collect();
            if let [record] = records[..] {
                // It may name other addresses of the same host instead.
                let named = Record::parse(record).map(|record| record.report_to).unwrap_or_default();
                let same_host = |address: &str| {
                    address.rsplit_once('@').map(|(_, host)| host.to_ascii_lowercase()) == own
                };
                let instead: Vec<Box<str>> = named.into_iter().filter(|address| same_host(address)).collect();
                self.agreed.extend(if instead.is_empty() { vec![address] } else { instead });
            }
        }
        self.next();
    }
}

/// `v=DMARC1` is enough.
fn is_agreement(text: &[u8]) -> bool {
    Record::parse(text).is_some()
}

/// Whatever the lines, the document is well formed enough to have as many ends as beginnings.
#[doc(hidden)]
pub fn fuzz_lines(data: &[u8]) {
    let mut aggregate = Aggregate::default();
    for line in data.split(|b| *b == b'\n') {
        aggregate.add(line, Bounds { domains_max: 3, rows_max: 3 });
    }
    let metadata =
        Metadata { org_name: "o", email: "a@b.test", contact: None, submitter: "mx.test", begin: 0, end: 1 };
    for report in aggregate.into_reports() {
        let xml = report.to_xml(&metadata);
        let opened = xml.matches('<').count() - xml.matches("</").count() - 1;
        assert_eq!(opened, xml.matches("</").count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns;

    const BOUNDS: Bounds = Bounds { domains_max: 2, rows_max: 3 };
    const METADATA: Metadata<'_> = Metadata {
        org_name: "Tom & <Co>",
        email: "reports@mx.test",
        contact: None,
        submitter: "mx.test",
        begin: 86_400,
        end: 172_799,
    };

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    fn line(domain: &str, record: &str, source: &str, hello: &str) -> String {
        Row {
            domain: &name(domain),
            record: &Record::parse(record.as_bytes()).unwrap(),
            organization: Organization::TreeWalk,
            source: source.parse().unwrap(),
            disposition: Disposition::Done(Policy::Quarantine),
            dkim_aligned: false,
            spf_aligned: true,
            reason: Some("trusted_forwarder"),
            header_from: &name("news.a.test"),
            envelope_from: None,
            spf: Some((hello, "helo", "fail")),
            dkim: vec![("a.test", "s1", "fail"), ("b.test", "s2", "pass")],
        }
        .to_line()
    }

    const RECORD: &str = "v=DMARC1;p=reject;sp=quarantine;rua=mailto:r@a.test,mailto:r@other.test";

    #[test]
    fn lines_add_up_to_a_document() {
        let mut aggregate = Aggregate::default();
        for source in ["192.0.2.1", "2001:db8::1", "192.0.2.1"] {
            aggregate.add(line("a.test", RECORD, source, "<h>,\t\r\n&.test").as_bytes(), BOUNDS);
        }
        let [report] = &aggregate.into_reports()[..] else { panic!("one report") };
        assert_eq!((report.messages(), report.rows.len()), (3, 2));
        assert_eq!(report.file_name(&METADATA), "mx.test!a.test!86400!172799.xml.gz");
        let xml = report.to_xml(&METADATA).replace('\n', "");
        for piece in [
            "<org_name>Tom &amp; &lt;Co&gt;</org_name>",
            "<date_range><begin>86400</begin><end>172799</end></date_range>",
            "<domain>a.test</domain><discovery_method>treewalk</discovery_method><p>reject</p><sp>quarantine</sp>",
            "<row><source_ip>192.0.2.1</source_ip><count>2</count><policy_evaluated>\
             <disposition>quarantine</disposition><dkim>fail</dkim><spf>pass</spf>\
             <reason><type>trusted_forwarder</type></reason></policy_evaluated></row>\
             <identifiers><header_from>news.a.test</header_from></identifiers>",
            "<dkim><domain>b.test</domain><selector>s2</selector><result>pass</result></dkim>\
             <spf><domain>&lt;h&gt;????&amp;.test</domain><scope>helo</scope><result>fail</result></spf>",
        ] {
            assert!(xml.contains(piece), "no {piece} in {xml}");
        }
    }

    #[test]
    fn what_is_no_line_or_too_much_is_left_out() {
        let mut aggregate = Aggregate::default();
        let sound = line("a.test", RECORD, "192.0.2.1", "h.test");
        let unread = sound.replace("192.0.2.1", "192.0.2");
        let cut = &sound[..sound.len() / 2];
        let silent = line("a.test", "v=DMARC1;p=reject", "192.0.2.1", "h.test");
        for bad in ["", "\t\t", cut, &unread, &silent, &sound.replace("v=DMARC1", "v=DMARC2")] {
            aggregate.add(bad.as_bytes(), BOUNDS);
        }
        assert_eq!((aggregate.left_out(), aggregate.domains.len()), (6, 0));
        for n in 0..10 {
            aggregate.add(line("a.test", RECORD, &format!("192.0.2.{n}"), "h.test").as_bytes(), BOUNDS);
            aggregate.add(line(&format!("{n}.test"), RECORD, "192.0.2.1", "h.test").as_bytes(), BOUNDS);
        }
        assert_eq!((aggregate.domains.len(), aggregate.domains["a.test"].rows.len()), (2, 3));
        assert_eq!(aggregate.left_out(), 6 + 7 + 9);
    }

    #[test]
    fn a_stranger_must_agree_to_get_reports() {
        let addresses: Vec<Box<str>> =
            ["r@news.a.test", "r@yes.test", "r@no.test", "r@other.test", "r@big.test"]
                .map(Into::into)
                .to_vec();
        let mut receivers = Receivers::new(&name("mail.a.test"), &addresses);
        let agreed = dns::run(&mut receivers, |question| {
            let Question::Txt(at) = question else { panic!("{question:?}") };
            let text = match at.as_str() {
                "mail.a.test._report._dmarc.yes.test" => "v=DMARC1",
                "mail.a.test._report._dmarc.other.test" => {
                    "v=DMARC1; rua=mailto:in@other.test,mailto:victim@b.test"
                }
                "mail.a.test._report._dmarc.big.test" => return Answer::Temporary,
                _ => return Answer::NxDomain,
            };
            Answer::Found(Records::Txt([text.as_bytes().into()].into()))
        });
        let agreed: Vec<&str> = agreed.iter().map(|address| &**address).collect();
        assert_eq!(agreed, ["r@news.a.test", "r@yes.test", "in@other.test"]);
    }

    #[test]
    fn random_lines() {
        let mut random = crate::tests::Random(41);
        let sound = line("a.test", RECORD, "192.0.2.1", "h.test");
        for _ in 0..3_000 {
            let mut octets = format!("{sound}\n{sound}").into_bytes();
            for _ in 0..random.below(5) {
                let at = random.below(octets.len());
                octets[at] = b"\t\n<>&a \0\xff"[random.below(9)];
            }
            fuzz_lines(&octets);
        }
    }
}
