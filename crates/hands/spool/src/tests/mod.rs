//! Tests: threads over a real directory here, the core over a disk that lies in the modules below.

mod crashes;
mod faults;
mod formats;
mod offline;
mod rig;
mod scans;
mod threads;

use crate::{Content, Draft};
use bytes::Bytes;
use mail::{Envelope, Mailbox, Message, Origin, Recipient, ReversePath, SpoolId, Tags, UnixMillis};

/// A message with so many recipients and octets, all of them derived from its id.
pub(crate) fn draft(id: SpoolId, recipients: u16, octets: usize) -> Draft {
    let mailbox = |n: u16| Mailbox::parse(&format!("r{n}@example.test")).expect("a mailbox of ours");
    let recipients = (0..recipients).map(|n| Recipient::new(mailbox(n))).collect();
    let envelope = Envelope::new(ReversePath::Mailbox(mailbox(9)), recipients);
    let body: Vec<u8> = (0..octets).map(|n| (id.0 as usize * 31 + n * 7) as u8).collect();
    let content = Content { prefix: Bytes::from_static(b"Received: by us\r\n"), body: body.into() };
    let message = Message {
        id,
        received_at: UnixMillis(id.0),
        size: content.len(),
        envelope,
        origin: Origin::default(),
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    };
    Draft { message, content }
}
