//! Names that many queues share (tenants, campaigns), each kept once and named by a number.

use std::collections::HashMap;
use std::sync::Arc;

struct Kept {
    text: Arc<str>,
    holders: u32,
}

/// The store. Number 0 is no name.
#[derive(Default)]
pub(crate) struct Names {
    kept: Vec<Option<Kept>>,
    free: Vec<u32>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Names {
    /// The number of a name that is held.
    pub(crate) fn find(&self, text: Option<&str>) -> Option<u32> {
        match text {
            None => Some(0),
            Some(text) => self.numbers.get(text).copied(),
        }
    }

    /// The number of a name, held until [`Names::release`].
    pub(crate) fn hold(&mut self, text: Option<&str>) -> u32 {
        let Some(text) = text else { return 0 };
        if let Some(&number) = self.numbers.get(text) {
            if let Some(kept) = &mut self.kept[number as usize - 1] {
                kept.holders += 1;
            }
            return number;
        }
        let text: Arc<str> = text.into();
        let new = Some(Kept { text: text.clone(), holders: 1 });
        let number = match self.free.pop() {
            Some(number) => {
                self.kept[number as usize - 1] = new;
                number
            }
            None => {
                self.kept.push(new);
                self.kept.len() as u32
            }
        };
        self.numbers.insert(text, number);
        number
    }

    pub(crate) fn release(&mut self, number: u32) {
        let Some(place) = (number as usize).checked_sub(1).and_then(|at| self.kept.get_mut(at)) else {
            return;
        };
        let Some(kept) = place else { return };
        kept.holders -= 1;
        if kept.holders == 0
            && let Some(gone) = place.take()
        {
            self.numbers.remove(&gone.text);
            self.free.push(number);
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Arc<str>> {
        self.kept.get((number as usize).checked_sub(1)?)?.as_ref().map(|kept| &kept.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lives_as_long_as_somebody_holds_it_and_its_number_is_used_again() {
        let mut names = Names::default();
        assert_eq!((names.hold(None), names.find(None)), (0, Some(0)));
        let a = names.hold(Some("a"));
        assert_eq!(names.hold(Some("a")), a);
        let b = names.hold(Some("b"));
        assert_ne!(a, b);
        names.release(a);
        assert_eq!(names.get(a).map(|text| &**text), Some("a"));
        names.release(a);
        assert_eq!((names.get(a), names.find(Some("a"))), (None, None));
        assert_eq!(names.hold(Some("c")), a);
        names.release(0);
    }
}
