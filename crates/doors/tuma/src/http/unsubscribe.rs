//! The link to unsubscribe with one click (RFC 8058): a signed token says who, and only POST does it, since programs
//! that look at mail follow every link in it.

use super::Shared;
use super::refusal::Refusal;
use crate::server::Server;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use bounce::{Purpose, Reference};
use mail::UnixMillis;
use std::time::SystemTime;
use suppression::{Entry, Reason, Subject};

/// Octets of the body at most: it says `List-Unsubscribe=One-Click`, in either form.
const BODY_MAX: usize = 4 * 1024;

fn read(server: &Server, token: &str) -> Result<Reference, Refusal> {
    let settings = server.delivery.settings();
    let read = settings.returns.secrets().verify(Purpose::Unsubscribe, token);
    read.ok_or_else(|| Refusal::missing("this link is not one of ours, or not whole"))
}

/// A page with a button, for people. It changes nothing by itself.
pub(super) async fn show(State(server): Shared, Path(token): Path<String>) -> Result<Response, Refusal> {
    let reference = read(&server, &token)?;
    let who = escaped(reference.recipient.as_str());
    // The token was verified, so it is letters, digits, `-` and `_`.
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"robots\" content=\"noindex\"><title>Unsubscribe</title>\
         <p>{who} will get no more of this mail.</p>\
         <form method=\"post\"><button name=\"List-Unsubscribe\" value=\"One-Click\">Unsubscribe</button></form>"
    );
    let fields = [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; form-action 'self'; frame-ancestors 'none'"),
    ];
    Ok((fields, Html(page)).into_response())
}

/// Does it. The link asks for no key: who has it was written to.
pub(super) async fn unsubscribe(
    State(server): Shared,
    Path(token): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let reference = read(&server, &token)?;
    let said = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
    if body.len() > BODY_MAX || !said("List-Unsubscribe") || !said("One-Click") {
        return Err(Refusal::bad("the body must say List-Unsubscribe=One-Click (RFC 8058)"));
    }
    let entry = Entry {
        tenant: reference.tenant,
        subject: Subject::of(&reference.recipient),
        reason: Reason::Unsubscribe,
        note: format!("one click, message {}", reference.id).into(),
        since: UnixMillis::from(SystemTime::now()),
        until: None,
    };
    match server.suppression.add(vec![entry]).await {
        Ok(_) => Ok("unsubscribed\n".into_response()),
        Err(error) => {
            tracing::error!(%error, "somebody could not be unsubscribed");
            Err(Refusal::of_reply(&mail::Reply::new(
                451,
                (4, 3, 0),
                "this cannot be stored now, try again later",
            )))
        }
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
