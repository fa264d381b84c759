//! What a failure means: the class of a reply, and reading bounces and complaints that come as mail.
//!
//! [`ClassRules`] gives every failure one [`BounceClass`](mail::BounceClass) by rules over stage, code, enhanced code
//! and text, the operator's before those that come with the server; what no rule knows goes by the enhanced code, and
//! what has none by the code.
//!
//! [`read_report`] reads notifications, complaints and bounces that are only text; [`Secrets`] sign what a message carries
//! so that such a report can be told from a forged one.
//!
//! Rules only: nothing here opens a file or a socket, and nothing here decides what follows from a class.
//!
//! Read first: [`ClassRules::classify`].

mod classify;
mod config;
mod freeform;
mod reference;
mod report;
mod returns;
mod status;

pub use classify::{ClassRules, Classed, Failure};
pub use config::{BounceConfig, ClassRule};
pub use reference::{
    Purpose, Reference, SECRET_MIN_OCTETS, Secrets, Verp, VerpForm, made, read_verp, write_verp,
};
pub use report::{
    FeedbackFields, RECIPIENTS_MAX, REPORT_MAX_OCTETS, Report, ReportFormat, ReportKind, ReportedRecipient,
    field_texts, read_report,
};
pub use returns::{
    ReportAddress, ReportAddressError, Returns, ReturnsConfig, UnsubscribeConfig, VerpRule, VerpUse,
};

/// Entry points for the fuzz targets: total functions that must neither panic nor loop.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::report::fuzz_report as report;
}
