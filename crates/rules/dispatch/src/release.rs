//! What rules or operators have stopped, let go on; and sources taken out of use.

use crate::state::Dispatch;
use queue::LineKey;
use shaping::{Listed, PathKey, Suspended};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an operator lets go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// A site: backoff, suspensions, slowness and waits of its paths, and of queues, tenants and campaigns there.
    Site(String),
    /// A tenant that a rule suspended, at one site or at all.
    Tenant(String, Option<String>),
    /// A campaign that a rule suspended, at one site or at all.
    Campaign(String, Option<String>),
    /// A queue that a rule suspended, by its name.
    Queue(String),
    /// A source that a rule or an operator disabled.
    Source(String),
    /// Takes a source out of use, for so long or until it is released, for a reason.
    Disable(String, Option<Duration>, String),
}

impl Dispatch {
    /// Lets go on what rules or operators have stopped, or stops a source. How many states changed.
    pub fn release(&mut self, now: Instant, release: &Release) -> u32 {
        match release {
            Release::Site(name) => self.release_site(now, name),
            Release::Tenant(name, site) => {
                self.release_senders(now, Suspended::Tenant, name, site.as_deref())
            }
            Release::Campaign(name, site) => {
                self.release_senders(now, Suspended::Campaign, name, site.as_deref())
            }
            Release::Queue(name) => {
                let lines: Vec<LineKey> = self
                    .lines()
                    .map(|(key, _)| key)
                    .filter(|&key| self.queue_name(key).to_string() == *name)
                    .collect();
                self.release_queues(now, &lines)
            }
            Release::Source(name) => {
                let effects = self.shaper.release(shaping::Release::Source(name));
                let count = effects.len() as u32;
                self.carry_out(PathKey(u32::MAX), effects);
                self.touch_all();
                count
            }
            Release::Disable(name, length, reason) => {
                if self.egress.source(name).is_none() {
                    return 0;
                }
                let by = Arc::new(shaping::Cause::operator(reason));
                u32::from(self.shaper.disable_source(now, name, length.map(|length| now + length), &by))
            }
        }
    }

    fn release_site(&mut self, now: Instant, name: &str) -> u32 {
        let Some(&site) = self.site_keys.get(name) else { return 0 };
        let lines: Vec<LineKey> =
            self.lines().map(|(key, _)| key).filter(|&key| self.site_of_line(key) == Some(site)).collect();
        let mut count = self.release_queues(now, &lines);
        for (what, who, at) in self.suspended_senders() {
            if *at == *name {
                self.release_sender(what, &who, &at);
                count += 1;
            }
        }
        let stopped: Vec<PathKey> = self
            .shaper
            .listed()
            .into_iter()
            .filter_map(|listed| match listed {
                Listed::Path { path, .. } => Some(path),
                _ => None,
            })
            .collect();
        for (_, at) in self.site(site).map(|site| site.paths.clone()).unwrap_or_default() {
            let Some(path) = self.path_mut(at) else { continue };
            let (key, unreachable) =
                (path.key, path.hold.as_ref().is_some_and(|hold| hold.0.is_unreachable()));
            if !unreachable && !stopped.contains(&key) && self.shaper.slowness(key) >= 1.0 {
                continue;
            }
            let effects = self.shaper.release(shaping::Release::Path(key));
            count += 1;
            self.carry_out(key, effects);
        }
        self.touch(site);
        count
    }

    fn suspended_senders(&self) -> Vec<(Suspended, Arc<str>, Arc<str>)> {
        let listed = self.shaper.listed().into_iter();
        let senders = listed.filter_map(|listed| match listed {
            Listed::Sender { what, name, site, .. } => Some((what, name, site)),
            _ => None,
        });
        senders.collect()
    }

    fn release_sender(&mut self, what: Suspended, name: &str, site: &str) {
        let release = match what {
            Suspended::Tenant => shaping::Release::Tenant { name, site },
            _ => shaping::Release::Campaign { name, site },
        };
        let effects = self.shaper.release(release);
        self.carry_out(PathKey(u32::MAX), effects);
    }

    fn release_senders(&mut self, now: Instant, what: Suspended, name: &str, site: Option<&str>) -> u32 {
        let mut count = 0;
        for (is, who, at) in self.suspended_senders() {
            if is != what || !who.eq_ignore_ascii_case(name) || site.is_some_and(|site| *site != *at) {
                continue;
            }
            self.release_sender(what, &who, &at);
            count += 1;
            let Some(&site) = self.site_keys.get(&at) else { continue };
            let lines: Vec<LineKey> = self
                .lines()
                .map(|(key, _)| key)
                .filter(|&key| self.site_of_line(key) == Some(site))
                .collect();
            for line in lines {
                self.take_back(now, line);
            }
            self.touch(site);
        }
        count
    }

    /// Queues that a rule suspended go on, and those set aside for a limit are looked at again.
    fn release_queues(&mut self, now: Instant, lines: &[LineKey]) -> u32 {
        let suspended: Vec<u32> = self
            .shaper
            .listed()
            .into_iter()
            .filter_map(|listed| match listed {
                Listed::Queue { queue, .. } => queue,
                _ => None,
            })
            .collect();
        let mut count = 0;
        for &line in lines {
            if suspended.contains(&line.0) {
                self.shaper.release(shaping::Release::Queue(line.0));
                count += 1;
            }
            self.take_back(now, line);
            if let Some(site) = self.site_of_line(line) {
                self.touch(site);
            }
        }
        count
    }

    /// Every site is looked at again.
    pub(crate) fn touch_all(&mut self) {
        self.touched.extend(self.site_keys.values().copied());
    }
}
