//! A reload: other sources and pools, without losing what is known of those that stay.

use crate::act::Granted;
use crate::egress::{Egress, PoolAt, SourceAt, Turns};
use crate::state::{Binding, Config, Dispatch, PathAt, SiteKey};
use mail::UnixMillis;
use queue::LineKey;
use shaping::{MessageFacts, PathFacts, Rules};
use std::sync::Arc;
use std::time::Instant;

/// A source that is no longer configured; its connections end by themselves, and its paths are forgotten with their
/// site.
const GONE: SourceAt = SourceAt(u16::MAX);

impl Dispatch {
    /// New rules, sources, pools and bounds. State is kept where names stay; mail whose pool is gone leaves by the
    /// first.
    pub fn reconfigure(&mut self, now: Instant, config: Config, egress: Egress, rules: Arc<Rules>) {
        if egress != self.egress {
            self.change_egress(now, egress);
        }
        self.config = config;
        if !Arc::ptr_eq(&rules, &self.rules) {
            self.shaper.set_rules(now, rules.clone());
            self.rules = rules;
            // Another rule may roll domains up otherwise: every target is asked for again in its time.
            for target in self.targets.iter_mut().flatten() {
                if let Binding::Bound { until, .. } = &mut target.binding {
                    *until = now;
                }
            }
        }
        for line in self.lines().map(|(key, _)| key).collect::<Vec<_>>() {
            match self.site_of_line(line) {
                Some(site) => {
                    let pool = self.line(line).map(|line| line.name.pool).unwrap_or_default();
                    self.set_line_expiry(now, line, site, pool);
                }
                None => self.queue.set_expire_after(line, self.config.expire_after),
            }
            if let Some(line) = self.line_mut(line) {
                line.orders_version = u64::MAX;
            }
            // The limit it was set aside for may be another one now, or none.
            self.take_back(now, line);
        }
        self.touch_all();
    }

    /// Takes other sources and pools. Mail whose pool is gone leaves by the first.
    pub(crate) fn change_egress(&mut self, now: Instant, egress: Egress) {
        let pools: Vec<PoolAt> =
            self.egress.pools.iter().map(|pool| egress.pool(&pool.name).unwrap_or_default()).collect();
        let pool = |at: PoolAt| pools.get(usize::from(at.0)).copied().unwrap_or_default();
        let lines: Vec<(LineKey, Option<SiteKey>)> =
            self.lines().map(|(key, _)| key).map(|key| (key, self.site_of_line(key))).collect();
        for (line, site) in &lines {
            if let Some(site) = site {
                self.unbind_line(*line, *site);
            }
        }
        self.line_names.clear();
        for (line, _) in &lines {
            let Some(state) = self.line_mut(*line) else { continue };
            state.name.pool = pool(state.name.pool);
            state.divert(|to| (to.rerouted, to.moved) = (None, None));
            let name = state.name;
            // Two queues may have become one by name: new mail goes to one of them, the other runs dry.
            self.line_names.insert(name, *line);
        }
        self.egress = egress;
        for at in (0..self.paths.len() as u32).map(PathAt) {
            let Some(key) = self.path(at).map(|path| path.key) else { continue };
            // By name: a source that went may have come back.
            let source = self.egress.source(self.shaper.names(key).0).unwrap_or(GONE);
            let Some(path) = self.path_mut(at) else { continue };
            path.source = source;
            if source == GONE {
                path.connections.iter_mut().for_each(|line| line.draining = true);
            }
        }
        for at in 0..self.sites.len() {
            let Some(site) = &self.sites[at] else { continue };
            let mut paths: Vec<(SourceAt, PathAt)> =
                site.paths.iter().filter_map(|(_, at)| Some((self.path(*at)?.source, *at))).collect();
            paths.sort_unstable();
            let Some(site) = &mut self.sites[at] else { continue };
            site.paths = paths;
            for group in &mut site.groups {
                group.turns = Turns::default();
            }
        }
        for (line, site) in lines {
            if let Some(site) = site {
                self.bind_line(now, line, site);
            }
        }
    }

    /// Leave that an earlier process gave and this one's snapshot does not know: it counts as used now.
    pub fn replay(&mut self, now: Instant, wall: UnixMillis, granted: &[Granted]) {
        for one in granted {
            let Some(source) = self.egress.source(&one.source) else { continue };
            let domains: Vec<&str> = one.domains.iter().map(|domain| &**domain).collect();
            let path = self.shaper.path(
                now,
                &PathFacts {
                    site: &one.site,
                    provider: one.provider.as_deref(),
                    domains: &domains,
                    pool: self.egress.home(source),
                    source: &one.source,
                },
            );
            let facts = MessageFacts {
                tenant: one.tenant.as_deref(),
                campaign: one.campaign.as_deref(),
                queue: u32::MAX,
                bytes: one.octets,
            };
            self.shaper.replay(now, wall, path, &facts, one.messages, one.connections);
            self.strays.push(path);
        }
        self.strays.sort_unstable();
        self.strays.dedup();
    }
}
