//! The forms of others, for programs that were written for them: thin adapters that read a request into what
//! `POST /v1/messages` takes, and answer as the other would.

pub(super) mod kumomta;
pub(super) mod kumomta_admin;
pub(super) mod powermta;
pub(super) mod sendgrid;
