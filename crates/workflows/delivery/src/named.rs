//! Questions and orders that need messages read: by sender, job, recipient or id.
//!
//! The queue knows a message by its place in the spool. Whoever asks by more than that reads the messages of what
//! may fit, some at a time, while the dispatcher goes on.

use crate::shared::Shared;
use crate::status::{NewOrder, Order};
use crate::transport::Demand;
use crate::{Delivery, Settings};
use dispatch::{Candidate, Target};
use mail::{Host, Message, Reply};
use queue::orders::{Action, Fact, Facts, Match, Order as Ordered, OrderError, Scope};
use resolve::RouteError;
use spool::Handle;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info};

/// Messages read in one go.
const READ_AT_ONCE: usize = 256;

/// How long one search may take.
const SEARCH_FOR: Duration = Duration::from_secs(5);

/// A queued entry and its message.
#[derive(Clone, Debug)]
pub struct Found {
    /// The entry.
    pub candidate: Candidate,
    /// Its message.
    pub message: Arc<Message>,
}

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// The first that were found.
    pub found: Vec<Found>,
    /// Recipients of all that were found.
    pub recipients: u64,
    /// Recipients of which the site or the source is not known yet.
    pub uncertain: u64,
    /// Messages that were read.
    pub read: u64,
    /// There was more to read than a search may.
    pub cut: bool,
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct SearchLimits {
    /// Messages read at most.
    pub reads_max: u64,
    /// Entries kept of what is found at most.
    pub found_max: usize,
    /// The search is over once so many are found.
    pub enough: bool,
}

impl Shared {
    /// The most preferred exchangers of a host, sorted: what tells its site.
    pub(crate) async fn preferred(&self, host: &Host) -> Result<Vec<Arc<str>>, RouteError> {
        let route = self.routes.route(host).await?;
        let best = route.exchangers.iter().map(|exchanger| exchanger.preference).min();
        let mut hosts: Vec<Arc<str>> = route
            .exchangers
            .iter()
            .filter(|exchanger| Some(exchanger.preference) == best)
            .map(|exchanger| exchanger.host.to_string().into())
            .collect();
        hosts.sort_unstable();
        Ok(hosts)
    }

    /// The messages of some entries. One that is settled meanwhile is left out.
    async fn read_all(&self, candidates: &[Candidate]) -> Vec<Found> {
        let (spool, candidates) = (self.spool.clone(), candidates.to_vec());
        let read = tokio::task::spawn_blocking(move || {
            let read = |candidate: Candidate| {
                let message = Arc::new(spool.read(Handle(candidate.handle)).ok()?.message);
                Some(Found { candidate, message })
            };
            candidates.into_iter().filter_map(read).collect::<Vec<Found>>()
        });
        read.await.unwrap_or_else(|panic| {
            error!(%panic, "reading messages ended in a panic");
            Vec::new()
        })
    }
}

/// What a scope says of sender and job against a message.
fn names(scope: &Scope, message: &Message) -> bool {
    let asked = Scope { sender: scope.sender.clone(), job: scope.job.clone(), ..Scope::default() };
    let facts = Facts {
        sender: Fact::Is(message.envelope.reverse_path.as_str()),
        job: message.tags.job.as_deref().into(),
        ..Facts::default()
    };
    asked.matches(&facts) == Match::Yes
}

async fn candidates(
    orders: &mpsc::Sender<Order>,
    scope: &Scope,
    from: u32,
) -> Option<(Vec<Candidate>, Option<u32>)> {
    let (reply, answer) = oneshot::channel();
    orders.send(Order::Candidates(scope.clone(), from, reply)).await.ok()?;
    answer.await.ok()
}

impl Delivery {
    /// The settings of the moment.
    pub fn settings(&self) -> Arc<Settings> {
        self.shared.settings()
    }

    /// The most preferred exchangers of a target, or why there are none. A route has none: the operator says
    /// where it goes.
    pub async fn exchangers(&self, target: &Target) -> Result<Vec<Arc<str>>, String> {
        let host = match target {
            Target::Route(_) | Target::Literal(_) => return Ok(Vec::new()),
            Target::Domain(domain) => Host::Domain(domain.clone()),
        };
        self.shared.preferred(&host).await.map_err(|error| error.reply.to_string())
    }

    /// What mail for a target asks of a connection, or the reply for mail while that cannot be known.
    pub async fn demand(&self, target: &Target) -> Result<Demand, Reply> {
        let settings = self.shared.settings();
        let route = match target {
            Target::Route(name) => settings.routes.get(name).cloned(),
            Target::Domain(_) | Target::Literal(_) => None,
        };
        self.shared.demand(&settings, target, route.as_deref()).await
    }

    /// Why an exchanger is spoken to in the clear where TLS is opportunistic, and for how long yet.
    pub fn why_in_the_clear(&self, host: &str) -> Option<(Box<str>, Duration)> {
        self.shared.in_the_clear.why(Instant::now().into_std(), host)
    }

    /// Exchangers that are spoken to in the clear because their handshakes fail.
    pub fn in_the_clear(&self) -> usize {
        self.shared.in_the_clear.count(Instant::now().into_std())
    }

    /// Looks through what a scope names in the queue for messages that fit; `None` once delivery has ended.
    pub async fn search(
        &self,
        scope: &Scope,
        limits: SearchLimits,
        fits: impl Fn(&Found) -> bool,
    ) -> Option<Named> {
        let until = Instant::now() + SEARCH_FOR;
        let mut named = Named::default();
        let mut from = Some(0);
        while let Some(at) = from {
            let (found, next) = candidates(&self.orders, scope, at).await?;
            from = next;
            for some in found.chunks(READ_AT_ONCE) {
                let full = limits.enough && named.found.len() >= limits.found_max;
                if full || named.read >= limits.reads_max || Instant::now() >= until {
                    named.cut = true;
                    return Some(named);
                }
                named.read += some.len() as u64;
                for found in self.shared.read_all(some).await {
                    if !names(scope, &found.message) || !fits(&found) {
                        continue;
                    }
                    let recipients = u64::from(found.candidate.count);
                    if found.candidate.certain {
                        named.recipients += recipients;
                    } else {
                        named.uncertain += recipients;
                    }
                    if named.found.len() < limits.found_max {
                        named.found.push(found);
                    }
                }
            }
        }
        Some(named)
    }

    /// Takes an order; `None` once delivery has ended. One that bounces by what only messages tell has them read,
    /// in the background, so that what waits for its next attempt is given up now and not then.
    pub async fn give(&self, new: NewOrder) -> Option<Result<(Ordered, bool), OrderError>> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Give(new, reply)).await;
        let given = answer.await.ok()?;
        if let Ok((order, _)) = &given
            && order.action == Action::Bounce
            && order.scope.needs_message()
        {
            let (shared, orders, order) = (self.shared.clone(), self.orders.clone(), order.clone());
            tokio::spawn(async move {
                let (id, count) = (order.id, bounce_named(&shared, &orders, order).await);
                if let Some(entries) = count {
                    info!(order = %id, entries, "what waited and an order names is given up");
                }
            });
        }
        Some(given)
    }
}

/// Gives up whatever waits and an order names by sender or job; how many entries. `None` if the order or delivery
/// ended meanwhile.
async fn bounce_named(shared: &Shared, orders: &mpsc::Sender<Order>, order: Ordered) -> Option<u32> {
    let (mut count, mut from) = (0, Some(0));
    while let Some(at) = from {
        let (found, next) = candidates(orders, &order.scope, at).await?;
        from = next;
        // Where the source decides, it is known when a connection has it.
        let certain: Vec<Candidate> = found.into_iter().filter(|candidate| candidate.certain).collect();
        for some in certain.chunks(READ_AT_ONCE) {
            let read = shared.read_all(some).await.into_iter();
            let named: Vec<Candidate> = read
                .filter(|found| names(&order.scope, &found.message))
                .map(|found| found.candidate)
                .collect();
            let (reply, answer) = oneshot::channel();
            orders.send(Order::BounceNamed(order.id, named, reply)).await.ok()?;
            count += answer.await.ok()??;
        }
    }
    Some(count)
}
