//! The last replies of deferred recipients, each text kept once: a million recipients of a site that is full
//! share one.

use std::collections::HashMap;
use std::sync::Arc;

/// Different texts kept at most; beyond it a recipient goes without one. The spool has it all the same.
const TEXTS_MAX: usize = 65_536;

struct Text {
    text: Arc<str>,
    holders: u32,
}

/// The store. Name 0 is no reply.
#[derive(Default)]
pub(crate) struct Replies {
    texts: HashMap<u32, Text>,
    names: HashMap<Arc<str>, u32>,
    last: u32,
}

impl Replies {
    /// The name of a text, held until [`Replies::release`].
    pub(crate) fn hold(&mut self, text: &str) -> u32 {
        if let Some(&name) = self.names.get(text) {
            if let Some(kept) = self.texts.get_mut(&name) {
                kept.holders = kept.holders.saturating_add(1);
            }
            return name;
        }
        if self.texts.len() >= TEXTS_MAX {
            return 0;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.texts.contains_key(&self.last) {
                break;
            }
        }
        let text: Arc<str> = text.into();
        self.names.insert(text.clone(), self.last);
        self.texts.insert(self.last, Text { text, holders: 1 });
        self.last
    }

    /// One more holds the text of that name.
    pub(crate) fn share(&mut self, name: u32) {
        if let Some(kept) = self.texts.get_mut(&name) {
            kept.holders = kept.holders.saturating_add(1);
        }
    }

    pub(crate) fn release(&mut self, name: u32) {
        let Some(kept) = self.texts.get_mut(&name) else { return };
        kept.holders -= 1;
        if kept.holders == 0
            && let Some(gone) = self.texts.remove(&name)
        {
            self.names.remove(&gone.text);
        }
    }

    pub(crate) fn get(&self, name: u32) -> Option<Arc<str>> {
        self.texts.get(&name).map(|kept| kept.text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_lives_as_long_as_somebody_holds_it() {
        let mut replies = Replies::default();
        let a = replies.hold("450 full");
        assert_eq!(replies.hold("450 full"), a);
        assert_ne!(replies.hold("451 later"), a);
        replies.release(a);
        assert_eq!(replies.get(a).as_deref(), Some("450 full"));
        replies.release(a);
        assert_eq!((replies.get(a), replies.names.len()), (None, 1));
        replies.release(a);
        replies.release(0);
    }
}
