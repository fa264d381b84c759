//! What hooks are given besides the message: the session, and what a command says.

use mail::{BodyType, Envelope, Host, Mailbox, Protocol, Recipient, ReversePath};
use mlua::{
    AnyUserData, Error, Lua, MetaMethod, Result, Table, UserData, UserDataFields, UserDataMethods, Value,
};
use policy::Facts;
use std::sync::Arc;

/// A name that is not there is a mistake in the script and not nothing: `rcpt.adress == nil` would be a yes by accident.
pub(crate) fn strict<T: UserData, M: UserDataMethods<T>>(methods: &mut M, what: &'static str) {
    methods.add_meta_method(MetaMethod::Index, move |_, _, key: Value| -> Result<Value> {
        Err(Error::runtime(format!("{what} has no field `{}`", key.to_string()?)))
    });
    methods.add_meta_method(MetaMethod::NewIndex, move |_, _, (key, _): (Value, Value)| -> Result<()> {
        Err(Error::runtime(format!("{what} has no field `{}` that can be set", key.to_string()?)))
    });
}

/// `session`.
pub(crate) struct SessionData(pub(crate) Arc<Facts>);

impl UserData for SessionData {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        let ip = |address: Option<std::net::SocketAddr>| address.map(|address| address.ip().to_string());
        fields.add_field_method_get("id", |_, this| Ok(this.0.origin.session.map(|id| id.to_string())));
        fields.add_field_method_get("peer", move |_, this| Ok(ip(this.0.origin.peer)));
        fields.add_field_method_get("peer_port", |_, this| Ok(this.0.origin.peer.map(|peer| peer.port())));
        fields.add_field_method_get("local_address", move |_, this| Ok(ip(this.0.origin.local)));
        fields
            .add_field_method_get("local_port", |_, this| Ok(this.0.origin.local.map(|local| local.port())));
        fields.add_field_method_get("helo", |lua, this| lua.create_string(&*this.0.origin.helo));
        fields.add_field_method_get("user", |_, this| Ok(this.0.origin.user.as_deref().map(str::to_owned)));
        fields.add_field_method_get("listener", |lua, this| lua.create_string(&*this.0.origin.listener));
        fields.add_field_method_get("hostname", |lua, this| lua.create_string(&*this.0.hostname));
        fields.add_field_method_get("trusted", |_, this| Ok(this.0.trusted));
        fields.add_field_method_get("protocol", |lua, this| {
            lua.create_string(match this.0.origin.protocol {
                Protocol::Smtp => "SMTP",
                Protocol::Esmtp => "ESMTP",
                Protocol::Lmtp => "LMTP",
                Protocol::Http => "HTTP",
                Protocol::Internal => "internal",
            })
        });
        fields.add_field_method_get("tls", |_, this| {
            Ok(this.0.origin.tls.as_ref().map(|tls| tls.protocol.to_string()))
        });
        fields.add_field_method_get("cipher", |_, this| {
            Ok(this.0.origin.tls.as_ref().map(|tls| tls.cipher.to_string()))
        });
        // A table of the script's own, which lives as long as the session.
        fields.add_field_function_get("notes", |lua, this: AnyUserData| {
            match this.user_value::<Value>()? {
                Value::Table(notes) => Ok(notes),
                _ => {
                    let notes = lua.create_table()?;
                    this.set_user_value(notes.clone())?;
                    Ok(notes)
                }
            }
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        strict(methods, "session");
    }
}

/// `mail`: what MAIL says.
pub(crate) struct MailData {
    path: ReversePath,
    size: Option<u64>,
    body: BodyType,
    smtputf8: bool,
    require_tls: bool,
    envid: Option<Box<str>>,
}

impl MailData {
    pub(crate) fn of(envelope: &Envelope, size: Option<u64>) -> Self {
        Self {
            path: envelope.reverse_path.clone(),
            size,
            body: envelope.body,
            smtputf8: envelope.smtputf8,
            require_tls: envelope.require_tls,
            envid: envelope.envid.clone(),
        }
    }
}

fn domain_of(host: &Host) -> String {
    host.to_string()
}

impl UserData for MailData {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("address", |lua, this| lua.create_string(this.path.as_str()));
        fields.add_field_method_get("local_part", |_, this| {
            Ok(this.path.mailbox().map(|mailbox| mailbox.local_part().to_owned()))
        });
        fields.add_field_method_get("domain", |_, this| {
            Ok(this.path.mailbox().map(|mailbox| domain_of(mailbox.host())))
        });
        fields.add_field_method_get("size", |_, this| Ok(this.size));
        fields.add_field_method_get("body", |lua, this| {
            lua.create_string(match this.body {
                BodyType::SevenBit => "7BIT",
                BodyType::EightBitMime => "8BITMIME",
                BodyType::BinaryMime => "BINARYMIME",
            })
        });
        fields.add_field_method_get("smtputf8", |_, this| Ok(this.smtputf8));
        fields.add_field_method_get("require_tls", |_, this| Ok(this.require_tls));
        fields.add_field_method_get("envid", |_, this| Ok(this.envid.as_deref().map(str::to_owned)));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        strict(methods, "mail");
    }
}

/// `rcpt`: what RCPT says.
pub(crate) struct RcptData {
    recipient: Recipient,
    sender: Box<str>,
    count: usize,
}

impl RcptData {
    pub(crate) fn of(envelope: &Envelope, recipient: &Recipient) -> Self {
        Self {
            recipient: recipient.clone(),
            sender: envelope.reverse_path.as_str().into(),
            count: envelope.recipients.len(),
        }
    }

    fn mailbox(&self) -> &Mailbox {
        &self.recipient.path.0
    }
}

impl UserData for RcptData {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("address", |lua, this| lua.create_string(this.mailbox().as_str()));
        fields.add_field_method_get("local_part", |lua, this| lua.create_string(this.mailbox().local_part()));
        fields
            .add_field_method_get("domain", |lua, this| lua.create_string(domain_of(this.mailbox().host())));
        fields
            .add_field_method_get("notify", |lua, this| lua.create_string(this.recipient.notify.to_string()));
        fields
            .add_field_method_get("orcpt", |_, this| Ok(this.recipient.orcpt.as_deref().map(str::to_owned)));
        fields.add_field_method_get("sender", |lua, this| lua.create_string(&*this.sender));
        // Recipients accepted before this one.
        fields.add_field_method_get("accepted", |_, this| Ok(this.count));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        strict(methods, "rcpt");
    }
}

/// `envelope`: the transaction when its content is about to come.
pub(crate) struct EnvelopeData {
    sender: Box<str>,
    recipients: Vec<Box<str>>,
}

impl EnvelopeData {
    pub(crate) fn of(envelope: &Envelope) -> Self {
        Self {
            sender: envelope.reverse_path.as_str().into(),
            recipients: envelope.recipients.iter().map(|recipient| recipient.path.as_str().into()).collect(),
        }
    }
}

impl UserData for EnvelopeData {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("sender", |lua, this| lua.create_string(&*this.sender));
        fields.add_field_method_get("recipients", |lua, this| {
            lua.create_sequence_from(this.recipients.iter().map(|path| &**path))
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        strict(methods, "envelope");
    }
}

/// `hello` and `auth` are small tables of texts.
pub(crate) fn table(lua: &Lua, fields: &[(&str, &str)], extended: Option<bool>) -> Result<Table> {
    let table = lua.create_table_with_capacity(0, fields.len() + 1)?;
    for (name, value) in fields {
        table.raw_set(*name, *value)?;
    }
    if let Some(extended) = extended {
        table.raw_set("extended", extended)?;
    }
    Ok(table)
}
