//! Messages: whether one may go now, and if not, which gate holds it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::UnixMillis;

use super::hold::{Gate, GateState, Hold, HoldScope};
use super::permit::Permit;
use super::state::WindowKind;
use super::suspension::sender_key;
use super::wall::{day, until_midnight};
use super::{Due, PathKey, Shaper};
use crate::{Charge, SettingAt, Suspended};

/// What decides whether a message may go on a path.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageFacts<'a> {
    /// Whose it is.
    pub tenant: Option<&'a str>,
    /// What it is part of.
    pub campaign: Option<&'a str>,
    /// The queue it waits in, as the dispatcher numbers them.
    pub queue: u32,
    /// Its size.
    pub bytes: u64,
}

/// A hold without times.
pub(super) fn plain(gate: Gate, scope: HoldScope, setting: &Arc<SettingAt>) -> Hold {
    Hold { gate, scope, since: None, until: None, setting: setting.clone(), overflow: false }
}

/// Where a source stands in its warm-up.
struct Warming<'a> {
    used: u64,
    cap: u64,
    setting: &'a Arc<SettingAt>,
}

impl Shaper {
    /// May one message be sent now? The permit is to be spent when the receiver's answer came, or given back.
    pub fn ask_message(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        key: PathKey,
        facts: &MessageFacts<'_>,
    ) -> Result<Permit, Hold> {
        let warms = self.paths[key].profile.warmup.is_some();
        let wall = if warms { self.wall.read(now, wall) } else { wall };
        let mut first = None;
        let _ = self.message_states(now, wall, key, facts, &mut |hold| {
            first = Some(hold);
            ControlFlow::Break(())
        });
        if let Some(hold) = first {
            if matches!(hold.gate, Gate::WarmUp { .. }) {
                self.wait_for_midnight(now, wall, key);
            }
            return Err(hold);
        }
        self.message_charges(now, key, facts);
        if let Err(index) = self.ledger.grant(now, &self.charges) {
            let hold = self.window_hold(key, self.dues[index], self.charges[index]);
            if let Gate::Adaptive { .. } = hold.gate
                && let Some(adaptive) = &mut self.paths[key].rare().adaptive
            {
                adaptive.was_limiting();
            }
            return Err(hold);
        }
        let permit = self.permits.add(key, warms, &self.charges);
        let path = &mut self.paths[key];
        path.out += u32::from(permit != Permit::FREE);
        if warms {
            path.rare().warm.get_or_insert_default().out += 1;
        }
        Ok(permit)
    }

    /// The message was sent; `now` is when its outcome came.
    pub fn spent(&mut self, now: Instant, wall: UnixMillis, permit: Permit) {
        let Some(charged) = self.permits.take(permit) else { return };
        self.ledger.spend(now, Duration::ZERO, charged.charges);
        let Some(path) = self.paths.get_mut(charged.path) else { return };
        path.out = path.out.saturating_sub(1);
        if charged.warm {
            let today = day(self.wall.read(now, wall));
            path.rare().warm.get_or_insert_default().spend(today);
        }
    }

    /// The message was not sent: the receiver has seen nothing of it.
    pub fn give_back(&mut self, permit: Permit) {
        let Some(charged) = self.permits.take(permit) else { return };
        self.ledger.give_back(charged.charges);
        let Some(path) = self.paths.get_mut(charged.path) else { return };
        path.out = path.out.saturating_sub(1);
        if charged.warm {
            let warm = path.rare().warm.get_or_insert_default();
            warm.out = warm.out.saturating_sub(1);
        }
    }

    /// Every gate of a message on a path as it stands: those of a connection first. They are found by the code that
    /// decides; the ones that hold have their hold.
    pub fn gates(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        key: PathKey,
        facts: &MessageFacts<'_>,
    ) -> Vec<GateState> {
        let wall = self.wall.read(now, wall);
        let mut gates: Vec<GateState> = Vec::new();
        let mut found = |hold: Hold| {
            // What holds the path holds its connections and its messages; once is enough.
            if !gates.iter().any(|gate| gate.hold.as_ref().is_some_and(|known| known.gate == hold.gate)) {
                let (setting, scope) = (hold.setting.clone(), hold.scope);
                gates.push(GateState { setting, scope, used: 0, limit: 0, hold: Some(hold) });
            }
            ControlFlow::Continue(())
        };
        let _ = self.connection_states(now, key, &mut found);
        let _ = self.message_states(now, wall, key, facts, &mut found);
        let path = &self.paths[key];
        let (limit, setting) = path.connections_max();
        let counted = |setting: &Arc<SettingAt>, used: u64, limit: u64| GateState {
            setting: setting.clone(),
            scope: HoldScope::Path,
            used,
            limit,
            hold: None,
        };
        match gates
            .iter_mut()
            .find(|gate| gate.hold.as_ref().is_some_and(|hold| matches!(hold.gate, Gate::Connections { .. })))
        {
            Some(gate) => (gate.used, gate.limit) = (path.open.into(), limit.into()),
            None => gates.push(counted(setting, path.open.into(), limit.into())),
        }
        if let Some(warming) = self.warming(key, wall) {
            match gates
                .iter_mut()
                .find(|gate| gate.hold.as_ref().is_some_and(|hold| matches!(hold.gate, Gate::WarmUp { .. })))
            {
                Some(gate) => (gate.used, gate.limit) = (warming.used, warming.cap),
                None => gates.push(counted(warming.setting, warming.used, warming.cap)),
            }
        }
        self.connection_charges(key);
        self.window_gates(now, key, &mut gates);
        self.message_charges(now, key, facts);
        self.window_gates(now, key, &mut gates);
        gates
    }

    /// The windows that charges are for, as they stand.
    fn window_gates(&mut self, now: Instant, key: PathKey, gates: &mut Vec<GateState>) {
        for n in 0..self.charges.len() {
            let (charge, due) = (self.charges[n], self.dues[n]);
            let (used, limit) = self.ledger.used(now, charge.key);
            let hold = self.window_hold(key, due, charge);
            let (setting, scope) = (hold.setting.clone(), hold.scope);
            let hold = (!self.ledger.fits(now, charge)).then_some(hold);
            gates.push(GateState { setting, scope, used, limit, hold });
        }
    }

    /// What holds a message and is no window.
    fn message_states(
        &self,
        now: Instant,
        wall: UnixMillis,
        key: PathKey,
        facts: &MessageFacts<'_>,
        found: &mut dyn FnMut(Hold) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.path_states(now, key, found)?;
        if let Some(warming) = self.warming(key, wall)
            && warming.used >= warming.cap
        {
            let gate = Gate::WarmUp { sent: warming.used, cap: warming.cap };
            let hold = plain(gate, HoldScope::Path, warming.setting);
            found(Hold { until: Some(now + until_midnight(wall)), overflow: true, ..hold })?;
        }
        let mut suspended = |what, scope, suspension: &super::Suspension| {
            if suspension.until <= now {
                return ControlFlow::Continue(());
            }
            let gate = Gate::Suspended { what, by: suspension.by.clone() };
            let hold = plain(gate, scope, &suspension.by.setting);
            found(Hold { since: Some(suspension.since), until: Some(suspension.until), ..hold })
        };
        if !self.senders.is_empty() {
            let site = &self.paths[key].site;
            let kinds = [
                (Suspended::Tenant, HoldScope::Tenant, facts.tenant),
                (Suspended::Campaign, HoldScope::Campaign, facts.campaign),
            ];
            for (what, scope, name) in kinds {
                let sender = name.and_then(|name| self.senders.get(&*sender_key(what, site, name)));
                if let Some(sender) = sender {
                    suspended(what, scope, &sender.suspension)?;
                }
            }
        }
        if !self.queues.is_empty()
            && let Some((_, suspension)) = self.queues.get(&facts.queue)
        {
            suspended(Suspended::Queue, HoldScope::Queue, suspension)?;
        }
        ControlFlow::Continue(())
    }

    /// Where a path's source stands in its warm-up, if it is in one.
    fn warming(&self, key: PathKey, wall: UnixMillis) -> Option<Warming<'_>> {
        let path = &self.paths[key];
        let profile = path.profile.warmup.as_ref()?;
        let warm = path.rare.as_ref().and_then(|rare| rare.warm.as_ref());
        let today = day(wall);
        let began = warm.and_then(|warm| warm.began);
        let begins = profile.begins.map(|date| date.0).or(began).unwrap_or(today);
        // Before its first day a source is not in use yet.
        let cap = match today.checked_sub(begins) {
            Some(nth) => profile.caps.on(nth)?,
            None if profile.begins.is_some() => 0,
            None => profile.caps.on(0)?,
        };
        Some(Warming { used: warm.map_or(0, |warm| warm.used(today)), cap, setting: &profile.caps.at })
    }

    /// How much of a source's warm-up at a site is done today: sent or under way, and the day's cap.
    pub fn warm_up(&mut self, now: Instant, wall: UnixMillis, key: PathKey) -> Option<(u64, u64)> {
        let wall = self.wall.read(now, wall);
        self.warming(key, wall).map(|warming| (warming.used, warming.cap))
    }

    /// Finds what a message is charged to. The path's own windows come first: when one of them is used up, no
    /// queue need be looked at.
    pub(super) fn message_charges(&mut self, now: Instant, key: PathKey, facts: &MessageFacts<'_>) {
        self.charges.clear();
        self.dues.clear();
        self.counts.sweep_if_grown(now, &mut *self.ledger);
        let path = &self.paths[key];
        for (n, window) in (0..).zip(&path.windows) {
            if !window.kind.is_of_connections() {
                let amount = window.kind.amount(facts.bytes, &window.rate);
                self.charges.push(Charge { key: window.key, amount });
                self.dues.push(Due::Path(n));
            }
        }
        let (charges, dues) = (&mut self.charges, &mut self.dues);
        let mut charge = |id: u32, count: Option<&super::counts::Count>| {
            for (n, window) in (0..).zip(count.into_iter().flat_map(|count| &count.windows)) {
                if !window.kind.is_of_connections() {
                    let amount = window.kind.amount(facts.bytes, &window.rate);
                    charges.push(Charge { key: window.key, amount });
                    dues.push(Due::Count(id, n));
                }
            }
        };
        for id in &path.counts {
            charge(*id, self.counts.get(*id));
        }
        let rules = &self.rules;
        if path.by_sender.is_empty() && rules.has_no_holders() {
            return;
        }
        let place = path.facts();
        let own = rules.shared_of(facts.tenant, facts.campaign);
        let own = own.filter(|index| rules.shared(*index).is_some_and(|limit| limit.holds_for(&place)));
        for index in path.by_sender.iter().copied().chain(own) {
            let Some(limit) = rules.shared(index) else { continue };
            if !limit.holds_for_sender(facts.tenant, facts.campaign) {
                continue;
            }
            limit.write_key(&place, facts.tenant, facts.campaign, &mut self.key);
            let limit = (index, limit, self.epoch);
            let id = self.counts.resolve(now, &mut *self.ledger, limit, &mut self.key);
            charge(id, self.counts.get(id));
        }
    }

    /// The hold of a window that has no room.
    pub(super) fn window_hold(&self, key: PathKey, due: Due, charge: Charge) -> Hold {
        let until = self.ledger.room_at(charge);
        let path = &self.paths[key];
        match due {
            Due::Path(n) => {
                let window = &path.windows[n as usize];
                let rate = window.rate;
                let backoff = path.backoff();
                let gate = match (window.kind, backoff) {
                    (WindowKind::Connections, _) => Gate::ConnectionRate(rate),
                    (WindowKind::Bytes, _) => Gate::ByteRate(rate),
                    (WindowKind::Adaptive, _) => {
                        let adaptive = path.rare.as_ref().and_then(|rare| rare.adaptive.as_ref());
                        let limit = adaptive.map_or(rate.count, super::adaptive::Adaptive::limit);
                        Gate::Adaptive { limit, period: rate.period }
                    }
                    (WindowKind::Probe, Some(backoff)) => {
                        Gate::Probe { every: rate.period, by: backoff.by.clone() }
                    }
                    (WindowKind::Messages, _) | (_, None) => Gate::MessageRate(rate),
                    (_, Some(backoff)) => Gate::Backoff { rate, by: backoff.by.clone() },
                };
                let since = backoff
                    .filter(|_| matches!(gate, Gate::Backoff { .. } | Gate::Probe { .. }))
                    .map(|backoff| backoff.since);
                Hold { since, until, ..plain(gate, HoldScope::Path, path.setting(window.kind)) }
            }
            Due::Count(id, n) => {
                let count = self.counts.get(id);
                let window = count.and_then(|count| count.windows.get(n as usize));
                let limit = count.and_then(|count| self.rules.shared(count.limit));
                let (Some(window), Some(limit)) = (window, limit) else {
                    // What was just charged is there.
                    return Hold {
                        until,
                        ..plain(Gate::Greeting, HoldScope::Shared, &path.profile.connections.at)
                    };
                };
                let gate = Gate::Shared { name: limit.name.clone(), rate: Some(window.rate) };
                let setting = limit.rates(window.kind).map_or(&path.profile.connections.at, |set| &set.at);
                Hold { until, ..plain(gate, limit.scope(), setting) }
            }
        }
    }
}
