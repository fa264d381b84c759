//! What stands in a message: header fields, the Received field, and mail about mail (RFC 3464).
//!
//! Rules only: bytes in, bytes out. Time and randomness are arguments, nothing here opens a file or a socket,
//! and nothing here edits a field: fields are put in front, and those meant for this server alone are taken out whole.
//!
//! On the way in, reception calls [`scan`] once over the content, asks [`Scan::refusal`] whether the header is
//! within its [`HeaderLimits`] (size, count, hops), and writes [`ReceivedField`] and, for submissions,
//! [`add_missing`] in front; [`first_values`] reads the fields that tag a message, [`take_out_fields`] removes them.
//! On the way out, delivery asks [`Needs`] whether the next hop can carry the message.
//! When a recipient's fate is to be told, [`wanted`] says whether, [`write_dsn`] says how, and [`read_dsn`]
//! understands what others wrote. [`write_letter`] writes to people about anything else.
//!
//! Read first: `header.rs`, then `dsn/mod.rs`.

mod content;
mod date;
mod dsn;
mod encoding;
mod header;
mod letter;
mod mime;
mod pick;
mod received;
mod report;

pub use content::{has_bare_newline, is_seven_bit, lines_within, longest_line};
pub use date::{parse_date, write_date};
pub use dsn::{
    Action, Address, DeliveryStatus, Dsn, DsnConfig, DsnDraft, DsnError, DsnRequest, RecipientReport,
    RecipientStatus, ReportKind, Returned, read_delivery_status, read_dsn, wanted, write_dsn,
};
pub use encoding::{decode_xtext, one_line, read_base64, write_base64, write_quoted_printable};
pub use header::{Field, Fields, HeaderLimits, Scan, scan};
pub use letter::{Letter, write_letter};
pub use mime::{Leaf, field_value, leaves};
pub use pick::{first_values, take_out_fields};
pub use received::{ReceivedField, add_missing, with_protocol};
pub use report::{ReportMail, write_report_mail};

/// Entry points for the fuzz targets: total functions that must neither panic nor loop.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::dsn::fuzz_dsn as dsn;
    pub use crate::header::fuzz_header as header;
}
