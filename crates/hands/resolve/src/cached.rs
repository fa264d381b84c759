//! A resolver that remembers: bounded in entries and in the size of each, with times held within limits.

use crate::memo::Memo;
use crate::{Answer, BoxFuture, Config, Mx, Resolver};
use mail::Domain;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Kinds of answers, which share the memory alike.
const KINDS: usize = 6;

/// Remembers what another resolver answers, and asks it one question at a time for each name and kind.
pub struct Cached {
    inner: Arc<dyn Resolver>,
    config: Config,
    mx: Memo<Domain, Answer<Mx>>,
    a: Memo<Domain, Answer<Ipv4Addr>>,
    aaaa: Memo<Domain, Answer<Ipv6Addr>>,
    txt: Memo<Box<str>, Answer<Box<[u8]>>>,
    any: Memo<Box<str>, Answer<Ipv4Addr>>,
    ptr: Memo<IpAddr, Answer<Box<str>>>,
}

impl Cached {
    /// Remembers what `inner` answers.
    pub fn new(inner: Arc<dyn Resolver>, config: &Config) -> Self {
        let share = config.cache_max.len() / KINDS;
        let mx = Memo::<Domain, _>::new(share, |name, answer| {
            name.as_str().len() + weigh(answer, |mx: &Mx| mx.exchange.len())
        });
        let a = Memo::<Domain, _>::new(share, |name, answer| name.as_str().len() + weigh(answer, |_| 0));
        let aaaa = Memo::<Domain, _>::new(share, |name, answer| name.as_str().len() + weigh(answer, |_| 0));
        let txt = Memo::<Box<str>, Answer<Box<[u8]>>>::new(share, |name, answer| {
            name.len() + weigh(answer, |text| text.len())
        });
        let any = Memo::<Box<str>, _>::new(share, |name, answer| name.len() + weigh(answer, |_| 0));
        let ptr = Memo::<_, Answer<Box<str>>>::new(share, |_, answer| weigh(answer, |name| name.len()));
        Self { inner, config: config.clone(), mx, a, aaaa, txt, any, ptr }
    }

    /// Names remembered now, over all kinds.
    pub fn names(&self) -> usize {
        let by_domain = self.mx.len() + self.a.len() + self.aaaa.len();
        by_domain + self.txt.len() + self.any.len() + self.ptr.len()
    }

    fn clamp<T>(&self, answer: Answer<T>) -> (Answer<T>, Duration) {
        let config = &self.config;
        let positive = |ttl: Duration| ttl.max(config.ttl_min).min(config.ttl_max);
        let negative = |ttl: Duration| ttl.max(config.negative_ttl_min).min(config.negative_ttl_max);
        match answer {
            Answer::Found(_, ttl) => (answer, positive(ttl)),
            Answer::NoData(ttl) | Answer::NxDomain(ttl) => (answer, negative(ttl)),
            Answer::Temporary(_) => (answer, config.failure_ttl),
        }
    }
}

/// The answer with the time it still holds: who remembers what it leads to must not add its age.
fn remaining<T>((answer, until): (Answer<T>, Instant)) -> Answer<T> {
    let ttl = until.saturating_duration_since(Instant::now());
    match answer {
        Answer::Found(records, _) => Answer::Found(records, ttl),
        Answer::NoData(_) => Answer::NoData(ttl),
        Answer::NxDomain(_) => Answer::NxDomain(ttl),
        temporary @ Answer::Temporary(_) => temporary,
    }
}

/// About what an answer holds on the heap.
fn weigh<T>(answer: &Answer<T>, of_record: impl Fn(&T) -> usize) -> usize {
    match answer {
        Answer::Found(records, _) => {
            size_of_val::<[T]>(records) + records.iter().map(of_record).sum::<usize>()
        }
        Answer::Temporary(why) => why.len(),
        Answer::NoData(_) | Answer::NxDomain(_) => 0,
    }
}

impl Resolver for Cached {
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Mx>> {
        Box::pin(async {
            let asked = || async { self.clamp(self.inner.mx(name).await) };
            remaining(self.mx.get_or(name, asked).await)
        })
    }

    fn a<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv4Addr>> {
        Box::pin(async {
            let asked = || async { self.clamp(self.inner.a(name).await) };
            remaining(self.a.get_or(name, asked).await)
        })
    }

    fn aaaa<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv6Addr>> {
        Box::pin(async {
            let asked = || async { self.clamp(self.inner.aaaa(name).await) };
            remaining(self.aaaa.get_or(name, asked).await)
        })
    }

    fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Box<[u8]>>> {
        Box::pin(async {
            let asked = || async { self.clamp(self.inner.txt(name).await) };
            remaining(self.txt.get_or(&name.into(), asked).await)
        })
    }

    fn a_of_any<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Ipv4Addr>> {
        Box::pin(async {
            let asked = || async { self.clamp(self.inner.a_of_any(name).await) };
            remaining(self.any.get_or(&name.into(), asked).await)
        })
    }

    fn ptr(&self, address: IpAddr) -> BoxFuture<'_, Answer<Box<str>>> {
        Box::pin(async move {
            let asked = || async { self.clamp(self.inner.ptr(address).await) };
            remaining(self.ptr.get_or(&address, asked).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Zone;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn times_are_held_within_limits() {
        let zone = Arc::new(Zone::new());
        let cached = Cached::new(zone.clone(), &Config::default());
        // TTL, how long the answer must be remembered.
        for (name, ttl, lasts) in [("zero.test", 0, 10), ("day.test", 1 << 31, 3600), ("mid.test", 60, 60)] {
            let domain = Domain::parse(name).unwrap();
            zone.a(name, "192.0.2.1").ttl(name, ttl);
            let ask = async || assert!(matches!(cached.a(&domain).await, Answer::Found(..)), "{name}");
            ask().await;
            advance(Duration::from_secs(lasts) - Duration::from_millis(1)).await;
            ask().await;
            let Answer::Found(_, left) = cached.a(&domain).await else { panic!("{name}") };
            assert_eq!(left, Duration::from_millis(1));
            assert_eq!(zone.asked(name), 1, "{name}");
            advance(Duration::from_millis(1)).await;
            ask().await;
            assert_eq!(zone.asked(name), 2, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn floods_of_absent_and_failing_names_are_bounded_and_remembered() {
        let zone = Arc::new(Zone::new());
        let config = Config { cache_max: settings::Size(60_000), ..Config::default() };
        let cached = Cached::new(zone.clone(), &config);
        for n in 0..10_000 {
            let domain = Domain::parse(&format!("n{n}.test")).unwrap();
            assert!(matches!(cached.mx(&domain).await, Answer::NxDomain(_)));
            assert!(cached.names() <= 120);
        }
        let (absent, failing) =
            (Domain::parse("absent.test").unwrap(), Domain::parse("failing.test").unwrap());
        zone.fail("failing.test", "SERVFAIL");
        for _ in 0..10 {
            cached.mx(&absent).await;
            cached.mx(&failing).await;
        }
        assert_eq!((zone.asked("absent.test"), zone.asked("failing.test")), (1, 1));
        advance(Config::default().failure_ttl).await;
        cached.mx(&failing).await;
        assert_eq!(zone.asked("failing.test"), 2);
    }
}
