//! What a scheduling decision costs with few and many queues, and what a queue costs that has nothing to send:
//! `cargo run --release -p dispatch --example decision_cost`.
//!
//! A decision here is all of it: a message is queued, placed on a connection that is open, and its delivery is told.

#![allow(clippy::disallowed_methods, reason = "it measures")]

use dispatch::{Action, Config, ConnectionId, Dispatch, Done, Egress, NewMail, SiteFound, Target};
use mail::UnixMillis;
use shaping::Rules;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Decisions measured at each size.
const DECISIONS: u64 = 300_000;

/// Queues with connections that mail goes to while it is measured.
const BUSY: usize = 500;

/// Octets resident, as the system counts.
fn resident() -> u64 {
    let read = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = read.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1_024
}

fn target(n: usize) -> Target {
    Target::parse(&format!("d{n}.example")).expect("it is a domain")
}

/// What queues have a part of their own of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// The campaign: all go to one domain.
    Campaign,
    /// The domain: all have one site.
    Domain,
    /// The site, with its path.
    Site,
}

struct Rig {
    dispatch: Dispatch,
    now: Instant,
    /// Jobs that connections have.
    jobs: VecDeque<(ConnectionId, dispatch::Job)>,
    handle: u64,
    own: Own,
}

impl Rig {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_800_000_000_000)
    }

    /// Serves, and does at once what is to be done.
    fn act(&mut self) {
        loop {
            self.dispatch.serve(self.now, self.wall());
            let actions = self.dispatch.actions();
            if actions.is_empty() && !self.dispatch.has_more() {
                return;
            }
            for action in actions {
                match action {
                    Action::Resolve(target) => {
                        let host: Arc<str> = match self.own {
                            Own::Site => format!("mx.{target}").into(),
                            _ => "mx.example".into(),
                        };
                        let found = SiteFound::Exchangers(vec![host], Duration::from_secs(3_600));
                        self.dispatch.site_found(self.now, &target, found);
                    }
                    Action::Open { id, job, .. } => {
                        self.dispatch.connected(self.now, id);
                        self.jobs.push_back((id, job));
                    }
                    Action::Give(id, job) => self.jobs.push_back((id, job)),
                    Action::Settle(..)
                    | Action::GiveUp(_)
                    | Action::Close(_)
                    | Action::SkipExchanger { .. }
                    | Action::Note(_) => {}
                }
            }
        }
    }

    fn push(&mut self, n: usize, target: &Target) {
        self.handle += 1;
        let campaign = if self.own == Own::Campaign { format!("c{n}") } else { "c".into() };
        let mail =
            NewMail { tenant: Some("t"), campaign: Some(&campaign), ..NewMail::new(self.handle, target) };
        self.dispatch.push(self.now, &mail);
    }

    fn deliver(&mut self) {
        let Some((id, job)) = self.jobs.pop_front() else { return };
        let entries = job.entries.iter().map(|entry| entry.key).collect();
        let done = Done { entries, delivered: 1, ..Done::default() };
        let (now, wall) = (self.now, self.wall());
        self.dispatch.done(now, wall, id, done);
    }
}

/// What a queue costs that is known and has nothing to send.
fn memory(queues: usize, own: Own) {
    let before = resident();
    let mut rig = rig(own);
    fill(&mut rig, queues, 0);
    let octets = resident().saturating_sub(before) as f64 / queues as f64;
    let status = rig.dispatch.status(rig.now);
    println!(
        "{queues:>9} queues, each with its own {own:?}: {octets:>5.0} octets a queue; {} targets, {} paths",
        status.targets, status.paths
    );
}

fn rig(own: Own) -> Rig {
    let began = Instant::now();
    let rules = Arc::new(Rules::compile(&[]).expect("nothing compiles"));
    let config = Config {
        connections_total_max: 100_000,
        // Nothing is forgotten while it is measured.
        idle_for: Duration::from_secs(1_000_000),
        site_known_for: (Duration::from_secs(1_000_000), Duration::from_secs(1_000_000)),
        ..Config::default()
    };
    let dispatch = Dispatch::new(began, config, Egress::default(), rules);
    Rig { dispatch, now: began, jobs: VecDeque::new(), handle: 0, own }
}

/// Each queue had a message, which was delivered, and its connection is closed, but for the first `busy` of them.
fn fill(rig: &mut Rig, queues: usize, busy: usize) {
    for n in 0..queues {
        let target = if rig.own == Own::Campaign { target(0) } else { target(n) };
        rig.push(n, &target);
        rig.act();
        let ids: Vec<ConnectionId> = rig.jobs.iter().map(|(id, _)| *id).collect();
        while !rig.jobs.is_empty() {
            rig.deliver();
        }
        for id in ids {
            if n >= busy {
                rig.dispatch.draining(id);
                rig.dispatch.closed(rig.now, id, true, None);
            }
        }
        rig.act();
    }
}

fn measure(queues: usize) {
    let mut rig = rig(Own::Site);
    fill(&mut rig, queues, BUSY);
    let targets: Vec<Target> = (0..BUSY.min(queues)).map(target).collect();
    // Once around to warm up, then in earnest.
    let mut each = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        for n in 0..DECISIONS / 5 {
            let n = n as usize % targets.len();
            rig.push(n, &targets[n]);
            rig.act();
            rig.deliver();
            rig.act();
        }
        each.push(began.elapsed().as_nanos() as f64 / (DECISIONS / 5) as f64);
    }
    each.sort_by(f64::total_cmp);
    let status = rig.dispatch.status(rig.now);
    println!(
        "{queues:>9} queues: {:>6.0} ns a message (of five rounds {:.0} to {:.0}); {} queues, {} paths in memory",
        each[2], each[0], each[4], status.queues, status.paths
    );
}

fn main() {
    for own in [Own::Campaign, Own::Domain, Own::Site] {
        memory(100_000, own);
    }
    for queues in [1_000, 10_000, 100_000, 1_000_000] {
        measure(queues);
    }
}
