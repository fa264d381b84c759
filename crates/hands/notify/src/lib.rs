//! Telling people what a rule asks to tell: many notices of one subject folded into one, and each posted to a
//! webhook.
//!
//! [`Book`] is a pure machine: it says which notices go out now, which are kept back and counted, and when to ask
//! again. [`Webhook`] is a task with a bounded queue in front of it, so that whoever tells never waits. Mail about
//! notices is written by `delivery`, which has the spool.
//!
//! Nothing here decides what is worth telling, and no answer of a webhook changes anything: a redirect is a failure,
//! a body is not read.
//!
//! Read first: [`Book::told`], then `webhook.rs`.

mod book;
mod config;
mod url;
mod webhook;

pub use book::{Book, Notice};
pub use config::Config;
pub use url::{WebhookUrl, WebhookUrlError};
pub use webhook::{Failure, Tally, Target, Webhook, post};
