//! Tenants that were made at run time, and what tenants of any origin have handed in.

use crate::store::{Store, StoreError};
use mail::UnixMillis;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

/// Tenants at most. Each has some hundred octets in memory.
const TENANTS_MAX: usize = 100_000;

pub(crate) const TABLES: &str = "
    CREATE TABLE tenants (
        name TEXT PRIMARY KEY, from_domains TEXT NOT NULL, pools TEXT NOT NULL, recipients_per_hour_max INTEGER,
        recipients_per_day_max INTEGER, suspended INTEGER NOT NULL, created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE quotas (
        tenant TEXT PRIMARY KEY, hour_since INTEGER NOT NULL, hour_recipients INTEGER NOT NULL,
        day_since INTEGER NOT NULL, day_recipients INTEGER NOT NULL
    ) STRICT;
";

/// One whose mail is kept apart, made at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// Domains it may send from; none is all.
    pub from_domains: Vec<String>,
    /// Pools it may choose; none is all.
    pub pools: Vec<String>,
    /// Recipients an hour at most.
    pub recipients_per_hour_max: Option<u64>,
    /// Recipients a day at most.
    pub recipients_per_day_max: Option<u64>,
    /// It may hand in nothing.
    pub suspended: bool,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was changed last.
    pub updated_at: UnixMillis,
}

/// Recipients since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The moment.
    pub since: UnixMillis,
    /// How many.
    pub recipients: u64,
}

/// What a tenant has handed in within its hour and its day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Within the hour.
    pub hour: Counted,
    /// Within the day.
    pub day: Counted,
}

/// What went with a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Keys that were taken back.
    pub keys: usize,
    /// Templates that were deleted.
    pub templates: usize,
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn lines(texts: &[String]) -> String {
    texts.join("\n")
}

pub(crate) fn read(database: &Connection) -> Result<BTreeMap<String, Arc<Tenant>>, StoreError> {
    let mut statement = database.prepare(
        "SELECT name, from_domains, pools, recipients_per_hour_max, recipients_per_day_max, suspended, created_at, \
         updated_at FROM tenants",
    )?;
    let rows = statement.query_map([], |row| {
        // A pool's name may hold blanks, but no line break.
        let list = |text: String| text.lines().map(str::to_owned).collect();
        let count = |value: Option<i64>| value.map(|value| value.max(0) as u64);
        let tenant = Tenant {
            from_domains: list(row.get(1)?),
            pools: list(row.get(2)?),
            recipients_per_hour_max: count(row.get(3)?),
            recipients_per_day_max: count(row.get(4)?),
            suspended: row.get(5)?,
            created_at: UnixMillis(row.get::<_, i64>(6)?.max(0) as u64),
            updated_at: UnixMillis(row.get::<_, i64>(7)?.max(0) as u64),
        };
        Ok((row.get(0)?, Arc::new(tenant)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Store {
    /// The tenants that were made at run time, by name.
    pub fn tenants(&self) -> BTreeMap<String, Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a tenant, or changes one to be so from now on.
    pub fn put_tenant(&self, name: &str, tenant: Tenant) -> Result<Arc<Tenant>, StoreError> {
        let database = self.database();
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if !tenants.contains_key(name) && tenants.len() >= TENANTS_MAX {
            return Err(StoreError::TooMany("tenants"));
        }
        database.execute(
            "INSERT OR REPLACE INTO tenants VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                name,
                lines(&tenant.from_domains),
                lines(&tenant.pools),
                tenant.recipients_per_hour_max.map(number),
                tenant.recipients_per_day_max.map(number),
                tenant.suspended,
                number(tenant.created_at.0),
                number(tenant.updated_at.0),
            ],
        )?;
        let tenant = Arc::new(tenant);
        tenants.insert(name.to_owned(), tenant.clone());
        Ok(tenant)
    }

    /// Removes a tenant with its templates and what it has counted, and takes its keys back: whoever gets the name
    /// next must not come into what was another's. `None` if there is none.
    pub fn remove_tenant(&self, name: &str, now: UnixMillis) -> Result<Option<Removed>, StoreError> {
        let mut database = self.database();
        if !self.tenants.read().unwrap_or_else(PoisonError::into_inner).contains_key(name) {
            return Ok(None);
        }
        let change = database.transaction()?;
        change.execute("DELETE FROM tenants WHERE name = ?1", [name])?;
        change.execute("DELETE FROM quotas WHERE tenant = ?1", [name])?;
        let templates = change.execute("DELETE FROM templates WHERE tenant = ?1", [name])?;
        change.execute(
            "UPDATE keys SET revoked_at = ?2 WHERE tenant = ?1 AND revoked_at IS NULL",
            params![name, number(now.0)],
        )?;
        change.commit()?;
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let keys = self.revoked_of_tenant(name, now);
        Ok(Some(Removed { keys, templates }))
    }

    /// What the tenants had counted when it was written last.
    pub fn quotas(&self) -> Result<BTreeMap<String, Quota>, StoreError> {
        let database = self.database();
        let mut statement = database
            .prepare("SELECT tenant, hour_since, hour_recipients, day_since, day_recipients FROM quotas")?;
        let rows = statement.query_map([], |row| {
            let count = |at: usize| Ok::<u64, rusqlite::Error>(row.get::<_, i64>(at)?.max(0) as u64);
            let hour = Counted { since: UnixMillis(count(1)?), recipients: count(2)? };
            let day = Counted { since: UnixMillis(count(3)?), recipients: count(4)? };
            Ok((row.get(0)?, Quota { hour, day }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Writes what some tenants have counted, all in one commit.
    pub fn write_quotas(&self, quotas: &[(String, Quota)]) -> Result<(), StoreError> {
        let mut database = self.database();
        let change = database.transaction()?;
        for (tenant, Quota { hour, day }) in quotas {
            change.execute(
                "INSERT OR REPLACE INTO quotas VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    tenant,
                    number(hour.since.0),
                    number(hour.recipients),
                    number(day.since.0),
                    number(day.recipients)
                ],
            )?;
        }
        Ok(change.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NewKey, Role};

    const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

    fn tenant() -> Tenant {
        Tenant {
            from_domains: vec!["acme.test".into(), "acme.example".into()],
            pools: vec!["in two words".into()],
            recipients_per_hour_max: Some(u64::MAX),
            recipients_per_day_max: None,
            suspended: true,
            created_at: NOW,
            updated_at: NOW,
        }
    }

    #[test]
    fn tenants_outlive_a_restart_and_take_what_is_theirs_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.put_tenant("acme", tenant()).unwrap();
        store.put_tenant("globex", Tenant::default()).unwrap();
        let key = |tenant: &str| NewKey {
            name: tenant.into(),
            role: Role::Sender,
            tenant: Some(tenant.into()),
            networks: Vec::new(),
            from_domains: Vec::new(),
            requests_per_minute_max: None,
            expires_at: None,
        };
        let (_, acme) = store.new_key(key("acme"), NOW).unwrap();
        let (_, globex) = store.new_key(key("globex"), NOW).unwrap();
        for name in ["acme", "globex"] {
            store.put_template(name, "welcome", "{}", NOW).unwrap();
        }
        let quota = Quota { hour: Counted { since: NOW, recipients: 7 }, day: Counted::default() };
        store.write_quotas(&[("acme".into(), quota), ("globex".into(), quota)]).unwrap();
        drop(store);

        let store = Store::open(folder.path()).unwrap();
        let expected = Tenant { recipients_per_hour_max: Some(i64::MAX as u64), ..tenant() };
        assert_eq!(*store.tenants()["acme"], expected);
        assert_eq!(store.quotas().unwrap()["acme"], quota);
        assert_eq!(store.remove_tenant("acme", NOW).unwrap(), Some(Removed { keys: 1, templates: 1 }));
        assert_eq!(store.remove_tenant("acme", NOW).unwrap(), None);
        assert!(!store.check(&acme).unwrap().is_valid(NOW), "its keys open nothing");
        drop(store);

        let store = Store::open(folder.path()).unwrap();
        assert!(!store.check(&acme).unwrap().is_valid(NOW) && store.check(&globex).unwrap().is_valid(NOW));
        assert_eq!(store.tenants().keys().collect::<Vec<_>>(), ["globex"]);
        assert!(store.template("acme", "welcome").unwrap().is_none());
        assert!(store.template("globex", "welcome").unwrap().is_some());
        assert_eq!(store.quotas().unwrap().into_keys().collect::<Vec<_>>(), ["globex"]);
    }
}
