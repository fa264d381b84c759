//! Who is not written to: a durable list of millions of addresses, global and by tenant.
//!
//! The list is one file of checksummed records ([`file`](self), `record.rs`), appended to and made durable before an
//! entry holds, and rewritten when most of it is stale. In memory there is, for each entry, a hash of its tenant and
//! address and the place of its record: 17 octets and the room a hash table keeps free. What a look-up finds is
//! compared with the record itself, so that no two addresses are ever taken for one.
//!
//! An entry holds for an address or for a whole domain (`@a.example`), for one tenant or for all, for ever or up to a
//! time, with the reason it is there for. Nothing here decides who is put on the list.
//!
//! Read first: [`Suppression`], then `table.rs`.

mod address;
mod config;
mod list;
mod record;
mod table;

#[cfg(test)]
mod tests;

pub use address::{Subject, SubjectError};
pub use config::{AtRcpt, SuppressionConfig};
pub use list::{Stats, Suppression};
pub use record::{Entry, Reason};

/// Whatever the octets, what is read of them as a record of the file is within them and reads back the same.
#[doc(hidden)]
pub fn decode_arbitrary(octets: &[u8]) {
    record::decode_arbitrary(octets);
}
