//! What a sender asks of a message beyond its envelope and tags. SMTP has no words for it; HTTP has.

use crate::UnixMillis;

/// Octets of a message's metadata at most.
pub const METADATA_MAX_OCTETS: usize = 4_096;

/// What is asked of a message, or known of it, besides. Most messages have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// It is not attempted before this moment.
    pub send_at: Option<UnixMillis>,
    /// It is not attempted after this moment, and given up then.
    pub expires_at: Option<UnixMillis>,
    /// The sender's own facts of it, a JSON object of at most [`METADATA_MAX_OCTETS`] octets: for his reports.
    pub metadata: Option<Box<str>>,
    /// The content is a mail merge, from which each recipient's own message is made when it leaves.
    pub merge: Option<Merge>,
    /// The request it came by, so that the same request again makes no second message.
    pub request: Option<RequestPart>,
}

/// A mail merge: the content once and each recipient's values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// Octets of one recipient's message, by the first of them.
    pub octets_each: u32,
    /// Each recipient's place in the merge; empty if they are in its order.
    pub places: Vec<u16>,
}

impl Merge {
    /// The place in the merge of the recipient at `index` of the envelope.
    pub fn place(&self, index: u32) -> u32 {
        self.places.get(index as usize).map_or(index, |place| u32::from(*place))
    }
}

/// Which part of which request a message is. A request that is sent again by one who got no answer has the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestPart {
    /// A digest of the key and of who sent it.
    pub key: [u8; 16],
    /// A digest of what the request said.
    pub body: [u8; 16],
    /// Which of the messages that the request made this is, from 0.
    pub part: u32,
}
