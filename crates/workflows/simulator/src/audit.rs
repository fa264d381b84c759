//! What the rules promise, checked where it matters: at the receiver, by another count than the rules' own.

use crate::counter::{Counter, Nanos, check_all};
use shaping::Profile;
use std::collections::HashMap;
use std::sync::Arc;

/// A path as its receiver sees it.
#[derive(Debug)]
struct PathAudit {
    source: Arc<str>,
    site: Arc<str>,
    profile: Arc<Profile>,
    open: u32,
    connections: Vec<Counter>,
    messages: Vec<Counter>,
    octets: Vec<Counter>,
}

/// All paths.
#[derive(Debug, Default)]
pub struct Audit {
    places: HashMap<(u16, Arc<str>), usize>,
    paths: Vec<PathAudit>,
    /// Times that a limit was checked.
    pub checked: u64,
    /// Times that one was exceeded.
    pub broken: u64,
    /// The first of them, in words.
    pub first: Option<String>,
}

/// Fits counters to rates; what is known of a rate that stays is kept.
fn fit(counters: &mut Vec<Counter>, rates: &[shaping::Rate]) {
    counters.retain(|counter| rates.contains(&counter.rate));
    for rate in rates {
        if !counters.iter().any(|counter| counter.rate == *rate) {
            counters.push(Counter::new(*rate));
        }
    }
}

impl Audit {
    /// The path's place here, under the rules in force.
    pub fn path(&mut self, source: u16, name: &Arc<str>, site: &Arc<str>, profile: &Arc<Profile>) -> usize {
        let at = match self.places.get(&(source, site.clone())) {
            Some(at) => *at,
            None => {
                self.paths.push(PathAudit {
                    source: name.clone(),
                    site: site.clone(),
                    profile: profile.clone(),
                    open: 0,
                    connections: Vec::new(),
                    messages: Vec::new(),
                    octets: Vec::new(),
                });
                self.places.insert((source, site.clone()), self.paths.len() - 1);
                self.paths.len() - 1
            }
        };
        let path = &mut self.paths[at];
        let new = path.connections.is_empty() && path.messages.is_empty() && path.octets.is_empty();
        if new || !Arc::ptr_eq(&path.profile, profile) {
            path.profile = profile.clone();
            fit(&mut path.connections, &profile.connection_rates.value);
            fit(&mut path.messages, &profile.message_rates.value);
            fit(&mut path.octets, &profile.byte_rates.value);
        }
        at
    }

    fn report(&mut self, now: Nanos, at: usize, what: &str) {
        self.broken += 1;
        let path = &self.paths[at];
        let seconds = now as f64 / 1e9;
        self.first.get_or_insert_with(|| {
            format!("{} to {}: {what} above the limit after {seconds:.3}s", path.source, path.site)
        });
    }

    /// A connection arrives.
    pub fn connection(&mut self, now: Nanos, at: usize) {
        let path = &mut self.paths[at];
        path.open += 1;
        let over = path.open > path.profile.connections.value;
        let kept = check_all(&mut path.connections, now, 1);
        self.checked += 1 + self.paths[at].connections.len() as u64;
        if over {
            self.report(now, at, "connections at once");
        }
        if !kept {
            self.report(now, at, "the rate of connections");
        }
    }

    /// A connection is over.
    pub fn closed(&mut self, at: usize) {
        self.paths[at].open -= 1;
    }

    /// A message arrives.
    pub fn message(&mut self, now: Nanos, at: usize, octets: u64) {
        let path = &mut self.paths[at];
        let messages = check_all(&mut path.messages, now, 1);
        let bytes = check_all(&mut path.octets, now, octets);
        self.checked += (path.messages.len() + path.octets.len()) as u64;
        if !messages {
            self.report(now, at, "the rate of messages");
        }
        if !bytes {
            self.report(now, at, "the rate of octets");
        }
    }
}
