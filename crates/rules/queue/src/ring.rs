//! Rings: doubly linked lists of small numbers, whose links stand in a table beside what they name. Whose turn it
//! is stands at the head; who had it goes to the tail.

/// No member.
pub(crate) const NONE: u32 = u32::MAX;

/// The links of one member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    next: u32,
    prev: u32,
    linked: bool,
}

impl Default for Link {
    fn default() -> Self {
        Self { next: NONE, prev: NONE, linked: false }
    }
}

/// What has links.
pub(crate) trait Linked {
    fn link(&mut self) -> &mut Link;
}

/// A ring. A member is in one ring at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    head: u32,
    tail: u32,
}

impl Default for Ring {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl Ring {
    pub(crate) fn head(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// True if it has one member.
    pub(crate) fn is_single(&self) -> bool {
        self.head != NONE && self.head == self.tail
    }

    /// Adds a member at the tail; nothing happens if it is in a ring already.
    pub(crate) fn push(&mut self, members: &mut [impl Linked], at: u32) {
        let tail = self.tail;
        let link = members[at as usize].link();
        if link.linked {
            return;
        }
        *link = Link { next: NONE, prev: tail, linked: true };
        match tail {
            NONE => self.head = at,
            tail => members[tail as usize].link().next = at,
        }
        self.tail = at;
    }

    /// Takes a member out; nothing happens if it is in none.
    pub(crate) fn unlink(&mut self, members: &mut [impl Linked], at: u32) {
        let link = members[at as usize].link();
        if !link.linked {
            return;
        }
        let Link { next, prev, .. } = *link;
        *link = Link::default();
        match prev {
            NONE => self.head = next,
            prev => members[prev as usize].link().next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => members[next as usize].link().prev = prev,
        }
    }

    /// The head goes to the tail.
    pub(crate) fn turn(&mut self, members: &mut [impl Linked]) {
        if self.head != self.tail
            && let Some(head) = self.head()
        {
            self.unlink(members, head);
            self.push(members, head);
        }
    }
}
