//! Mail of our own making goes in by the front door: Received field, spool, record, queue, like any other.

use crate::shared::{Settings, Shared};
use accounting::{Kind, Record};
use mail::{Envelope, Message, Origin, Protocol, Tags, UnixMillis};
use message::ReceivedField;
use spool::{Content, Draft, Refusal};

/// Spools a message of ours and queues it. `maker` stands where the listener's name does for others.
pub(crate) async fn hand_in(
    shared: &Shared,
    settings: &Settings,
    maker: &str,
    envelope: Envelope,
    content: Vec<u8>,
    tags: Tags,
    wall: UnixMillis,
) -> Result<(), Refusal> {
    let origin = Origin { protocol: Protocol::Internal, listener: maker.into(), ..Origin::default() };
    let id = shared.spool.next_id();
    let by = Shared::host(settings);
    let mut prefix = Vec::new();
    ReceivedField {
        origin: &origin,
        smtputf8: envelope.smtputf8,
        id,
        by: &by,
        for_recipient: None,
        at: wall,
    }
    .write(&mut prefix);
    let content = Content { prefix: prefix.into(), body: content.into() };
    let size = content.len();
    let message =
        Message { id, received_at: wall, size, envelope, origin, tags, headers: Vec::new(), extras: None };
    let accepted = shared.spool.accept(Draft { message, content }).await?;
    let recipients = accepted.message().envelope.recipients.len() as u32;
    let received = (0..recipients).map(|index| Record::new(Kind::Received, wall, accepted.message(), index));
    shared.recorder.record_many(received.collect());
    // When the server stops nobody listens any more; the spool keeps it for the next start.
    if shared.is_stopping() {
        let _ = shared.intake.try_send(accepted);
    } else {
        let _ = shared.intake.send(accepted).await;
    }
    Ok(())
}
