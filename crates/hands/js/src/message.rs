//! `message`: a whole message in the hands of a script. It stays here; the script holds the number of its session.

use crate::host::{Host, lock, throw};
use mail::{Mailbox, Priority, Recipient, ReversePath, Tags};
use policy::MailObject;
use rquickjs::{Coerced, Ctx, Function, Object, Result, TypedArray, Value};
use std::sync::Arc;

/// Recipients that a script may add up to; the session's own limit is asked afterwards.
const RECIPIENTS_MAX: usize = 100_000;

/// Runs `work` on the message of a session.
fn with<R>(
    ctx: &Ctx<'_>,
    host: &Host,
    session: u64,
    work: impl FnOnce(&mut MailObject) -> std::result::Result<R, String>,
) -> Result<R> {
    let mut messages = lock(&host.messages);
    let Some(message) = messages.get_mut(&session) else {
        return Err(throw(ctx, "the message is not in the hands of the script any more"));
    };
    work(message).map_err(|why| throw(ctx, &why))
}

fn mailbox(text: &str) -> std::result::Result<Mailbox, String> {
    Mailbox::parse(text).map_err(|_| format!("`{}` is no mailbox", text.escape_debug()))
}

fn add_recipient(message: &mut MailObject, text: &str) -> std::result::Result<(), String> {
    let recipients = &mut message.envelope.recipients;
    if recipients.len() >= RECIPIENTS_MAX {
        return Err("too many recipients".into());
    }
    recipients.push(Recipient::new(mailbox(text)?));
    Ok(())
}

/// Two spellings of one mailbox: the domain without regard to case, the local part as it is.
fn same(mailbox: &Mailbox, text: &str) -> bool {
    match Mailbox::parse(text) {
        Ok(other) => other.local_part() == mailbox.local_part() && other.host() == mailbox.host(),
        Err(_) => false,
    }
}

/// One of the tags that are texts.
fn tag<'a>(tags: &'a mut Tags, name: &str) -> Option<&'a mut Option<Box<str>>> {
    Some(match name {
        "tenant" => &mut tags.tenant,
        "campaign" => &mut tags.campaign,
        "job" => &mut tags.job,
        "envid" => &mut tags.envid,
        "pool" => &mut tags.pool,
        _ => return None,
    })
}

/// What a script hands over as octets: a text in UTF-8, or a typed array.
fn octets(ctx: &Ctx<'_>, value: &Value<'_>) -> Result<Vec<u8>> {
    // The engine lends octets only as memory that may go away under us, so they come one by one.
    if let Some(list) = value.as_array() {
        return list.iter::<u8>().collect();
    }
    match value.as_string() {
        Some(text) => Ok(text.to_string()?.into_bytes()),
        None => Err(throw(ctx, "a text or octets are wanted here")),
    }
}

/// A field of the message as the script sees it; nothing for an absent one.
fn field(message: &mut MailObject, name: &str) -> std::result::Result<Option<String>, String> {
    Ok(match name {
        "sender" => Some(message.envelope.reverse_path.as_str().to_owned()),
        "verified" => message.verified.as_deref().map(str::to_owned),
        "size" => Some(message.content().len().to_string()),
        "body" => Some(String::from_utf8_lossy(&message.body()).into_owned()),
        "content" => Some(String::from_utf8_lossy(&message.content()).into_owned()),
        "priority" => Some(message.tags.priority.as_str().to_owned()),
        name => match tag(&mut message.tags, name) {
            Some(text) => text.as_deref().map(str::to_owned),
            None => return Err(format!("message has no field `{name}`")),
        },
    })
}

fn set_field(message: &mut MailObject, name: &str, text: Option<&str>) -> std::result::Result<(), String> {
    match (name, text) {
        ("sender", Some("")) => message.envelope.reverse_path = ReversePath::Null,
        ("sender", Some(text)) => message.envelope.reverse_path = ReversePath::Mailbox(mailbox(text)?),
        ("priority", Some(text)) => {
            let priority = text.parse::<Priority>();
            message.tags.priority = priority.map_err(|()| "a priority is high, normal, low or bulk")?;
        }
        (name, text) => {
            let slot = tag(&mut message.tags, name);
            let slot = slot.ok_or_else(|| format!("message has no field `{name}` that can be set so"))?;
            *slot = text.map(mail::tag).transpose().map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Adds what concerns messages to `__host`.
pub(crate) fn install<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> Result<()> {
    let own = host.clone();
    let get = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64, name: String| {
        with(&ctx, &own, session, |message| field(message, &name))
    })?;
    table.set("message_get", get)?;
    let own = host.clone();
    let set =
        Function::new(ctx.clone(), move |ctx: Ctx<'js>, session: u64, name: String, value: Value<'js>| {
            if name == "body" {
                let body = octets(&ctx, &value)?;
                return with(&ctx, &own, session, |message| {
                    message.set_body(&body);
                    Ok(())
                });
            }
            let text = match value.is_undefined() || value.is_null() {
                true => None,
                false => Some(value.get::<Coerced<String>>()?.0),
            };
            with(&ctx, &own, session, |message| set_field(message, &name, text.as_deref()))
        })?;
    table.set("message_set", set)?;
    let own = host.clone();
    let raw = Function::new(ctx.clone(), move |ctx: Ctx<'js>, session: u64, body: bool| {
        let octets =
            with(&ctx, &own, session, |message| Ok(if body { message.body() } else { message.content() }))?;
        TypedArray::<u8>::new_copy(ctx, &octets[..])
    })?;
    table.set("message_octets", raw)?;
    headers(ctx, host, table)?;
    recipients(ctx, host, table)
}

fn headers<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> Result<()> {
    let own = host.clone();
    let all = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64, name: String| {
        with(&ctx, &own, session, |message| Ok(message.all(&name)))
    })?;
    table.set("message_headers", all)?;
    let own = host.clone();
    let first = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64, name: String| {
        with(&ctx, &own, session, |message| Ok(message.first(&name)))
    })?;
    table.set("message_header", first)?;
    let own = host.clone();
    let fields = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64| {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        with(&ctx, &own, session, |message| {
            Ok(message.fields().map(|(name, value)| vec![text(name), text(value)]).collect::<Vec<_>>())
        })
    })?;
    table.set("message_fields", fields)?;
    let own = host.clone();
    let edit = Function::new(
        ctx.clone(),
        move |ctx: Ctx<'js>, session: u64, how: String, name: String, value: Value<'js>| {
            let value = if how == "remove" { Vec::new() } else { octets(&ctx, &value)? };
            with(&ctx, &own, session, |message| {
                let done = match how.as_str() {
                    "add" => message.add_field(&name, &value),
                    "prepend" => message.insert_field(0, &name, &value),
                    "set" => message.set_field(&name, &value),
                    _ => return Ok(message.remove_fields(&name)),
                };
                done.map(|()| 0).map_err(|error| error.to_string())
            })
        },
    )?;
    table.set("message_edit", edit)
}

fn recipients<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> Result<()> {
    let own = host.clone();
    let list = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64| {
        with(&ctx, &own, session, |message| {
            let paths =
                message.envelope.recipients.iter().map(|recipient| recipient.path.as_str().to_owned());
            Ok(paths.collect::<Vec<_>>())
        })
    })?;
    table.set("message_recipients", list)?;
    let own = host.clone();
    let add = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64, text: String| {
        with(&ctx, &own, session, |message| add_recipient(message, &text))
    })?;
    table.set("message_add_recipient", add)?;
    let own = host.clone();
    let remove = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64, text: String| {
        with(&ctx, &own, session, |message| {
            let recipients = &mut message.envelope.recipients;
            let before = recipients.len();
            recipients.retain(|recipient| !same(&recipient.path.0, &text));
            Ok(before > recipients.len())
        })
    })?;
    table.set("message_remove_recipient", remove)?;
    let own = host.clone();
    let is_for = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64, text: String| {
        with(&ctx, &own, session, |message| {
            Ok(message.envelope.recipients.iter().any(|recipient| same(&recipient.path.0, &text)))
        })
    })?;
    table.set("message_is_for", is_for)?;
    let own = host.clone();
    let set = Function::new(ctx.clone(), move |ctx: Ctx<'_>, session: u64, texts: Vec<String>| {
        with(&ctx, &own, session, |message| {
            // The DSN parameters of those who stay are kept; a mistake leaves the list as it was.
            let before = message.envelope.recipients.clone();
            message.envelope.recipients.clear();
            for text in texts {
                match before.iter().find(|recipient| same(&recipient.path.0, &text)) {
                    Some(kept) => message.envelope.recipients.push(kept.clone()),
                    None => {
                        if let Err(why) = add_recipient(message, &text) {
                            message.envelope.recipients = before;
                            return Err(why);
                        }
                    }
                }
            }
            Ok(())
        })
    })?;
    table.set("message_set_recipients", set)
}
