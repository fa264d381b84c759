//! What is known of a session.

use mail::Origin;

/// What is known of a session when a policy is asked: who the client is, and what the server thinks of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The client, its address, name, user, TLS and the listener.
    pub origin: Origin,
    /// This server's name.
    pub hostname: Box<str>,
    /// The client may send to any domain, by its address or as a user.
    pub trusted: bool,
}
