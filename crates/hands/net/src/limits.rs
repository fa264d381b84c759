//! How many connections come in: in all, from one network, and as many as there are descriptors for.

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Limits on incoming connections, shared by every listener of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Connections open at once, over all listeners; further ones get 421. At least 1.
    pub connections_max: u32,
    /// Connections open at once from one client network; further ones get 421. 0 is no limit.
    pub connections_per_network_max: u32,
    /// Leading bits of an IPv4 address that name a client network, 0 to 32.
    pub network_prefix_v4_bits: u8,
    /// Leading bits of an IPv6 address that name a client network, 0 to 128.
    pub network_prefix_v6_bits: u8,
    /// Networks without a limit of their own; the limit over all holds for them too.
    pub networks_unlimited: Vec<IpNet>,
    /// Connections over a limit that may wait at once for their 421; the rest are closed without a word.
    pub refusals_max: u32,
    /// File descriptors kept free for deliveries, spool and logs: accepting pauses while fewer are free.
    pub descriptors_reserve: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 25_000,
            connections_per_network_max: 100,
            network_prefix_v4_bits: 32,
            network_prefix_v6_bits: 64,
            networks_unlimited: vec![
                IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
                IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
            ],
            refusals_max: 256,
            descriptors_reserve: 128,
        }
    }
}

/// The counts behind [`LimitsConfig`]. One for the server; listeners and sessions share it.
#[derive(Debug)]
pub struct Limits {
    config: LimitsConfig,
    descriptors: Descriptors,
    table: Mutex<Table>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Table {
    open: u32,
    refusals: u32,
    // Only networks with an open connection have an entry, so `connections_max` bounds the table.
    networks: HashMap<IpNet, u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused_all: AtomicU64,
    pub(crate) refused_network: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    pub(crate) accept_pauses: AtomicU64,
}

/// What the limits have seen; gauges first, the rest since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connections open now.
    pub connections: u64,
    /// Client networks with a connection open now.
    pub networks: u64,
    /// File descriptors in use now.
    pub descriptors: u64,
    /// File descriptors this process may open.
    pub descriptors_max: u64,
    /// Connections taken from the listening sockets.
    pub accepted: u64,
    /// Connections refused because too many were open in all.
    pub refused_all: u64,
    /// Connections refused because too many were open from their network.
    pub refused_network: u64,
    /// Of the refused, those closed without a 421 because too many waited for theirs.
    pub dropped: u64,
    /// Errors of `accept` that were waited out.
    pub accept_errors: u64,
    /// Times accepting paused for want of descriptors.
    pub accept_pauses: u64,
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedWhy {
    /// Too many connections in all (`connections_max`).
    All,
    /// Too many connections from this client network (`connections_per_network_max`).
    Network(IpNet),
}

impl fmt::Display for RefusedWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("too many connections"),
            Self::Network(network) => write!(f, "too many connections from {network}"),
        }
    }
}

/// A connection that is to be told 421 and closed. Holding it counts against `refusals_max`.
#[derive(Debug)]
pub struct Refusal {
    why: RefusedWhy,
    limits: Arc<Limits>,
}

impl Refusal {
    /// Why; the setting is named by the variant.
    pub fn why(&self) -> RefusedWhy {
        self.why
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.limits.table().refusals -= 1;
    }
}

/// A place among the open connections, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    network: Option<IpNet>,
    limits: Arc<Limits>,
}

impl Slot {
    /// Counts the connection for the client that a PROXY header or XCLIENT named, instead of the one that
    /// dialled. On refusal the slot stays where it was.
    pub fn readdress(&mut self, client: IpAddr) -> Result<(), RefusedWhy> {
        let network = self.limits.network_of(client);
        if network == self.network {
            return Ok(());
        }
        let mut table = self.limits.table();
        table.enter(network, self.limits.config.connections_per_network_max).inspect_err(|_| {
            self.limits.counters.refused_network.fetch_add(1, Relaxed);
        })?;
        table.leave(std::mem::replace(&mut self.network, network));
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.limits.table();
        table.open -= 1;
        table.leave(self.network);
    }
}

impl Table {
    fn enter(&mut self, network: Option<IpNet>, max: u32) -> Result<(), RefusedWhy> {
        let Some(network) = network else { return Ok(()) };
        let count = self.networks.entry(network).or_default();
        if *count >= max {
            return Err(RefusedWhy::Network(network));
        }
        *count += 1;
        Ok(())
    }

    fn leave(&mut self, network: Option<IpNet>) {
        let Some(network) = network else { return };
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
                // A flood's table does not stay for ever.
                if self.networks.capacity() > 4 * self.networks.len() + 1024 {
                    self.networks.shrink_to_fit();
                }
            }
        }
    }
}

impl Limits {
    /// Limits by `config`, with the descriptors of this process.
    pub fn new(config: LimitsConfig, descriptors: Descriptors) -> Arc<Self> {
        Arc::new(Self { config, descriptors, table: Mutex::default(), counters: Counters::default() })
    }

    /// A place for a connection from `client`, or a refusal; `Err(None)` when too many refusals already
    /// wait for their 421 and this connection should just be closed.
    pub fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Slot, Option<Refusal>> {
        let network = self.network_of(client);
        let mut table = self.table();
        let entered = if table.open >= self.config.connections_max {
            self.counters.refused_all.fetch_add(1, Relaxed);
            Err(RefusedWhy::All)
        } else {
            table.enter(network, self.config.connections_per_network_max).inspect_err(|_| {
                self.counters.refused_network.fetch_add(1, Relaxed);
            })
        };
        match entered {
            Ok(()) => {
                table.open += 1;
                Ok(Slot { network, limits: self.clone() })
            }
            Err(_) if table.refusals >= self.config.refusals_max => {
                self.counters.dropped.fetch_add(1, Relaxed);
                Err(None)
            }
            Err(why) => {
                table.refusals += 1;
                Err(Some(Refusal { why, limits: self.clone() }))
            }
        }
    }

    /// Counts and gauges as they are now.
    pub fn figures(&self) -> Figures {
        let (connections, networks) = {
            let table = self.table();
            (table.open.into(), table.networks.len() as u64)
        };
        let counters = &self.counters;
        Figures {
            connections,
            networks,
            descriptors: self.descriptors.in_use(),
            descriptors_max: self.descriptors.max,
            accepted: counters.accepted.load(Relaxed),
            refused_all: counters.refused_all.load(Relaxed),
            refused_network: counters.refused_network.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            accept_errors: counters.accept_errors.load(Relaxed),
            accept_pauses: counters.accept_pauses.load(Relaxed),
        }
    }

    /// True while fewer descriptors are free than the reserve.
    pub(crate) fn is_short_of_descriptors(&self) -> bool {
        self.descriptors.free() <= self.config.descriptors_reserve
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    fn network_of(&self, client: IpAddr) -> Option<IpNet> {
        let client = client.to_canonical();
        if self.config.connections_per_network_max == 0
            || self.config.networks_unlimited.iter().any(|net| net.contains(&client))
        {
            return None;
        }
        let bits = match client {
            IpAddr::V4(_) => self.config.network_prefix_v4_bits.min(32),
            IpAddr::V6(_) => self.config.network_prefix_v6_bits.min(128),
        };
        IpNet::new(client, bits).ok().map(|net| net.trunc())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The counts are consistent at every point where a panic could happen: there is none.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many file descriptors this process has open, and how many it may open.
#[derive(Debug)]
pub struct Descriptors {
    max: u64,
    counted: Mutex<Option<(Instant, u64)>>,
}

/// How long a count made by listing the folder is believed; one made by its size is free of charge.
const COUNT_LASTS: Duration = Duration::from_millis(100);

impl Descriptors {
    /// Raises the soft limit to the hard one, and counts from there.
    pub fn raise() -> Self {
        let max = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
            match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                Ok(()) => hard,
                Err(error) => {
                    tracing::warn!(%error, soft, hard, "the limit of open files could not be raised");
                    soft
                }
            }
        });
        Self::with_max(max)
    }

    /// Counts against `max` instead of the system's limit.
    pub fn with_max(max: u64) -> Self {
        Self { max, counted: Mutex::default() }
    }

    /// The most this process may open.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Descriptors open now, or within the last 100 ms on kernels before 6.2; 0 where the system does not
    /// tell.
    pub fn in_use(&self) -> u64 {
        const FOLDER: &str = "/proc/self/fd";
        // Since Linux 6.2 the folder's size is the count.
        if let Some(size) = std::fs::metadata(FOLDER).ok().map(|m| m.len()).filter(|&n| n > 0) {
            return size;
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, count)) = *counted
            && at.elapsed() < COUNT_LASTS
        {
            return count;
        }
        // One of them is the listing's own.
        let count = std::fs::read_dir(FOLDER).map_or(0, |entries| entries.count().saturating_sub(1) as u64);
        *counted = Some((Instant::now(), count));
        count
    }

    /// Descriptors that may still be opened.
    pub fn free(&self) -> u64 {
        self.max.saturating_sub(self.in_use())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(config: LimitsConfig) -> Arc<Limits> {
        Limits::new(config, Descriptors::with_max(1_000_000))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn why(result: Result<Slot, Option<Refusal>>) -> RefusedWhy {
        result.unwrap_err().expect("a refusal, not a drop").why()
    }

    #[test]
    fn connections_are_bounded_in_all_and_by_network() {
        let limits = limits(LimitsConfig {
            connections_max: 4,
            connections_per_network_max: 2,
            ..LimitsConfig::default()
        });
        let a = limits.admit(ip("192.0.2.1")).unwrap();
        let _b = limits.admit(ip("192.0.2.1")).unwrap();
        assert_eq!(
            why(limits.admit(ip("::ffff:192.0.2.1"))).to_string(),
            "too many connections from 192.0.2.1/32"
        );
        let _c = limits.admit(ip("2001:db8::1")).unwrap();
        let _d = limits.admit(ip("2001:db8::ffff:1")).unwrap();
        assert_eq!(why(limits.admit(ip("2001:db8::2"))), RefusedWhy::All);
        drop(a);
        assert_eq!(
            why(limits.admit(ip("2001:db8::2"))),
            RefusedWhy::Network("2001:db8::/64".parse().unwrap())
        );
        let _e = limits.admit(ip("192.0.2.1")).unwrap();
        let figures = limits.figures();
        assert_eq!((figures.connections, figures.networks), (4, 2));
        assert_eq!((figures.refused_all, figures.refused_network), (1, 2));
    }

    #[test]
    fn the_table_forgets_networks_without_connections() {
        let limits = limits(LimitsConfig::default());
        for n in 0..100_000u32 {
            drop(limits.admit(IpAddr::V4(Ipv4Addr::from(0x0100_0000 + n))));
        }
        assert_eq!(limits.figures().networks, 0);
        let held: Vec<_> =
            (0..20_000u32).map(|n| limits.admit(IpAddr::V4(Ipv4Addr::from(0x0100_0000 + n)))).collect();
        assert_eq!(limits.figures().networks, 20_000);
        drop(held);
        assert!(limits.table().networks.capacity() < 4096);
    }

    #[test]
    fn loopback_is_bounded_only_in_all() {
        let limits = limits(LimitsConfig {
            connections_max: 10,
            connections_per_network_max: 1,
            ..LimitsConfig::default()
        });
        let held: Vec<_> = (0..10).map(|_| limits.admit(ip("127.0.0.1")).unwrap()).collect();
        assert_eq!(why(limits.admit(ip("::1"))), RefusedWhy::All);
        drop(held);
        assert_eq!(limits.figures().connections, 0);
    }

    #[test]
    fn refusals_that_wait_are_bounded_too() {
        let limits = limits(LimitsConfig { connections_max: 1, refusals_max: 2, ..LimitsConfig::default() });
        let _slot = limits.admit(ip("192.0.2.1")).unwrap();
        let first = limits.admit(ip("192.0.2.2")).unwrap_err().unwrap();
        let _second = limits.admit(ip("192.0.2.2")).unwrap_err().unwrap();
        assert!(limits.admit(ip("192.0.2.2")).unwrap_err().is_none());
        drop(first);
        assert!(limits.admit(ip("192.0.2.2")).unwrap_err().is_some());
        assert_eq!(limits.figures().dropped, 1);
    }

    #[test]
    fn a_slot_moves_to_the_client_behind_a_proxy() {
        let limits = limits(LimitsConfig { connections_per_network_max: 1, ..LimitsConfig::default() });
        let mut a = limits.admit(ip("192.0.2.1")).unwrap();
        a.readdress(ip("198.51.100.1")).unwrap();
        let mut b = limits.admit(ip("192.0.2.1")).unwrap();
        assert!(b.readdress(ip("198.51.100.1")).is_err());
        drop(a);
        b.readdress(ip("198.51.100.1")).unwrap();
        assert!(limits.admit(ip("192.0.2.1")).is_ok());
        assert_eq!(limits.figures().networks, 1);
    }

    #[test]
    fn descriptors_are_counted() {
        let descriptors = Descriptors::raise();
        let before = descriptors.in_use();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        std::thread::sleep(COUNT_LASTS);
        // Other tests open and close theirs meanwhile.
        assert!(descriptors.in_use() >= before + 30, "{before} {}", descriptors.in_use());
        assert!(descriptors.free() < descriptors.max());
        drop(files);
    }
}
