//! A job with its message, unless something keeps it from being sent: a list, its time, an order.

use super::Connection;
use crate::job::{Errand, Event, Hot};
use crate::ordered_limits::Leave;
use crate::settle::{Settler, all_of};
use mail::{Outcome, Reply, UnixMillis};
use queue::orders::{Action, Fact, Facts as OrderFacts, Match, Order};
use smtp::client::RecipientResult;
use spool::Content;
use std::time::SystemTime;
use tokio::time::Instant;

/// A job that may be sent, with its message.
pub(super) struct AtHand {
    pub(super) job: dispatch::Job,
    pub(super) hot: Hot,
    pub(super) leaves: Vec<Leave>,
    /// Recipients of the job that are on a suppression list.
    pub(super) suppressed: Vec<u32>,
}

impl Connection {
    /// The job with its message, from memory or from the spool; `None` if it was settled or given back, because
    /// the message cannot be read or an order names it.
    pub(super) async fn at_hand(&self, errand: Errand, settler: &mut Settler<'_>) -> Option<AtHand> {
        // The spool need not be read for what a recipient before this one was made of.
        let known = if errand.hot.is_none() { self.shared.sheets.find(errand.handle()) } else { None };
        let hot = match &errand.hot {
            Some(hot) => hot.clone(),
            None => match &known {
                Some(kept) => Hot::new(kept.message.clone(), Content::default()),
                None => match self.shared.read(errand.handle()).await {
                    Ok(hot) => hot,
                    Err(error) => {
                        settler.tell_unreadable(&self.events, self.id, errand.job, error).await;
                        return None;
                    }
                },
            },
        };
        let handle = errand.handle();
        let job = errand.job;
        let suppressed = self.shared.suppressed(&hot.message, &job);
        if suppressed.len() == job.recipients() {
            let results = self.with_suppressed(&job, Vec::new(), &suppressed);
            let done = settler.settle(&job, &hot, results, Instant::now()).await;
            let _ = self.events.send(Event::Done(self.id, done)).await;
            return None;
        }
        let wall = UnixMillis::from(SystemTime::now());
        if hot.message.expires_at().is_some_and(|end| end <= wall) {
            let reply = Reply::new(451, (4, 4, 7), "its sender wanted it delivered by now or not at all");
            return self.give_up(settler, &job, &hot, Outcome::Expired(reply)).await;
        }
        // A merge's recipients come one by one.
        let index = job.indices().next().unwrap_or(0);
        let hot = match crate::merge::expand(&self.shared, &self.settings, handle, known, hot, index) {
            Ok(hot) => hot,
            Err((hot, why)) => {
                let outcome = Outcome::Bounced(Reply::new(554, (5, 6, 0), why));
                return self.give_up(settler, &job, &hot, outcome).await;
            }
        };
        let (order, until) = match self.leaves_for(&job, &hot) {
            Ok(leaves) => return Some(AtHand { job, hot, leaves, suppressed }),
            Err(ordered) => *ordered,
        };
        if order.action == Action::Bounce {
            let why = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
            let reply = Reply::new(550, (5, 7, 0), format!("given up by order {}{why}", order.id));
            return self.give_up(settler, &job, &hot, Outcome::Bounced(reply)).await;
        } else {
            let _ = self.events.send(Event::Ordered(self.id, job, order.id, until)).await;
        }
        None
    }

    /// Settles a job that will not be sent: nothing is at hand then.
    pub(super) async fn give_up(
        &self,
        settler: &mut Settler<'_>,
        job: &dispatch::Job,
        hot: &Hot,
        outcome: Outcome,
    ) -> Option<AtHand> {
        let done = settler.settle(job, hot, all_of(job, &outcome), Instant::now()).await;
        let _ = self.events.send(Event::Done(self.id, done)).await;
        None
    }

    /// The results of a job, with those of its recipients who are on a suppression list.
    pub(super) fn with_suppressed(
        &self,
        job: &dispatch::Job,
        mut results: Vec<RecipientResult>,
        suppressed: &[u32],
    ) -> Vec<RecipientResult> {
        if suppressed.is_empty() {
            return results;
        }
        results.retain(|result| !suppressed.contains(&result.index));
        let outcome = Outcome::Suppressed(self.settings.suppressed.clone());
        results.extend(all_of(job, &outcome).into_iter().filter(|result| suppressed.contains(&result.index)));
        results
    }

    /// Leave by every limit that was ordered for this message by what only the message tells; or the order that keeps it
    /// from being sent, and until when if that is known.
    fn leaves_for(
        &self,
        job: &dispatch::Job,
        hot: &Hot,
    ) -> Result<Vec<Leave>, Box<(Order, Option<std::time::Instant>)>> {
        let Some(orders) = &job.orders else { return Ok(Vec::new()) };
        let source = self.settings.sources.get(self.source);
        let (message, queue) = (&hot.message, &job.queue);
        let facts = OrderFacts {
            tenant: queue.tenant.as_deref().into(),
            campaign: queue.campaign.as_deref().into(),
            domain: Fact::Is(&queue.target),
            site: Fact::Is(&self.site),
            source: Fact::Is(&source.egress.name),
            pool: Fact::Is(&queue.pool),
            sender: Fact::Is(message.envelope.reverse_path.as_str()),
            job: message.tags.job.as_deref().into(),
        };
        let (mut leaves, mut limits) = (Vec::new(), Vec::new());
        for order in orders.iter().filter(|order| order.scope.matches(&facts) == Match::Yes) {
            match order.action {
                Action::Limit(_) => limits.push(order),
                _ => return Err(Box::new((order.clone(), None))),
            }
        }
        for order in limits {
            match self.shared.ordered_limits.ask(Instant::now().into_std(), order) {
                Ok(leave) => leaves.push(leave),
                Err(until) => {
                    leaves.into_iter().for_each(Leave::give_back);
                    return Err(Box::new((order.clone(), Some(until))));
                }
            }
        }
        Ok(leaves)
    }
}
