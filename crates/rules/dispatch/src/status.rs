//! What stands in the machine, for people and for metrics.

use crate::hold::Hold;
use crate::state::{Aside, Binding, Dispatch, SiteKey};
use queue::{EntryKey, LineKey, View};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All of it at a glance.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Recipients queued.
    pub recipients: u64,
    /// Entries queued.
    pub entries: u64,
    /// Connections open or being opened.
    pub connections: u64,
    /// Queues in memory.
    pub queues: u64,
    /// Targets in memory.
    pub targets: u64,
    /// Paths in memory.
    pub paths: u64,
    /// Look-ups under way.
    pub resolving: u64,
    /// Sites, those with the most recipients first.
    pub sites: Vec<SiteStatus>,
}

/// How much of everything there is. Costs nothing to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Entries queued.
    pub entries: u64,
    /// Queues in memory.
    pub queues: u64,
    /// Targets in memory.
    pub targets: u64,
    /// Sites in memory.
    pub sites: u64,
    /// Paths in memory.
    pub paths: u64,
    /// Look-ups under way.
    pub resolving: u64,
    /// Targets that wait for one.
    pub to_resolve: u64,
    /// Jobs being settled without a connection.
    pub settling: u64,
    /// Entries that wait to be given up.
    pub giving_up: u64,
    /// Orders in force.
    pub orders: u64,
}

/// One site, or a target whose site is not known.
#[derive(Clone, Debug, Default)]
pub struct SiteStatus {
    /// Its name.
    pub site: String,
    /// The named provider it belongs to.
    pub provider: Option<Arc<str>>,
    /// Entries that may be attempted now.
    pub ready: u64,
    /// Entries that wait for their due time.
    pub waiting: u64,
    /// Entries in an attempt.
    pub attempted: u64,
    /// Recipients in all three.
    pub recipients: u64,
    /// Connections open or being opened.
    pub connections: u32,
    /// Why what is ready does not move.
    pub hold: Option<Hold>,
    /// For how long it has not.
    pub held_for: Option<Duration>,
    /// Its paths.
    pub paths: Vec<PathStatus>,
    /// Why it could not be reached the last time it was tried.
    pub last_failure: Option<String>,
}

/// One path.
#[derive(Clone, Debug)]
pub struct PathStatus {
    /// The source.
    pub source: Arc<str>,
    /// Connections open or being opened.
    pub connections: u32,
    /// In words, such as `normal` or why it is in backoff.
    pub mode: String,
    /// Why it took nothing the last time.
    pub hold: Option<Hold>,
}

/// One queue.
#[derive(Clone, Debug)]
pub struct QueueStatus {
    /// Its name.
    pub queue: String,
    /// Its site, if that is known.
    pub site: Option<Arc<str>>,
    /// Its priority class.
    pub class: u8,
    /// Entries that may be attempted now.
    pub ready: u32,
    /// Entries that wait for their due time.
    pub waiting: u32,
    /// Entries in an attempt.
    pub attempted: u32,
    /// Recipients in all three.
    pub recipients: u64,
    /// Why it is set aside.
    pub aside: Option<String>,
    /// For how long it has been.
    pub aside_for: Option<Duration>,
}

/// One entry.
#[derive(Clone, Debug)]
pub struct EntryStatus {
    /// The spool's handle of the message.
    pub handle: u64,
    /// Its queue.
    pub queue: String,
    /// Where it goes.
    pub target: Arc<str>,
    /// Index of its first recipient.
    pub first: u32,
    /// How many recipients.
    pub count: u32,
    /// Attempts made.
    pub attempts: u16,
    /// One is under way.
    pub attempted: bool,
    /// The last one ended in doubt.
    pub ambiguous: bool,
    /// When the next may be made.
    pub due_in: Duration,
    /// When it is given up; `None` while an order holds it and time does not count.
    pub expires_in: Option<Duration>,
    /// The last reply.
    pub last_reply: Option<Arc<str>>,
}

impl Dispatch {
    /// How much of everything there is.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            entries: self.queue.len() as u64,
            queues: self.line_names.len() as u64,
            targets: self.target_keys.len() as u64,
            sites: self.site_keys.len() as u64,
            paths: self.path_of.len() as u64,
            resolving: self.resolving as u64,
            to_resolve: self.to_resolve.len() as u64,
            settling: self.settling as u64,
            giving_up: self.giving_up.len() as u64,
            orders: self.orders.list().len() as u64,
        }
    }

    /// Everything by site. Costs a look at every queue.
    pub fn status(&self, now: Instant) -> Status {
        let mut sites: Vec<SiteStatus> = Vec::new();
        let mut at_site: Vec<Option<usize>> = vec![None; self.sites.len()];
        for (at, target) in self.targets.iter().enumerate() {
            let Some(target) = target else { continue };
            let entry = match &target.binding {
                Binding::Bound { site, .. } => {
                    let place = &mut at_site[site.0 as usize];
                    let at = *place.get_or_insert_with(|| {
                        sites.push(self.site_status(now, *site));
                        sites.len() - 1
                    });
                    &mut sites[at]
                }
                binding => {
                    sites.push(SiteStatus {
                        site: target.name.to_string(),
                        hold: self.target_hold(crate::state::TargetKey(at as u32)),
                        last_failure: match binding {
                            Binding::Failed { reply, .. } | Binding::Refused { reply, .. } => {
                                Some(reply.to_string())
                            }
                            _ => None,
                        },
                        ..SiteStatus::default()
                    });
                    let last = sites.len() - 1;
                    &mut sites[last]
                }
            };
            for &line in &target.lines {
                let counts = self.queue.counts(line);
                entry.ready += u64::from(counts.ready);
                entry.waiting += u64::from(counts.waiting);
                entry.attempted += u64::from(counts.attempted);
                entry.recipients += counts.recipients;
            }
        }
        for site in &mut sites {
            if site.ready == 0 {
                (site.hold, site.held_for) = (None, None);
            }
        }
        sites.sort_by(|a, b| b.recipients.cmp(&a.recipients).then_with(|| a.site.cmp(&b.site)));
        Status {
            recipients: self.queue.recipients(),
            entries: self.queue.len() as u64,
            connections: self.owners.len() as u64,
            queues: self.line_names.len() as u64,
            targets: self.target_keys.len() as u64,
            paths: self.path_of.len() as u64,
            resolving: self.resolving as u64,
            sites,
        }
    }

    fn site_status(&self, now: Instant, key: SiteKey) -> SiteStatus {
        let Some(site) = self.site(key) else { return SiteStatus::default() };
        let held = site.groups.iter().find_map(|group| group.hold.as_deref());
        let paths: Vec<PathStatus> = site
            .paths
            .iter()
            .filter_map(|(source, at)| {
                let path = self.path(*at)?;
                Some(PathStatus {
                    source: self.egress.source_name(*source),
                    connections: path.connections.len() as u32,
                    mode: mode(&self.shaper.mode(path.key)),
                    hold: path.hold.as_ref().map(|hold| hold.0.clone()),
                })
            })
            .collect();
        SiteStatus {
            site: site.name.to_string(),
            provider: site.provider.clone(),
            connections: paths.iter().map(|path| path.connections).sum(),
            hold: held.map(|(hold, _)| hold.clone()),
            held_for: held.map(|(_, since)| now.saturating_duration_since(*since)),
            last_failure: site
                .paths
                .iter()
                .find_map(|(_, at)| self.path(*at)?.last_failure.as_ref().map(|text| text.to_string())),
            paths,
            ..SiteStatus::default()
        }
    }

    /// The queues, those with the most recipients first; at most `max`.
    pub fn queues(&self, now: Instant, max: usize) -> Vec<QueueStatus> {
        let mut keys: Vec<(u64, LineKey)> =
            self.lines().map(|(key, _)| (self.queue.counts(key).recipients, key)).collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys.truncate(max);
        keys.into_iter().map(|(_, key)| self.queue_status(now, key)).collect()
    }

    fn queue_status(&self, now: Instant, key: LineKey) -> QueueStatus {
        let counts = self.queue.counts(key);
        let name = self.queue_name(key);
        let aside = self.line(key).and_then(|line| line.aside.as_deref());
        QueueStatus {
            queue: name.to_string(),
            site: self.site_of_line(key).and_then(|site| self.site(site)).map(|site| site.name.clone()),
            class: name.class,
            ready: counts.ready,
            waiting: counts.waiting,
            attempted: counts.attempted,
            recipients: counts.recipients,
            aside: aside.map(|(aside, _)| match aside {
                Aside::Order(id) => format!("order {id}"),
                Aside::Held(hold) => hold.to_string(),
            }),
            aside_for: aside.map(|(_, since)| now.saturating_duration_since(*since)),
        }
    }

    /// Some entries, of one target or site or of all.
    pub fn entries(&self, now: Instant, place: Option<&str>, max: usize) -> Vec<EntryStatus> {
        let fits = |line: LineKey| {
            let Some(place) = place else { return true };
            self.line(line).and_then(|line| self.target(line.name.target)).is_some_and(|t| &*t.name == place)
                || self
                    .site_of_line(line)
                    .and_then(|site| self.site(site))
                    .is_some_and(|site| &*site.name == place)
                || self.queue_name(line).to_string() == place
        };
        let mut known: Vec<Option<bool>> = vec![None; self.lines.len()];
        self.queue
            .views()
            .filter(|view| {
                let line = view.entry.line;
                *known[line.0 as usize].get_or_insert_with(|| fits(line))
            })
            .take(max)
            .map(|view| self.entry_status(now, &view))
            .collect()
    }

    pub(crate) fn entry_status(&self, now: Instant, view: &View) -> EntryStatus {
        let entry = &view.entry;
        let name = self.queue_name(entry.line);
        EntryStatus {
            handle: entry.handle,
            queue: name.to_string(),
            target: name.target,
            first: entry.first,
            count: entry.count,
            attempts: entry.attempts,
            attempted: view.attempted,
            ambiguous: entry.ambiguous,
            due_in: view.due.saturating_duration_since(now),
            expires_in: (!self.queue.is_timeless(entry.line))
                .then(|| view.expires.saturating_duration_since(now)),
            last_reply: self.replies.get(entry.last_reply),
        }
    }

    /// The entries of a message.
    pub fn entries_of(&self, handle: u64) -> Vec<EntryKey> {
        self.queue.views().filter(|view| view.entry.handle == handle).map(|view| view.key).collect()
    }

    /// Everything that waits at a target or site, or at all, is due now, and a site that could not be reached is
    /// tried at once. How many entries moved.
    pub fn flush(&mut self, now: Instant, place: Option<&str>) -> u32 {
        let lines: Vec<LineKey> = self
            .lines()
            .map(|(key, _)| key)
            .filter(|&key| {
                place.is_none_or(|place| {
                    let name = self.queue_name(key);
                    let site = self.site_of_line(key).and_then(|site| self.site(site));
                    &*name.target == place
                        || name.to_string() == place
                        || site.is_some_and(|site| &*site.name == place)
                })
            })
            .collect();
        let mut moved = 0;
        for line in lines {
            moved += self.queue.flush(now, line);
            match self.site_of_line(line) {
                Some(site) => {
                    for (_, at) in self.site(site).map(|site| site.paths.clone()).unwrap_or_default() {
                        if let Some(path) = self.path(at).map(|path| path.key) {
                            self.shaper.forgive(path);
                        }
                    }
                    self.touch(site);
                }
                None => {
                    if let Some(target) = self.line(line).map(|line| line.name.target) {
                        self.want_site(target);
                    }
                }
            }
        }
        moved
    }
}

/// A path's mode in words.
fn mode(mode: &shaping::Mode) -> String {
    match mode {
        shaping::Mode::Normal => "normal".into(),
        shaping::Mode::Backoff { by, .. } => format!("backoff by {by}"),
    }
}

/// Mail that could go and does not.
#[derive(Clone, Copy, Debug)]
pub struct HeldMail<'a> {
    /// Its site.
    pub site: &'a Arc<str>,
    /// Why.
    pub hold: &'a Hold,
    /// Entries that wait.
    pub ready: u32,
}

impl Dispatch {
    /// What holds mail that could go otherwise, for the queues of each site and pool together, and for single queues
    /// that a limit of their own sets aside.
    pub fn held(&self) -> impl Iterator<Item = HeldMail<'_>> {
        let together = self.sites.iter().flatten().flat_map(|site| {
            site.groups.iter().filter_map(|group| {
                let (hold, _) = group.hold.as_deref()?;
                let ready = self.queue.group_ready(group.key);
                (ready > 0).then_some(HeldMail { site: &site.name, hold, ready })
            })
        });
        let aside = self.lines().filter_map(|(key, line)| {
            let Some((Aside::Held(hold), _)) = line.aside.as_deref() else { return None };
            let site = self.site(self.site_of_line(key)?)?;
            let ready = self.queue.counts(key).ready;
            (ready > 0).then_some(HeldMail { site: &site.name, hold, ready })
        });
        together.chain(aside)
    }
}
