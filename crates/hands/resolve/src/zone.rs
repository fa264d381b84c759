//! A zone written in a test, in place of DNS.

use crate::{Answer, BoxFuture, Mx, Resolver};
use mail::Domain;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// CNAMEs followed for one question, as [`crate::Dns`] does.
const CNAMES_MAX: usize = 8;

/// Names and their records. A name that was never mentioned does not exist; one that was has no records of the
/// kinds nobody gave it. Methods may be called while the zone is in use.
///
/// ```
/// let zone = resolve::zone::Zone::new();
/// zone.mx("a.test", 10, "mx.a.test").a("mx.a.test", "192.0.2.1").fail("b.test", "SERVFAIL");
/// ```
#[derive(Debug, Default)]
pub struct Zone(Mutex<Data>);

#[derive(Debug, Default)]
struct Data {
    names: HashMap<String, Name>,
    asked: HashMap<String, usize>,
    silent: HashSet<String>,
}

#[derive(Clone, Debug)]
struct Name {
    mx: Vec<Mx>,
    a: Vec<Ipv4Addr>,
    aaaa: Vec<Ipv6Addr>,
    txt: Vec<Box<[u8]>>,
    ptr: Vec<Box<str>>,
    cname: Option<String>,
    fails: Option<Arc<str>>,
    ttl: Duration,
}

impl Default for Name {
    fn default() -> Self {
        let ttl = Duration::from_secs(300);
        let (mx, a, aaaa, txt, ptr) = Default::default();
        Self { mx, a, aaaa, txt, ptr, cname: None, fails: None, ttl }
    }
}

impl Zone {
    /// A zone without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an MX record. `exchange` is any text; `.` is the root.
    pub fn mx(&self, name: &str, preference: u16, exchange: &str) -> &Self {
        let exchange = exchange.trim_end_matches('.').into();
        self.edit(name, |entry| entry.mx.push(Mx { preference, exchange }))
    }

    /// Adds an A record.
    ///
    /// # Panics
    /// If `address` is none.
    pub fn a(&self, name: &str, address: &str) -> &Self {
        let address = address.parse().expect("the test gives an IPv4 address");
        self.edit(name, |entry| entry.a.push(address))
    }

    /// Adds an AAAA record.
    ///
    /// # Panics
    /// If `address` is none.
    pub fn aaaa(&self, name: &str, address: &str) -> &Self {
        let address = address.parse().expect("the test gives an IPv6 address");
        self.edit(name, |entry| entry.aaaa.push(address))
    }

    /// Adds a TXT record.
    pub fn txt(&self, name: &str, text: &str) -> &Self {
        self.edit(name, |entry| entry.txt.push(text.as_bytes().into()))
    }

    /// Adds a name of an address.
    ///
    /// # Panics
    /// If `address` is none.
    pub fn ptr(&self, address: &str, host: &str) -> &Self {
        let address: IpAddr = address.parse().expect("the test gives an address");
        self.edit(&address.to_string(), |entry| entry.ptr.push(host.into()))
    }

    /// Makes `name` an alias.
    pub fn cname(&self, name: &str, target: &str) -> &Self {
        self.edit(name, |entry| entry.cname = Some(target.to_ascii_lowercase()))
    }

    /// Makes `name` exist, if without records.
    pub fn empty(&self, name: &str) -> &Self {
        self.edit(name, |_| {})
    }

    /// Makes every question for `name` fail for now.
    pub fn fail(&self, name: &str, why: &str) -> &Self {
        self.edit(name, |entry| entry.fails = Some(why.into()))
    }

    /// Makes questions for `name` hang until asked no more.
    pub fn silence(&self, name: &str) -> &Self {
        self.data().silent.insert(name.to_ascii_lowercase());
        self
    }

    /// Sets the TTL of all records of `name`, seconds; 300 otherwise.
    pub fn ttl(&self, name: &str, seconds: u32) -> &Self {
        self.edit(name, |entry| entry.ttl = Duration::from_secs(seconds.into()))
    }

    /// Forgets `name` and all it had, failures included.
    pub fn remove(&self, name: &str) -> &Self {
        let mut data = self.data();
        data.names.remove(&name.to_ascii_lowercase());
        data.silent.remove(&name.to_ascii_lowercase());
        drop(data);
        self
    }

    /// How many questions have been asked for `name`, of all kinds.
    pub fn asked(&self, name: &str) -> usize {
        self.data().asked.get(&name.to_ascii_lowercase()).copied().unwrap_or(0)
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Name)) -> &Self {
        change(self.data().names.entry(name.to_ascii_lowercase()).or_default());
        self
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer<T: Clone>(&self, name: &str, records: impl Fn(&Name) -> &Vec<T>) -> Answer<T> {
        let is_silent = {
            let mut data = self.data();
            *data.asked.entry(name.to_owned()).or_default() += 1;
            data.silent.contains(name)
        };
        if is_silent {
            std::future::pending::<()>().await;
        }
        let data = self.data();
        let mut at = name;
        let mut ttl = Duration::MAX;
        for _ in 0..CNAMES_MAX {
            let Some(entry) = data.names.get(at) else { return Answer::NxDomain(Duration::from_secs(300)) };
            ttl = ttl.min(entry.ttl);
            if let Some(why) = &entry.fails {
                return Answer::Temporary(why.clone());
            }
            match &entry.cname {
                Some(target) => at = target,
                None if records(entry).is_empty() => return Answer::NoData(ttl),
                None => return Answer::Found(records(entry).as_slice().into(), ttl),
            }
        }
        Answer::NoData(ttl)
    }
}

impl Resolver for Zone {
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Mx>> {
        Box::pin(self.answer(name.as_str(), |entry| &entry.mx))
    }

    fn a<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv4Addr>> {
        Box::pin(self.answer(name.as_str(), |entry| &entry.a))
    }

    fn aaaa<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv6Addr>> {
        Box::pin(self.answer(name.as_str(), |entry| &entry.aaaa))
    }

    fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Box<[u8]>>> {
        Box::pin(self.answer(name, |entry| &entry.txt))
    }

    fn a_of_any<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Ipv4Addr>> {
        Box::pin(self.answer(name, |entry| &entry.a))
    }

    fn ptr(&self, address: IpAddr) -> BoxFuture<'_, Answer<Box<str>>> {
        Box::pin(async move { self.answer(&address.to_string(), |entry| &entry.ptr).await })
    }
}
