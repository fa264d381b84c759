//! A resolver that remembers: bounded in entries and in the size of each, with times held within limits.

use crate::memo::Memo;
use crate::{Answer, BoxFuture, Config, Mx, Resolver};
use mail::Domain;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// Remembers what another resolver answers, and asks it one question at a time for each name and kind.
pub struct Cached {
    inner: Arc<dyn Resolver>,
    config: Config,
    mx: Memo<Domain, Answer<Mx>>,
    a: Memo<Domain, Answer<Ipv4Addr>>,
    aaaa: Memo<Domain, Answer<Ipv6Addr>>,
}

impl Cached {
    /// Remembers what `inner` answers.
    pub fn new(inner: Arc<dyn Resolver>, config: &Config) -> Self {
        let third = config.cache_max.len() / 3;
        let mx = Memo::new(third, |name, answer| weigh(name, answer, |mx: &Mx| mx.exchange.len()));
        let a = Memo::new(third, |name, answer| weigh(name, answer, |_| 0));
        let aaaa = Memo::new(third, |name, answer| weigh(name, answer, |_| 0));
        Self { inner, config: config.clone(), mx, a, aaaa }
    }

    /// Names remembered now, over all kinds.
    pub fn names(&self) -> usize {
        self.mx.len() + self.a.len() + self.aaaa.len()
    }

    fn clamp<T>(&self, answer: Answer<T>) -> (Answer<T>, Duration) {
        let config = &self.config;
        let positive = |ttl: Duration| ttl.max(config.ttl_min).min(config.ttl_max);
        let negative = |ttl: Duration| ttl.max(config.negative_ttl_min).min(config.negative_ttl_max);
        match answer {
            Answer::Found(records, ttl) => (Answer::Found(records, positive(ttl)), positive(ttl)),
            Answer::NoData(ttl) => (Answer::NoData(negative(ttl)), negative(ttl)),
            Answer::NxDomain(ttl) => (Answer::NxDomain(negative(ttl)), negative(ttl)),
            Answer::Temporary(why) => (Answer::Temporary(why), config.failure_ttl),
        }
    }
}

/// About what a name and its answer hold on the heap.
fn weigh<T>(name: &Domain, answer: &Answer<T>, of_record: impl Fn(&T) -> usize) -> usize {
    name.as_str().len()
        + match answer {
            Answer::Found(records, _) => {
                size_of_val::<[T]>(records) + records.iter().map(of_record).sum::<usize>()
            }
            Answer::Temporary(why) => why.len(),
            Answer::NoData(_) | Answer::NxDomain(_) => 0,
        }
}

impl Resolver for Cached {
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Mx>> {
        Box::pin(self.mx.get_or(name, || async { self.clamp(self.inner.mx(name).await) }))
    }

    fn a<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv4Addr>> {
        Box::pin(self.a.get_or(name, || async { self.clamp(self.inner.a(name).await) }))
    }

    fn aaaa<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv6Addr>> {
        Box::pin(self.aaaa.get_or(name, || async { self.clamp(self.inner.aaaa(name).await) }))
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
