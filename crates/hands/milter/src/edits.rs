//! The changes a filter makes at the end of a message: gathered, and made all at once or not at all.

use crate::wire::{WireError, actions, number, split};
use mail::{Mailbox, Recipient, ReversePath};
use policy::MailObject;

/// One change.
#[derive(Debug, PartialEq, Eq)]
enum Edit {
    AddField(Vec<u8>, Vec<u8>),
    InsertField(usize, Vec<u8>, Vec<u8>),
    ChangeField(usize, Vec<u8>, Vec<u8>),
    AddRecipient(Mailbox),
    DeleteRecipient(Mailbox),
    ChangeFrom(ReversePath),
}

/// What a filter wants changed.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    list: Vec<Edit>,
    /// The new body, in the pieces in which it comes.
    body: Option<Vec<u8>>,
    pub(crate) quarantine: Option<String>,
    octets: usize,
}

/// Changes of one message at most, and octets of them beside the body.
const EDITS_MAX: usize = 10_000;
const EDITS_OCTETS_MAX: usize = 8 << 20;

/// A path as filters write it, with or without its brackets.
fn path(text: &[u8]) -> Result<&str, WireError> {
    let text = std::str::from_utf8(text).map_err(|_| WireError::Broken("an address that is no text"))?;
    let text = text.trim();
    Ok(text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text))
}

fn mailbox(text: &[u8]) -> Result<Mailbox, WireError> {
    Mailbox::parse(path(text)?).map_err(|_| WireError::Broken("an address that is none"))
}

fn pair(data: &[u8]) -> Result<(Vec<u8>, Vec<u8>), WireError> {
    match split(data)?[..] {
        [name, value] => Ok((name.into(), value.into())),
        _ => Err(WireError::Broken("a header field without name and value")),
    }
}

impl Edits {
    /// Takes a change, if the packet is one; false if it is another packet. `allowed` is what was negotiated.
    pub(crate) fn take(
        &mut self,
        command: u8,
        data: &[u8],
        allowed: u32,
        body_max: u64,
    ) -> Result<bool, WireError> {
        let needs = match command {
            b'h' | b'i' => actions::ADD_HEADERS | actions::CHANGE_HEADERS,
            b'm' => actions::CHANGE_HEADERS,
            b'b' => actions::CHANGE_BODY,
            b'+' => actions::ADD_RCPT,
            b'2' => actions::ADD_RCPT_PAR,
            b'-' => actions::DELETE_RCPT,
            b'e' => actions::CHANGE_FROM,
            b'q' => actions::QUARANTINE,
            _ => return Ok(false),
        };
        if allowed & needs == 0 {
            return Err(WireError::Broken("a change that was not negotiated"));
        }
        if command == b'b' {
            let body = self.body.get_or_insert_default();
            if body.len() as u64 + data.len() as u64 > body_max {
                return Err(WireError::Broken("a body of more than `body_max`"));
            }
            body.extend_from_slice(data);
            return Ok(true);
        }
        self.octets += data.len();
        if self.list.len() >= EDITS_MAX || self.octets > EDITS_OCTETS_MAX {
            return Err(WireError::Broken("too many changes"));
        }
        let edit = match command {
            b'h' => {
                let (name, value) = pair(data)?;
                Edit::AddField(name, value)
            }
            b'i' | b'm' => {
                let (at, rest) = number(data)?;
                let (name, value) = pair(rest)?;
                match command {
                    b'i' => Edit::InsertField(at as usize, name, value),
                    _ => Edit::ChangeField(at as usize, name, value),
                }
            }
            b'-' => Edit::DeleteRecipient(mailbox(split(data)?.first().copied().unwrap_or_default())?),
            b'e' => {
                let parts = split(data)?;
                let from = parts.first().copied().unwrap_or_default();
                Edit::ChangeFrom(match path(from)? {
                    "" => ReversePath::Null,
                    _ => ReversePath::Mailbox(mailbox(from)?),
                })
            }
            b'q' => {
                let text = split(data)?.first().map(|text| String::from_utf8_lossy(text).into_owned());
                self.quarantine = Some(policy::text(&text.unwrap_or_default()).replace('\n', " "));
                return Ok(true);
            }
            _ => Edit::AddRecipient(mailbox(split(data)?.first().copied().unwrap_or_default())?),
        };
        self.list.push(edit);
        Ok(true)
    }

    /// Makes every change. What comes back is whole; `object` is the caller's own copy.
    pub(crate) fn apply(self, mut object: MailObject) -> Result<MailObject, WireError> {
        let broken = |_| WireError::Broken("a header field that cannot be");
        let text = |name: &[u8]| {
            String::from_utf8(name.to_vec()).map_err(|_| WireError::Broken("a name that is no text"))
        };
        for edit in self.list {
            match edit {
                Edit::AddField(name, value) => object.add_field(&text(&name)?, &value).map_err(broken)?,
                Edit::InsertField(at, name, value) => {
                    object.insert_field(at, &text(&name)?, &value).map_err(broken)?;
                }
                Edit::ChangeField(n, name, value) => {
                    object.change_field(n, &text(&name)?, &value).map_err(broken)?;
                }
                Edit::AddRecipient(mailbox) => {
                    let recipients = &mut object.envelope.recipients;
                    if !recipients.iter().any(|recipient| recipient.path.0 == mailbox) {
                        recipients.push(Recipient::new(mailbox));
                    }
                }
                Edit::DeleteRecipient(mailbox) => {
                    let same = |recipient: &Recipient| {
                        let path = &recipient.path.0;
                        path.local_part() == mailbox.local_part() && path.host() == mailbox.host()
                    };
                    object.envelope.recipients.retain(|recipient| !same(recipient));
                }
                Edit::ChangeFrom(path) => object.envelope.reverse_path = path,
            }
        }
        if let Some(body) = self.body {
            object.set_body(&body);
        }
        Ok(object)
    }
}
