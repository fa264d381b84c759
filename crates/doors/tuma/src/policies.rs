//! The operator's policies: which are configured, loaded and put in order.

use js::{HarakaConfig, JsConfig, Plugins};
use lua::{LuaConfig, Script};
use mail::Domain;
use milter::{Milter, MilterConfig, Sidecar, SidecarConfig};
use policy::{Chain, Kind, Names, Policy, Records, Store, Surroundings, Tally};
use resolve::{Answer, Resolver};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

settings::table! {
    /// Whom the operator has asked at each phase of a session: scripts first, then sidecars, then milters. None of them
    /// can allow what the rest of this file forbids. docs/policy.md tells how to write one.
    #[derive(Eq)]
    pub struct PolicyConfig {
        /// A script in Lua.
        pub lua: Option<LuaConfig> = None,
        /// A script in JavaScript, asked after the one in Lua.
        pub js: Option<JsConfig> = None,
        /// Haraka's plugins, asked after the scripts.
        pub haraka: Option<HarakaConfig> = None,
        /// Programs that answer over HTTP, in the order in which they are asked.
        pub http: Vec<SidecarConfig> = Vec::new(),
        /// Milters, in the order in which they are asked.
        pub milter: Vec<MilterConfig> = Vec::new(),
    }
}

/// One of the counts.
type Counter = fn(&Tally) -> &AtomicU64;

/// What is counted of every kind of policy. It outlives reloads.
#[derive(Debug, Default)]
pub struct Tallies {
    lua: Arc<Tally>,
    js: Arc<Tally>,
    haraka: Arc<Tally>,
    store: Arc<Store>,
    http: Arc<Tally>,
    milter: Arc<Tally>,
}

impl Tallies {
    /// Registers the counters.
    pub fn register(self: &Arc<Self>, metrics: &accounting::Metrics) {
        let counters: [(&str, &str, Counter); 4] = [
            ("policy_questions", "Questions that policies answered", |tally| &tally.asked),
            ("policy_refusals", "Answers of policies that refused, deferred or disconnected", |tally| {
                &tally.refused
            }),
            ("policy_discards", "Answers of policies that discarded", |tally| &tally.discarded),
            ("policy_failures", "Questions that policies failed to answer", |tally| &tally.failed),
        ];
        for (name, help, counter) in counters {
            let own = self.clone();
            metrics.labelled_counter_source(name, help, "policy", move || {
                own.all()
                    .into_iter()
                    .map(|(name, tally)| (name.into(), counter(tally).load(Relaxed)))
                    .collect()
            });
        }
    }

    fn all(&self) -> [(&'static str, &Tally); 5] {
        [
            ("lua", &self.lua),
            ("js", &self.js),
            ("haraka", &self.haraka),
            ("http", &self.http),
            ("milter", &self.milter),
        ]
    }
}

/// Loads every policy that is configured, and puts them in order. `threads` serve sessions.
pub async fn load(
    config: &PolicyConfig,
    threads: usize,
    tallies: &Tallies,
    dns: Arc<dyn Resolver>,
) -> anyhow::Result<Option<Arc<dyn Policy>>> {
    let mut policies: Vec<Arc<dyn Policy>> = Vec::new();
    let names: Arc<dyn Names> = Arc::new(Dns(dns));
    let surroundings = |tally: &Arc<Tally>| Surroundings {
        tally: tally.clone(),
        store: tallies.store.clone(),
        names: Some(names.clone()),
    };
    if let Some(lua) = &config.lua {
        let script = Script::load(lua, threads, &surroundings(&tallies.lua)).await;
        policies.push(script.map_err(|error| anyhow::anyhow!("policy.lua: {error}"))?);
    }
    if let Some(js) = &config.js {
        let script = js::Script::load(js, threads, &surroundings(&tallies.js)).await;
        policies.push(script.map_err(|error| anyhow::anyhow!("policy.js: {error}"))?);
    }
    if let Some(haraka) = &config.haraka {
        let plugins = Plugins::load(haraka, threads, &surroundings(&tallies.haraka)).await;
        policies.push(plugins.map_err(|error| anyhow::anyhow!("policy.haraka: {error}"))?);
    }
    for sidecar in &config.http {
        policies.push(Sidecar::new(sidecar.clone(), tallies.http.clone()));
    }
    for milter in &config.milter {
        policies.push(Milter::new(milter.clone(), tallies.milter.clone()));
    }
    Ok(Chain::of(policies))
}

/// Names for scripts, by the resolver that all rooms share.
struct Dns(Arc<dyn Resolver>);

impl Names for Dns {
    fn records<'a>(&'a self, kind: Kind, name: &'a str) -> Records<'a> {
        Box::pin(async move {
            let domain = || Domain::parse(name).map_err(|_| "this is no domain".to_owned());
            match kind {
                Kind::A => texts(self.0.a(&domain()?).await, ToString::to_string),
                Kind::Aaaa => texts(self.0.aaaa(&domain()?).await, ToString::to_string),
                Kind::Mx => {
                    texts(self.0.mx(&domain()?).await, |mx| format!("{} {}", mx.preference, mx.exchange))
                }
                Kind::Txt => {
                    let name = name.trim_end_matches('.').to_ascii_lowercase();
                    texts(self.0.txt(&name).await, |text| String::from_utf8_lossy(text).into_owned())
                }
                Kind::Ptr => {
                    let address = name.parse().map_err(|_| "this is no address".to_owned())?;
                    texts(self.0.ptr(address).await, ToString::to_string)
                }
            }
        })
    }
}

/// Records as texts; a name that does not exist has none.
fn texts<T>(answer: Answer<T>, text: impl Fn(&T) -> String) -> Result<Vec<String>, String> {
    match answer {
        Answer::Found(records, _) => Ok(records.iter().map(text).collect()),
        Answer::NoData(_) | Answer::NxDomain(_) => Ok(Vec::new()),
        Answer::Temporary(why) => Err(why.to_string()),
    }
}
