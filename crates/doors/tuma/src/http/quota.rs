//! How much a tenant may hand in, by hour and by day. What is counted is kept in memory: a restart begins anew.

use super::Http;
use super::refusal::Refusal;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Counted since some moment.
#[derive(Clone, Copy)]
struct Counted {
    since: Instant,
    recipients: u64,
}

impl Counted {
    fn at(self, now: Instant, length: Duration) -> Self {
        if now.duration_since(self.since) >= length { Self { since: now, recipients: 0 } } else { self }
    }
}

/// Counters of the tenants that have a limit: those of the configuration, so as many as it has.
#[derive(Default)]
pub(super) struct Quotas(Mutex<HashMap<String, [Counted; 2]>>);

impl Quotas {
    /// Counts recipients of a tenant, all of them or none.
    pub(super) fn take(&self, http: &Http, tenant: Option<&str>, recipients: u64) -> Result<(), Refusal> {
        let Some(name) = tenant else { return Ok(()) };
        let tenants = http.tenants();
        let Some(config) = tenants.get(name) else { return Ok(()) };
        let limits = [config.recipients_per_hour_max, config.recipients_per_day_max];
        self.count(name, limits, recipients, tokio::time::Instant::now().into_std())
    }

    fn count(
        &self,
        name: &str,
        limits: [Option<u64>; 2],
        recipients: u64,
        now: Instant,
    ) -> Result<(), Refusal> {
        if limits == [None, None] {
            return Ok(());
        }
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = [Counted { since: now, recipients: 0 }; 2];
        let counted = table.entry(name.to_owned()).or_insert(new);
        for ((counted, limit), (length, word)) in
            counted.iter_mut().zip(limits).zip([(HOUR, "an hour"), (DAY, "a day")])
        {
            *counted = counted.at(now, length);
            let Some(limit) = limit else { continue };
            if counted.recipients.saturating_add(recipients) > limit {
                let wait = length.saturating_sub(now.duration_since(counted.since)).as_secs() + 1;
                let text = format!(
                    "the tenant {name} may send to {limit} recipients {word}; {} are counted",
                    counted.recipients
                );
                return Err(Refusal::too_many(text, u32::try_from(wait).unwrap_or(u32::MAX)));
            }
        }
        counted.iter_mut().for_each(|counted| counted.recipients += recipients);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_are_counted_apart_and_tenants_too() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        let limits = [Some(10), Some(15)];
        let take = |name: &str, n: u64, at: Duration| quotas.count(name, limits, n, now + at).is_ok();
        assert!(take("a", 10, Duration::ZERO) && !take("a", 1, Duration::ZERO));
        assert!(take("b", 10, Duration::ZERO), "one tenant's mail is not another's");
        assert!(take("a", 5, HOUR) && !take("a", 1, HOUR), "the day is over before the hour");
        assert!(take("a", 10, DAY));
        assert!(!take("c", 11, DAY) && take("c", 10, DAY), "what is refused does not count");
    }
}
