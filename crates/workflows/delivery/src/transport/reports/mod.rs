//! Reports to receiving domains of how TLS went (TLS-RPT, RFC 8460): counted by day, kept over restarts, and sent
//! after the day is over to those who ask for them.

mod address;
mod book;

pub(crate) use book::SessionSeen;

use crate::front_door::hand_in;
use crate::shared::{Settings, Shared};
use address::{ReportTo, report_to};
use book::{Book, Counted, DAY_MS};
use flate2::Compression;
use flate2::write::GzEncoder;
use mail::{Domain, Envelope, Mailbox, Recipient, ReversePath, Tags, UnixMillis};
use message::{ReportMail, write_report_mail};
use resolve::{Answer, HttpsRequest};
use serde_json::{Value, json};
use settings::{Node, Problems, Text};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tracing::{debug, info, warn};

/// How long one post may take.
const POST_TIMEOUT: Duration = Duration::from_secs(60);
/// Octets of the answer to a post that are read.
const ANSWER_OCTETS_MAX: usize = 64 * 1024;

settings::table! {
    /// Reports to receiving domains of how TLS went (RFC 8460), sent once a day to those who ask for them.
    #[check(TlsReportsConfig::check)]
    pub struct TlsReportsConfig {
        /// Count sessions and send reports.
        pub enabled: bool = false,
        /// Who we are, such as `Example Ltd`.
        pub organization: Option<String> = None,
        /// Who to ask about a report: an address or URL.
        pub contact: Option<String> = None,
        /// The address that reports are from; left out, `tls-reports` at the server's host name. Sign for its domain
        /// with DKIM, or they are not believed.
        pub from: Option<Text<Mailbox>> = None,
        /// Reports leave at a moment of this time after midnight UTC, which is this server's own.
        #[in(0s..=23h)]
        pub spread: Duration = Duration::from_secs(4 * 3_600),
        /// Domains counted in a day at most.
        #[in(1..=1_000_000)]
        pub domains_max: u32 = 20_000,
    }
}

impl TlsReportsConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.enabled && (self.organization.is_none() || self.contact.is_none()) {
            problems.error(node.at("enabled"), "reports need `organization` and `contact` (RFC 8460 §4.4)");
        }
        if self.from.as_ref().is_some_and(|from| !from.0.is_ascii()) {
            problems.error(node.at("from"), "`from` must be an address in ASCII");
        }
        for (key, text) in [("organization", &self.organization), ("contact", &self.contact)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > 200) {
                problems.error(node.at(key), format!("`{key}` has 1 to 200 octets"));
            }
        }
    }
}

/// What became of reports.
#[derive(Debug, Default)]
pub struct ReportFigures {
    mailed: AtomicU64,
    posted: AtomicU64,
    failed: AtomicU64,
    unwanted: AtomicU64,
}

impl ReportFigures {
    /// Each figure with its word.
    pub fn list(&self) -> Vec<(String, u64)> {
        [
            ("mailed", &self.mailed),
            ("posted", &self.posted),
            ("failed", &self.failed),
            ("unwanted", &self.unwanted),
        ]
        .map(|(name, figure)| (name.to_owned(), figure.load(Relaxed)))
        .to_vec()
    }
}

/// Counts and sends.
#[derive(Debug)]
pub struct TlsReports {
    book: Mutex<Book>,
    file: Option<PathBuf>,
    /// What became of reports.
    pub figures: ReportFigures,
}

impl TlsReports {
    /// Counts what an earlier process kept in a file, if there is one, and goes on.
    pub fn open(file: Option<PathBuf>, config: &TlsReportsConfig) -> Self {
        let read = |file: &PathBuf| {
            let text = match std::fs::read_to_string(file) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
                Err(error) => {
                    warn!(file = %file.display(), %error, "counts for TLS reports cannot be read");
                    return None;
                }
            };
            let book = Book::read(&text, config.domains_max as usize);
            if book.is_none() {
                warn!(file = %file.display(), "counts for TLS reports cannot be read, and are begun anew");
            }
            book
        };
        let book = file.as_ref().and_then(read).unwrap_or_default();
        Self { book: Mutex::new(book), file, figures: ReportFigures::default() }
    }

    /// Counts a session.
    pub(crate) fn record(&self, config: &TlsReportsConfig, seen: &SessionSeen<'_>) {
        if config.enabled {
            self.book().record(UnixMillis::from(SystemTime::now()), seen, config.domains_max as usize);
        }
    }

    /// Writes the counts down if they have changed. Waits for the disk.
    pub(crate) fn save(&self) {
        let Some(file) = &self.file else { return };
        let text = {
            let mut book = self.book();
            if !std::mem::take(&mut book.changed) {
                return;
            }
            book.text()
        };
        if let Err(error) = resolve::replace_file(file, &text) {
            warn!(file = %file.display(), %error, "counts for TLS reports could not be written down");
            self.book().changed = true;
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here can panic half-way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True when reports of the day before may leave.
fn is_time(wall: UnixMillis, spread: Duration, hostname: &Domain) -> bool {
    let span = spread.as_millis() as u64;
    // Any number that differs between servers; the same each day.
    let own = hostname.as_str().bytes().fold(7u64, |n, b| n.wrapping_mul(31).wrapping_add(u64::from(b)));
    wall.0 % DAY_MS >= own.checked_rem(span).unwrap_or(0)
}

/// Sends what is due.
pub(crate) async fn send_due(shared: &Arc<Shared>) {
    let settings = shared.settings();
    let wall = UnixMillis::from(SystemTime::now());
    let reports = &shared.reports;
    reports.book().forget_old(wall);
    if !settings.tls_reports.enabled || !is_time(wall, settings.tls_reports.spread, &settings.hostname) {
        return;
    }
    let over = reports.book().over(wall);
    for (day, domain) in over {
        if shared.is_stopping() {
            return;
        }
        let records = match shared.resolver.txt(&format!("_smtp._tls.{domain}")).await {
            Answer::Found(records, _) => records,
            Answer::NoData(_) | Answer::NxDomain(_) => Arc::default(),
            // It is asked again at the next pass, while the day is not too long ago.
            Answer::Temporary(_) => continue,
        };
        let wanted = report_to(records.iter().map(|text| &**text));
        let counted = reports.book().of(day, &domain);
        if wanted.is_empty() {
            reports.figures.unwanted.fetch_add(1, Relaxed);
            reports.book().forget(day, &domain);
            continue;
        }
        let report = Report::of(&settings, day, &domain, &counted, shared.random());
        // Any that takes it will do (RFC 8460 §3): each is tried in turn.
        let mut sent = false;
        for to in wanted {
            match report.send(shared, &settings, &to).await {
                Ok(()) => {
                    sent = true;
                    break;
                }
                Err(why) => {
                    reports.figures.failed.fetch_add(1, Relaxed);
                    debug!(%domain, ?to, why, "a TLS report could not be sent");
                }
            }
        }
        if sent {
            reports.book().forget(day, &domain);
        }
    }
}

/// A report, ready to be sent.
struct Report {
    id: String,
    domain: Domain,
    from: Mailbox,
    file: String,
    octets: Vec<u8>,
    text: String,
}

impl Report {
    fn of(settings: &Settings, day: u64, domain: &Domain, counted: &[Counted], seed: u64) -> Self {
        let config = &settings.tls_reports;
        let (begin, end) = (day * DAY_MS, (day + 1) * DAY_MS - 1_000);
        let id = format!("{day}.{seed:016x}@{}", settings.hostname);
        let value = report_json(config, domain, counted, &id, begin, end);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory cannot fail.
        let _ = gzip.write_all(value.to_string().as_bytes());
        let octets = gzip.finish().unwrap_or_default();
        let from = config.from.as_ref().map(|from| from.0.clone()).unwrap_or_else(|| {
            let own = format!("tls-reports@{}", settings.hostname);
            // A host name is a domain, so this is an address.
            Mailbox::parse(&own).expect("an address at our own name")
        });
        let successes: u64 = counted.iter().map(|counted| counted.successes).sum();
        let failures: u64 = counted.iter().map(|counted| counted.failures).sum();
        let (begin_s, end_s) = (begin / 1_000, end / 1_000);
        Self {
            file: format!("{}!{domain}!{begin_s}!{end_s}!{day}.json.gz", settings.hostname),
            text: format!(
                "This is a report about the TLS of mail that {} sent to {domain}\nfrom {} to {} (RFC 8460):\n\
                 {successes} sessions as they should be, {failures} not.\n",
                settings.hostname,
                accounting::iso_time(UnixMillis(begin)),
                accounting::iso_time(UnixMillis(end)),
            ),
            id,
            domain: domain.clone(),
            from,
            octets,
        }
    }

    async fn send(&self, shared: &Arc<Shared>, settings: &Settings, to: &ReportTo) -> Result<(), String> {
        match to {
            ReportTo::Mail(to) => {
                self.mail(shared, settings, to).await?;
                shared.reports.figures.mailed.fetch_add(1, Relaxed);
                info!(domain = %self.domain, %to, "a TLS report is sent");
            }
            ReportTo::Https(host, port, path) => {
                let request = HttpsRequest {
                    host,
                    port: *port,
                    path,
                    body: Some((self.octets.clone().into(), "application/tlsrpt+gzip", None)),
                    wanted: None,
                    answer_max: ANSWER_OCTETS_MAX,
                    timeout: POST_TIMEOUT,
                };
                shared.https.request(request).await.map_err(|error| error.to_string())?;
                shared.reports.figures.posted.fetch_add(1, Relaxed);
                info!(domain = %self.domain, %host, "a TLS report is posted");
            }
        }
        Ok(())
    }

    async fn mail(&self, shared: &Arc<Shared>, settings: &Settings, to: &Mailbox) -> Result<(), String> {
        let wall = UnixMillis::from(SystemTime::now());
        let by = Shared::host(settings);
        let subject = format!(
            "Report Domain: {} Submitter: {} Report-ID: <{}>",
            self.domain, settings.hostname, self.id
        );
        let (domain, submitter) = (self.domain.to_string(), settings.hostname.to_string());
        let mail = ReportMail {
            by: &by,
            from: &self.from,
            to,
            subject: &subject,
            // It must arrive just where TLS fails (RFC 8460 §3).
            fields: &[
                ("TLS-Report-Domain", &domain),
                ("TLS-Report-Submitter", &submitter),
                ("TLS-Required", "No"),
            ],
            text: &self.text,
            report_type: "tlsrpt",
            media_type: "application/tlsrpt+gzip",
            file: &self.file,
            report: &self.octets,
            now: wall,
            seed: shared.random(),
        };
        let content = write_report_mail(&mail);
        let envelope = Envelope::new(ReversePath::Null, vec![Recipient::new(to.clone())]);
        let tags = Tags::default();
        let handed_in = hand_in(shared, settings, "tls-report", envelope, content, tags, wall).await;
        handed_in.map_err(|refusal| refusal.to_string())
    }
}

/// The report itself (RFC 8460 §4.4).
fn report_json(
    config: &TlsReportsConfig,
    domain: &Domain,
    counted: &[Counted],
    id: &str,
    begin: u64,
    end: u64,
) -> Value {
    let policies: Vec<Value> = counted
        .iter()
        .map(|counted| {
            let details: Vec<Value> = counted
                .details
                .iter()
                .map(|f| {
                    let mut detail = json!({
                        "result-type": f.fault,
                        "failed-session-count": f.count,
                        "receiving-mx-hostname": f.host,
                    });
                    if let Some(ip) = f.sending {
                        detail["sending-mta-ip"] = json!(ip);
                    }
                    if let Some(ip) = f.receiving {
                        detail["receiving-ip"] = json!(ip);
                    }
                    if !f.reason.is_empty() {
                        detail["failure-reason-code"] = json!(f.reason);
                    }
                    detail
                })
                .collect();
            let mut policy = json!({ "policy-type": counted.policy.kind, "policy-domain": domain.as_str() });
            if !counted.policy.strings.is_empty() {
                policy["policy-string"] = json!(counted.policy.strings);
            }
            if !counted.policy.mx.is_empty() {
                policy["mx-host"] = json!(counted.policy.mx);
            }
            json!({
                "policy": policy,
                "summary": {
                    "total-successful-session-count": counted.successes,
                    "total-failure-session-count": counted.failures,
                },
                "failure-details": details,
            })
        })
        .collect();
    json!({
        "organization-name": config.organization,
        "date-range": {
            "start-datetime": accounting::iso_time(UnixMillis(begin)),
            "end-datetime": accounting::iso_time(UnixMillis(end)),
        },
        "contact-info": config.contact,
        "report-id": id,
        "policies": policies,
    })
}

/// Whatever the octets: few addresses, and counts that read again as they were.
pub(crate) fn fuzz_reports(input: &[u8]) {
    assert!(report_to(input.split(|octet| *octet == b'\n')).len() <= 5);
    if let Some(book) = std::str::from_utf8(input).ok().and_then(|text| Book::read(text, 100)) {
        let text = book.text();
        assert_eq!(Book::read(&text, 100).map(|again| again.text().len()), Some(text.len()));
    }
}
