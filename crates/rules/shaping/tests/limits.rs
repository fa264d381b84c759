//! The whole shaper under random traffic, replies, reloads and restarts, as the receivers see it: no window of any
//! limit is ever over, and no more connections are open than any limit allows.

#![allow(clippy::disallowed_methods, reason = "only the clock makes an Instant")]

mod random;
mod tree;

use mail::{Reply, UnixMillis};
use random::Random;
use settings::{Problems, Setting};
use shaping::{Attempted, MessageFacts};
use shaping::{Layer, Origin, PathFacts, PathKey, Permit, Rules, Shaper, ShapingConfig, Stage};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RUNS: u64 = 50;
const STEPS: u64 = 1_500;
/// Half a second passes with each step.
const STEP: Duration = Duration::from_millis(500);
const SOURCES: [&str; 2] = ["s1", "s2"];
const SITES: [&str; 3] = ["a", "b", "c"];
const TENANTS: [&str; 3] = ["t1", "t2", "t3"];

/// Two configurations with the same limits where the test counts, and others around them.
fn rules(second: bool) -> Arc<Rules> {
    let extra = if second {
        "message_rates = ['7/10s', '60/m', '900/d']"
    } else {
        "message_rates = ['7/10s', '60/m']"
    };
    let text = format!(
        "[default]\n{extra}\nconnections = 4\nconnection_rates = ['6/m']\nconnection_ramp = '5s'\nreconnect_min = '2s'\n\
         [default.backoff]\nmessage_rates = ['3/m']\n\
         [default.adaptive]\nmax = '50/m'\nmin = '5/m'\nwindow = '20s'\n\
         [[default.reply]]\nmatch = 'backoff'\ndo = ['backoff 40s']\n\
         [[default.reply]]\nmatch = 'slow'\nwhen = '2/m'\ndo = ['slow 0.5 30s']\n\
         [[default.reply]]\nmatch = 'suspend'\ndo = ['suspend tenant 20s']\n\
         [tenant.'*']\nmessage_rates = ['25/m']\n\
         [limit.site]\neach = ['site']\nmessage_rates = ['70/m']\nbyte_rates = ['200kB/m']\nconnections = 5\n"
    );
    let mut problems = Problems::new();
    let config = ShapingConfig::read(&tree::parse(&text), &mut problems);
    let config = config.unwrap_or_else(|| panic!("{:?}", problems.iter().next()));
    Arc::new(
        Rules::compile(&[Layer { config: &config, origin: &|_| Origin::built_in() }]).expect("it is sound"),
    )
}

/// What one receiver saw: when, whose, from which source, how large.
struct Seen {
    step: u64,
    source: usize,
    site: usize,
    tenant: usize,
    bytes: u64,
}

/// The most in any window of so many steps, of what is chosen.
fn most(seen: &[Seen], steps: u64, amount: impl Fn(&Seen) -> u64) -> u64 {
    let (mut from, mut sum, mut most) = (0, 0, 0);
    for (to, one) in seen.iter().enumerate() {
        sum += amount(one);
        while one.step - seen[from].step >= steps {
            sum -= amount(&seen[from]);
            from += 1;
        }
        assert!(from <= to);
        most = most.max(sum);
    }
    most
}

struct Under {
    permit: Permit,
    answer: u64,
    arrives: u64,
    source: usize,
    site: usize,
    tenant: usize,
    bytes: u64,
}

fn run(seed: u64) -> usize {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let mut shaper = Shaper::new(rules(false));
    let mut under: Vec<Under> = Vec::new();
    let mut seen: Vec<Seen> = Vec::new();
    // Of each source and site, connections that are being opened and that are open.
    let mut opening = [[0u32; 3]; 2];
    let mut open = [[0u32; 3]; 2];
    let mut second = false;
    for step in 0..STEPS {
        let (now, wall) = (start + STEP * step as u32, UnixMillis(1_700_000_000_000 + 500 * step));
        let path = |shaper: &mut Shaper, source: usize, site: usize| -> PathKey {
            let facts = PathFacts {
                site: SITES[site],
                provider: None,
                domains: &[],
                pool: "pool",
                source: SOURCES[source],
            };
            shaper.path(now, &facts)
        };
        let due: Vec<usize> = (0..under.len()).rev().filter(|n| under[*n].answer <= step).collect();
        for n in due {
            let one = under.swap_remove(n);
            let key = path(&mut shaper, one.source, one.site);
            if random.below(15) == 0 {
                shaper.give_back(one.permit);
                continue;
            }
            shaper.spent(now, wall, one.permit);
            let Under { arrives, source, site, tenant, bytes, .. } = one;
            seen.push(Seen { step: arrives, source, site, tenant, bytes });
            let text = ["fine", "fine", "fine", "fine", "fine", "fine", "backoff", "slow", "suspend", "wait"]
                [random.below(10) as usize];
            let reply = Reply::bare(if text == "fine" { 250 } else { 451 }, text);
            let fired = shaper.rules().verdict(shaper.profile(key), Stage::End, &reply);
            let fired: Vec<_> = fired.into_iter().map(|fired| (fired, text)).collect();
            let attempted = Attempted {
                delivered: u32::from(text == "fine"),
                deferred: u32::from(text != "fine"),
                fired: &fired,
                tenant: Some(TENANTS[one.tenant]),
                domain: "d.test",
                ..Attempted::default()
            };
            shaper.report(now, wall, key, &attempted);
        }
        for _ in 0..random.below(12) {
            let (source, site) = (random.below(2) as usize, random.below(3) as usize);
            let tenant = random.below(3) as usize;
            let bytes = 1 + random.below(9_000);
            let key = path(&mut shaper, source, site);
            let facts = MessageFacts { tenant: Some(TENANTS[tenant]), campaign: None, queue: 0, bytes };
            if let Ok(permit) = shaper.ask_message(now, wall, key, &facts) {
                let arrives = step + random.below(6);
                let answer = arrives + random.below(6);
                under.push(Under { permit, answer, arrives, source, site, tenant, bytes });
            }
            match random.below(6) {
                0 | 1 if shaper.ask_connection(now, key).is_ok() => opening[source][site] += 1,
                2 if opening[source][site] > 0 => {
                    opening[source][site] -= 1;
                    match random.below(8) {
                        0 => {
                            shaper.connect_failed(now, key);
                        }
                        1 => shaper.unopened(key),
                        _ => {
                            shaper.connected(now, key);
                            open[source][site] += 1;
                        }
                    }
                }
                3 if open[source][site] > 0 => {
                    shaper.closed(key);
                    open[source][site] -= 1;
                }
                _ => {}
            }
        }
        for site in 0..3 {
            let of = |source: usize| open[source][site] + opening[source][site];
            assert!(of(0) <= 4 && of(1) <= 4 && of(0) + of(1) <= 5, "seed {seed}, step {step}");
        }
        match random.below(400) {
            0 => {
                second = !second;
                shaper.set_rules(now, rules(second));
            }
            1 => {
                // The process dies: what was under way arrives or not, and nobody reports it.
                let snapshot = shaper.snapshot(now, wall);
                for one in under.drain(..) {
                    let Under { arrives, source, site, tenant, bytes, .. } = one;
                    if arrives <= step {
                        seen.push(Seen { step: arrives, source, site, tenant, bytes });
                    }
                }
                (opening, open) = ([[0; 3]; 2], [[0; 3]; 2]);
                shaper = Shaper::new(rules(second));
                shaper.restore(now, wall, snapshot);
            }
            2 => {
                let keys: Vec<PathKey> = shaper.paths().collect();
                keys.into_iter().for_each(|key| {
                    shaper.forget_if_idle(now, key);
                });
            }
            _ => {}
        }
        shaper.wake(now, wall);
    }
    seen.sort_by_key(|one| one.step);
    for site in 0..3 {
        let at = |one: &Seen| one.site == site;
        for source in 0..2 {
            let path = |one: &Seen| u64::from(at(one) && one.source == source);
            assert!(most(&seen, 120, path) <= 60, "seed {seed}: 60/m");
        }
        assert!(most(&seen, 120, |one| u64::from(at(one))) <= 70, "seed {seed}: the site's 70/m");
        let bytes = most(&seen, 120, |one| u64::from(at(one)) * one.bytes);
        assert!(bytes <= 200_000, "seed {seed}: the site's 200kB/m, {bytes}");
    }
    for tenant in 0..3 {
        let of = most(&seen, 120, |one| u64::from(one.tenant == tenant));
        assert!(of <= 25, "seed {seed}: the tenant's 25/m, {of}");
    }
    seen.len()
}

#[test]
fn no_limit_is_ever_over_at_the_receiver() {
    let sent: usize = (0..RUNS).map(run).sum();
    assert!(sent as u64 > RUNS * 200, "only {sent} messages were sent");
}
