//! The tools for a stopped spool.

use super::draft;
use super::threads::small;
use crate::tools::{self, ImportError};
use crate::{Change, Fate, Settlement, open_directory};
use mail::{BodyType, KeptField, Notify, Priority, Reply, Ret, SpoolId, Tags, UnixMillis};
use std::path::Path;

fn filled(folder: &Path) -> SpoolId {
    let (spool, _) = open_directory(folder, &small()).unwrap();
    let mut draft = draft(spool.next_id(), 3, 5000);
    draft.message.envelope.envid = Some("a%b\r\nmessage x".into());
    draft.message.envelope.ret = Some(Ret::Headers);
    draft.message.envelope.body = BodyType::EightBitMime;
    draft.message.envelope.recipients[2].notify = Notify::SUCCESS.with(Notify::FAILURE);
    draft.message.envelope.recipients[2].orcpt = Some("rfc822;x".into());
    draft.message.origin.helo = "h\n\u{e4}".into();
    draft.message.origin.peer = Some("[2001:db8::1]:7".parse().unwrap());
    draft.message.tags = Tags {
        tenant: Some("ten%ant".into()),
        campaign: Some("a campaign".into()),
        job: Some("7".into()),
        envid: Some("own/1".into()),
        pool: Some("p1".into()),
        priority: Priority::Low,
    };
    let field = |name: &str, value: &str| KeptField { name: name.into(), value: value.into() };
    draft.message.headers = vec![field("Subject", "a\nb c"), field("X-Empty", "")];
    let first = spool.accept_blocking(draft).unwrap();
    let settled = spool.accept_blocking(super::draft(spool.next_id(), 1, 10)).unwrap();
    spool.accept_blocking(super::draft(spool.next_id(), 1, 0)).unwrap();
    let reply = Some(Reply::new(450, (4, 2, 1), "full\nreally".to_owned()));
    let deferred = Change::Deferred { attempts: 2, due: UnixMillis(99), reply, ambiguous: true };
    let of = |handle, recipient, change| Settlement { handle, recipient, change };
    let id = first.message().id;
    spool.settle(
        vec![
            of(first.handle(), 1, Change::Final(Fate::Delivered)),
            of(first.handle(), 2, deferred),
            of(settled.handle(), 0, Change::Final(Fate::Bounced)),
        ],
        None,
    );
    spool.close();
    id
}

#[test]
fn what_is_exported_is_imported() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = filled(from.path());
    let report = tools::verify(from.path()).unwrap();
    assert_eq!((report.messages, report.recipients, report.records), (2, 3, 3));
    assert_eq!((report.problems.len(), report.torn), (0, 0));
    let mut export = Vec::new();
    assert_eq!(tools::export(from.path(), &mut export).unwrap(), 2);
    assert_eq!(tools::import(to.path(), &small(), &mut export.as_slice()).unwrap(), 2);
    let listed = |folder: &Path| {
        let mut all = Vec::new();
        tools::list(folder, |listed| {
            all.push(listed);
            true
        })
        .unwrap();
        all
    };
    let (before, after) = (listed(from.path()), listed(to.path()));
    assert_eq!(before[0].message.id, id);
    assert_eq!(after.len(), 2);
    let (b, a) = (&before[0], &after[0]);
    assert_eq!(b.pending.iter().map(|p| p.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(a.message.envelope.recipients[..], [0, 2].map(|n| b.message.envelope.recipients[n].clone()));
    assert_eq!(a.pending[1], crate::PendingRecipient { index: 1, ..b.pending[1].clone() });
    assert_eq!(
        (a.message.origin.clone(), a.message.received_at),
        (b.message.origin.clone(), b.message.received_at)
    );
    assert_eq!(a.message.envelope.envid, b.message.envelope.envid);
    assert!(!b.message.tags.is_empty() && b.message.headers.len() == 2);
    assert_eq!((&a.message.tags, &a.message.headers), (&b.message.tags, &b.message.headers));
    let content = |folder, id| tools::find(folder, id).unwrap().unwrap().1.content.to_vec();
    assert_eq!(content(from.path(), b.message.id), content(to.path(), a.message.id));
    assert!(tools::find(to.path(), SpoolId(5)).unwrap().is_none());
    for cut in 0..export.len() {
        let folder = tempfile::tempdir().unwrap();
        if cut % 97 == 0 || cut + 40 > export.len() {
            let error = tools::import(folder.path(), &small(), &mut &export[..cut]).unwrap_err();
            assert!(matches!(error, ImportError::Truncated | ImportError::Malformed(_)), "{cut}: {error}");
        }
    }
}

#[test]
fn verify_finds_a_flipped_bit_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let file = folder.path().join("00000001.seg");
    let whole = std::fs::read(&file).unwrap();
    for at in [4096 + 20, 4096 + 60, 4096 + 2000] {
        let mut rotten = whole.clone();
        rotten[at] ^= 1;
        std::fs::write(&file, &rotten).unwrap();
        let report = tools::verify(folder.path()).unwrap();
        assert_eq!(report.problems.len(), 1, "{at}: {report:?}");
        assert!(report.problems[0].needed && report.messages == 1);
        assert_eq!(tools::export(folder.path(), &mut Vec::new()).unwrap(), 1);
        assert_eq!(std::fs::read(&file).unwrap(), rotten);
    }
    assert!(tools::verify(&folder.path().join("absent")).is_err());
}
