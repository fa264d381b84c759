//! Words for enhanced status codes.

use crate::record::{Kind, Record};
use mail::EnhancedStatusCode;

/// The status a record reports: the reply's own where its class fits what happened, else the class alone.
pub(crate) fn status_of(record: &Record) -> Option<EnhancedStatusCode> {
    let class = match record.kind {
        Kind::Received | Kind::Delivered => 2,
        Kind::Deferred => 4,
        // What ended it was time, whatever the last deferral said (RFC 3463 X.4.7).
        Kind::Expired => return Some(EnhancedStatusCode::new(4, 4, 7)),
        Kind::Bounced | Kind::Discarded | Kind::Suppressed => 5,
        Kind::RemoteBounce | Kind::RemoteStatus => return record.report().and_then(|report| report.status),
        Kind::Complained => return None,
        Kind::Rejected => return record.reply.as_ref().and_then(|reply| reply.enhanced),
    };
    let given = record.reply.as_ref().and_then(|reply| reply.enhanced).filter(|code| code.class() == class);
    Some(given.unwrap_or(EnhancedStatusCode::new(class, 0, 0)))
}

/// The meaning of a status in RFC 3463's words, lower case, as the column `dsnStatus` has it in parentheses. X.7.1
/// is shortened as PowerMTA shortens it.
pub fn status_text(code: EnhancedStatusCode) -> &'static str {
    if code.class() == 2 {
        return "success";
    }
    match (code.subject(), code.detail()) {
        (0, _) => "undefined status",
        (1, 0) => "other address status",
        (1, 1) => "bad destination mailbox address",
        (1, 2) => "bad destination system address",
        (1, 3) => "bad destination mailbox address syntax",
        (1, 4) => "destination mailbox address ambiguous",
        (1, 5) => "destination mailbox address valid",
        (1, 6) => "mailbox has moved",
        (1, 7) => "bad sender's mailbox address syntax",
        (1, 8) => "bad sender's system address",
        (1, 9) => "message relayed to non-compliant mailer",
        (1, 10) => "recipient address has null MX",
        (2, 0) => "other or undefined mailbox status",
        (2, 1) => "mailbox disabled, not accepting messages",
        (2, 2) => "mailbox full",
        (2, 3) => "message length exceeds administrative limit",
        (2, 4) => "mailing list expansion problem",
        (3, 0) => "other or undefined mail system status",
        (3, 1) => "mail system full",
        (3, 2) => "system not accepting network messages",
        (3, 3) => "system not capable of selected features",
        (3, 4) => "message too big for system",
        (3, 5) => "system incorrectly configured",
        (4, 0) => "other or undefined network or routing status",
        (4, 1) => "no answer from host",
        (4, 2) => "bad connection",
        (4, 3) => "directory server failure",
        (4, 4) => "unable to route",
        (4, 5) => "mail system congestion",
        (4, 6) => "routing loop detected",
        (4, 7) => "delivery time expired",
        (5, 0) => "other or undefined protocol status",
        (5, 1) => "invalid command",
        (5, 2) => "syntax error",
        (5, 3) => "too many recipients",
        (5, 4) => "invalid command arguments",
        (5, 5) => "wrong protocol version",
        (6, 0) => "other or undefined media error",
        (6, 1) => "media not supported",
        (6, 2) => "conversion required and prohibited",
        (6, 3) => "conversion required but not supported",
        (6, 4) => "conversion with loss performed",
        (6, 5) => "conversion failed",
        (6, 7) => "non-ASCII addresses not permitted",
        (7, 0) => "other or undefined security status",
        (7, 1) => "delivery not authorized",
        (7, 2) => "mailing list expansion prohibited",
        (7, 3) => "security conversion required but not possible",
        (7, 4) => "security features not supported",
        (7, 5) => "cryptographic failure",
        (7, 6) => "cryptographic algorithm not supported",
        (7, 7) => "message integrity failure",
        (7, 10) => "encryption needed",
        (7, 20..=26) => "authentication of the message failed",
        (7, 30) => "REQUIRETLS support required",
        (1, _) => "other address status",
        (2, _) => "other or undefined mailbox status",
        (3, _) => "other or undefined mail system status",
        (4, _) => "other or undefined network or routing status",
        (5, _) => "other or undefined protocol status",
        (6, _) => "other or undefined media error",
        (7, _) => "other or undefined security status",
        _ => "undefined status",
    }
}
