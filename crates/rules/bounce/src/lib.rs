//! What a failure means: the class of a reply, and reading bounces and complaints that come as mail.
//!
//! [`ClassRules`] gives every failure one [`BounceClass`](mail::BounceClass) by rules over stage, code, enhanced code
//! and text, the operator's before those that come with the server; what no rule knows goes by the enhanced code, and
//! what has none by the code.
//!
//! Rules only: nothing here opens a file or a socket, and nothing here decides what follows from a class.
//!
//! Read first: [`ClassRules::classify`].

mod classify;
mod config;
mod status;

pub use classify::{ClassRules, Classed, Failure};
pub use config::{BounceConfig, ClassRule};
