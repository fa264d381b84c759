//! The nouns of the house: envelope, paths, domain, reply, status code, outcome and ids.
//!
//! Every other room imports this one, so it holds words and not behaviour: a value here is parsed once at the
//! edge and valid ever after. Nothing here opens a file, reads a clock or derives a serialisation; disk, wire
//! and API each have their own form and convert.
//!
//! Read first: [`Envelope`], then [`Mailbox`], then [`Reply`] and [`Outcome`].

mod bounce_class;
mod domain;
mod envelope;
mod extras;
mod field_name;
mod id;
mod mailbox;
mod message;
mod outcome;
mod reply;
mod status;
mod tags;

pub use bounce_class::{BounceClass, BounceClassError};
pub use domain::{Domain, DomainError, Host};
pub use envelope::{BodyType, Envelope, ForwardPath, Notify, Recipient, Ret, ReversePath};
pub use extras::{Extras, METADATA_MAX_OCTETS, Merge, RequestPart};
pub use field_name::{FieldName, FieldNameError};
pub use id::{SessionId, SpoolId};
pub use mailbox::{Mailbox, MailboxError};
pub use message::{
    KEPT_FIELDS_MAX, KEPT_VALUE_MAX_OCTETS, KeptField, Message, Origin, Protocol, TlsInfo, UnixMillis,
};
pub use outcome::Outcome;
pub use reply::{Reply, ReplyClass, ReplyCode};
pub use status::EnhancedStatusCode;
pub use tags::{Priority, TAG_MAX_OCTETS, TagError, Tags, tag};
