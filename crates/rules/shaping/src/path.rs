//! One destination's limits and their state.

use crate::{Rate, Window};
use std::fmt;
use std::time::{Duration, Instant};

/// Limits towards one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections open at once.
    pub connections: u32,
    /// Messages on one connection before it is closed; 0 is no limit.
    pub messages_per_connection: u32,
    /// Recipients in one transaction.
    pub recipients_per_transaction: u32,
    /// Messages in any window of each of these.
    pub message_rates: Vec<Rate>,
    /// New connections in any window of each of these.
    pub connection_rates: Vec<Rate>,
    /// The wait after a first failure to connect to any exchanger; doubles with each further one.
    pub reconnect_min: Duration,
    /// The longest such wait.
    pub reconnect_max: Duration,
}

/// What holds mail back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// All connections allowed are open.
    Connections,
    /// A rate of new connections is used up.
    ConnectionRate(Rate),
    /// A rate of messages is used up.
    MessageRate(Rate),
    /// No exchanger could be reached lately.
    Unreachable {
        /// Failures in a row.
        failures: u32,
    },
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections => f.write_str("all connections allowed are open"),
            Self::ConnectionRate(rate) => write!(f, "the rate of new connections ({rate}) is used up"),
            Self::MessageRate(rate) => write!(f, "the rate of messages ({rate}) is used up"),
            Self::Unreachable { failures } => {
                write!(f, "no exchanger could be reached, {failures} times in a row")
            }
        }
    }
}

/// Not now, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What holds.
    pub gate: Gate,
    /// When to ask again; `None` is when something that is under way ends.
    pub until: Option<Instant>,
    /// The setting that says so.
    pub setting: &'static str,
}

/// One destination's state under its limits.
#[derive(Clone, Debug)]
pub struct Path {
    limits: Limits,
    open: u32,
    connecting: u32,
    messages: Vec<Window>,
    connections: Vec<Window>,
    failures: u32,
    unreachable_until: Option<Instant>,
}

impl Path {
    /// A destination nothing was sent to yet.
    pub fn new(limits: Limits) -> Self {
        let messages = limits.message_rates.iter().copied().map(Window::new).collect();
        let connections = limits.connection_rates.iter().copied().map(Window::new).collect();
        Self { limits, open: 0, connecting: 0, messages, connections, failures: 0, unreachable_until: None }
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// New limits, from a reload. Windows of a rate that stays keep what was spent.
    pub fn set_limits(&mut self, limits: Limits) {
        let keep = |old: &[Window], rates: &[Rate]| -> Vec<Window> {
            rates
                .iter()
                .map(|rate| {
                    old.iter().find(|w| w.rate() == *rate).cloned().unwrap_or_else(|| Window::new(*rate))
                })
                .collect()
        };
        self.messages = keep(&self.messages, &limits.message_rates);
        self.connections = keep(&self.connections, &limits.connection_rates);
        self.limits = limits;
    }

    /// May a connection be opened now? On yes it counts as open until [`Path::closed`].
    pub fn ask_connection(&mut self, now: Instant) -> Result<(), Hold> {
        if let Some(until) = self.unreachable_until
            && now < until
        {
            let gate = Gate::Unreachable { failures: self.failures };
            return Err(Hold { gate, until: Some(until), setting: "delivery.reconnect_min" });
        }
        let full = Hold { gate: Gate::Connections, until: None, setting: "delivery.connections_max" };
        if self.open >= self.limits.connections {
            return Err(full);
        }
        // Until one connection has been greeted, one probe at a time after a failure and two otherwise: a
        // destination that stalls must not hold many sockets.
        let probes = if self.failures > 0 { 1 } else { 2 };
        if self.open == self.connecting && self.connecting >= probes {
            return Err(full);
        }
        for window in &mut self.connections {
            if window.room(now) == 0 {
                let gate = Gate::ConnectionRate(window.rate());
                return Err(Hold { gate, until: window.room_at(1), setting: "delivery.connection_rates" });
            }
        }
        self.connections.iter_mut().for_each(|window| window.grant(1));
        self.open += 1;
        self.connecting += 1;
        Ok(())
    }

    /// A connection was greeted and is ready.
    pub fn connected(&mut self, now: Instant) {
        self.connecting = self.connecting.saturating_sub(1);
        self.failures = 0;
        self.unreachable_until = None;
        self.connections.iter_mut().for_each(|window| window.spend(now, Duration::ZERO, 1));
    }

    /// A connection that never became ready is over; whoever was reached, a wait begins, or a destination
    /// that greets with 421 would be asked without end. Gives when it ends.
    pub fn connect_failed(&mut self, now: Instant) -> Instant {
        self.connecting = self.connecting.saturating_sub(1);
        self.open = self.open.saturating_sub(1);
        self.connections.iter_mut().for_each(|window| window.spend(now, Duration::ZERO, 1));
        self.failures = self.failures.saturating_add(1);
        let doubled = self.limits.reconnect_min.saturating_mul(1 << (self.failures - 1).min(20));
        let until = now + doubled.min(self.limits.reconnect_max);
        self.unreachable_until = Some(until);
        until
    }

    /// A connection that was ready is closed.
    pub fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// A connection that was allowed was not opened after all.
    pub fn unopened(&mut self) {
        self.connecting = self.connecting.saturating_sub(1);
        self.open = self.open.saturating_sub(1);
        self.connections.iter_mut().for_each(|window| window.give_back(1));
    }

    /// How many of `wanted` messages may be sent now; each is then spent or given back.
    pub fn ask_messages(&mut self, now: Instant, wanted: u32) -> Result<u32, Hold> {
        let mut granted = u64::from(wanted);
        for window in &mut self.messages {
            let room = window.room(now);
            if room == 0 {
                let gate = Gate::MessageRate(window.rate());
                return Err(Hold { gate, until: window.room_at(1), setting: "delivery.message_rates" });
            }
            granted = granted.min(room);
        }
        self.messages.iter_mut().for_each(|window| window.grant(granted));
        Ok(granted as u32)
    }

    /// A granted message was sent; `now` is when its outcome came.
    pub fn spent(&mut self, now: Instant) {
        self.messages.iter_mut().for_each(|window| window.spend(now, Duration::ZERO, 1));
    }

    /// A granted message was not sent.
    pub fn give_back(&mut self) {
        self.messages.iter_mut().for_each(|window| window.give_back(1));
    }

    /// Connections open, those being opened included.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// True if nothing is known of this destination that a fresh state would not know.
    pub fn is_idle(&mut self, now: Instant) -> bool {
        self.open == 0
            && self.unreachable_until.is_none_or(|until| until <= now)
            && self.messages.iter_mut().chain(&mut self.connections).all(|w| w.room(now) == w.rate().count)
    }

    /// Lets a destination that could not be reached be tried at once.
    pub fn forgive(&mut self) {
        self.unreachable_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 3,
            messages_per_connection: 0,
            recipients_per_transaction: 100,
            message_rates: vec!["10/s".parse().unwrap()],
            connection_rates: vec!["5/m".parse().unwrap()],
            reconnect_min: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(8),
        }
    }

    #[test]
    fn connections_are_bounded_and_a_stalling_site_gets_two_probes() {
        let now = Instant::now();
        let mut path = Path::new(limits());
        path.ask_connection(now).unwrap();
        path.ask_connection(now).unwrap();
        assert_eq!(path.ask_connection(now).unwrap_err().gate, Gate::Connections);
        path.connected(now);
        path.ask_connection(now).unwrap();
        assert_eq!(path.ask_connection(now).unwrap_err().gate, Gate::Connections);
        path.connected(now);
        path.closed();
        path.ask_connection(now).unwrap();
    }

    #[test]
    fn waits_double_up_to_the_longest_and_a_success_ends_them() {
        let mut now = Instant::now();
        let mut path = Path::new(Limits { connection_rates: vec![], ..limits() });
        for wait in [1, 2, 4, 8, 8] {
            path.ask_connection(now).unwrap();
            path.connect_failed(now);
            assert_eq!(path.ask_connection(now).unwrap_err().until, Some(now + Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
        }
        path.ask_connection(now).unwrap();
        assert!(path.ask_connection(now).is_err(), "one probe at a time after a failure");
        path.connected(now);
        path.ask_connection(now).unwrap();
    }

    #[test]
    fn rates_hold_messages_and_connections() {
        let now = Instant::now();
        let mut path = Path::new(limits());
        assert_eq!(path.ask_messages(now, 8).unwrap(), 8);
        assert_eq!(path.ask_messages(now, 8).unwrap(), 2);
        let hold = path.ask_messages(now, 1).unwrap_err();
        assert_eq!((hold.until, hold.setting), (None, "delivery.message_rates"));
        path.give_back();
        assert_eq!(path.ask_messages(now, 8).unwrap(), 1);
        for _ in 0..10 {
            path.spent(now);
        }
        let until = path.ask_messages(now, 1).unwrap_err().until.unwrap();
        assert!(until > now + Duration::from_millis(990) && until < now + Duration::from_millis(1020));
        assert_eq!(path.ask_messages(until, 20).unwrap(), 10);
        for _ in 0..5 {
            path.ask_connection(now).unwrap();
            path.connected(now);
            path.closed();
        }
        assert_eq!(path.ask_connection(now).unwrap_err().gate, Gate::ConnectionRate("5/m".parse().unwrap()));
    }
}
