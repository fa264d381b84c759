//! What came of a run.

use crate::simulation::Simulation;
use crate::tally::{Outcomes, Series, Through};
use crate::world::span;
use mail::UnixMillis;
use std::time::Duration;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The wall clock at its beginning.
    pub begins: UnixMillis,
    /// How long it lasted, by the virtual clock.
    pub lasted: Duration,
    /// Messages accepted.
    pub accepted: u64,
    /// What became of them.
    pub outcomes: Outcomes,
    /// Messages still queued.
    pub queued: u64,
    /// Messages of campaigns that were not handed in yet.
    pub to_come: u64,
    /// Connections open at once, at most.
    pub connections_peak: usize,
    /// Times that a configured limit was checked at a receiver.
    pub limits_checked: u64,
    /// Times that one was exceeded there, which is a mistake of ours.
    pub limits_broken: u64,
    /// The first of them, in words.
    pub first_broken: Option<String>,
    /// By campaign.
    pub campaigns: Vec<CampaignReport>,
    /// By kind of receiver.
    pub receivers: Vec<KindReport>,
    /// What rules did, and how often, the most often first.
    pub notes: Vec<(String, u64)>,
}

/// What came of a campaign.
#[derive(Clone, Debug)]
pub struct CampaignReport {
    /// Its name.
    pub name: String,
    /// Its messages.
    pub messages: u64,
    /// When the first was handed in, from the beginning.
    pub starts: Duration,
    /// What became of them.
    pub outcomes: Outcomes,
    /// When 50, 90, 99 and 100 % were settled, from its start.
    pub through: [Option<Duration>; 4],
    /// From being handed in to being delivered, which 50, 90 and 99 % did not exceed, and the longest.
    pub waits: [Duration; 4],
    /// Settled over time.
    pub settled: Series,
}

/// What came of the mail to one kind of receiver.
#[derive(Clone, Debug)]
pub struct KindReport {
    /// Its name.
    pub name: String,
    /// How many receivers there are of it.
    pub receivers: usize,
    /// Messages to it.
    pub messages: u64,
    /// What became of them.
    pub outcomes: Outcomes,
    /// Attempts.
    pub attempts: u64,
    /// When 50, 90, 99 and 100 % were settled, from the beginning.
    pub through: [Option<Duration>; 4],
    /// Deliveries in a second, at the best time.
    pub peak_per_second: f64,
    /// Replies that put mail off or refused it, with how often, the most often first.
    pub replies: Vec<(String, u64)>,
    /// Reply rules that matched, with how often.
    pub rules: Vec<(String, u64)>,
    /// What mail waited for, the longest first.
    pub held: Vec<HeldReport>,
    /// By source.
    pub sources: Vec<SourceReport>,
    /// Deliveries over time.
    pub delivered: Series,
    /// Refusals over time.
    pub deferred: Series,
}

/// What mail waited for.
#[derive(Clone, Debug)]
pub struct HeldReport {
    /// What it was, in a few words.
    pub gate: &'static str,
    /// The setting that said so, its value, and where it was written.
    pub setting: Option<(String, String, String)>,
    /// For how long; of several sites, the sum.
    pub time: Duration,
    /// Sites at which it was seen.
    pub sites: usize,
    /// Messages of one site and pool that waited for it at once, at most.
    pub messages_max: u32,
}

/// What one source delivered.
#[derive(Clone, Debug)]
pub struct SourceReport {
    /// Its name.
    pub source: String,
    /// Messages.
    pub delivered: u64,
    /// Of these, messages of pools that it is not in: a warm-up's overflow, or what a rule moved.
    pub for_others: u64,
    /// By day of UTC, from the day of the beginning.
    pub by_day: Vec<u64>,
}

fn marks(through: &Through, since: u64) -> [Option<Duration>; 4] {
    through.marks().map(|mark| mark.map(|at| span(at.saturating_sub(since))))
}

fn sorted(mut list: Vec<(String, u64)>) -> Vec<(String, u64)> {
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    list
}

impl Simulation {
    /// What came of it so far.
    pub fn report(&self) -> Report {
        let mut outcomes = Outcomes::default();
        for campaign in &self.campaigns {
            outcomes.delivered += campaign.outcomes.delivered;
            outcomes.bounced += campaign.outcomes.bounced;
            outcomes.expired += campaign.outcomes.expired;
        }
        Report {
            begins: self.world.begins,
            lasted: self.now(),
            accepted: self.accepted,
            outcomes,
            queued: self.dispatch.recipients(),
            to_come: self.messages() - self.accepted,
            connections_peak: self.connections_peak,
            limits_checked: self.audit.checked,
            limits_broken: self.audit.broken,
            first_broken: self.audit.first.clone(),
            campaigns: (0..self.campaigns.len()).map(|at| self.campaign_report(at)).collect(),
            receivers: (0..self.kinds.len()).map(|at| self.kind_report(at)).collect(),
            notes: sorted(self.notes.iter().map(|(text, times)| (text.clone(), *times)).collect()),
        }
    }

    fn campaign_report(&self, at: usize) -> CampaignReport {
        let (campaign, tally) = (&self.world.campaigns[at], &self.campaigns[at]);
        CampaignReport {
            name: campaign.name.clone(),
            messages: campaign.messages,
            starts: span(campaign.starts),
            outcomes: tally.outcomes,
            through: marks(&tally.through, campaign.starts),
            waits: [0.5, 0.9, 0.99, 1.0].map(|share| span(tally.waits.percentile(share))),
            settled: tally.settled.clone(),
        }
    }

    fn kind_report(&self, at: usize) -> KindReport {
        let (kind, tally) = (&self.world.kinds[at], &self.kinds[at]);
        let replies = tally
            .refused
            .iter()
            .map(|(refusal, times)| (kind.phrases.say(*refusal).shown.to_string(), *times));
        let held = self.holds.of(at).into_iter().map(|held| HeldReport {
            gate: held.gate,
            setting: held.setting.as_ref().map(|setting| {
                (setting.name.to_string(), setting.value.to_string(), setting.origin.to_string())
            }),
            time: span(held.time),
            sites: held.sites(),
            messages_max: held.messages_max,
        });
        let sources = tally.sources.iter().map(|(source, by)| SourceReport {
            source: self.setup.egress.sources[usize::from(*source)].name.to_string(),
            delivered: by.delivered,
            for_others: by.for_others,
            by_day: by.by_day.clone(),
        });
        KindReport {
            name: kind.name.clone(),
            receivers: self.world.of_kind[at].len(),
            messages: tally.through.total(),
            outcomes: tally.outcomes,
            attempts: tally.attempts,
            through: marks(&tally.through, 0),
            peak_per_second: tally.delivered.peak_per_second(),
            replies: sorted(replies.collect()),
            rules: sorted(tally.rules.iter().map(|(name, times)| (name.to_string(), *times)).collect()),
            held: held.collect(),
            sources: sources.collect(),
            delivered: tally.delivered.clone(),
            deferred: tally.deferred.clone(),
        }
    }
}
