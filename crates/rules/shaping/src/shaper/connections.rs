//! Connections: how many, how fast, and the wait after failures.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::hold::{Gate, Hold, HoldScope};
use super::messages::plain;
use super::{Due, PathKey, Shaper};
use crate::{Charge, SettingAt, Suspended};

impl Shaper {
    /// May a connection be opened now? On yes it counts as open until [`Shaper::closed`], and one of
    /// [`Shaper::connected`], [`Shaper::connect_failed`] and [`Shaper::unopened`] must follow.
    pub fn ask_connection(&mut self, now: Instant, key: PathKey) -> Result<(), Hold> {
        let mut first = None;
        let _ = self.connection_states(now, key, &mut |hold| {
            first = Some(hold);
            ControlFlow::Break(())
        });
        if let Some(hold) = first {
            return Err(hold);
        }
        self.connection_charges(key);
        if let Err(index) = self.ledger.grant(now, &self.charges) {
            return Err(self.window_hold(key, self.dues[index], self.charges[index]));
        }
        let permit = self.permits.add(key, false, &self.charges);
        let path = &mut self.paths[key];
        path.opening.push(permit);
        path.open += 1;
        path.connecting += 1;
        for id in &path.counts {
            if let Some(count) = self.counts.get_mut(*id) {
                count.open += 1;
            }
        }
        Ok(())
    }

    /// What holds connections of a path and is no window, most telling first.
    pub(super) fn connection_states(
        &self,
        now: Instant,
        key: PathKey,
        found: &mut dyn FnMut(Hold) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let path = &self.paths[key];
        self.path_states(now, key, found)?;
        let hold = |gate, setting: &Arc<SettingAt>, until| Hold {
            gate,
            scope: HoldScope::Path,
            since: None,
            until,
            setting: setting.clone(),
            overflow: false,
        };
        if let Some(until) = path.unreachable_until.filter(|until| now < *until) {
            let gate = Gate::Unreachable { failures: path.failures };
            found(hold(gate, &path.profile.reconnect_min.at, Some(until)))?;
        }
        let (limit, setting) = path.connections_max();
        if path.open >= limit {
            found(hold(Gate::Connections { limit }, setting, None))?;
        }
        // Until one connection has been greeted, one probe at a time after a failure and two otherwise: a site that
        // stalls must not hold many sockets.
        let probes = if path.failures > 0 { 1 } else { 2 };
        if path.open == path.connecting && path.connecting >= probes {
            found(hold(Gate::Greeting, setting, None))?;
        }
        if let (Some(ramp), Some(from)) = (&path.profile.connection_ramp, path.ramp_from) {
            let steps = now.saturating_duration_since(from).as_nanos() / ramp.value.as_nanos().max(1);
            let allowed = u32::try_from(steps).unwrap_or(u32::MAX).saturating_add(1);
            if path.open >= allowed {
                found(hold(Gate::Ramp { allowed }, &ramp.at, Some(from + ramp.value * allowed)))?;
            }
        }
        for id in &path.counts {
            let Some(count) = self.counts.get(*id) else { continue };
            let Some(limit) = self.rules.shared(count.limit) else { continue };
            if let Some(connections) = &limit.connections
                && count.open >= connections.value
            {
                let gate = Gate::Shared { name: limit.name.clone(), rate: None };
                found(Hold { scope: HoldScope::Shared, ..hold(gate, &connections.at, None) })?;
            }
        }
        ControlFlow::Continue(())
    }

    /// What holds all of a path: its source is disabled or it is suspended.
    pub(super) fn path_states(
        &self,
        now: Instant,
        key: PathKey,
        found: &mut dyn FnMut(Hold) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let path = &self.paths[key];
        if self.disabled > 0
            && let Some(disabled) = self.sources.get(&path.source).and_then(|source| source.disabled.as_ref())
            && disabled.until.is_none_or(|until| now < until)
        {
            let gate = Gate::SourceDisabled { by: disabled.by.clone() };
            let hold = plain(gate, HoldScope::Source, &disabled.by.setting);
            found(Hold { since: Some(disabled.since), until: disabled.until, ..hold })?;
        }
        if let Some(suspended) = path.rare.as_ref().and_then(|rare| rare.suspended.as_ref())
            && now < suspended.until
        {
            let gate = Gate::Suspended { what: Suspended::Path, by: suspended.by.clone() };
            let hold = plain(gate, HoldScope::Path, &suspended.by.setting);
            found(Hold { since: Some(suspended.since), until: Some(suspended.until), ..hold })?;
        }
        ControlFlow::Continue(())
    }

    /// Finds what a new connection is charged to.
    pub(super) fn connection_charges(&mut self, key: PathKey) {
        self.charges.clear();
        self.dues.clear();
        let path = &self.paths[key];
        for (n, window) in (0..).zip(&path.windows) {
            if window.kind.is_of_connections() {
                self.charges.push(Charge { key: window.key, amount: 1 });
                self.dues.push(Due::Path(n));
            }
        }
        for id in &path.counts {
            for (n, window) in (0..).zip(self.counts.get(*id).into_iter().flat_map(|count| &count.windows)) {
                if window.kind.is_of_connections() {
                    self.charges.push(Charge { key: window.key, amount: 1 });
                    self.dues.push(Due::Count(*id, n));
                }
            }
        }
    }

    /// A connection was greeted and is ready.
    pub fn connected(&mut self, now: Instant, key: PathKey) {
        self.opened(now, key);
        let path = &mut self.paths[key];
        path.failures = 0;
        path.unreachable_until = None;
        path.ramp_from.get_or_insert(now);
    }

    /// A connection that never became ready is over; whoever was reached, a wait begins, or a site that greets
    /// with 421 would be asked without end. Gives when it ends.
    pub fn connect_failed(&mut self, now: Instant, key: PathKey) -> Instant {
        self.opened(now, key);
        self.closed(key);
        let path = &mut self.paths[key];
        path.failures = path.failures.saturating_add(1);
        let doubled = path.profile.reconnect_min.value.saturating_mul(1 << (path.failures - 1).min(20));
        let until = now + doubled.min(path.profile.reconnect_max.value);
        path.unreachable_until = Some(until);
        self.arm(key);
        until
    }

    /// A connection that was ready is closed.
    pub fn closed(&mut self, key: PathKey) {
        let path = &mut self.paths[key];
        if path.open == 0 {
            return;
        }
        path.open -= 1;
        if path.open == 0 {
            path.ramp_from = None;
        }
        for id in &path.counts {
            if let Some(count) = self.counts.get_mut(*id) {
                count.open = count.open.saturating_sub(1);
            }
        }
    }

    /// A connection that was allowed was not opened after all.
    pub fn unopened(&mut self, key: PathKey) {
        let path = &mut self.paths[key];
        path.connecting = path.connecting.saturating_sub(1);
        if let Some(charged) = path.opening.pop().and_then(|permit| self.permits.take(permit)) {
            self.ledger.give_back(charged.charges);
        }
        self.closed(key);
    }

    /// The receiver has seen a new connection.
    fn opened(&mut self, now: Instant, key: PathKey) {
        let path = &mut self.paths[key];
        path.connecting = path.connecting.saturating_sub(1);
        let permit = path.opening.pop();
        if path.opening.is_empty() {
            path.opening = Vec::new();
        }
        if let Some(charged) = permit.and_then(|permit| self.permits.take(permit)) {
            self.ledger.spend(now, std::time::Duration::ZERO, charged.charges);
        }
    }

    /// Lets a site that could not be reached be tried at once.
    pub fn forgive(&mut self, key: PathKey) {
        self.paths[key].unreachable_until = None;
    }

    /// Connections open, those being opened included.
    pub fn open(&self, key: PathKey) -> u32 {
        self.paths[key].open
    }
}
