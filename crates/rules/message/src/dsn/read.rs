//! Reading a notification, ours or another system's: enough of MIME to find the part that machines read.
//!
//! The input is hostile: every loop is linear in it, parts and recipients are counted, nothing recurses.

use super::{Action, Address, DeliveryStatus, RecipientStatus};
use crate::date::parse_date;
use crate::encoding::from_unitext;
use crate::header::{Field, Fields, scan};
use crate::mime::{BOUNDARY_MAX, PARTS_MAX, decoded_body, field_value, media_type, parameter, parts};
use mail::EnhancedStatusCode;
use std::borrow::Cow;
use std::fmt;

/// Recipients read from one report.
const RECIPIENTS_MAX: usize = 10_000;

/// A notification that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dsn<'a> {
    /// What became of whom.
    pub status: DeliveryStatus,
    /// What came back of the message it is about.
    pub returned: Returned<'a>,
}

/// What a report returns, its transfer encoding undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returned<'a> {
    /// Nothing.
    Nothing,
    /// The header.
    Headers(Cow<'a, [u8]>),
    /// The whole message.
    Message(Cow<'a, [u8]>),
}

/// Why a content is not a delivery status notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnError {
    /// Not `multipart/report` with a boundary.
    NotAReport,
    /// No part is a delivery status.
    NoStatus,
    /// The delivery status names no recipient with an action and a status.
    NoRecipients,
    /// More than 10,000 recipients.
    TooMany,
}

impl fmt::Display for DsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAReport => "not a multipart/report",
            Self::NoStatus => "report without a delivery status",
            Self::NoRecipients => "delivery status without recipients",
            Self::TooMany => "delivery status with more than 10000 recipients",
        })
    }
}

impl std::error::Error for DsnError {}

/// Reads a whole message as a notification.
pub fn read_dsn(content: &[u8]) -> Result<Dsn<'_>, DsnError> {
    let content_type = field_value(content, "content-type").ok_or(DsnError::NotAReport)?;
    if !media_type(&content_type).eq_ignore_ascii_case("multipart/report") {
        return Err(DsnError::NotAReport);
    }
    let boundary = parameter(&content_type, "boundary").ok_or(DsnError::NotAReport)?;
    if boundary.is_empty() || boundary.len() > BOUNDARY_MAX {
        return Err(DsnError::NotAReport);
    }
    let mut status = None;
    let mut returned = Returned::Nothing;
    for part in parts(&content[scan(content).body_start..], &boundary).into_iter().take(PARTS_MAX) {
        let kind = field_value(part, "content-type").unwrap_or_default();
        let kind = media_type(&kind).to_ascii_lowercase();
        match kind.as_str() {
            "message/delivery-status" | "message/global-delivery-status" if status.is_none() => {
                status = Some(read_delivery_status(&decoded_body(part))?);
            }
            "message/rfc822" | "message/global" if returned == Returned::Nothing => {
                returned = Returned::Message(decoded_body(part));
            }
            "text/rfc822-headers" | "message/global-headers" | "message/rfc822-headers"
                if returned == Returned::Nothing =>
            {
                returned = Returned::Headers(decoded_body(part));
            }
            _ => {}
        }
    }
    Ok(Dsn { status: status.ok_or(DsnError::NoStatus)?, returned })
}

/// Reads the body of a `message/delivery-status` part: groups of fields with empty lines between. Groups that
/// lack a recipient, an action or a status are passed over, as are fields we do not know.
pub fn read_delivery_status(body: &[u8]) -> Result<DeliveryStatus, DsnError> {
    let mut status =
        DeliveryStatus { reporting_mta: None, envelope_id: None, arrival_date: None, recipients: Vec::new() };
    let mut at = 0;
    let mut first = true;
    while at < body.len() {
        if body[at..].starts_with(b"\r\n") {
            at += 2;
            continue;
        }
        let mut fields = Fields::new(&body[at..]);
        let mut group = Group::default();
        for field in fields.by_ref() {
            if first {
                per_message(&mut status, &field);
            }
            group.take(&field);
        }
        if fields.offset() == 0 {
            // Neither a field nor an empty line: what follows is not ours to guess.
            break;
        }
        at += fields.offset();
        first = false;
        if let Some(recipient) = group.finish() {
            if status.recipients.len() == RECIPIENTS_MAX {
                return Err(DsnError::TooMany);
            }
            status.recipients.push(recipient);
        }
    }
    if status.recipients.is_empty() { Err(DsnError::NoRecipients) } else { Ok(status) }
}

fn per_message(status: &mut DeliveryStatus, field: &Field<'_>) {
    if field.is("reporting-mta") {
        status.reporting_mta = typed(field);
    } else if field.is("original-envelope-id") {
        status.envelope_id = Some(field.unfolded());
    } else if field.is("arrival-date") {
        status.arrival_date = parse_date(&field.unfolded());
    }
}

/// One recipient's group while it is read.
#[derive(Default)]
struct Group {
    original: Option<Address>,
    recipient: Option<Address>,
    action: Option<Action>,
    status: Option<EnhancedStatusCode>,
    remote_mta: Option<Address>,
    diagnostic: Option<Address>,
    last_attempt: Option<mail::UnixMillis>,
    will_retry_until: Option<mail::UnixMillis>,
}

impl Group {
    fn take(&mut self, field: &Field<'_>) {
        // A report of ours has at most these; the first letter and the length would do, the name is clearer.
        if field.is("original-recipient") {
            self.original = typed(field);
        } else if field.is("final-recipient") {
            self.recipient = typed(field);
        } else if field.is("action") {
            let value = field.unfolded();
            self.action = value.split([' ', '\t', '(']).next().and_then(Action::parse);
        } else if field.is("status") {
            self.status = EnhancedStatusCode::parse(&field.unfolded());
        } else if field.is("remote-mta") {
            self.remote_mta = typed(field);
        } else if field.is("diagnostic-code") {
            self.diagnostic = typed(field);
        } else if field.is("last-attempt-date") {
            self.last_attempt = parse_date(&field.unfolded());
        } else if field.is("will-retry-until") {
            self.will_retry_until = parse_date(&field.unfolded());
        }
    }

    fn finish(self) -> Option<RecipientStatus> {
        Some(RecipientStatus {
            original: self.original,
            recipient: self.recipient?,
            action: self.action?,
            status: self.status?,
            remote_mta: self.remote_mta,
            diagnostic: self.diagnostic,
            last_attempt: self.last_attempt,
            will_retry_until: self.will_retry_until,
        })
    }
}

/// `type; text`, decoded if the type is `utf-8`.
fn typed(field: &Field<'_>) -> Option<Address> {
    let value = field.unfolded();
    let (kind, text) = value.split_once(';')?;
    let (kind, text) = (kind.trim().to_ascii_lowercase(), text.trim());
    let text = if kind == "utf-8" { from_unitext(text).into_owned() } else { text.to_owned() };
    (!kind.is_empty()).then_some(Address { kind, text })
}

/// Whatever the bytes, reading ends without a panic.
#[doc(hidden)]
pub fn fuzz_dsn(content: &[u8]) {
    let _ = read_delivery_status(content);
    if let Ok(dsn) = read_dsn(content) {
        assert!(!dsn.status.recipients.is_empty());
    }
}
