//! SPF, DKIM, DMARC, ARC: verdicts and signatures.
//!
//! Rules only: it asks for DNS answers and is given them, never fetches them; time is an argument.

pub mod dkim;
pub mod dmarc;
pub mod dns;
mod psl;
pub mod spf;
