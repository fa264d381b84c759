//! What time brings: due mail, ends of holds, expiry, and the forgetting of what is not used.

use crate::act::{Action, ConnectionId};
use crate::state::{Aside, Binding, Dispatch, Ending, SiteKey, Wake};
use mail::UnixMillis;
use queue::LineKey;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// Connections given up in one step for others that wait: few at a time, for opening others in their place keeps mail
/// waiting that could leave.
const GIVEN_UP_AT_ONCE: usize = 8;

/// Connections with nothing to do that are closed in one step for others that wait.
const IDLE_CLOSED_AT_ONCE: usize = 64;

/// The time between two steps in which connections are given up.
const ROOM_EVERY: Duration = Duration::from_millis(10);

/// Idle queues and sites looked at in one step.
const IDLE_AT_ONCE: usize = 4_096;

impl Dispatch {
    /// A moment has passed. To be called every [`queue::TICK`], and at [`Dispatch::wake_at`].
    pub fn advance(&mut self, now: Instant, wall: UnixMillis) {
        (self.last_advanced, self.last_wall) = (now, wall);
        let due = self.queue.advance(now);
        for line in due.lines {
            self.line_is_due(now, line);
        }
        for key in due.expired {
            // In turns with what is given up: a campaign that expires at once is a million of them.
            self.giving_up.push_back((key, Ending::Expired));
        }
        self.wake(now);
        self.make_room(now);
        let woken = self.shaper.wake(now, wall);
        self.carry_out(shaping::PathKey(u32::MAX), woken.effects);
        for queue in woken.queues {
            self.take_back(now, LineKey(queue));
        }
        for path in woken.paths {
            if let Some(site) = self.path_of.get(&path).and_then(|&at| self.path(at)).map(|path| path.site) {
                self.touch(site);
            }
        }
        if !self.orders.expire(wall).is_empty() {
            self.orders_changed(now);
        }
        self.offer_total();
        self.forget_idle(now);
    }

    /// When [`Dispatch::advance`] must be called again at the latest, if anything waits for a moment.
    pub fn wake_at(&self) -> Option<Instant> {
        let own = self.wakes.peek().map(|Reverse((at, _))| *at);
        [own, self.shaper.wake_at(), self.room_at].into_iter().flatten().min()
    }

    /// While sites wait for a connection of the total, those that wait longest for a greeting give theirs up: thousands
    /// of next hops that take connections and say nothing would otherwise keep all places for minutes. Connections with
    /// nothing to do go first.
    fn make_room(&mut self, now: Instant) {
        let waiting = self.wanting.len() + self.wanting_unknown.len();
        let early = self.room_at.is_some_and(|at| now < at);
        let mut wanted = if early { 0 } else { waiting.min(GIVEN_UP_AT_ONCE) };
        // Looking for those with nothing to do is a look at every path.
        if waiting > 0
            && self.idle_sought_at.is_none_or(|at| now.saturating_duration_since(at) >= queue::TICK)
        {
            self.idle_sought_at = Some(now);
            wanted = wanted.saturating_sub(self.close_idle(waiting.min(IDLE_CLOSED_AT_ONCE)));
        }
        while let Some(&(since, id)) = self.beginning.front() {
            if self.is_beginning(id) {
                if wanted == 0 || now.saturating_duration_since(since) < self.config.greeting_patience {
                    break;
                }
                wanted -= 1;
                self.actions.push(Action::GiveUp(id));
            }
            self.beginning.pop_front();
        }
        if !early {
            let next = self.beginning.front().map(|(since, _)| *since + self.config.greeting_patience);
            self.room_at = next.filter(|_| waiting > 0).map(|next| next.max(now + ROOM_EVERY));
        }
        if self.beginning.len() > 2 * self.owners.len() + 1_024 {
            let mut beginning = std::mem::take(&mut self.beginning);
            beginning.retain(|(_, id)| self.is_beginning(*id));
            self.beginning = beginning;
        }
    }

    /// Closes connections that have nothing to do, at most so many. How many there were.
    fn close_idle(&mut self, max: usize) -> usize {
        let idle: Vec<ConnectionId> = self
            .paths
            .iter()
            .flatten()
            .flat_map(|path| &path.connections)
            .filter(|line| line.is_idle())
            .map(|line| line.id)
            .take(max)
            .collect();
        for &id in &idle {
            self.close(id);
        }
        idle.len()
    }

    /// True if a connection has not been greeted yet.
    fn is_beginning(&self, id: ConnectionId) -> bool {
        self.owners
            .get(&id)
            .and_then(|&at| self.path(at))
            .is_some_and(|path| path.connections.iter().any(|line| line.id == id && !line.ready))
    }

    pub(crate) fn line_is_due(&mut self, now: Instant, line: LineKey) {
        let Some(target) = self.line(line).map(|line| line.name.target) else { return };
        match self.target(target).map(|target| &target.binding) {
            Some(Binding::Bound { site, .. }) => {
                let site = *site;
                self.touch(site);
            }
            Some(Binding::Refused { until, .. }) if *until > now => self.refuse_line(line),
            // An answer is on its way, or it is asked for when its wait is over.
            Some(Binding::Failed { until, .. }) if *until > now => {}
            Some(_) => self.want_site(target),
            None => {}
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some(&Reverse((at, wake))) = self.wakes.peek()
            && at <= now
        {
            self.wakes.pop();
            match wake {
                Wake::Site(key) => {
                    if let Some(site) = self.site_mut(key)
                        && site.wake_at.is_some_and(|at| at <= now)
                    {
                        site.wake_at = None;
                    }
                    self.touch(key);
                }
                Wake::Line(line) => self.take_back(now, line),
                Wake::Target(key) => {
                    let Some(target) = self.target(key) else { continue };
                    let over = match &target.binding {
                        Binding::Refused { until, .. } => *until <= now,
                        Binding::Failed { until, .. } => *until <= now,
                        Binding::Unknown | Binding::Bound { .. } => false,
                    };
                    let waits = target.lines.iter().any(|&line| self.queue.counts(line).ready > 0);
                    if over && waits {
                        self.want_site(key);
                    } else if target.lines.is_empty() {
                        self.forget_target(now, key);
                    }
                }
            }
        }
    }

    /// A queue that a limit had set aside may have its turn again.
    pub(crate) fn take_back(&mut self, _now: Instant, line: LineKey) {
        let Some(state) = self.line_mut(line) else { return };
        if !matches!(state.aside.as_deref(), Some((Aside::Held(_), _))) {
            return;
        }
        state.aside = None;
        self.queue.set_aside(line, false);
        if let Some(site) = self.site_of_line(line) {
            self.touch(site);
        }
    }

    // ---- forgetting ---------------------------------------------------------------------------------------

    fn forget_idle(&mut self, now: Instant) {
        // One a moment: most are found by mail for their site, and the rest wait for their windows to empty.
        if let Some(path) = self.strays.pop()
            && !self.path_of.contains_key(&path)
            && !self.shaper.forget_if_idle(now, path)
        {
            self.strays.insert(0, path);
        }
        for _ in 0..IDLE_AT_ONCE {
            if self.idle.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let Some((_, line)) = self.idle.pop_front() else { break };
            let Some(state) = self.line_mut(line) else { continue };
            state.listed_idle = false;
            if self.queue.counts(line).entries() == 0 {
                self.forget_line(now, line);
            }
        }
        for _ in 0..IDLE_AT_ONCE {
            if self.idle_sites.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            let Some((_, key)) = self.idle_sites.pop_front() else { break };
            if let Some(site) = self.site_mut(key) {
                site.listed_idle = false;
                self.forget_site(now, key);
            }
        }
    }

    fn forget_line(&mut self, now: Instant, line: LineKey) {
        let Some(name) = self.line(line).map(|line| line.name) else { return };
        let target = name.target;
        if let Some(Binding::Bound { site, .. }) = self.target(target).map(|target| &target.binding) {
            let site = *site;
            self.unbind_line(line, site);
        }
        self.shaper.queue_closed(line.0);
        self.queue.remove_line(line);
        self.lines[line.0 as usize] = None;
        if self.line_names.get(&name) == Some(&line) {
            self.line_names.remove(&name);
        }
        self.tenants.release(name.tenant);
        self.campaigns.release(name.campaign);
        if let Some(state) = self.target_mut(target) {
            state.lines.retain(|kept| *kept != line);
            if state.lines.is_empty() {
                self.forget_target(now, target);
            }
        }
        // After a reload two queues may have one name, which goes with the first of them that ends.
        if self.line_names.is_empty() && self.lines.iter().all(Option::is_none) {
            // A flood that is over gives its memory back.
            self.line_names.shrink_to(1024);
            self.target_keys.shrink_to(1024);
            self.lines.clear();
            self.lines.shrink_to(1024);
            self.idle.clear();
            self.idle.shrink_to(1024);
        }
    }

    pub(crate) fn forget_target(&mut self, now: Instant, key: crate::state::TargetKey) {
        let Some(state) = self.target(key) else { return };
        // What was found of a domain that takes no mail holds for a while. An answer that is on its way is waited for,
        // and comes by here again.
        let holds = match &state.binding {
            Binding::Refused { until, .. } => *until > now && self.targets.len() < 65_536,
            Binding::Unknown | Binding::Bound { .. } | Binding::Failed { .. } => false,
        };
        if state.wants_site || state.asked || holds {
            return;
        }
        let name = state.name.clone();
        let site = match state.binding {
            Binding::Bound { site, .. } => Some(site),
            _ => None,
        };
        self.target_keys.remove(&name);
        self.targets[key.0 as usize] = None;
        self.free_targets.push(key.0);
        if let Some(site) = site {
            if let Some(state) = self.site_mut(site) {
                state.targets -= 1;
            }
            self.forget_site(now, site);
        }
    }

    pub(crate) fn list_idle_site(&mut self, now: Instant, key: SiteKey) {
        let at = now + self.config.idle_for;
        if let Some(site) = self.site_mut(key)
            && !std::mem::replace(&mut site.listed_idle, true)
        {
            self.idle_sites.push_back((at, key));
        }
    }

    /// A site without targets, connections and anything to remember costs nothing.
    fn forget_site(&mut self, now: Instant, key: SiteKey) {
        let Some(site) = self.site(key) else { return };
        if site.targets > 0 || site.wants_connection || site.shares {
            return;
        }
        let mut kept = false;
        for (_, at) in site.paths.clone() {
            let Some(path) = self.path(at) else { continue };
            let shaped = path.key;
            if path.connections.is_empty() && self.shaper.forget_if_idle(now, shaped) {
                self.path_of.remove(&shaped);
                self.paths[at.0 as usize] = None;
                self.free_paths.push(at.0);
                if let Some(site) = self.site_mut(key) {
                    site.paths.retain(|(_, kept)| *kept != at);
                }
            } else {
                kept = true;
            }
        }
        if kept {
            return self.list_idle_site(now, key);
        }
        if let Some(site) = self.sites[key.0 as usize].take() {
            self.site_keys.remove(&site.name);
            self.free_sites.push(key.0);
        }
    }
}
