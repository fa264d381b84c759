//! Joins the room that takes mail to the one that reads reports.

use crate::root::Root;
use accounting::Record;
use anyhow::Result;
use bounce::{Returns, VerpUse};
use mail::Mailbox;
use outcomes::{Feedback, ReportMail, Taken};
use reception::{IncomingReport, ReadReports, ReportTaken};
use settings::{Node, Problems};
use std::sync::Arc;

/// Who reads reports for reception.
#[derive(Debug)]
struct Reader(Feedback);

impl ReadReports for Reader {
    fn takes(&self, to: &Mailbox) -> bool {
        self.0.takes(to)
    }

    fn read(&self, report: &IncomingReport) -> (Vec<Record>, Vec<ReportTaken>) {
        let IncomingReport { to, envelope, origin, content, at } = report;
        let (records, taken) = self.0.read(&ReportMail { to, envelope, origin, content, at: *at });
        let taken = taken.into_iter().map(|taken| match taken {
            Taken::Read(why) => ReportTaken::Read(why),
            Taken::Forward(to) => ReportTaken::Forward(to),
            Taken::Refuse => ReportTaken::Refuse,
        });
        (records, taken.collect())
    }
}

/// The reader that a configuration asks for, if it asks for one.
pub fn reader(root: &Root) -> Result<Option<Arc<dyn ReadReports>>> {
    if root.feedback.is_empty() {
        return Ok(None);
    }
    let classes = Arc::new(crate::classes::rules(root)?);
    let feedback = Feedback::new(&root.feedback, returns(root), classes);
    Ok(feedback.map(|feedback| Arc::new(Reader(feedback)) as Arc<dyn ReadReports>))
}

/// What mail carries so that reports find it again.
pub fn returns(root: &Root) -> Arc<Returns> {
    Arc::new(Returns::new(&root.returns, &root.verp, &root.unsubscribe))
}

/// The mistakes that no single table shows.
pub fn check(root: &Root, node: &Node, problems: &mut Problems) {
    for (n, rule) in root.verp.iter().enumerate() {
        if rule.form == VerpUse::Signed && root.returns.secret.is_none() {
            problems
                .error(
                    node.at(&format!("verp.{n}")),
                    "a signed reverse-path needs a secret, and `returns` has none",
                )
                .hint("add `secret` to [returns]; openssl rand -hex 32 makes one");
        }
    }
    if root.unsubscribe.url.is_some() && root.returns.secret.is_none() {
        problems
            .error(node.at("unsubscribe.url"), "links to unsubscribe need a secret, and `returns` has none")
            .hint("add `secret` to [returns]; openssl rand -hex 32 makes one");
    }
    let carries = (root.returns.secret.is_some() && root.returns.field) || !root.verp.is_empty();
    if carries && root.feedback.is_empty() {
        problems
            .warning(
                node.at("returns"),
                "mail carries what reports could be found by, and no reports are read",
            )
            .hint("add [[feedback]] with `to`");
    }
}
