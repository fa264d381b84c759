//! The world of a traffic file: who receives, and which message goes where. What a message is follows from its
//! number, so nothing is kept of it but its place in the queue.

use crate::counter::Nanos;
use crate::random::{mixed, part};
use crate::receiver::{Kind, Receiver, nanos};
use crate::replies::Phrasebook;
use crate::traffic::Traffic;
use dispatch::Target;
use mail::{Domain, UnixMillis};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;

/// A receiver's addresses.
#[derive(Debug)]
pub struct Address {
    /// The place of its kind.
    pub kind: usize,
    /// The places of its domains.
    pub domains: std::ops::Range<usize>,
    /// Its most preferred exchangers, sorted.
    pub exchangers: Vec<Arc<str>>,
}

/// A campaign as it is sent.
#[derive(Debug)]
pub struct Campaign {
    /// Its name in the file.
    pub name: String,
    /// Whose it is.
    pub tenant: Option<Box<str>>,
    /// What it is tagged with.
    pub campaign: Option<Box<str>>,
    /// The pool.
    pub pool: Option<Box<str>>,
    /// The priority class.
    pub class: u8,
    /// The first message's number.
    pub first: u64,
    /// How many.
    pub messages: u64,
    /// Octets of each.
    pub octets: u64,
    /// When the first is handed in.
    pub starts: Nanos,
    /// In a period, so many are handed in.
    rate: shaping::Rate,
    /// Kinds of receivers, each with the sum of the shares up to it, of 1.
    shares: Vec<(f64, usize)>,
}

impl Campaign {
    /// When the n-th message is handed in.
    pub fn handed_in(&self, n: u64) -> Nanos {
        let period = self.rate.period.as_nanos();
        let wait = u128::from(n) * period / u128::from(self.rate.count.max(1));
        self.starts.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The place of its campaign.
    pub campaign: usize,
    /// The place of its receiver.
    pub receiver: usize,
    /// The place of its domain.
    pub domain: usize,
}

/// All of it.
#[derive(Debug)]
pub struct World {
    /// The tables of receivers.
    pub kinds: Vec<Kind>,
    /// Of each table, the places of its receivers.
    pub of_kind: Vec<std::ops::Range<usize>>,
    /// Every receiver's addresses.
    pub addresses: Vec<Address>,
    /// Every receiver.
    pub receivers: Vec<Receiver>,
    /// Every domain.
    pub domains: Vec<Target>,
    /// Whose a domain is.
    pub of_domain: HashMap<Target, usize>,
    /// The campaigns, in the order of their messages' numbers.
    pub campaigns: Vec<Campaign>,
    /// The wall clock at the beginning.
    pub begins: UnixMillis,
    /// How long it lasts at most.
    pub lasts: Nanos,
    seed: u64,
}

impl World {
    /// Builds what the file says. A name that makes no domain is told.
    pub fn new(traffic: &Traffic, seed: u64) -> Result<Self, String> {
        let mut world = Self {
            kinds: Vec::new(),
            of_kind: Vec::new(),
            addresses: Vec::new(),
            receivers: Vec::new(),
            domains: Vec::new(),
            of_domain: HashMap::new(),
            campaigns: Vec::new(),
            begins: UnixMillis(
                u64::from(traffic.world.begins.0.0) * DAY_MS
                    + u64::try_from(traffic.world.begins_at.as_millis()).unwrap_or(0),
            ),
            lasts: nanos(traffic.world.lasts),
            seed,
        };
        for (name, config) in &traffic.receiver {
            let first = world.addresses.len();
            for n in 0..config.count {
                world.add_receiver(name, config, n)?;
            }
            world.of_kind.push(first..world.addresses.len());
            let phrases = Phrasebook::new(config.replies);
            world.kinds.push(Kind { name: name.clone(), config: config.clone(), phrases });
        }
        let mut next = 0;
        for (name, config) in &traffic.campaign {
            let sum: f64 = config.to.values().sum();
            let mut shares = Vec::with_capacity(config.to.len());
            let mut up_to = 0.0;
            for (receiver, share) in &config.to {
                let Some(kind) = world.kinds.iter().position(|kind| kind.name == *receiver) else {
                    return Err(format!("no receiver is called {receiver}"));
                };
                up_to += share / sum;
                shares.push((up_to, kind));
            }
            world.campaigns.push(Campaign {
                name: name.clone(),
                tenant: config.tenant.as_deref().map(Box::from),
                campaign: config.campaign.as_deref().map(Box::from),
                pool: config.pool.as_ref().map(|pool| pool.value.as_str().into()),
                class: config.priority.priority().as_u8(),
                first: next,
                messages: config.messages,
                octets: config.size.bytes(),
                starts: nanos(config.starts),
                rate: config.rate.0,
                shares,
            });
            next += config.messages;
        }
        Ok(world)
    }

    fn add_receiver(&mut self, name: &str, config: &crate::ReceiverConfig, n: u32) -> Result<(), String> {
        let own = if config.count > 1 { format!("d{}.{name}.test", n + 1) } else { format!("{name}.test") };
        let parse = |text: &str| {
            Domain::parse(text)
                .map_err(|error| format!("the receiver `{name}` makes no domain of {text}: {error}"))
        };
        let first = self.domains.len();
        if config.domains.is_empty() {
            self.domains.push(Target::Domain(parse(&own)?));
        } else {
            self.domains.extend(config.domains.iter().map(|domain| Target::Domain(domain.0.clone())));
        }
        let mut exchangers: Vec<Arc<str>> = if config.exchangers.is_empty() {
            vec![parse(&format!("mx.{own}"))?.to_string().into()]
        } else {
            config.exchangers.iter().map(|host| host.0.to_string().into()).collect()
        };
        exchangers.sort_unstable();
        let at = self.addresses.len();
        for domain in &self.domains[first..] {
            self.of_domain.insert(domain.clone(), at);
        }
        self.addresses.push(Address {
            kind: self.of_kind.len(),
            domains: first..self.domains.len(),
            exchangers,
        });
        self.receivers.push(Receiver::default());
        Ok(())
    }

    /// The campaign of a message.
    pub fn campaign_of(&self, handle: u64) -> usize {
        self.campaigns.partition_point(|campaign| campaign.first + campaign.messages <= handle)
    }

    /// Where a message goes.
    pub fn destination(&self, campaign: usize, handle: u64) -> Destination {
        let random = mixed(self.seed ^ handle.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let drawn = part(random);
        let shares = &self.campaigns[campaign].shares;
        let at = shares.partition_point(|(up_to, _)| *up_to <= drawn).min(shares.len() - 1);
        let kind = shares[at].1;
        let among = &self.of_kind[kind];
        let other = mixed(random);
        let receiver = among.start + (other % among.len() as u64) as usize;
        let domains = &self.addresses[receiver].domains;
        let domain = domains.start + (mixed(other) % domains.len() as u64) as usize;
        Destination { campaign, receiver, domain }
    }

    /// The wall clock, without jumps.
    pub fn wall(&self, now: Nanos) -> UnixMillis {
        UnixMillis(self.begins.0 + now / 1_000_000)
    }

    /// Messages in all.
    pub fn messages(&self) -> u64 {
        self.campaigns.last().map_or(0, |last| last.first + last.messages)
    }
}

/// As a time span.
pub fn span(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos)
}
