//! `message`: a whole message in the hands of a script.

use crate::session::strict;
use mail::{Mailbox, Priority, Recipient, ReversePath, Tags};
use mlua::{Error, LuaString, Result, UserData, UserDataFields, UserDataMethods};
use policy::{EditError, MailObject};

/// Recipients that a script may add up to; the session's own limit is asked afterwards.
const RECIPIENTS_MAX: usize = 100_000;

/// A whole message.
pub(crate) struct MessageData(pub(crate) MailObject);

fn edit(error: EditError) -> Error {
    Error::runtime(error)
}

fn mailbox(text: &str) -> Result<Mailbox> {
    Mailbox::parse(text).map_err(|_| Error::runtime(format!("`{}` is no mailbox", text.escape_debug())))
}

impl MessageData {
    fn add_recipient(&mut self, text: &str) -> Result<()> {
        let recipients = &mut self.0.envelope.recipients;
        if recipients.len() >= RECIPIENTS_MAX {
            return Err(Error::runtime("too many recipients"));
        }
        recipients.push(Recipient::new(mailbox(text)?));
        Ok(())
    }

    fn remove_recipient(&mut self, text: &str) -> bool {
        let recipients = &mut self.0.envelope.recipients;
        let before = recipients.len();
        recipients.retain(|recipient| !same(&recipient.path.0, text));
        before > recipients.len()
    }
}

/// Two spellings of one mailbox: the domain without regard to case, the local part as it is.
fn same(mailbox: &Mailbox, text: &str) -> bool {
    match Mailbox::parse(text) {
        Ok(other) => other.local_part() == mailbox.local_part() && other.host() == mailbox.host(),
        Err(_) => false,
    }
}

/// One of the tags that are texts.
type Tag = fn(&mut Tags) -> &mut Option<Box<str>>;

const TAGS: [(&str, Tag); 5] = [
    ("tenant", |tags| &mut tags.tenant),
    ("campaign", |tags| &mut tags.campaign),
    ("job", |tags| &mut tags.job),
    ("envid", |tags| &mut tags.envid),
    ("pool", |tags| &mut tags.pool),
];

impl UserData for MessageData {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("sender", |lua, this| {
            lua.create_string(this.0.envelope.reverse_path.as_str())
        });
        fields.add_field_method_set("sender", |_, this, text: LuaString| {
            let text = text.to_string_lossy();
            this.0.envelope.reverse_path = match text.as_str() {
                "" => ReversePath::Null,
                text => ReversePath::Mailbox(mailbox(text)?),
            };
            Ok(())
        });
        fields.add_field_method_get("recipients", |lua, this| {
            lua.create_sequence_from(
                this.0.envelope.recipients.iter().map(|recipient| recipient.path.as_str()),
            )
        });
        fields.add_field_method_get("size", |_, this| Ok(this.0.content().len()));
        fields.add_field_function_get("body", |lua, this| {
            let body = this.borrow_mut::<Self>()?.0.body();
            lua.create_string(&body)
        });
        fields.add_field_method_set("body", |_, this, text: LuaString| {
            this.0.set_body(&text.as_bytes());
            Ok(())
        });
        fields.add_field_method_get("content", |lua, this| lua.create_string(this.0.content()));
        for (name, tag) in TAGS {
            fields.add_field_method_get(name, move |_, this| {
                Ok(tag(&mut this.0.tags.clone()).as_deref().map(str::to_owned))
            });
            fields.add_field_method_set(name, move |_, this, text: Option<LuaString>| {
                let text = text.map(|text| text.to_string_lossy());
                let text = text.as_deref().map(mail::tag).transpose().map_err(Error::runtime)?;
                *tag(&mut this.0.tags) = text;
                Ok(())
            });
        }
        fields.add_field_method_get("priority", |lua, this| lua.create_string(this.0.tags.priority.as_str()));
        fields.add_field_method_set("priority", |_, this, text: LuaString| {
            this.0.tags.priority = text
                .to_string_lossy()
                .parse::<Priority>()
                .map_err(|()| Error::runtime("a priority is high, normal, low or bulk"))?;
            Ok(())
        });
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods
            .add_method_mut("header", |_, this, name: LuaString| Ok(this.0.first(&name.to_string_lossy())));
        methods.add_method_mut("headers", |_, this, name: LuaString| Ok(this.0.all(&name.to_string_lossy())));
        methods.add_method_mut("fields", |lua, this, ()| {
            let list = lua.create_table()?;
            for (name, value) in this.0.fields() {
                let field = lua.create_table_with_capacity(0, 2)?;
                field.raw_set("name", lua.create_string(name)?)?;
                field.raw_set("value", lua.create_string(value)?)?;
                list.raw_push(field)?;
            }
            Ok(list)
        });
        methods.add_method_mut("add_header", |_, this, (name, value): (LuaString, LuaString)| {
            this.0.add_field(&name.to_string_lossy(), &value.as_bytes()).map_err(edit)
        });
        methods.add_method_mut("prepend_header", |_, this, (name, value): (LuaString, LuaString)| {
            this.0.insert_field(0, &name.to_string_lossy(), &value.as_bytes()).map_err(edit)
        });
        methods.add_method_mut("set_header", |_, this, (name, value): (LuaString, LuaString)| {
            this.0.set_field(&name.to_string_lossy(), &value.as_bytes()).map_err(edit)
        });
        methods.add_method_mut("remove_header", |_, this, name: LuaString| {
            Ok(this.0.remove_fields(&name.to_string_lossy()))
        });
        methods.add_method_mut("add_recipient", |_, this, text: LuaString| {
            this.add_recipient(&text.to_string_lossy())
        });
        methods.add_method_mut("remove_recipient", |_, this, text: LuaString| {
            Ok(this.remove_recipient(&text.to_string_lossy()))
        });
        methods.add_method_mut("set_recipients", |_, this, list: Vec<LuaString>| {
            // The DSN parameters of those who stay are kept.
            let before = std::mem::take(&mut this.0.envelope.recipients);
            for text in list {
                let text = text.to_string_lossy();
                match before.iter().find(|recipient| same(&recipient.path.0, &text)) {
                    Some(kept) => this.0.envelope.recipients.push(kept.clone()),
                    None => this.add_recipient(&text)?,
                }
            }
            Ok(())
        });
        methods.add_method("is_for", |_, this, text: LuaString| {
            let text = text.to_string_lossy();
            Ok(this.0.envelope.recipients.iter().any(|recipient| same(&recipient.path.0, &text)))
        });
        methods.add_meta_method(mlua::MetaMethod::ToString, |_, _, ()| Ok("message"));
        strict(methods, "message");
    }
}
