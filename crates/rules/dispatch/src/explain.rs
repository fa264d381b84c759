//! Why is this mail not moving? Each gate is asked by the code that decides, in the order in which it does.

use crate::hold::{Hold, Reason};
use crate::state::{Aside, Binding, Dispatch, LineState, SiteKey};
use crate::target::Target;
use mail::UnixMillis;
use queue::orders::{Fact, Facts, Match, Scope};
use queue::{LineKey, View};
use shaping::{GateState, MessageFacts, PathFacts, Profile, SettingAt};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Orders that are listed at most where none of them holds.
const NAMED_MAX: usize = 10;

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// A message and one of its recipients; without it, mail that is not there yet.
    pub entry: Option<(u64, u32)>,
    /// The tenant.
    pub tenant: Option<Box<str>>,
    /// The campaign.
    pub campaign: Option<Box<str>>,
    /// The pool.
    pub pool: Option<Box<str>>,
    /// The reverse-path and job, for orders that name them.
    pub sender: Option<Box<str>>,
    /// See `sender`.
    pub job: Option<Box<str>>,
    /// Where it goes.
    pub target: Target,
    /// The most preferred exchangers as just looked up, or why there are none.
    pub exchangers: Result<Vec<Arc<str>>, String>,
    /// Octets of the message.
    pub octets: u64,
}

/// One gate, open or not.
#[derive(Clone, Debug)]
pub struct GateReport {
    /// Its place in the order of gates: `order`, `retry`, `site`, `tenant`, `source`, `warm-up`, `limits`,
    /// `connection`, `reply`.
    pub gate: &'static str,
    /// The source it is of, if it is of one.
    pub source: Option<Arc<str>>,
    /// It holds the mail.
    pub holds: bool,
    /// In a sentence.
    pub text: String,
    /// For how long it has held.
    pub held_for: Option<Duration>,
    /// For how long it will yet, if that is known.
    pub held_until: Option<Duration>,
    /// The setting: its name, its value, its file and line.
    pub setting: Option<String>,
    /// The one command or change that changes it.
    pub change: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// The queue.
    pub queue: String,
    /// The site, if it is known.
    pub site: Option<Arc<str>>,
    /// Its provider.
    pub provider: Option<Arc<str>>,
    /// The sources that may send it, in the order of their turns.
    pub sources: Vec<Arc<str>>,
    /// What stands before it in the queue: entries ready in the queue, and in all queues that compete with it.
    pub ahead: (u64, u64),
    /// It is being attempted now.
    pub attempted: bool,
    /// Attempts made.
    pub attempts: u16,
    /// When it moves next, if that is known.
    pub moves_in: Option<Duration>,
    /// In a sentence.
    pub verdict: String,
    /// The gates in their order.
    pub gates: Vec<GateReport>,
    /// The limits that hold at the first source, each with its value and where it was written.
    pub limits: Vec<String>,
}

impl GateReport {
    fn open(gate: &'static str, text: impl Into<String>) -> Self {
        Self {
            gate,
            source: None,
            holds: false,
            text: text.into(),
            held_for: None,
            held_until: None,
            setting: None,
            change: None,
        }
    }

    fn held(
        gate: &'static str,
        now: Instant,
        hold: &Hold,
        since: Option<Instant>,
        about: &About<'_>,
    ) -> Self {
        let shaped = match &hold.reason {
            Reason::Shaping(hold) => hold.since,
            _ => None,
        };
        Self {
            holds: true,
            held_for: shaped.or(since).map(|since| now.saturating_duration_since(since)),
            held_until: hold.until.map(|until| until.saturating_duration_since(now)),
            setting: hold.setting().map(ToString::to_string),
            change: change_of(&hold.reason, about),
            ..Self::open(gate, hold.reason.to_string())
        }
    }
}

/// What a gate is about, for the command that changes it.
#[derive(Clone, Copy, Debug, Default)]
struct About<'a> {
    queue: &'a str,
    site: &'a str,
    source: &'a str,
    tenant: &'a str,
    campaign: &'a str,
}

/// What an operator can do about it. Every command here is one of `tuma`.
fn change_of(reason: &Reason, about: &About<'_>) -> Option<String> {
    use shaping::{Gate as G, Suspended as S};
    let flush = || format!("tuma queue flush {}", word(about.queue));
    let release = || format!("tuma limit release --site {}", word(about.site));
    Some(match reason {
        Reason::Order { id, .. } => format!("tuma order cancel {id}"),
        Reason::SourceOff(source) => format!("set `enabled = true` in [source.{source}], then tuma reload"),
        Reason::Total(_) => "raise `delivery.connections_total_max`, then tuma reload".into(),
        Reason::NoSite(_) => flush(),
        Reason::Shaping(hold) => match &hold.gate {
            // It is over with the next reply, and nothing makes it sooner.
            G::Greeting => return None,
            G::Unreachable { .. } => flush(),
            G::Suspended { what: S::Tenant, .. } => format!("{} --tenant {}", release(), word(about.tenant)),
            G::Suspended { what: S::Campaign, .. } => {
                format!("{} --campaign {}", release(), word(about.campaign))
            }
            G::Suspended { what: S::Queue, .. } => {
                format!("tuma limit release --queue {}", word(about.queue))
            }
            G::Backoff { .. } | G::Probe { .. } | G::Suspended { what: S::Path, .. } => release(),
            G::SourceDisabled { .. } => format!("tuma source enable {}", word(about.source)),
            _ if hold.setting.origin.line > 0 => {
                format!("edit `{}` at {}, then tuma reload", hold.setting.name, hold.setting.origin)
            }
            // A limit that an order has set.
            _ => match hold.setting.origin.file.strip_prefix("order ") {
                Some(id) => format!("tuma order cancel {id}"),
                None => format!("set `{}`, then tuma reload", hold.setting.name),
            },
        },
    })
}

/// A name as one word of a command line.
pub(crate) fn word(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:,@/+=%".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}

impl Dispatch {
    /// Answers a question about queued mail, or about mail that is not there yet.
    pub fn explain(&mut self, now: Instant, wall: UnixMillis, question: &Question) -> Explained {
        let found = question.entry.and_then(|(handle, index)| {
            self.queue.views().find(|view| {
                let entry = &view.entry;
                entry.handle == handle && (entry.first..entry.first + entry.count).contains(&index)
            })
        });
        match found {
            Some(view) => self.explain_entry(now, wall, question, &view),
            None => self.explain_dry(now, wall, question),
        }
    }

    fn explain_entry(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        question: &Question,
        view: &View,
    ) -> Explained {
        let line = view.entry.line;
        self.look_at_orders(line);
        let counts = self.queue.counts(line);
        let competing = self.queue.rank(line).map_or(0, |rank| self.queue.group_ready(rank.group));
        let mut told = Explained {
            queue: self.queue_name(line).to_string(),
            attempted: view.attempted,
            attempts: view.entry.attempts,
            ahead: (u64::from(counts.ready), u64::from(competing)),
            ..Explained::default()
        };
        let name = self.line(line).map(|line| line.name);
        let facts = Facts {
            sender: question.sender.as_deref().into(),
            job: question.job.as_deref().into(),
            ..self.facts(line, Fact::Unknown)
        };
        told.gates.push(self.order_gate(now, Some(line), &facts));
        told.gates.push(self.retry_gate(now, view, &told.queue));
        let pool = name.map_or(crate::egress::PoolAt(0), |name| name.pool);
        let site = self.site_of_line(line);
        let target = name.map(|name| name.target);
        match site {
            Some(site) => {
                told.gates.push(GateReport::open("site", "its site is known"));
                let pool = self.line(line).and_then(LineState::other_pool).unwrap_or(pool);
                let bytes = u64::from(view.entry.size);
                self.explain_sources(now, wall, &mut told, site, pool, line.0, question, bytes);
            }
            None => {
                let hold = target.and_then(|key| self.target_hold(key));
                told.gates.push(match hold {
                    Some(hold) => {
                        let about = About { queue: &told.queue, ..About::default() };
                        GateReport::held("site", now, &hold, None, &about)
                    }
                    None => GateReport {
                        holds: true,
                        ..GateReport::open("site", "its exchangers are being looked up")
                    },
                });
            }
        }
        let last = self.replies.get(view.entry.last_reply);
        told.gates.push(GateReport::open(
            "reply",
            last.map_or_else(|| "no reply yet".into(), |reply| format!("the last reply was: {reply}")),
        ));
        if view.attempted {
            told.verdict = "it is being attempted now".into();
            told.moves_in = Some(Duration::ZERO);
        } else {
            self.conclude(&mut told, (counts.ready > 1).then_some(u64::from(competing)));
        }
        told
    }

    /// Nothing of the kind is queued: which way would it go, and what would hold it? Leaves nothing behind.
    fn explain_dry(&mut self, now: Instant, wall: UnixMillis, question: &Question) -> Explained {
        let pool = question.pool.as_deref().and_then(|name| self.egress.pool(name)).unwrap_or_default();
        let pool_name = self.egress.pool_name(pool);
        let target = question.target.to_string();
        let of = match (&question.target, &question.exchangers) {
            (Target::Domain(_), Err(why)) => {
                let mut told = Explained { queue: format!("{target}/{pool_name}"), ..Explained::default() };
                let text = format!("its exchangers could not be looked up: {why}");
                told.gates.push(GateReport { holds: true, ..GateReport::open("site", text) });
                self.conclude(&mut told, None);
                return told;
            }
            (Target::Domain(_), Ok(hosts)) => {
                let hosts: Vec<&str> = hosts.iter().map(|host| &**host).collect();
                self.rules.site(&target, &hosts)
            }
            _ => self.rules.site(&target, &[]),
        };
        let name = crate::QueueName {
            tenant: question.tenant.as_deref().map(Arc::from),
            campaign: question.campaign.as_deref().map(Arc::from),
            target: target.as_str().into(),
            pool: pool_name.clone(),
            class: 1,
        };
        let mut told = Explained { queue: name.to_string(), ..Explained::default() };
        let facts = Facts {
            tenant: question.tenant.as_deref().into(),
            campaign: question.campaign.as_deref().into(),
            domain: Fact::Is(&target),
            site: Fact::Is(&of.name),
            pool: Fact::Is(&pool_name),
            source: Fact::Unknown,
            // What was not asked about may be anything.
            sender: question.sender.as_deref().map_or(Fact::Unknown, Fact::Is),
            job: question.job.as_deref().map_or(Fact::Unknown, Fact::Is),
        };
        told.gates.push(self.order_gate(now, None, &facts));
        let pool = self.rerouted(&facts).unwrap_or(pool);
        told.gates.push(GateReport::open("retry", "nothing of it was attempted yet"));
        told.gates.push(GateReport::open("site", "its exchangers were found"));
        match self.site_keys.get(&of.name).copied() {
            Some(site) => {
                self.explain_sources(now, wall, &mut told, site, pool, u32::MAX, question, question.octets);
            }
            None => {
                // Nothing is known of the site: only the rules can speak.
                told.site = Some(of.name.clone());
                told.provider.clone_from(&of.provider);
                let sources = self
                    .egress
                    .pools
                    .get(usize::from(pool.0))
                    .map(|pool| pool.sources.clone())
                    .unwrap_or_default();
                let stopped = self.disabled_sources();
                for (n, (source, _)) in sources.iter().enumerate() {
                    let name = self.egress.source_name(*source);
                    told.sources.push(name.clone());
                    if let Some(hold) = self.source_hold(*source) {
                        told.gates.push(GateReport {
                            source: Some(name.clone()),
                            ..GateReport::held(
                                "source",
                                now,
                                &hold,
                                None,
                                &About { source: &name, ..About::default() },
                            )
                        });
                    }
                    if let Some(stopped) = stopped.iter().find(|(source, _)| *source == name) {
                        let about = About { source: &name, ..About::default() };
                        told.gates.push(GateReport {
                            source: Some(name.clone()),
                            ..GateReport::held("source", now, &Hold::from(stopped.1.clone()), None, &about)
                        });
                    }
                    if n == 0 {
                        let domains = [target.as_str()];
                        let profile = self.rules.profile(&PathFacts {
                            site: &of.name,
                            provider: of.provider.as_deref(),
                            domains: if self.rules.names_domain(&target) { &domains } else { &[] },
                            pool: self.egress.home(*source),
                            source: &name,
                        });
                        told.limits = limits_of(&profile);
                    }
                }
                told.gates.push(GateReport::open("limits", "nothing was sent to this site lately"));
            }
        }
        self.conclude(&mut told, None);
        told
    }

    /// Sources that a rule or an operator has disabled, as a path of theirs would be held.
    fn disabled_sources(&self) -> Vec<(Arc<str>, shaping::Hold)> {
        let listed = self.shaper.listed().into_iter();
        let stopped = listed.filter_map(|listed| match listed {
            shaping::Listed::Source { source, since, until, by } => {
                let hold = shaping::Hold {
                    setting: by.setting.clone(),
                    gate: shaping::Gate::SourceDisabled { by },
                    scope: shaping::HoldScope::Source,
                    since: Some(since),
                    until,
                    overflow: false,
                };
                Some((source, hold))
            }
            _ => None,
        });
        stopped.collect()
    }

    /// The pool that an order sends such mail to.
    fn rerouted(&self, facts: &Facts<'_>) -> Option<crate::egress::PoolAt> {
        let mut orders = self.orders.matching(facts).filter(|(_, found)| *found == Match::Yes);
        orders.find_map(|(order, _)| match &order.action {
            queue::orders::Action::Reroute(pool) => self.egress.pool(pool),
            _ => None,
        })
    }

    fn order_gate(&self, now: Instant, line: Option<LineKey>, facts: &Facts<'_>) -> GateReport {
        let holding = self
            .orders
            .matching(facts)
            .find(|(order, found)| {
                *found == Match::Yes && matches!(order.action.word(), "suspend" | "hold" | "bounce")
            })
            .map(|(order, _)| order);
        let Some(order) = holding else {
            let found: Vec<String> = self
                .orders
                .matching(facts)
                .take(NAMED_MAX)
                .map(|(order, found)| {
                    let may = if found == Match::Depends { "may name it" } else { "names it" };
                    format!("order {} ({}) {may}", order.id, order.action.word())
                })
                .collect();
            return match found.is_empty() {
                true => GateReport::open("order", "no order names it"),
                false => GateReport::open("order", format!("{}; none holds it", found.join(", "))),
            };
        };
        let since = line
            .and_then(|line| self.line(line))
            .and_then(|line| line.aside.as_deref())
            .filter(|(aside, _)| matches!(aside, Aside::Order(_)))
            .map(|(_, since)| *since);
        GateReport::held("order", now, &self.hold_of(order), since, &About::default())
    }

    fn retry_gate(&self, now: Instant, view: &View, queue: &str) -> GateReport {
        let attempts = match view.entry.attempts {
            0 => "none was made yet".to_owned(),
            1 => "1 was made".to_owned(),
            n => format!("{n} were made"),
        };
        if view.due <= now {
            return GateReport::open("retry", format!("an attempt is due; {attempts}"));
        }
        GateReport {
            holds: true,
            held_until: Some(view.due.saturating_duration_since(now)),
            change: Some(format!("tuma queue flush {}", word(queue))),
            ..GateReport::open("retry", format!("it waits for its next attempt; {attempts}"))
        }
    }

    /// What a target without a site waits for.
    pub(crate) fn target_hold(&self, key: crate::state::TargetKey) -> Option<Hold> {
        match &self.target(key)?.binding {
            Binding::Failed { reply, until, .. } => {
                Some(Hold { reason: Reason::NoSite(reply.to_string().into()), until: Some(*until) })
            }
            Binding::Refused { reply, until } => {
                Some(Hold { reason: Reason::NoSite(reply.to_string().into()), until: Some(*until) })
            }
            Binding::Unknown | Binding::Bound { .. } => None,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "each is a fact of one question")]
    fn explain_sources(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        told: &mut Explained,
        site: SiteKey,
        pool: crate::egress::PoolAt,
        queue: u32,
        question: &Question,
        bytes: u64,
    ) {
        if let Some(state) = self.site(site) {
            told.site = Some(state.name.clone());
            told.provider.clone_from(&state.provider);
        }
        let weights =
            self.egress.pools.get(usize::from(pool.0)).map(|pool| pool.sources.clone()).unwrap_or_default();
        let line = (queue != u32::MAX).then_some(LineKey(queue));
        let (tenant, campaign) = match line.and_then(|line| self.line(line)).map(|line| line.name) {
            Some(name) => {
                (self.tenants.get(name.tenant).cloned(), self.campaigns.get(name.campaign).cloned())
            }
            None => (question.tenant.as_deref().map(Arc::from), question.campaign.as_deref().map(Arc::from)),
        };
        let (queue_name, site_name) = (told.queue.clone(), told.site.clone().unwrap_or_default());
        for (n, (source, _)) in weights.iter().enumerate() {
            let name = self.egress.source_name(*source);
            let about = About {
                queue: &queue_name,
                site: &site_name,
                source: &name,
                tenant: tenant.as_deref().unwrap_or_default(),
                campaign: campaign.as_deref().unwrap_or_default(),
            };
            told.sources.push(name.clone());
            let of_source = |report: GateReport| GateReport { source: Some(name.clone()), ..report };
            if let Some(hold) = self.source_hold(*source) {
                told.gates.push(of_source(GateReport::held("source", now, &hold, None, &about)));
                continue;
            }
            if let Some(hold) = line.and_then(|line| self.order_on_source(line, *source)) {
                told.gates.push(of_source(GateReport::held("source", now, &hold, None, &about)));
                continue;
            }
            let known = self.site(site).and_then(|site| {
                let at = site.paths.binary_search_by_key(source, |(source, _)| *source).ok()?;
                Some(site.paths[at].1)
            });
            let Some(at) = known else {
                told.gates.push(of_source(GateReport::open(
                    "limits",
                    "nothing was sent from here to the site yet",
                )));
                continue;
            };
            let Some(path) = self.path(at) else { continue };
            let (key, connections, ready) = (
                path.key,
                path.connections.len(),
                path.connections.iter().filter(|line| line.ready && !line.draining).count(),
            );
            let (since, failure) = (path.hold.as_ref().map(|hold| hold.1), path.last_failure.clone());
            if n == 0 {
                told.limits = limits_of(self.shaper.profile(key));
            }
            let facts =
                MessageFacts { tenant: tenant.as_deref(), campaign: campaign.as_deref(), queue, bytes };
            let states = self.shaper.gates(now, wall, key, &facts);
            // A connection that is there makes the gates of new ones irrelevant while it has room.
            for state in states {
                told.gates.push(of_source(gate_of(now, &state, since, &about)));
            }
            if let shaping::Mode::Backoff { since, until, by } = self.shaper.mode(key) {
                // Said even while its rates have room: it is why they are what they are.
                told.gates.push(of_source(GateReport {
                    held_for: Some(now.saturating_duration_since(since)),
                    held_until: Some(until.saturating_duration_since(now)),
                    change: Some(format!("tuma limit release --site {}", word(&site_name))),
                    ..GateReport::open("limits", format!("the path is in backoff by {by}"))
                }));
            }
            let text = match (ready, connections, failure) {
                (0, 0, Some(failure)) => {
                    format!("no connection is open; the last could not be made: {failure}")
                }
                (0, 0, None) => "no connection is open".into(),
                (ready, all, _) => format!("{all} open, {ready} of them ready"),
            };
            told.gates.push(of_source(GateReport::open("connection", text)));
        }
    }

    /// The sentence that sums it up, and when it moves.
    fn conclude(&self, told: &mut Explained, competing: Option<u64>) {
        // A gate of one source holds the mail only if no other source is open.
        let open = |source: &Arc<str>| {
            !told.gates.iter().any(|gate| gate.holds && gate.source.as_ref() == Some(source))
        };
        let any_open = told.sources.is_empty() || told.sources.iter().any(open);
        let holding: Vec<&GateReport> =
            told.gates.iter().filter(|gate| gate.holds && (gate.source.is_none() || !any_open)).collect();
        let Some(first) = holding.first() else {
            told.moves_in = Some(Duration::ZERO);
            told.verdict = match competing {
                Some(n) if n > 1 => format!("nothing holds it; it waits for its turn among {n} that may go"),
                _ => "nothing holds it; it goes with the next permit".into(),
            };
            return;
        };
        // What is of no source must all end; of the sources' gates the one that ends first is enough.
        let general = holding.iter().filter(|gate| gate.source.is_none());
        let known: Option<Vec<Duration>> = general.map(|gate| gate.held_until).collect();
        let general = known.map(|waits| waits.into_iter().max().unwrap_or_default());
        let by_source = told.sources.iter().filter_map(|source| {
            let gates = told.gates.iter().filter(|gate| gate.holds && gate.source.as_ref() == Some(source));
            let waits: Option<Vec<Duration>> = gates.map(|gate| gate.held_until).collect();
            waits.map(|waits| waits.into_iter().max().unwrap_or_default())
        });
        let by_source = if any_open { Some(Duration::ZERO) } else { by_source.min() };
        told.moves_in = general.zip(by_source).map(|(a, b)| a.max(b));
        told.verdict = match &first.setting {
            Some(setting) => format!("held: {} ({setting})", first.text),
            None => format!("held: {}", first.text),
        };
    }

    /// Queues that an order of this scope names, for its preview.
    pub fn named(&self, scope: &Scope, max: usize) -> Vec<String> {
        self.lines()
            .filter(|(key, _)| scope.matches(&self.facts(*key, Fact::Unknown)) != Match::No)
            .take(max)
            .map(|(key, _)| self.queue_name(key).to_string())
            .collect()
    }
}

/// The settings that hold on a path, each with its value and where it was written.
fn limits_of(profile: &Profile) -> Vec<String> {
    let rates = [&profile.message_rates, &profile.connection_rates, &profile.byte_rates];
    let mut all: Vec<&SettingAt> = vec![&profile.connections.at];
    all.extend(rates.iter().filter(|rates| !rates.value.is_empty()).map(|rates| &*rates.at));
    all.push(&profile.messages_per_connection.at);
    all.push(&profile.recipients_per_transaction.at);
    all.extend(profile.connection_ramp.iter().map(|set| &*set.at));
    all.extend(profile.retry_waits.iter().map(|set| &*set.at));
    all.extend(profile.expire_after.iter().map(|set| &*set.at));
    all.extend(profile.adaptive.iter().map(|adaptive| &*adaptive.max.at));
    all.extend(profile.warmup.iter().map(|warmup| &*warmup.caps.at));
    all.iter().map(ToString::to_string).collect()
}

fn gate_of(now: Instant, state: &GateState, since: Option<Instant>, about: &About<'_>) -> GateReport {
    use shaping::{Gate as G, HoldScope as S};
    let place = match (&state.hold, state.scope) {
        (Some(hold), _) if matches!(hold.gate, G::WarmUp { .. }) => "warm-up",
        (_, S::Tenant | S::Campaign | S::Queue) => "tenant",
        (_, S::Source) => "source",
        (_, S::Path | S::Shared) => "limits",
    };
    match &state.hold {
        Some(hold) => GateReport::held(place, now, &Hold::from(hold.clone()), since, about),
        None => {
            let text = match state.limit {
                0 => state.setting.name.to_string(),
                limit => format!("{} of {limit} used", state.used),
            };
            GateReport { setting: Some(state.setting.to_string()), ..GateReport::open(place, text) }
        }
    }
}
