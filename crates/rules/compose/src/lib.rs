//! Messages built from parts: text, HTML, AMP, attachments and inline images, written as RFC 5322 and MIME say; and
//! templates of them, filled in for one recipient after the other.
//!
//! Nothing that stands in a part can add a header field, a recipient or another part: control characters in what is
//! sent literally are refused ([`Parts::check`]), those that come out of a template are made blanks. There is no Bcc
//! to write: who gets a copy unseen stands in the envelope alone.
//!
//! A [`Sheet`] is a mail merge as the spool keeps it: the content once, and for each recipient only its
//! substitutions. [`Sheet::expand`] gives the message of one of them. Templates run with a bounded number of steps,
//! which bounds their output and their memory too.
//!
//! Read first: [`Parts`], then `write.rs`, then [`Sheet`].

mod field;
mod parts;
mod person;
mod raw;
mod sheet;
mod template;
mod write;

pub use parts::{
    ADDRESSES_MAX, ATTACHMENTS_MAX, Attachment, FIELDS_MAX, Mistake, Parts, VALUE_MAX_OCTETS, is_base64,
};
pub use person::{Person, read_people};
pub use raw::tidy;
pub use sheet::{Content, Sheet, SheetError, SheetWriter, Stamp};
pub use template::{FUEL, Rendering, Substitutions, TEMPLATE_MAX_OCTETS, Template};
pub use write::write_parts;

/// Whatever the octets: a sheet is read or refused, and its first message is written or refused.
#[doc(hidden)]
pub fn fuzz_sheet(octets: &[u8]) {
    let Ok(sheet) = Sheet::decode(octets) else { return };
    let (Ok(to), Ok(host)) = (mail::Mailbox::parse("a@b.test"), mail::Host::parse("mx.test")) else { return };
    let stamp = Stamp { id: mail::SpoolId(1), index: 0, at: mail::UnixMillis(0) };
    if let Ok(message) = sheet.expand(&to, &host, stamp) {
        let scan = message::scan(&message);
        assert!(scan.header_len <= message.len());
    }
}
