//! Exchangers whose TLS handshakes fail: where TLS is opportunistic, mail goes on in the clear, and for a while
//! no handshake is tried there that would only cost a connection.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Exchangers remembered at most; of a further one the handshake is tried each time.
const REMEMBERED_MAX: usize = 10_000;

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct InTheClear(Mutex<HashMap<Box<str>, Known>>);

#[derive(Clone, Debug)]
struct Known {
    until: Instant,
    why: Box<str>,
}

impl InTheClear {
    /// A handshake with an exchanger failed, and mail went on in the clear. True if that is news.
    pub(crate) fn remember(&self, now: Instant, host: &str, why: &str, lasts: Duration) -> bool {
        let mut known = self.lock();
        let host: Box<str> = host.to_ascii_lowercase().into();
        let is_news = known.get(&host).is_none_or(|known| known.until <= now);
        if lasts.is_zero() {
            return is_news;
        }
        if known.len() >= REMEMBERED_MAX && !known.contains_key(&host) {
            known.retain(|_, known| known.until > now);
        }
        if known.len() < REMEMBERED_MAX || known.contains_key(&host) {
            known.insert(host, Known { until: now + lasts, why: why.into() });
        }
        is_news
    }

    /// Why an exchanger is spoken to in the clear, and for how long yet.
    pub(crate) fn why(&self, now: Instant, host: &str) -> Option<(Box<str>, Duration)> {
        let known = self.lock();
        if known.is_empty() {
            return None;
        }
        let known = known.get(&*host.to_ascii_lowercase())?;
        let left = known.until.saturating_duration_since(now);
        (!left.is_zero()).then(|| (known.why.clone(), left))
    }

    /// Exchangers spoken to in the clear.
    pub(crate) fn count(&self, now: Instant) -> usize {
        self.lock().values().filter(|known| known.until > now).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_for_a_while_and_within_bounds() {
        let (clear, now, hour) = (InTheClear::default(), Instant::now(), Duration::from_secs(3_600));
        assert!(clear.remember(now, "MX.a.test", "no shared cipher", hour));
        assert!(!clear.remember(now, "mx.a.test", "no shared cipher", hour));
        assert_eq!(clear.why(now, "mx.A.test").unwrap(), ("no shared cipher".into(), hour));
        assert_eq!(clear.why(now + hour, "mx.a.test"), None);
        assert!(clear.remember(now, "mx.zero.test", "x", Duration::ZERO));
        assert_eq!(clear.why(now, "mx.zero.test"), None);
        for n in 0..2 * REMEMBERED_MAX {
            clear.remember(now, &format!("mx{n}.test"), "x", hour);
        }
        assert_eq!(clear.count(now), REMEMBERED_MAX);
        assert_eq!(clear.count(now + hour), 0);
        // What is over makes room.
        assert!(clear.remember(now + hour, "mx.new.test", "x", hour));
        assert_eq!(clear.count(now + hour), 1);
    }
}
