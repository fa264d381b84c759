//! Sources, and whatever is not as usual between a source and a site, as lists for operators.

use crate::explain::word;
use crate::state::{Dispatch, PathState};
use mail::UnixMillis;
use shaping::{Cause, Listed, Suspended};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Since when something is stopped, by whom, and for how long yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The rule and the reply, or the operator and the reason.
    pub by: String,
    /// For how long it has been.
    pub held_for: Duration,
    /// For how long it will be; `None` is until it is released.
    pub held_until: Option<Duration>,
}

/// A source.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// Its name.
    pub name: Arc<str>,
    /// On in the configuration.
    pub enabled: bool,
    /// Taken out of use by a rule or an operator.
    pub disabled: Option<Stopped>,
    /// The pools it is in, with its weight.
    pub pools: Vec<(Arc<str>, u32)>,
    /// Sites that it has a path to in memory.
    pub sites: u32,
    /// Those of them in backoff.
    pub backoff: u32,
    /// Connections open or being opened.
    pub connections: u32,
}

/// Something that is not as usual: a path in backoff, suspended, slowed down, not reachable, in its warm-up or at an
/// adaptive rate; or a tenant, campaign, queue or source that is suspended.
#[derive(Clone, Debug)]
pub struct LimitStatus {
    /// A word for it: `backoff`, `suspended`, `slowed`, `unreachable`, `warm-up`, `adaptive`, `disabled`.
    pub state: &'static str,
    /// The site, if it is of one.
    pub site: Option<Arc<str>>,
    /// The source, if it is of one.
    pub source: Option<Arc<str>>,
    /// The tenant, if it is one's.
    pub tenant: Option<Arc<str>>,
    /// The campaign, if it is one's.
    pub campaign: Option<Arc<str>>,
    /// The queue, if it is one's.
    pub queue: Option<String>,
    /// In a sentence.
    pub text: String,
    /// For how long it has been, if that is known.
    pub held_for: Option<Duration>,
    /// For how long it will be yet, if that is known.
    pub held_until: Option<Duration>,
    /// The setting that says so: its name, its value, its file and line.
    pub setting: Option<String>,
    /// The command that ends it, if one does.
    pub change: Option<String>,
}

impl LimitStatus {
    fn new(state: &'static str, text: String) -> Self {
        Self {
            state,
            text,
            site: None,
            source: None,
            tenant: None,
            campaign: None,
            queue: None,
            held_for: None,
            held_until: None,
            setting: None,
            change: None,
        }
    }
}

impl Dispatch {
    /// All sources, as configured.
    pub fn sources(&self, now: Instant) -> Vec<SourceStatus> {
        let disabled: Vec<(Arc<str>, Stopped)> = self
            .shaper
            .listed()
            .into_iter()
            .filter_map(|listed| match listed {
                Listed::Source { source, since, until, by } => {
                    Some((source, stopped(now, since, until, &by)))
                }
                _ => None,
            })
            .collect();
        let mut list: Vec<SourceStatus> = self
            .egress
            .sources
            .iter()
            .map(|source| SourceStatus {
                name: source.name.clone(),
                enabled: source.enabled,
                disabled: disabled
                    .iter()
                    .find(|(name, _)| *name == source.name)
                    .map(|(_, stopped)| stopped.clone()),
                pools: Vec::new(),
                sites: 0,
                backoff: 0,
                connections: 0,
            })
            .collect();
        for pool in &self.egress.pools {
            for (source, weight) in &pool.sources {
                if let Some(status) = list.get_mut(usize::from(source.0)) {
                    status.pools.push((pool.name.clone(), *weight));
                }
            }
        }
        for path in self.paths.iter().flatten() {
            let Some(status) = list.get_mut(usize::from(path.source.0)) else { continue };
            status.sites += 1;
            status.connections += path.connections.len() as u32;
            status.backoff += u32::from(self.shaper.mode(path.key) != shaping::Mode::Normal);
        }
        list
    }

    /// Whatever is not as usual; at most `max`.
    pub fn limits(&mut self, now: Instant, wall: UnixMillis, max: usize) -> Vec<LimitStatus> {
        let mut list: Vec<LimitStatus> = Vec::new();
        for listed in self.shaper.listed() {
            if list.len() >= max {
                return list;
            }
            list.extend(self.listed(now, listed));
        }
        let (paths, shaper) = (&self.paths, &mut self.shaper);
        for path in paths.iter().flatten() {
            if list.len() >= max {
                break;
            }
            list.extend(of_path(now, wall, shaper, path));
        }
        list.truncate(max);
        list
    }

    fn listed(&self, now: Instant, listed: Listed) -> Option<LimitStatus> {
        let made = |state, text: String, since: Instant, until: Option<Instant>, by: &Cause| LimitStatus {
            held_for: Some(now.saturating_duration_since(since)),
            held_until: until.map(|until| until.saturating_duration_since(now)),
            setting: Some(by.setting.to_string()),
            ..LimitStatus::new(state, text)
        };
        Some(match listed {
            Listed::Path { path, suspended, since, until, by } => {
                let (source, site) = self.shaper.names(path);
                let (state, text) = match suspended {
                    true => ("suspended", format!("nothing is sent, by {by}")),
                    false => ("backoff", format!("the limits of backoff hold, by {by}")),
                };
                LimitStatus {
                    site: Some(site.clone()),
                    source: Some(source.clone()),
                    change: Some(format!("tuma limit release --site {}", word(site))),
                    ..made(state, text, since, Some(until), &by)
                }
            }
            Listed::Queue { name, queue, since, until, by } => {
                let shown = match queue {
                    Some(queue) => self.queue_name(queue::LineKey(queue)).to_string(),
                    None => crate::QueueName {
                        tenant: name.tenant.clone(),
                        campaign: name.campaign.clone(),
                        target: name.domain.clone(),
                        pool: name.pool.clone(),
                        class: 0,
                    }
                    .to_string(),
                };
                LimitStatus {
                    tenant: name.tenant,
                    campaign: name.campaign,
                    change: queue.map(|_| format!("tuma limit release --queue {}", word(&shown))),
                    queue: Some(shown),
                    ..made("suspended", format!("the queue waits, by {by}"), since, Some(until), &by)
                }
            }
            Listed::Sender { what, name, site, since, until, by } => {
                let is_tenant = what == Suspended::Tenant;
                let text = format!("the {} waits at this site, by {by}", what.word());
                LimitStatus {
                    change: Some(format!(
                        "tuma limit release --site {} --{} {}",
                        word(&site),
                        what.word(),
                        word(&name)
                    )),
                    tenant: is_tenant.then(|| name.clone()),
                    campaign: (!is_tenant).then_some(name),
                    site: Some(site),
                    ..made("suspended", text, since, Some(until), &by)
                }
            }
            Listed::Source { source, since, until, by } => LimitStatus {
                change: Some(format!("tuma source enable {}", word(&source))),
                source: Some(source),
                ..made("disabled", format!("the source sends nothing, by {by}"), since, until, &by)
            },
        })
    }
}

fn stopped(now: Instant, since: Instant, until: Option<Instant>, by: &Cause) -> Stopped {
    // An operator's reason stands in the place of a rule's setting.
    let by = if &*by.name == "operator" {
        match &*by.setting.value {
            "" => "an operator".to_owned(),
            reason => format!("an operator: {reason}"),
        }
    } else {
        by.to_string()
    };
    Stopped {
        by,
        held_for: now.saturating_duration_since(since),
        held_until: until.map(|until| until.saturating_duration_since(now)),
    }
}

/// What is not as usual on one path and is in no list of the shaper's.
fn of_path(
    now: Instant,
    wall: UnixMillis,
    shaper: &mut shaping::Shaper,
    path: &PathState,
) -> Vec<LimitStatus> {
    let key = path.key;
    let (source, site) = shaper.names(key);
    let (source, site) = (source.clone(), site.clone());
    let release = format!("tuma limit release --site {}", word(&site));
    let mut list = Vec::new();
    let mut add = |status: LimitStatus| {
        list.push(LimitStatus { source: Some(source.clone()), site: Some(site.clone()), ..status });
    };
    if let Some(hold) = path.hold.as_deref()
        && hold.0.is_unreachable()
    {
        let text = match &path.last_failure {
            Some(failure) => format!("{}: {failure}", hold.0.reason),
            None => hold.0.reason.to_string(),
        };
        add(LimitStatus {
            held_for: Some(now.saturating_duration_since(hold.1)),
            held_until: hold.0.until.map(|until| until.saturating_duration_since(now)),
            setting: hold.0.setting().map(ToString::to_string),
            change: Some(release.clone()),
            ..LimitStatus::new("unreachable", text)
        });
    }
    let factor = shaper.slowness(key);
    if factor < 1.0 {
        let text = format!("rates and connections are multiplied by {factor:.3}");
        add(LimitStatus { change: Some(release), ..LimitStatus::new("slowed", text) });
    }
    let profile = shaper.profile(key).clone();
    if let Some(warmup) = &profile.warmup
        && let Some((used, cap)) = shaper.warm_up(now, wall, key)
    {
        let text = format!("{used} of today's {cap} messages are sent");
        add(LimitStatus { setting: Some(warmup.caps.at.to_string()), ..LimitStatus::new("warm-up", text) });
    }
    if let Some(adaptive) = &profile.adaptive
        && let Some(limit) = shaper.adaptive_limit(key)
    {
        let rate = shaping::Rate { count: limit, period: adaptive.max.value.period };
        let text = format!("the rate found is {rate}");
        add(LimitStatus { setting: Some(adaptive.max.at.to_string()), ..LimitStatus::new("adaptive", text) });
    }
    list
}
