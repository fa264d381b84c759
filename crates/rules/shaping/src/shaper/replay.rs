//! Grants that an earlier process gave after its last snapshot: what was granted may have been sent, so it counts as
//! spent, and a window holds even over a process that was killed.

use std::time::{Duration, Instant};

use mail::UnixMillis;

use super::messages::MessageFacts;
use super::permit::Permit;
use super::saved::WINDOW_MIN;
use super::state::WindowKind;
use super::wall::day;
use super::{Due, PathKey, Shaper};
use crate::Charge;

impl Shaper {
    /// True if a restart must know of what this permit was granted for: a window of a minute or more, or a warm-up,
    /// was charged.
    pub fn outlives(&self, permit: Permit) -> bool {
        self.permits.peek(permit).is_some_and(|charged| charged.warm || self.has_long(charged.charges))
    }

    /// The same of a connection that was just granted on a path.
    pub fn connection_outlives(&mut self, key: PathKey) -> bool {
        self.connection_charges(key);
        self.has_long(&self.charges)
    }

    fn has_long(&self, charges: &[Charge]) -> bool {
        charges.iter().any(|charge| self.ledger.period(charge.key) >= WINDOW_MIN)
    }

    /// Counts messages and connections as sent now that an earlier process had granted on a path.
    pub fn replay(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        key: PathKey,
        facts: &MessageFacts<'_>,
        messages: u64,
        connections: u64,
    ) {
        self.message_charges(now, key, facts);
        let mut charges = std::mem::take(&mut self.charges);
        for (charge, due) in charges.iter_mut().zip(&self.dues) {
            let window = match *due {
                Due::Path(n) => self.paths[key].windows.get(n as usize),
                Due::Count(id, n) => self.counts.get(id).and_then(|count| count.windows.get(n as usize)),
            };
            // Octets are those of all messages together, as `facts` has them.
            let octets = window
                .is_some_and(|window| matches!(window.kind, WindowKind::Bytes | WindowKind::BackoffBytes));
            if !octets {
                charge.amount = messages;
            }
        }
        if messages > 0 {
            self.ledger.spend(now, Duration::ZERO, &charges);
        }
        self.charges = charges;
        self.connection_charges(key);
        let mut charges = std::mem::take(&mut self.charges);
        charges.iter_mut().for_each(|charge| charge.amount = connections);
        if connections > 0 {
            self.ledger.spend(now, Duration::ZERO, &charges);
        }
        self.charges = charges;
        if self.paths[key].profile.warmup.is_some() && messages > 0 {
            let today = day(self.wall.read(now, wall));
            let warm = self.paths[key].rare().warm.get_or_insert_default();
            warm.sent_more(today, messages);
        }
    }
}
