//! The database, and what of it is kept in memory.

use crate::key::{Key, NewKey, Role};
use crate::tenant::{self, Tenant};
use crate::token::{Secret, Token};
use mail::UnixMillis;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Keys at most, revoked ones included.
const KEYS_MAX: usize = 10_000;
/// Templates of one tenant at most.
pub const TEMPLATES_MAX: u32 = 1_000;
/// Lines of the log of changes kept; older ones go.
const AUDIT_MAX: i64 = 100_000;
/// The version of the tables.
const VERSION: i64 = 2;

const TABLES: &str = "
    CREATE TABLE keys (
        id TEXT PRIMARY KEY, hash BLOB NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, tenant TEXT,
        networks TEXT NOT NULL, from_domains TEXT NOT NULL, requests_per_minute_max INTEGER,
        created_at INTEGER NOT NULL, expires_at INTEGER, revoked_at INTEGER
    ) STRICT;
    CREATE TABLE templates (
        tenant TEXT NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL, updated_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, name)
    ) STRICT;
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, peer TEXT NOT NULL, method TEXT NOT NULL,
        path TEXT NOT NULL, status INTEGER NOT NULL, detail TEXT NOT NULL
    ) STRICT;
";

const SET_VERSION: &str = "PRAGMA user_version = 2;";

/// Why the store did not do what was asked.
#[derive(Debug)]
pub enum StoreError {
    /// The database or its folder: an operator must look.
    Broken(String),
    /// There are as many as there may be.
    TooMany(&'static str),
    /// The file is of a later program.
    Version(i64),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(text) => f.write_str(text),
            Self::TooMany(what) => write!(f, "there are too many {what}; delete some"),
            Self::Version(found) => {
                write!(
                    f,
                    "the database has version {found}, this program knows version {VERSION}: use the program that wrote it"
                )
            }
        }
    }
}

impl std::error::Error for StoreError {}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(format!("the database of keys and templates: {error}"))
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(format!("the database of keys and templates: {error}"))
    }
}

/// A stored template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// What is stored, as it was given.
    pub content: String,
    /// When it was stored last.
    pub updated_at: UnixMillis,
}

/// One line of the log of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Counts up.
    pub number: i64,
    /// When.
    pub at: UnixMillis,
    /// The key's id, or how else the caller was known.
    pub who: String,
    /// Where the request came from.
    pub peer: String,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// What was answered.
    pub status: u16,
    /// The beginning of what was asked for; nothing secret.
    pub detail: String,
}

/// The store. One for the whole server.
pub struct Store {
    database: Mutex<Connection>,
    secret: Secret,
    /// Every key by its id, so that a request needs no database.
    keys: RwLock<HashMap<String, Arc<Key>>>,
    /// Every tenant made at run time, by name.
    pub(crate) tenants: RwLock<BTreeMap<String, Arc<Tenant>>>,
}

impl Store {
    /// Opens the store in a folder, and makes what is missing.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let secret = Secret::open(&folder.join("keys.secret"))?;
        let path = folder.join("control.sqlite");
        // SQLite would make it readable by all.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let database = Connection::open(&path)?;
        // Every change is on the disk when it is answered; there are few.
        database.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
        )?;
        let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match version {
            0 => database.execute_batch(&format!("BEGIN;{TABLES}{}{SET_VERSION}COMMIT;", tenant::TABLES))?,
            // Before there were tenants in it.
            1 => database.execute_batch(&format!("BEGIN;{}{SET_VERSION}COMMIT;", tenant::TABLES))?,
            VERSION => {}
            other => return Err(StoreError::Version(other)),
        }
        let tenants = RwLock::new(tenant::read(&database)?);
        let store = Self { database: Mutex::new(database), secret, keys: RwLock::default(), tenants };
        let keys = store.read_keys()?;
        *store.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(store)
    }

    pub(crate) fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- keys ---------------------------------------------------------------------------------------------

    fn read_keys(&self) -> Result<HashMap<String, Arc<Key>>, StoreError> {
        let database = self.database();
        let mut statement = database.prepare(
            "SELECT id, hash, name, role, tenant, networks, from_domains, requests_per_minute_max, created_at, \
             expires_at, revoked_at FROM keys",
        )?;
        let rows = statement.query_map([], |row| {
            let list = |text: String| text.split_whitespace().map(str::to_owned).collect();
            let time = |at: Option<i64>| at.map(|at| UnixMillis(at.max(0) as u64));
            // A role that is not known opens the least.
            let role = row.get::<_, String>(3)?.parse().unwrap_or(Role::Viewer);
            Ok(Key {
                id: row.get(0)?,
                hash: row.get(1)?,
                new: NewKey {
                    name: row.get(2)?,
                    role,
                    tenant: row.get(4)?,
                    networks: list(row.get(5)?),
                    from_domains: list(row.get(6)?),
                    requests_per_minute_max: row.get(7)?,
                    expires_at: time(row.get(9)?),
                },
                created_at: time(Some(row.get(8)?)).unwrap_or_default(),
                revoked_at: time(row.get(10)?),
            })
        })?;
        rows.map(|key| key.map(|key| (key.id.clone(), Arc::new(key))).map_err(StoreError::from)).collect()
    }

    /// The key of a token, whether or not its time is over.
    pub fn check(&self, token: &Token) -> Option<Arc<Key>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.get(&token.id)?;
        self.secret.fits(token, &key.hash).then(|| key.clone())
    }

    /// Makes a key. Its token is told here and never again.
    pub fn new_key(&self, new: NewKey, now: UnixMillis) -> Result<(Arc<Key>, Token), StoreError> {
        if self.keys.read().unwrap_or_else(PoisonError::into_inner).len() >= KEYS_MAX {
            return Err(StoreError::TooMany("keys"));
        }
        let token = self.secret.make()?;
        let hash = self.secret.hash(&token);
        let key = Key { id: token.id.clone(), new, created_at: now, revoked_at: None, hash };
        let new = &key.new;
        self.database().execute(
            "INSERT INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL)",
            params![
                key.id,
                key.hash,
                new.name,
                new.role.as_str(),
                new.tenant,
                new.networks.join(" "),
                new.from_domains.join(" "),
                new.requests_per_minute_max,
                now.0 as i64,
                new.expires_at.map(|at| at.0.min(i64::MAX as u64) as i64),
            ],
        )?;
        let key = Arc::new(key);
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(key.id.clone(), key.clone());
        Ok((key, token))
    }

    /// Takes a key back; `None` if there is none of that id.
    pub fn revoke(&self, id: &str, now: UnixMillis) -> Result<Option<Arc<Key>>, StoreError> {
        let Some(key) = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned() else {
            return Ok(None);
        };
        if key.revoked_at.is_some() {
            return Ok(Some(key));
        }
        self.database()
            .execute("UPDATE keys SET revoked_at = ?2 WHERE id = ?1", params![id, now.0 as i64])?;
        let key = Arc::new(Key { revoked_at: Some(now), ..Key::clone(&key) });
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(key.id.clone(), key.clone());
        Ok(Some(key))
    }

    /// Notes that a tenant's keys were taken back in the database; how many there were.
    pub(crate) fn revoked_of_tenant(&self, tenant: &str, now: UnixMillis) -> usize {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for key in keys.values_mut() {
            if key.new.tenant.as_deref() == Some(tenant) && key.revoked_at.is_none() {
                *key = Arc::new(Key { revoked_at: Some(now), ..Key::clone(key) });
                count += 1;
            }
        }
        count
    }

    /// Every key, the newest first.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<Arc<Key>> =
            self.keys.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        keys.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        keys
    }

    // ---- templates ----------------------------------------------------------------------------------------

    /// Stores a template of a tenant, in the place of one of that name. The empty text is the tenant of those who
    /// have none.
    pub fn put_template(
        &self,
        tenant: &str,
        name: &str,
        content: &str,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let mut database = self.database();
        let change = database.transaction()?;
        change.execute(
            "INSERT INTO templates VALUES (?1, ?2, ?3, ?4) ON CONFLICT (tenant, name) \
             DO UPDATE SET content = excluded.content, updated_at = excluded.updated_at",
            params![tenant, name, content, now.0 as i64],
        )?;
        let count: u32 =
            change
                .query_row("SELECT count(*) FROM templates WHERE tenant = ?1", [tenant], |row| row.get(0))?;
        if count > TEMPLATES_MAX {
            return Err(StoreError::TooMany("templates"));
        }
        Ok(change.commit()?)
    }

    /// A template of a tenant.
    pub fn template(&self, tenant: &str, name: &str) -> Result<Option<Template>, StoreError> {
        let found = self.database().query_row(
            "SELECT content, updated_at FROM templates WHERE tenant = ?1 AND name = ?2",
            params![tenant, name],
            |row| {
                let updated_at = UnixMillis(row.get::<_, i64>(1)?.max(0) as u64);
                Ok(Template { name: name.to_owned(), content: row.get(0)?, updated_at })
            },
        );
        Ok(found.optional()?)
    }

    /// The names of a tenant's templates, in order, with the times they were stored.
    pub fn templates(&self, tenant: &str) -> Result<Vec<(String, UnixMillis)>, StoreError> {
        let database = self.database();
        let mut statement =
            database.prepare("SELECT name, updated_at FROM templates WHERE tenant = ?1 ORDER BY name")?;
        let rows = statement
            .query_map([tenant], |row| Ok((row.get(0)?, UnixMillis(row.get::<_, i64>(1)?.max(0) as u64))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Deletes a template; false if there is none.
    pub fn delete_template(&self, tenant: &str, name: &str) -> Result<bool, StoreError> {
        let count = self
            .database()
            .execute("DELETE FROM templates WHERE tenant = ?1 AND name = ?2", params![tenant, name])?;
        Ok(count > 0)
    }

    // ---- audit --------------------------------------------------------------------------------------------

    /// Writes a line of the log of changes; its number is given to it.
    pub fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let database = self.database();
        let AuditEntry { number: _, at, who, peer, method, path, status, detail } = entry;
        database.execute(
            "INSERT INTO audit (at, who, peer, method, path, status, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![at.0 as i64, who, peer, method, path, status, detail],
        )?;
        let number = database.last_insert_rowid();
        // Now and then is enough.
        if number % 1_000 == 0 {
            database.execute("DELETE FROM audit WHERE number <= ?1", [number - AUDIT_MAX])?;
        }
        Ok(())
    }

    /// The last lines of the log of changes, the newest first; those before `before`, if that is given.
    pub fn audited(&self, before: Option<i64>, max: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let database = self.database();
        let mut statement = database.prepare(
            "SELECT number, at, who, peer, method, path, status, detail FROM audit WHERE number < ?1 \
             ORDER BY number DESC LIMIT ?2",
        )?;
        let rows = statement.query_map(params![before.unwrap_or(i64::MAX), max], |row| {
            Ok(AuditEntry {
                number: row.get(0)?,
                at: UnixMillis(row.get::<_, i64>(1)?.max(0) as u64),
                who: row.get(2)?,
                peer: row.get(3)?,
                method: row.get(4)?,
                path: row.get(5)?,
                status: row.get(6)?,
                detail: row.get(7)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

    fn new() -> NewKey {
        NewKey {
            name: "shop".into(),
            role: Role::Sender,
            tenant: Some("acme".into()),
            networks: vec!["192.0.2.0/24".into(), "::1".into()],
            from_domains: vec!["acme.test".into()],
            requests_per_minute_max: Some(60),
            expires_at: Some(UnixMillis(NOW.0 + 1_000)),
        }
    }

    #[test]
    fn keys_open_until_they_are_taken_back_or_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (key, token) = store.new_key(new(), NOW).unwrap();
        let text = token.to_text();
        assert_eq!(Token::parse(&text), Some(token.clone()));
        assert_eq!(store.check(&token).as_deref(), Some(&*key));
        assert!(key.is_valid(NOW) && !key.is_valid(UnixMillis(NOW.0 + 1_000)));
        drop(store);

        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.check(&token).as_deref(), Some(&*key), "it is there after a restart");
        // One character off anywhere opens nothing.
        for at in "tuma_".len()..text.len() {
            let other = if &text[at..at + 1] == "0" { "1" } else { "0" };
            let wrong = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(Token::parse(&wrong).and_then(|token| store.check(&token)).is_none(), "{at}");
        }
        let revoked = store.revoke(&key.id, NOW).unwrap().unwrap();
        assert!(!revoked.is_valid(NOW) && !store.check(&token).unwrap().is_valid(NOW));
        assert!(store.revoke("nosuchkey0", NOW).unwrap().is_none());
        assert_eq!(store.keys().len(), 1);

        // Neither the secret nor the token stands in the database, and nobody else may read either file.
        for name in ["control.sqlite", "keys.secret"] {
            let path = folder.path().join(name);
            let octets = std::fs::read(&path).unwrap();
            assert!(!octets.windows(20).any(|part| part == &text.as_bytes()[16..36]), "{name}");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        std::fs::write(folder.path().join("keys.secret"), "short").unwrap();
        assert!(Store::open(folder.path()).is_err());
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        for text in
            ["", "tuma_", "tuma__", "Bearer x", &format!("tuma_{}_{}", "0".repeat(10), "u".repeat(52))]
        {
            assert_eq!(Token::parse(text), None, "{text}");
        }
        let token = Token::parse(&format!("tuma_{}_{}", "0".repeat(10), "a".repeat(52))).unwrap();
        assert_eq!(format!("{token:?}"), "tuma_0000000000_…");
    }

    #[test]
    fn a_store_from_before_there_were_tenants_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let old = Connection::open(folder.path().join("control.sqlite")).unwrap();
        old.execute_batch(&format!("{TABLES}PRAGMA user_version = 1;")).unwrap();
        old.execute("INSERT INTO templates VALUES ('a', 'welcome', '{}', 1)", []).unwrap();
        drop(old);
        let store = Store::open(folder.path()).unwrap();
        assert!(store.template("a", "welcome").unwrap().is_some());
        store.put_tenant("a", Tenant::default()).unwrap();
        drop(store);
        assert!(Store::open(folder.path()).unwrap().tenants().contains_key("a"));
        let later = Connection::open(folder.path().join("control.sqlite")).unwrap();
        later.execute_batch("PRAGMA user_version = 3;").unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::Version(3))));
    }

    #[test]
    fn templates_are_their_tenants_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.put_template("a", "welcome", "{}", NOW).unwrap();
        store.put_template("a", "welcome", "{\"x\":1}", NOW).unwrap();
        store.put_template("b", "welcome", "other", NOW).unwrap();
        assert_eq!(store.template("a", "welcome").unwrap().unwrap().content, "{\"x\":1}");
        assert_eq!(store.template("", "welcome").unwrap(), None);
        assert_eq!(store.templates("a").unwrap(), [("welcome".to_owned(), NOW)]);
        assert!(
            store.delete_template("a", "welcome").unwrap() && !store.delete_template("a", "welcome").unwrap()
        );
        assert!(store.template("b", "welcome").unwrap().is_some());
        for n in 0..TEMPLATES_MAX {
            store.put_template("c", &n.to_string(), "", NOW).unwrap();
        }
        assert!(matches!(store.put_template("c", "one more", "", NOW), Err(StoreError::TooMany(_))));
        assert!(store.template("c", "one more").unwrap().is_none());
    }

    #[test]
    fn changes_are_logged() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let entry = |number: i64| AuditEntry {
            number,
            at: NOW,
            who: "loopback".into(),
            peer: "127.0.0.1:9".into(),
            method: "POST".into(),
            path: format!("/v1/orders/{number}"),
            status: 201,
            detail: "'; DROP TABLE audit; --".into(),
        };
        for number in 1..=5 {
            store.audit(&entry(number)).unwrap();
        }
        assert_eq!(store.audited(None, 2).unwrap(), [entry(5), entry(4)]);
        assert_eq!(store.audited(Some(4), 10).unwrap(), [entry(3), entry(2), entry(1)]);
    }
}
