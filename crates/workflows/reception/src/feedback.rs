//! Mail that is read by this server itself, and goes no further: reports on mail. Who reads it is above.

use crate::context::Context;
use accounting::Record;
use bytes::Bytes;
use mail::{Envelope, Mailbox, Origin, Recipient, Reply, UnixMillis};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tracing::error;

/// How long what a report tells may take to be on the disk.
const DURABLE_WITHIN: Duration = Duration::from_secs(20);

/// Who reads reports.
pub trait ReadReports: fmt::Debug + Send + Sync {
    /// True if mail to an address is read, and so is taken from anybody.
    fn takes(&self, to: &Mailbox) -> bool;

    /// Reads a report: the records to make, and what becomes of it for each of the addresses it came to.
    fn read(&self, report: &IncomingReport) -> (Vec<Record>, Vec<ReportTaken>);
}

/// A report as it came in.
#[derive(Clone, Debug)]
pub struct IncomingReport {
    /// Those of its recipients whose mail is read.
    pub to: Vec<Mailbox>,
    /// Its envelope.
    pub envelope: Envelope,
    /// Who handed it in.
    pub origin: Origin,
    /// Its octets.
    pub content: Bytes,
    /// When.
    pub at: UnixMillis,
}

/// What becomes of a report for one of its recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportTaken {
    /// It was read, and its way ends here; with why in one line.
    Read(&'static str),
    /// It goes on to another address.
    Forward(Mailbox),
    /// It is refused.
    Refuse,
}

/// Has a report read, and takes those whose mail was read out of its envelope: they are given back with the reason.
/// What it tells is on the disk by then. `Err` refuses it.
pub(crate) async fn read_report(
    context: &Arc<Context>,
    reader: &Arc<dyn ReadReports>,
    envelope: &mut Envelope,
    origin: &Origin,
    content: &Bytes,
    at: UnixMillis,
) -> Result<Vec<(Recipient, Box<str>)>, Reply> {
    let is_read = |recipient: &Recipient| reader.takes(&recipient.path.0);
    let to: Vec<Mailbox> =
        envelope.recipients.iter().filter(|one| is_read(one)).map(|one| one.path.0.clone()).collect();
    if to.is_empty() {
        return Ok(Vec::new());
    }
    let report = IncomingReport {
        to,
        envelope: envelope.clone(),
        origin: origin.clone(),
        content: content.clone(),
        at,
    };
    let (by, context) = (reader.clone(), context.clone());
    // Reading takes milliseconds where the report is long, and then a disk is waited for.
    let work = tokio::task::spawn_blocking(move || {
        let (records, taken) = by.read(&report);
        if taken.contains(&ReportTaken::Refuse) {
            return Err(Reply::new(550, (5, 7, 1), "not a report on mail of ours"));
        }
        if !records.is_empty() {
            context.recorder.record_many(records);
            if !context.recorder.make_durable(DURABLE_WITHIN) {
                error!("what a report tells could not be made durable");
                return Err(Reply::new(
                    451,
                    (4, 3, 0),
                    "cannot store what this report tells, try again later",
                ));
            }
        }
        Ok(taken)
    });
    let taken = work.await.unwrap_or_else(|panic| {
        error!(%panic, "reading a report ended in a panic");
        Err(Reply::new(451, (4, 3, 0), "cannot read this report now, try again later"))
    })?;
    let mut taken = taken.into_iter();
    let (mut kept, mut read) = (Vec::new(), Vec::new());
    for recipient in std::mem::take(&mut envelope.recipients) {
        if !is_read(&recipient) {
            kept.push(recipient);
            continue;
        }
        match taken.next() {
            Some(ReportTaken::Forward(to)) => {
                let forwarded = Recipient::new(to);
                if !kept.contains(&forwarded) {
                    kept.push(forwarded);
                }
            }
            Some(ReportTaken::Read(why)) => read.push((recipient, why.into())),
            Some(ReportTaken::Refuse) | None => read.push((recipient, "not read".into())),
        }
    }
    envelope.recipients = kept;
    Ok(read)
}
