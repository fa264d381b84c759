//! Mail about mail: delivery status notifications (RFC 3464, RFC 3461, RFC 6522, RFC 6533).
//!
//! [`DeliveryStatus`] is what the machine-readable part says, decoded. `write.rs` makes a whole notification of
//! one, `read.rs` finds it again; what was written reads back equal.

mod read;
mod write;

#[cfg(test)]
mod written;

#[doc(hidden)]
pub use read::fuzz_dsn;
pub use read::{Dsn, DsnError, Returned, read_delivery_status, read_dsn};
pub use write::{DsnConfig, DsnDraft, DsnRequest, RecipientReport, write_dsn};

use mail::{EnhancedStatusCode, Envelope, Recipient, ReversePath, UnixMillis};

/// What became of a recipient, as a report names it (RFC 3464 §2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Could not be delivered, and will not be tried again.
    Failed,
    /// Not yet delivered; still tried.
    Delayed,
    /// Delivered to the recipient's own mailbox.
    Delivered,
    /// Handed to a system that will not report success.
    Relayed,
    /// Delivered and forwarded to more than one address.
    Expanded,
}

impl Action {
    const ALL: [Self; 5] = [Self::Failed, Self::Delayed, Self::Delivered, Self::Relayed, Self::Expanded];

    /// The word RFC 3464 has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    /// Reads the word, in any case.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str().eq_ignore_ascii_case(word))
    }
}

/// Why a report would be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReportKind {
    /// Bounced or expired.
    Failure,
    /// Still queued after some time.
    Delay,
    /// Delivered to the mailbox.
    Success,
    /// Handed to a host that does not know DSN, by which the request for success ends (RFC 3461 §5.2.2).
    Relayed,
}

/// True if the sender is to be told: never for a null reverse-path, else as NOTIFY says (RFC 3461 §4.1).
pub fn wanted(envelope: &Envelope, recipient: &Recipient, kind: ReportKind) -> bool {
    envelope.reverse_path != ReversePath::Null
        && match kind {
            ReportKind::Failure => recipient.notify.on_failure(),
            ReportKind::Delay => recipient.notify.on_delay(),
            ReportKind::Success | ReportKind::Relayed => recipient.notify.on_success(),
        }
}

/// An address with its type, as in `rfc822; a@b.test`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// `rfc822`, `utf-8`, or what a client said in ORCPT; lower case.
    pub kind: String,
    /// The address, decoded.
    pub text: String,
}

/// The machine-readable part of a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryStatus {
    /// Who reports: a host name, with the type `dns`.
    pub reporting_mta: Option<Address>,
    /// ENVID, decoded.
    pub envelope_id: Option<String>,
    /// When the message came to the reporting host; whole seconds.
    pub arrival_date: Option<UnixMillis>,
    /// The recipients reported.
    pub recipients: Vec<RecipientStatus>,
}

/// What a notification says of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientStatus {
    /// ORCPT, decoded: the recipient the sender named.
    pub original: Option<Address>,
    /// The recipient the reporting host tried.
    pub recipient: Address,
    /// What became of it.
    pub action: Action,
    /// Why.
    pub status: EnhancedStatusCode,
    /// The host that decided, with its type (`dns`).
    pub remote_mta: Option<Address>,
    /// What that host said, with its type (`smtp`).
    pub diagnostic: Option<Address>,
    /// When it was last tried; whole seconds.
    pub last_attempt: Option<UnixMillis>,
    /// Until when it will be tried.
    pub will_retry_until: Option<UnixMillis>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{Mailbox, Notify};

    #[test]
    fn who_is_told() {
        let recipient = |notify| Recipient { notify, ..Recipient::new(Mailbox::parse("c@d.test").unwrap()) };
        let sender = ReversePath::Mailbox(Mailbox::parse("a@b.test").unwrap());
        let told = |path: &ReversePath, notify: Notify| {
            let envelope = Envelope::new(path.clone(), vec![recipient(notify)]);
            [ReportKind::Failure, ReportKind::Delay, ReportKind::Success, ReportKind::Relayed]
                .map(|kind| wanted(&envelope, &envelope.recipients[0], kind))
        };
        for (notify, expected) in [
            (Notify::ABSENT, [true, true, false, false]),
            (Notify::NEVER, [false; 4]),
            (Notify::SUCCESS, [false, false, true, true]),
            (Notify::FAILURE, [true, false, false, false]),
            (Notify::DELAY, [false, true, false, false]),
            (Notify::SUCCESS.with(Notify::FAILURE), [true, false, true, true]),
        ] {
            assert_eq!(told(&sender, notify), expected, "{notify}");
            assert_eq!(told(&ReversePath::Null, notify), [false; 4], "{notify}");
        }
    }
}
