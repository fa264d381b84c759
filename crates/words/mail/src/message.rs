//! A message as it was accepted: everything we know of it but its content.

use crate::{Envelope, Extras, SessionId, SpoolId, Tags};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment of wall-clock time, milliseconds since 1970-01-01 UTC. For records that outlive the process;
/// never for measuring intervals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

impl From<SystemTime> for UnixMillis {
    /// Times before 1970 become 0.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
    }
}

impl From<UnixMillis> for SystemTime {
    fn from(time: UnixMillis) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

/// How a message came in: the with-protocol keywords of RFC 3848 and RFC 6531 §4.3 are made of this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// SMTP with HELO.
    Smtp,
    /// SMTP with EHLO.
    #[default]
    Esmtp,
    /// LMTP (RFC 2033).
    Lmtp,
    /// Made by this server: a DSN.
    Internal,
    /// HTTP.
    Http,
}

/// The TLS session a peer spoke through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsInfo {
    /// `TLSv1.3`.
    pub protocol: Box<str>,
    /// `TLS_AES_256_GCM_SHA384`.
    pub cipher: Box<str>,
}

/// Who handed a message to us, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The session it came by.
    pub session: Option<SessionId>,
    /// The client's address; absent for messages of our own making.
    pub peer: Option<SocketAddr>,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    /// What the client called itself in HELO, EHLO or LHLO.
    pub helo: Box<str>,
    /// The authenticated user.
    pub user: Option<Box<str>>,
    /// The listener's name in the configuration.
    pub listener: Box<str>,
    /// How it spoke.
    pub protocol: Protocol,
    /// Its TLS session, if any.
    pub tls: Option<TlsInfo>,
}

/// Header fields kept of one message at most.
pub const KEPT_FIELDS_MAX: usize = 8;
/// Octets of the name, and of the value, of a kept header field at most.
pub const KEPT_VALUE_MAX_OCTETS: usize = 256;

/// A header field that records name. It is kept beside the envelope, so that no record needs the content read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptField {
    /// The field's name as the configuration writes it, at most [`KEPT_VALUE_MAX_OCTETS`] octets.
    pub name: Box<str>,
    /// Its value on one line, cut at [`KEPT_VALUE_MAX_OCTETS`] octets.
    pub value: Box<str>,
}

/// An accepted message without its content. Shared by `Arc` from acceptance to the last outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Our name for it.
    pub id: SpoolId,
    /// When the end of data was seen.
    pub received_at: UnixMillis,
    /// Octets of the content, our Received field included.
    pub size: u64,
    /// Who sent it and who shall get it.
    pub envelope: Envelope,
    /// Who handed it to us.
    pub origin: Origin,
    /// What the operator files it under.
    pub tags: Tags,
    /// The header fields that were chosen for records, at most [`KEPT_FIELDS_MAX`]; usually none.
    pub headers: Vec<KeptField>,
    /// What was asked of it besides; usually nothing.
    pub extras: Option<Box<Extras>>,
}

impl Message {
    /// The mail merge, if its content is one.
    pub fn merge(&self) -> Option<&crate::Merge> {
        self.extras.as_ref()?.merge.as_ref()
    }

    /// Octets that one of its recipients gets.
    pub fn octets_each(&self) -> u64 {
        self.merge().map_or(self.size, |merge| merge.octets_each.into())
    }

    /// Before when it is not attempted, if anybody said so.
    pub fn send_at(&self) -> Option<UnixMillis> {
        self.extras.as_ref()?.send_at
    }

    /// When it is given up, if anybody said so.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        self.extras.as_ref()?.expires_at
    }
}
