//! Who may do what by HTTP, and what they have stored: API keys, tenants, templates, and the log of every change, in
//! one SQLite file that only this server's user can read.
//!
//! A key is a long random text that is shown once. What is kept of it is its HMAC under a secret that stands in a
//! file of its own, so that the database alone opens nothing; and since the text is random to its last bit, no slow
//! hash is needed to keep it from being guessed. Checking a key touches memory only.
//!
//! Calls that write wait for the disk: the caller makes them from a thread that may.
//!
//! Read first: [`Store`], then [`Key`].

mod key;
mod store;
mod tenant;
mod token;

pub use key::{Key, NewKey, Role};
pub use store::{AuditEntry, Store, StoreError, TEMPLATES_MAX, Template};
pub use tenant::{Counted, Quota, Removed, Tenant};
pub use token::{Secret, Token};
