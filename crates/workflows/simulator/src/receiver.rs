//! One receiver: what it tolerates of each source, and what it does with what is offered.

use crate::counter::{Counter, Nanos, check_all};
use crate::random::{Random, part};
use crate::replies::{Phrasebook, Refusal};
use crate::traffic::{OutageConfig, ReceiverConfig, Stall};
use std::collections::HashMap;
use std::time::Duration;

/// Nanoseconds of a time span.
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// What all receivers of one table of the traffic file have in common.
#[derive(Debug)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// What it tolerates.
    pub config: ReceiverConfig,
    /// What it says.
    pub phrases: Phrasebook,
}

/// What it knows of one source.
#[derive(Debug, Default)]
struct FromSource {
    open: u32,
    connections: Vec<Counter>,
    messages: Vec<Counter>,
    octets: Vec<Counter>,
    /// Attempts above a limit that are not forgotten yet.
    strikes: f64,
    struck_at: Nanos,
    blocked_until: Nanos,
    /// Days on which it sent before the last one.
    days: u32,
    last_day: Option<u64>,
    today: u64,
}

impl FromSource {
    fn new(config: &ReceiverConfig) -> Self {
        Self {
            connections: config.connection_rates.iter().map(|rate| Counter::new(rate.0)).collect(),
            messages: config.message_rates.iter().map(|rate| Counter::new(rate.0)).collect(),
            octets: config.byte_rates.iter().map(|rate| Counter::new(rate.0.0)).collect(),
            ..Self::default()
        }
    }

    /// It went above a limit.
    fn strike(&mut self, config: &ReceiverConfig, now: Nanos) {
        if config.strikes == 0 {
            return;
        }
        let forgotten = (now - self.struck_at) as f64 / nanos(config.strikes_forgotten) as f64;
        self.strikes = (self.strikes - forgotten).max(0.0) + 1.0;
        self.struck_at = now;
        if self.strikes >= f64::from(config.strikes) {
            self.blocked_until = now.saturating_add(nanos(config.blocked_for));
            self.strikes = 0.0;
        }
    }
}

/// What a message is, as far as a receiver looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Offered {
    /// Its name.
    pub handle: u64,
    /// Its octets.
    pub octets: u64,
    /// How many were offered on this connection before it.
    pub before: u32,
    /// The day, counted in UTC.
    pub day: u64,
}

/// One receiver.
#[derive(Debug, Default)]
pub struct Receiver {
    sources: Vec<(u16, FromSource)>,
    /// When each message was first seen, while it is greylisted.
    grey: HashMap<u64, Nanos>,
}

impl Receiver {
    fn source(&mut self, kind: &Kind, source: u16) -> &mut FromSource {
        let at = match self.sources.iter().position(|(known, _)| *known == source) {
            Some(at) => at,
            None => {
                self.sources.push((source, FromSource::new(&kind.config)));
                self.sources.len() - 1
            }
        };
        &mut self.sources[at].1
    }

    /// A connection arrives. On yes it is open until [`Receiver::closed`].
    pub fn connect(&mut self, kind: &Kind, now: Nanos, source: u16) -> Result<(), Refusal> {
        match kind.config.stalls {
            Stall::Connect => return Err(Refusal::NoAnswer),
            Stall::Greeting => return Err(Refusal::NoGreeting),
            Stall::Never => {}
        }
        if is_out(&kind.config.outages, now) {
            return Err(Refusal::Refused);
        }
        let from = self.source(kind, source);
        // It counts what it refuses as well, as rate limits of real receivers do.
        let kept = check_all(&mut from.connections, now, 1);
        if !kept {
            from.strike(&kind.config, now);
            return Err(Refusal::ConnectionRate);
        }
        if kind.config.connections > 0 && from.open >= kind.config.connections {
            from.strike(&kind.config, now);
            return Err(Refusal::Connections);
        }
        from.open += 1;
        Ok(())
    }

    /// A connection it had taken is over.
    pub fn closed(&mut self, kind: &Kind, source: u16) {
        let from = self.source(kind, source);
        from.open = from.open.saturating_sub(1);
    }

    /// A message is offered.
    pub fn offer(
        &mut self,
        kind: &Kind,
        now: Nanos,
        source: u16,
        offered: &Offered,
        random: &mut Random,
    ) -> Result<(), Refusal> {
        let config = &kind.config;
        let from = self.source(kind, source);
        if config.messages_per_connection > 0 && offered.before >= config.messages_per_connection {
            return Err(Refusal::Session);
        }
        if now < from.blocked_until {
            return Err(Refusal::Blocked);
        }
        let messages = from.messages.iter_mut().all(|counter| counter.fits(now, 1));
        let octets = from.octets.iter_mut().all(|counter| counter.fits(now, offered.octets));
        if !messages || !octets {
            from.strike(config, now);
            return Err(Refusal::Rate);
        }
        if config.daily_first > 0 {
            if from.last_day != Some(offered.day) {
                from.days += u32::from(from.last_day.is_some());
                (from.last_day, from.today) = (Some(offered.day), 0);
            }
            let allowed = config.daily_first as f64 * config.daily_growth.powi(from.days.min(10_000) as i32);
            if from.today as f64 >= allowed {
                from.strike(config, now);
                return Err(Refusal::Daily);
            }
        }
        // Whether somebody exists is the same at every attempt.
        if config.unknown_users > 0.0 && part(crate::random::mixed(!offered.handle)) < config.unknown_users {
            return Err(Refusal::UnknownUser);
        }
        if !config.greylisting.is_zero() {
            let first = *self.grey.entry(offered.handle).or_insert(now);
            if now - first < nanos(config.greylisting) {
                return Err(Refusal::Greylisted);
            }
            self.grey.remove(&offered.handle);
        }
        if config.mailboxes_full > 0.0 && random.part() < config.mailboxes_full {
            return Err(Refusal::MailboxFull);
        }
        let from = self.source(kind, source);
        from.messages.iter_mut().for_each(|counter| counter.count(now, 1));
        from.octets.iter_mut().for_each(|counter| counter.count(now, offered.octets));
        from.today += 1;
        Ok(())
    }
}

/// True if now is within one of these.
pub fn is_out(outages: &[OutageConfig], now: Nanos) -> bool {
    outages.iter().any(|outage| {
        let starts = nanos(outage.starts);
        now >= starts && now - starts < nanos(outage.lasts)
    })
}
