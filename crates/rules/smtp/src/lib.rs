//! The wire grammar of SMTP and the two session machines, server and client.

pub mod client;
