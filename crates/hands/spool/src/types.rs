//! The words of the front door.

use bytes::Bytes;
use mail::{Message, Outcome, Reply, SpoolId, UnixMillis};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The name of a message in the spool while this process runs: segment and place in it. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

impl Handle {
    pub(crate) fn new(segment: u32, offset: u64) -> Self {
        Self(u64::from(segment) << 32 | (offset / 8))
    }

    pub(crate) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn unit(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn offset(self) -> u64 {
        u64::from(self.unit()) * 8
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}+{:x}", self.segment(), self.offset())
    }
}

/// A message's octets: header fields of our own making, then the message as it was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Our trace fields; empty for what was read back, where they are part of the body.
    pub prefix: Bytes,
    /// The message as it was received.
    pub body: Bytes,
}

impl Content {
    /// Octets of both.
    pub fn len(&self) -> u64 {
        self.prefix.len() as u64 + self.body.len() as u64
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.prefix.as_ref(), self.body.as_ref()].concat()
    }
}

/// A message on its way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Everything known of it; the id from [`crate::Spool::next_id`]. The size is set from the content.
    pub message: Message,
    /// Its octets.
    pub content: Content,
}

/// A message read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Everything known of it.
    pub message: Message,
    /// Its octets, all of them in the body.
    pub content: Content,
}

/// How a recipient ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The next hop took responsibility.
    Delivered,
    /// Never; it was or will be reported.
    Bounced,
    /// Not in time.
    Expired,
    /// Dropped by order.
    Discarded,
}

impl Fate {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Delivered => 1,
            Self::Bounced => 2,
            Self::Expired => 3,
            Self::Discarded => 4,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Delivered, Self::Bounced, Self::Expired, Self::Discarded]
            .into_iter()
            .find(|f| f.code() == code)
    }

    /// The fate an outcome means; `None` for a deferral.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Delivered(_) => Some(Self::Delivered),
            Outcome::Deferred(_) => None,
            Outcome::Bounced(_) => Some(Self::Bounced),
            Outcome::Expired(_) => Some(Self::Expired),
            // To the spool it is the same: nobody sends it any more.
            Outcome::Discarded(_) | Outcome::Suppressed(_) => Some(Self::Discarded),
        }
    }
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is settled.
    Final(Fate),
    /// It waits.
    Deferred {
        /// Attempts made.
        attempts: u32,
        /// When the next one is due.
        due: UnixMillis,
        /// What the last attempt was told; the first 512 octets of its text are kept.
        reply: Option<Reply>,
        /// The attempt ended after the end of data without a reply. Remembered until the recipient is settled.
        ambiguous: bool,
    },
}

/// What became of one recipient of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The message.
    pub handle: Handle,
    /// The recipient's place in the envelope.
    pub recipient: u16,
    /// What became of it.
    pub change: Change,
}

/// Why a message was not taken. It may be taken later; nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No room on the disk: 452 4.3.1. Deliveries go on and may make some.
    Full,
    /// A write or sync failed: 451 4.3.0. Tried again after a while.
    Io,
    /// Too many wait, or too many outcomes could not be written: 451 4.3.2.
    Busy,
    /// More recipients than 65,535, none, or content beyond 4 GiB: 552 5.3.4.
    TooLarge,
    /// The spool is closing: 421 4.3.2.
    Closed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "spool has no room",
            Self::Io => "spool cannot be written",
            Self::Busy => "spool is busy",
            Self::TooLarge => "message is too large for the spool",
            Self::Closed => "spool is closing",
        })
    }
}

impl std::error::Error for Refusal {}

/// Why a message could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// It is settled, or never was.
    NotFound,
    /// It is not what was written. It is set aside and will not be loaded again: count its recipients as
    /// lost to damage, and tell the operator.
    Damaged {
        /// The file it was copied to; absent if that failed, and then it is found again at the next start.
        set_aside: Option<String>,
        /// What is wrong.
        reason: crate::DamageReason,
        /// The message without its content, if that much is sound.
        message: Option<Box<Message>>,
    },
    /// The disk would not read it; try again later.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such message in the spool"),
            Self::Damaged { set_aside: Some(file), reason, .. } => write!(f, "{reason}; set aside as {file}"),
            Self::Damaged { set_aside: None, reason, .. } => write!(f, "{reason}; could not be set aside"),
            Self::Io(error) => write!(f, "message not readable: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Why a spool cannot be opened. Each says what to do.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are what the messages print")]
pub enum OpenError {
    /// The path is a symbolic link.
    Symlink { path: PathBuf },
    /// The path is something else.
    NotADirectory { path: PathBuf },
    /// The directory belongs to another user.
    Owner { path: PathBuf, owner: u32, ours: u32 },
    /// Others may write to the directory.
    Writable { path: PathBuf, mode: u32 },
    /// Another process has it.
    Locked { path: PathBuf, pid: Option<u32> },
    /// Files of a version this program does not read.
    Format { found: u32, known: u32 },
    /// FORMAT says something else.
    NotASpool,
    /// The file system refused.
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink { path } => write!(
                f,
                "spool directory {} is a symbolic link; name the directory it points to",
                path.display()
            ),
            Self::NotADirectory { path } => write!(f, "spool path {} is not a directory", path.display()),
            Self::Owner { path, owner, ours } => write!(
                f,
                "spool directory {0} belongs to user {owner}, but this process runs as user {ours}; run `chown -R {ours} {0}` or choose another",
                path.display()
            ),
            Self::Writable { path, mode } => write!(
                f,
                "spool directory {0} may be written by others (mode {mode:04o}); run `chmod go-w {0}`",
                path.display()
            ),
            Self::Locked { path, pid } => {
                write!(f, "spool directory {} is in use by ", path.display())?;
                match pid {
                    Some(pid) => write!(f, "process {pid}; stop it first"),
                    None => f.write_str("another process; stop it first"),
                }
            }
            Self::Format { found, known } => write!(
                f,
                "spool has format version {found}, this program reads version {known}; use the program that wrote it to export the messages, and import them here"
            ),
            Self::NotASpool => f.write_str(
                "the file FORMAT in the spool directory was not written by this program; choose another directory",
            ),
            // Why is told by the source.
            Self::Io { what, path, .. } if path.as_os_str().is_empty() => write!(f, "cannot {what}"),
            Self::Io { what, path, .. } => write!(f, "cannot {what} ({})", path.display()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The id of a stored message, for lists.
impl Stored {
    /// Our name for it.
    pub fn id(&self) -> SpoolId {
        self.message.id
    }
}
