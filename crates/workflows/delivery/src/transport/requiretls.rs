//! What a message itself says of TLS (RFC 8689).

use crate::job::Hot;
use crate::settle::Hop;
use mail::{FieldName, Reply};

/// True if a message says by `TLS-Required: No` that it would rather arrive than be secure. Under REQUIRETLS that
/// counts for nothing (RFC 8689 §4.1).
pub(crate) fn needs_no_tls(hot: &Hot) -> bool {
    if hot.message.envelope.require_tls {
        return false;
    }
    let Ok(name) = "TLS-Required".parse::<FieldName>() else { return false };
    // Our own Received field stands in the prefix; what came with the message is the body.
    let found = message::first_values(&hot.content.body, &[&name]);
    found.into_iter().flatten().any(|value| value.trim().eq_ignore_ascii_case("no"))
}

/// The bounce of a message under REQUIRETLS that would have to leave by a connection which does not vouch for its
/// server (RFC 8689 §4.2.1).
pub(crate) fn not_assured(hop: Option<&Hop>) -> Reply {
    let why = match hop.map(|hop| (&hop.record.tls, hop.record.tls_verified.as_deref())) {
        Some((Some(_), Some("verified" | "dane"))) => {
            "neither DNSSEC nor MTA-STS vouches for the next hop being the domain's".to_owned()
        }
        Some((Some(_), Some(why))) => format!("the next hop's certificate is not verified: {why}"),
        _ => "the next hop does not support REQUIRETLS".to_owned(),
    };
    Reply::new(550, (5, 7, 30), why)
}
