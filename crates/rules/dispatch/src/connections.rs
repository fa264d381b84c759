//! What the machine is told of connections: ready, draining, closed, lost; and who may have the place of one.

use crate::act::{Action, ConnectionId};
use crate::state::{Dispatch, PathAt, SiteKey};
use mail::UnixMillis;
use queue::Part;
use std::sync::Arc;
use std::time::Instant;

/// Sites that are looked at when another one has closed a connection, in case it is what they wait for.
const SHARING_AT_ONCE: usize = 16;

impl Dispatch {
    /// A connection was greeted and is ready.
    pub fn connected(&mut self, now: Instant, id: ConnectionId) {
        let Some(&at) = self.owners.get(&id) else { return };
        let Some(path) = self.path_mut(at) else { return };
        path.hold = None;
        path.last_failure = None;
        if let Some(line) = path.connections.iter_mut().find(|line| line.id == id) {
            line.ready = true;
        }
        let (key, site) = (path.key, path.site);
        self.target_served(id);
        self.shaper.connected(now, key);
        if let Some(name) = self.site(site).map(|site| site.name.clone()) {
            self.answering.answered(&name);
        }
        self.touch(site);
    }

    /// A connection takes no more jobs; those it was given and has not begun come by [`Dispatch::returned`].
    pub fn draining(&mut self, id: ConnectionId) {
        if let Some(line) = self.connection_mut(id) {
            line.draining = true;
        }
    }

    /// A connection is closed; the last word of it. `connected` is false if it never became ready, and
    /// `reason` then says why.
    pub fn closed(&mut self, now: Instant, id: ConnectionId, connected: bool, reason: Option<Arc<str>>) {
        let Some(at) = self.owners.remove(&id) else { return };
        let Some(path) = self.path_mut(at) else { return };
        let was_ready = path.connections.iter().any(|line| line.id == id && line.ready);
        path.connections.retain(|line| line.id != id);
        if path.connections.is_empty() {
            // A path that is only known must cost little: there may be a million.
            path.connections = Vec::new();
        }
        let (key, site) = (path.key, path.site);
        if connected || was_ready {
            self.shaper.closed(key);
        } else {
            path.last_failure = reason;
            let until = self.shaper.connect_failed(now, key);
            // Whether mail waits then or not: a path with nothing to remember is forgotten.
            self.wake_site(now, site, until);
            self.did_not_answer(site);
        }
        self.touch(site);
        self.offer_places();
    }

    /// Ends a connection that has nothing to do.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        self.draining(id);
        self.actions.push(Action::Close(id));
    }

    /// A connection to a site came to nothing; unless another one is ready, it is a site that does not answer.
    fn did_not_answer(&mut self, site: SiteKey) {
        let Some(state) = self.site(site) else { return };
        let ready = |at: &PathAt| {
            self.path(*at).is_some_and(|path| path.connections.iter().any(|connection| connection.ready))
        };
        if !state.paths.iter().any(|(_, at)| ready(at)) {
            let name = state.name.clone();
            self.answering.failed(&name);
        }
    }

    /// A connection is gone: what it had of the total, and of limits that sites share, is there for those that wait.
    fn offer_places(&mut self) {
        self.offer_total();
        let count = self.sharing.len().min(SHARING_AT_ONCE);
        for site in self.sharing.drain(..count).collect::<Vec<_>>() {
            if let Some(state) = self.site_mut(site) {
                state.shares = false;
            }
            self.touch(site);
        }
    }

    /// What is left of the total goes to those that wait for it. Told at every tick as well: one that was offered a
    /// place may have nothing to send any more, and then no connection ends that would tell the next.
    pub(crate) fn offer_total(&mut self) {
        if self.wanting.is_empty() && self.wanting_unknown.is_empty() {
            return;
        }
        let (total, open) = (self.config.connections_total_max, self.owners.len());
        let mut next = Vec::new();
        // As many as there are places, or one that has nothing to send any more would keep the others waiting.
        while open + next.len() < total
            && let Some(site) = self.wanting.pop_front()
        {
            next.push(site);
        }
        while open + next.len() < self.answering.share_of(total, false) {
            // By turns the one that came last and the one that waits longest: behind thousands that will stall, a site
            // that would answer at once need not wait for all of them.
            self.newest_first = !self.newest_first;
            let site = match self.newest_first {
                true => self.wanting_unknown.pop_back(),
                false => self.wanting_unknown.pop_front(),
            };
            let Some(site) = site else { break };
            next.push(site);
        }
        for &site in &next {
            if let Some(state) = self.site_mut(site) {
                state.wants_connection = false;
            }
        }
        self.touched.extend(next);
    }

    /// The entries a connection holds that ended without a word, which is our mistake: they are tried again.
    pub fn lost(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        id: ConnectionId,
        due: Instant,
        reply: &str,
    ) -> usize {
        let jobs = self.connection_mut(id).map(|line| std::mem::take(&mut line.jobs)).unwrap_or_default();
        let mut count = 0;
        for job in jobs {
            self.shaper.spent(now, wall, job.permit);
            for key in job.keys {
                let entry = *self.queue.entry(key);
                let part = Part {
                    first: entry.first,
                    count: entry.count,
                    attempts: entry.attempts.saturating_add(1),
                    ambiguous: true,
                    delay_reported: entry.delay_reported,
                    last_reply: self.replies.hold(reply),
                    due,
                };
                self.queue.defer(now, key, part);
                self.settle_entry(now, key);
                count += 1;
            }
        }
        count
    }

    pub(crate) fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut crate::state::Line> {
        let at = *self.owners.get(&id)?;
        self.path_mut(at)?.connections.iter_mut().find(|line| line.id == id)
    }
}
