//! What mail that is not there yet would be filed under, as far as its envelope tells.

use super::refusal::{Refusal, hint};
use crate::root::Root;
use delivery::Delivery;
use mail::{Envelope, Mailbox, Message, Origin, Recipient, ReversePath, SpoolId, Tags, UnixMillis};
use reception::ListenerConfig;
use routing::{Assign, Facts, Gathered};

/// The tags of a message without header fields that an unknown client sends by a listener: what is given, then what
/// `[[assign]]` rules and the listener say, as reception asks them.
pub(super) fn tags(
    root: &Root,
    listener: Option<&str>,
    sender: Option<&str>,
    recipient: &Mailbox,
    given: Tags,
) -> Result<Tags, Refusal> {
    let (name, listener) = listener_called(root, listener)?;
    let bad = |error: &dyn std::fmt::Display| Refusal::bad(format!("`sender`: {error}"));
    let reverse_path = match sender {
        None | Some("" | "<>") => ReversePath::Null,
        Some(text) => ReversePath::Mailbox(Mailbox::parse(text).map_err(|error| bad(&error))?),
    };
    let envelope = Envelope::new(reverse_path, vec![Recipient::new(recipient.clone())]);
    let mut gathered = Gathered {
        tenant: given.tenant,
        campaign: given.campaign,
        job: given.job,
        pool: given.pool,
        ..Gathered::default()
    };
    gathered.fill(listener.and_then(|listener| listener.tenant.as_deref()), None);
    let facts = Facts {
        listener: name,
        user: None,
        peer: None,
        hello: "",
        envelope: &envelope,
        verdicts: None,
        field: &|_| None,
    };
    Assign::compile(&root.assign).apply(&facts, &mut gathered);
    gathered.fill(None, listener.and_then(|listener| listener.pool.as_deref()));
    Ok(gathered.finish())
}

/// Who would sign mail of a sender who is its author too, by the first of its sources.
pub(super) fn signatures(
    delivery: &Delivery,
    sender: Option<&str>,
    tags: Tags,
    (source, pool): (&str, &str),
) -> Vec<String> {
    let author = sender.and_then(|text| Mailbox::parse(text).ok());
    let content =
        author.as_ref().map(|author| format!("From: <{}>\r\n\r\n", author.as_str())).unwrap_or_default();
    let reverse_path = author.map_or(ReversePath::Null, ReversePath::Mailbox);
    let message = Message {
        id: SpoolId(0),
        received_at: UnixMillis(0),
        size: content.len() as u64,
        envelope: Envelope::new(reverse_path, Vec::new()),
        origin: Origin::default(),
        tags,
        headers: Vec::new(),
        extras: None,
    };
    delivery.signatures(&message, content.as_bytes(), source, pool)
}

/// The listener of a name; without one, the only one there is.
fn listener_called<'a>(
    root: &'a Root,
    name: Option<&'a str>,
) -> Result<(&'a str, Option<&'a ListenerConfig>), Refusal> {
    match name {
        Some(name) => match root.listener.get(name) {
            Some(listener) => Ok((name, Some(listener))),
            None => {
                let hint = hint(name, root.listener.keys().map(String::as_str));
                Err(Refusal::missing(format!("there is no listener `{name}`{hint}")))
            }
        },
        None if root.listener.len() == 1 => {
            let only = root.listener.iter().next();
            Ok(only.map_or(("", None), |(name, listener)| (name.as_str(), Some(listener))))
        }
        None => Ok(("", None)),
    }
}
