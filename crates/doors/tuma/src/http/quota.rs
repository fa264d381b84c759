//! How much a tenant may hand in, by hour and by day, over restarts too.
//!
//! A write to the disk for each request would cost as much as the message itself. So the disk is told in advance: of
//! each limit a hundredth more than is counted, and again when that is used up. What a kill loses is then in the
//! tenant's disfavour, a hundredth of its limit at most, and no number of kills lets anybody send more than he may. A
//! stop in good order writes what was counted.

use super::Http;
use super::refusal::Refusal;
use mail::UnixMillis;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tenants::{Counted, Quota};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;
/// Which part of a limit is written in advance.
const AHEAD: u64 = 100;

fn at(counted: Counted, now: UnixMillis, length_ms: u64) -> Counted {
    if now.0 < counted.since.0 {
        // The clock was put back: what is counted stays counted, for one length more at most.
        return Counted { since: now, ..counted };
    }
    if now.0 - counted.since.0 >= length_ms { Counted { since: now, recipients: 0 } } else { counted }
}

fn of_now(quota: Quota, now: UnixMillis) -> Quota {
    Quota { hour: at(quota.hour, now, HOUR_MS), day: at(quota.day, now, DAY_MS) }
}

/// A tenant's counters, and what the disk knows of them.
#[derive(Clone, Copy, Default)]
struct Entry {
    counted: Quota,
    written: Quota,
}

/// Counters of the tenants that have a limit: as many as there are tenants.
#[derive(Default)]
pub(super) struct Quotas {
    table: Mutex<HashMap<String, Entry>>,
    /// Held from the count to the write: who counts on what is written in advance must find it written, and an older
    /// write must not come after a newer one.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Quotas {
    /// As they were written.
    pub(super) fn of(written: BTreeMap<String, Quota>) -> Self {
        let entry = |(name, written): (String, Quota)| (name, Entry { counted: written, written });
        Self { table: Mutex::new(written.into_iter().map(entry).collect()), ..Self::default() }
    }

    /// Counts recipients of a tenant, all of them or none.
    pub(super) async fn take(
        &self,
        http: &Http,
        tenant: Option<&str>,
        recipients: u64,
    ) -> Result<(), Refusal> {
        let Some(name) = tenant else { return Ok(()) };
        let tenants = http.tenants();
        let Some(config) = tenants.get(name) else { return Ok(()) };
        let limits = [config.recipients_per_hour_max, config.recipients_per_day_max];
        if limits == [None, None] {
            return Ok(());
        }
        let turn = self.turn.clone().lock_owned().await;
        let Some(ahead) = self.count(name, limits, recipients, super::access::wall())? else { return Ok(()) };
        let (store, line) = (http.store.clone(), [(name.to_owned(), ahead)]);
        // The turn goes with the write: a client that goes away ends this, and not the write.
        let written = tokio::task::spawn_blocking(move || {
            let written = store.write_quotas(&line);
            drop(turn);
            written
        })
        .await;
        if let Ok(Err(error)) = &written {
            // Mail is not held up for it: the limit holds as long as this process lives.
            tracing::error!(%error, tenant = name, "what a tenant has handed in could not be written");
        }
        Ok(())
    }

    /// Counts, and says what is to be written before the answer, if anything is.
    fn count(
        &self,
        name: &str,
        limits: [Option<u64>; 2],
        recipients: u64,
        now: UnixMillis,
    ) -> Result<Option<Quota>, Refusal> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = table.entry(name.to_owned()).or_default();
        entry.counted = of_now(entry.counted, now);
        let Quota { hour, day } = &mut entry.counted;
        let watched = [(&*hour, HOUR_MS, "an hour"), (&*day, DAY_MS, "a day")];
        for ((counted, length_ms, word), limit) in watched.into_iter().zip(limits) {
            let Some(limit) = limit else { continue };
            if counted.recipients.saturating_add(recipients) > limit {
                let wait = (counted.since.0 + length_ms).saturating_sub(now.0) / 1_000 + 1;
                let text = format!(
                    "the tenant {name} may send to {limit} recipients {word}; {} are counted",
                    counted.recipients
                );
                return Err(Refusal::too_many(text, u32::try_from(wait).unwrap_or(u32::MAX)));
            }
        }
        let mut ahead = entry.written;
        let mut short = false;
        for ((counted, written), limit) in
            [(hour, &mut ahead.hour), (day, &mut ahead.day)].into_iter().zip(limits)
        {
            counted.recipients = counted.recipients.saturating_add(recipients);
            if limit.is_some() && (written.since != counted.since || written.recipients < counted.recipients)
            {
                short = true;
            }
            *written = *counted;
            if let Some(limit) = limit {
                written.recipients = counted.recipients.saturating_add(limit / AHEAD).min(limit);
            }
        }
        if !short {
            return Ok(None);
        }
        entry.written = ahead;
        Ok(Some(ahead))
    }

    /// What a tenant has counted by now.
    pub(super) fn counted(&self, name: &str, now: UnixMillis) -> Quota {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        of_now(table.get(name).map(|entry| entry.counted).unwrap_or_default(), now)
    }

    /// Forgets a tenant that is no more.
    pub(super) fn forget(&self, name: &str) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// What all have counted, for a stop.
    pub(super) fn all(&self) -> Vec<(String, Quota)> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(name, entry)| (name.clone(), entry.counted)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_790_000_000_000;

    #[test]
    fn hours_and_days_are_counted_apart_and_tenants_too() {
        let quotas = Quotas::default();
        let limits = [Some(10), Some(15)];
        let take =
            |name: &str, n: u64, ms: u64| quotas.count(name, limits, n, UnixMillis(START + ms)).is_ok();
        assert!(take("a", 10, 0) && !take("a", 1, 0));
        assert!(take("b", 10, 0), "one tenant's mail is not another's");
        assert!(take("a", 5, HOUR_MS) && !take("a", 1, HOUR_MS), "the day is over before the hour");
        assert!(take("a", 10, DAY_MS));
        assert!(!take("c", 11, DAY_MS) && take("c", 10, DAY_MS), "what is refused does not count");
    }

    #[test]
    fn no_number_of_kills_lets_a_tenant_send_more() {
        let limits = [Some(1_000), None];
        let (mut disk, mut sent, mut writes) = (BTreeMap::new(), 0, 0);
        // It is killed after every 33rd message, in the middle of what it counted.
        loop {
            let quotas = Quotas::of(disk.clone());
            let mut some = 0;
            for _ in 0..33 {
                match quotas.count("a", limits, 1, UnixMillis(START + sent)) {
                    Ok(Some(quota)) => {
                        disk.insert("a".to_owned(), quota);
                        (writes, some) = (writes + 1, some + 1);
                    }
                    Ok(None) => some += 1,
                    Err(_) => break,
                }
            }
            sent += some;
            if some == 0 {
                break;
            }
        }
        assert!((700..=1_000).contains(&sent), "{sent} sent");
        assert!(writes <= 150, "{writes} writes");
        // Stopped in good order it loses nothing.
        let quotas = Quotas::default();
        assert!(quotas.count("a", limits, 995, UnixMillis(START)).is_ok());
        let quotas = Quotas::of(quotas.all().into_iter().collect());
        assert!(quotas.count("a", limits, 5, UnixMillis(START)).is_ok());
        assert!(quotas.count("a", limits, 1, UnixMillis(START)).is_err());
    }

    #[test]
    fn a_clock_put_back_neither_opens_nor_shuts_for_long() {
        let quotas = Quotas::default();
        let limits = [Some(10), None];
        let take = |n: u64, at: u64| quotas.count("a", limits, n, UnixMillis(at)).is_ok();
        assert!(take(10, START) && !take(1, START - DAY_MS));
        assert!(!take(1, START - DAY_MS + HOUR_MS - 1) && take(10, START - DAY_MS + HOUR_MS));
    }
}
