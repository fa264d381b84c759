//! Mail merges: the message of one recipient, made of what the spool keeps once for many.
//!
//! A sheet that was read is kept for the next recipients, who stand near in the queue: those of one sheet were sorted
//! by domain when they came. Its templates are shared by all sheets of the same mailing.

use crate::job::Hot;
use crate::shared::{Settings, Shared};
use compose::{Sheet, Stamp};
use mail::Message;
use message::ReceivedField;
use spool::{Content, Handle};
use std::sync::{Arc, Mutex, PoisonError};

/// Sheets kept at most.
const SHEETS_MAX: usize = 64;
/// Octets of them at most, more or less.
const SHEETS_MAX_OCTETS: usize = 64 * 1024 * 1024;

/// One sheet with its envelope.
#[derive(Clone)]
pub(crate) struct Kept {
    handle: Handle,
    pub(crate) message: Arc<Message>,
    sheet: Arc<Sheet>,
    weight: usize,
}

/// Sheets read lately, the last used last.
#[derive(Default)]
pub(crate) struct Sheets(Mutex<Vec<Kept>>);

impl Sheets {
    /// The sheet of a message, if it was read lately.
    pub(crate) fn find(&self, handle: Handle) -> Option<Kept> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = list.iter().position(|kept| kept.handle == handle)?;
        let kept = list.remove(at);
        list.push(kept.clone());
        Some(kept)
    }

    fn keep(&self, kept: Kept) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Two connections may have read the same.
        list.retain(|other| other.handle != kept.handle);
        list.push(kept);
        let mut weight: usize = list.iter().map(|kept| kept.weight).sum();
        while list.len() > SHEETS_MAX || (weight > SHEETS_MAX_OCTETS && list.len() > 1) {
            weight -= list.remove(0).weight;
        }
    }

    /// A sheet whose templates a new one of the same mailing may use.
    fn last(&self) -> Option<Arc<Sheet>> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.last().map(|kept| kept.sheet.clone())
    }
}

/// Puts the message of the recipient at `index` in the place of its merge; what is none stays as it is. `known` is
/// its sheet, if that was found before: then the content of `hot` is not looked at. An error
/// says in one line why there is no such message, and that will not change.
pub(crate) fn expand(
    shared: &Shared,
    settings: &Settings,
    handle: Handle,
    known: Option<Kept>,
    hot: Hot,
    index: u32,
) -> Result<Hot, (Hot, String)> {
    let Some(merge) = hot.message.merge() else { return Ok(hot) };
    let (sheet, message) = match known.or_else(|| shared.sheets.find(handle)) {
        Some(kept) => (kept.sheet, kept.message),
        None => {
            let octets = match hot.content.prefix.is_empty() {
                true => hot.content.body.clone(),
                false => hot.content.to_vec().into(),
            };
            let sheet = match Sheet::decode_like(&octets, shared.sheets.last().as_deref()) {
                Ok(sheet) => Arc::new(sheet),
                Err(error) => return Err((hot, error.to_string())),
            };
            let message = hot.message.clone();
            let weight = sheet.weight() + message.envelope.recipients.len() * 200;
            shared.sheets.keep(Kept { handle, message: message.clone(), sheet: sheet.clone(), weight });
            (sheet, message)
        }
    };
    let Some(recipient) = message.envelope.recipients.get(index as usize) else {
        return Err((hot, "the message has no such recipient".into()));
    };
    let stamp = Stamp { id: message.id, index: merge.place(index), at: message.received_at };
    let by = Shared::host(settings);
    match sheet.expand(&recipient.path.0, &by, stamp) {
        Ok(body) => {
            let mut prefix = Vec::with_capacity(320);
            let field = ReceivedField {
                origin: &message.origin,
                smtputf8: message.envelope.smtputf8,
                id: message.id,
                by: &by,
                for_recipient: Some(&recipient.path),
                at: message.received_at,
            };
            field.write(&mut prefix);
            // Each recipient's message is another, and signed anew.
            let content = Content { prefix: prefix.into(), body: body.into() };
            Ok(Hot { message, content, signatures: None })
        }
        Err(why) => Err((hot, format!("the template cannot be filled in: {why}"))),
    }
}
