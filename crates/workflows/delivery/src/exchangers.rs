//! Limits and pauses of single exchangers, whichever site's mail goes there: they are known only when a connection
//! is about to be made, so the connections themselves ask.

use shaping::{Charge, Ledger, LedgerKey, MemoryLedger, Rate, Rules, SettingAt};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Exchangers remembered as skipped at most; beyond it a further one is used all the same.
const SKIPPED_MAX: usize = 10_000;

/// Exchangers counted before the first sweep.
const SWEEP_MIN: usize = 256;

/// The exchangers something is known of.
#[derive(Default)]
pub(crate) struct Exchangers(Mutex<State>);

#[derive(Default)]
struct State {
    ledger: MemoryLedger,
    counted: HashMap<Arc<str>, Counted>,
    /// When so many are counted, those that nothing is known of any more are forgotten.
    sweep_at: usize,
    skipped: HashMap<Box<str>, Instant>,
}

#[derive(Default)]
struct Counted {
    open: u32,
    connections: Vec<(Rate, LedgerKey)>,
    messages: Vec<(Rate, LedgerKey)>,
}

/// Why an exchanger takes nothing now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Barred {
    /// In words.
    pub(crate) text: String,
    /// When to ask again, if that is known.
    pub(crate) until: Option<Instant>,
}

/// Leave to use an exchanger; given back when dropped.
pub(crate) struct Lease {
    exchangers: Arc<Exchangers>,
    counted: Vec<Arc<str>>,
    messages: Vec<(LedgerKey, Arc<SettingAt>)>,
    /// Messages that were asked for and are not settled.
    asked: AtomicU64,
}

fn keys(ledger: &mut MemoryLedger, known: &mut Vec<(Rate, LedgerKey)>, wanted: &[Rate]) -> Vec<LedgerKey> {
    // A reload may have changed the rates: windows of those that stay keep what was spent.
    known.retain(|(rate, key)| {
        let stays = wanted.contains(rate);
        if !stays {
            ledger.close(*key);
        }
        stays
    });
    wanted
        .iter()
        .map(|rate| match known.iter().find(|(kept, _)| kept == rate) {
            Some((_, key)) => *key,
            None => {
                let key = ledger.open(*rate);
                known.push((*rate, key));
                key
            }
        })
        .collect()
}

impl State {
    /// Forgets exchangers without connections whose windows are empty. A pattern may name every host there is, so
    /// they would grow without end; that this is done at twice what was left makes it cheap.
    fn sweep(&mut self, now: Instant) {
        let ledger = &mut self.ledger;
        self.counted.retain(|_, counted| {
            let mut windows = counted.connections.iter().chain(&counted.messages);
            let known = counted.open > 0 || windows.any(|(_, key)| ledger.used(now, *key).0 > 0);
            if !known {
                let windows = counted.connections.iter().chain(&counted.messages);
                windows.for_each(|(_, key)| ledger.close(*key));
            }
            known
        });
        self.sweep_at = (2 * self.counted.len()).max(SWEEP_MIN);
    }
}

impl Exchangers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An exchanger is not used for a while.
    pub(crate) fn skip(&self, now: Instant, host: &str, wait: Duration) {
        let mut state = self.lock();
        state.skipped.retain(|_, until| *until > now);
        if state.skipped.len() < SKIPPED_MAX {
            state.skipped.insert(host.to_ascii_lowercase().into(), now + wait);
        }
    }

    /// Asks for a connection to an exchanger.
    pub(crate) fn enter(
        self: &Arc<Self>,
        now: Instant,
        rules: &Rules,
        host: &str,
        ip: IpAddr,
    ) -> Result<Lease, Barred> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.skipped.is_empty()
            && let Some(&until) = state.skipped.get(&*host.to_ascii_lowercase())
            && until > now
        {
            let text = format!("{host} is skipped for now, as a rule for its replies says");
            return Err(Barred { text, until: Some(until) });
        }
        let mut lease = Lease {
            exchangers: self.clone(),
            counted: Vec::new(),
            messages: Vec::new(),
            asked: AtomicU64::new(0),
        };
        let limits = rules.exchanger_limits(host, ip);
        if limits.is_empty() {
            return Ok(lease);
        }
        if state.counted.len() >= state.sweep_at {
            state.sweep(now);
        }
        let mut charges = Vec::new();
        let mut settings = Vec::new();
        for limit in &limits {
            let counted = state.counted.entry(limit.counted.clone()).or_default();
            if let Some(most) = &limit.connections
                && counted.open >= most.value
            {
                let text = format!("all connections allowed to {} are open ({})", limit.counted, most.at);
                return Err(Barred { text, until: None });
            }
            if let Some(rates) = &limit.connection_rates {
                for key in keys(&mut state.ledger, &mut counted.connections, &rates.value) {
                    charges.push(Charge { key, amount: 1 });
                    settings.push(rates.at.clone());
                }
            }
            if let Some(rates) = &limit.message_rates {
                for key in keys(&mut state.ledger, &mut counted.messages, &rates.value) {
                    // A connection that may carry nothing would be closed at once, and opened again.
                    let charge = Charge { key, amount: 1 };
                    if !state.ledger.fits(now, charge) {
                        let text = format!("the rate of messages to {host} is used up ({})", rates.at);
                        return Err(Barred { text, until: state.ledger.room_at(charge) });
                    }
                    lease.messages.push((key, rates.at.clone()));
                }
            }
        }
        if let Err(full) = state.ledger.grant(now, &charges) {
            let text = format!("the rate of new connections to {host} is used up ({})", settings[full]);
            return Err(Barred { text, until: state.ledger.room_at(charges[full]) });
        }
        state.ledger.spend(now, Duration::ZERO, &charges);
        for limit in limits {
            if let Some(counted) = state.counted.get_mut(&limit.counted) {
                counted.open += 1;
                lease.counted.push(limit.counted);
            }
        }
        drop(guard);
        Ok(lease)
    }
}

impl Lease {
    /// Asks to send one message.
    pub(crate) fn ask_message(&self, now: Instant) -> Result<(), Barred> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let charges: Vec<Charge> =
            self.messages.iter().map(|(key, _)| Charge { key: *key, amount: 1 }).collect();
        let mut state = self.exchangers.lock();
        match state.ledger.grant(now, &charges) {
            Ok(()) => {
                self.asked.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(full) => {
                let until = state.ledger.room_at(charges[full]);
                let text =
                    format!("the rate of messages to this exchanger is used up ({})", self.messages[full].1);
                Err(Barred { text, until })
            }
        }
    }

    /// A message that was asked for was sent, or it is certain that it was not.
    pub(crate) fn settle_message(&self, now: Instant, sent: bool) {
        if self.messages.is_empty() {
            return;
        }
        // A message may have gone in several transactions: it was asked for once.
        if self.asked.fetch_update(Relaxed, Relaxed, |asked| asked.checked_sub(1)).is_err() {
            return;
        }
        let charges: Vec<Charge> =
            self.messages.iter().map(|(key, _)| Charge { key: *key, amount: 1 }).collect();
        let mut state = self.exchangers.lock();
        if sent {
            state.ledger.spend(now, Duration::ZERO, &charges);
        } else {
            state.ledger.give_back(&charges);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.counted.is_empty() {
            return;
        }
        // A connection that was lost may have sent what it asked for.
        while self.asked.load(Relaxed) > 0 {
            self.settle_message(tokio::time::Instant::now().into_std(), true);
        }
        let mut state = self.exchangers.lock();
        for counted in &self.counted {
            if let Some(known) = state.counted.get_mut(counted) {
                known.open = known.open.saturating_sub(1);
                if known.open == 0 && known.connections.is_empty() && known.messages.is_empty() {
                    state.counted.remove(counted);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::{Place, Placed, Text};
    use shaping::{ExchangerScope, Layer, Origin, ShapingConfig};

    fn rules() -> Rules {
        let placed = |value| Some(Placed { value, place: Place::whole(0) });
        let rates = |text: &str| {
            Some(Placed { value: vec![Text(text.parse::<Rate>().unwrap())], place: Place::whole(0) })
        };
        let mut config = ShapingConfig::default();
        let scope = |connections, connection_rates, message_rates| ExchangerScope {
            connections,
            connection_rates,
            message_rates,
        };
        config.exchanger.insert("*.big.test".into(), scope(placed(2), None, rates("3/m")));
        config.exchanger.insert("192.0.2.0/24".into(), scope(None, rates("2/m"), None));
        let origin = |_: Place| Origin::built_in();
        Rules::compile(&[Layer { config: &config, origin: &origin }]).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn connections_are_counted_for_each_host_and_come_back_with_the_lease() {
        let (exchangers, rules, now) = (Arc::new(Exchangers::default()), rules(), Instant::now());
        let enter = |host: &str| exchangers.enter(now, &rules, host, ip("203.0.113.1"));
        let (one, _two) = (enter("mx1.big.test").unwrap(), enter("MX1.big.test").unwrap());
        let barred = enter("mx1.big.test").err().unwrap();
        assert!(barred.text.contains("shaping.exchanger") && barred.until.is_none(), "{}", barred.text);
        let _other = enter("mx2.big.test").unwrap();
        let _free = enter("mx.small.test").unwrap();
        drop(one);
        enter("mx1.big.test").unwrap();
    }

    #[test]
    fn a_network_has_one_rate_of_connections() {
        let (exchangers, rules, now) = (Arc::new(Exchangers::default()), rules(), Instant::now());
        let enter = |now, host: &str| exchangers.enter(now, &rules, host, ip("192.0.2.7"));
        drop((enter(now, "a.test").unwrap(), enter(now, "b.test").unwrap()));
        let until = enter(now, "c.test").err().unwrap().until.unwrap();
        assert!(until > now + Duration::from_secs(59), "what was opened counts although it is closed");
        enter(until, "c.test").unwrap();
    }

    #[test]
    fn messages_are_counted_over_all_connections_to_a_host() {
        let (exchangers, rules, now) = (Arc::new(Exchangers::default()), rules(), Instant::now());
        let enter = || exchangers.enter(now, &rules, "mx1.big.test", ip("203.0.113.1")).unwrap();
        let (one, two) = (enter(), enter());
        for lease in [&one, &two, &one] {
            lease.ask_message(now).unwrap();
        }
        assert!(two.ask_message(now).is_err());
        one.settle_message(now, false);
        two.ask_message(now).unwrap();
        for _ in 0..3 {
            two.settle_message(now, true);
        }
        let until = one.ask_message(now).unwrap_err().until.unwrap();
        assert!(one.ask_message(until).is_ok());
        // A connection that is lost leaves no leave behind that nobody uses.
        drop(one);
        let later = until + Duration::from_secs(120);
        assert!((0..3).all(|_| two.ask_message(later).is_ok()));
    }

    #[test]
    fn an_exchanger_that_is_skipped_is_used_again_when_its_time_is_over() {
        let (exchangers, rules, now) = (Arc::new(Exchangers::default()), rules(), Instant::now());
        let wait = Duration::from_secs(60);
        exchangers.skip(now, "MX.small.test", wait);
        let enter = |at| exchangers.enter(at, &rules, "mx.small.test", ip("203.0.113.1"));
        assert_eq!(enter(now).err().unwrap().until, Some(now + wait));
        enter(now + wait).unwrap();
    }

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn with_rates(messages: &str, connections: &str) -> Rules {
        let rates =
            |text: &str| Some(Placed { value: vec![Text(text.parse().unwrap())], place: Place::whole(0) });
        let scope = ExchangerScope {
            message_rates: rates(messages),
            connection_rates: rates(connections),
            ..ExchangerScope::default()
        };
        let mut config = ShapingConfig::default();
        config.exchanger.insert("*".into(), scope);
        let origin = |_| Origin::built_in();
        Rules::compile(&[Layer { config: &config, origin: &origin }]).unwrap()
    }

    #[test]
    fn no_connection_is_made_that_may_carry_nothing() {
        let (exchangers, now) = (Arc::new(Exchangers::default()), Instant::now());
        let rules = with_rates("1/h", "100/m");
        let lease = exchangers.enter(now, &rules, "mx.a.test", IP).unwrap();
        lease.ask_message(now).unwrap();
        lease.settle_message(now, true);
        assert!(lease.ask_message(now).is_err());
        let barred = exchangers.enter(now, &rules, "MX.a.test.", IP).err().unwrap();
        assert_eq!(barred.until, Some(now + Duration::from_secs(3600)));
        assert!(exchangers.enter(now, &rules, "mx.b.test", IP).is_ok());
        assert!(exchangers.enter(now + Duration::from_secs(3600), &rules, "mx.a.test", IP).is_ok());
    }

    #[test]
    fn exchangers_of_the_past_are_forgotten() {
        let (exchangers, mut now) = (Arc::new(Exchangers::default()), Instant::now());
        let rules = with_rates("100/m", "100/m");
        let kept = exchangers.enter(now, &rules, "kept.test", IP).unwrap();
        for n in 0..10_000 {
            now += Duration::from_secs(1);
            drop(exchangers.enter(now, &rules, &format!("mx{n}.test"), IP).unwrap());
        }
        let state = exchangers.lock();
        assert!(state.counted.len() <= 2 * SWEEP_MIN, "{}", state.counted.len());
        assert!(state.ledger.len() <= 4 * SWEEP_MIN, "{}", state.ledger.len());
        assert_eq!(state.counted["kept.test"].open, 1);
        drop(state);
        drop(kept);
    }
}
