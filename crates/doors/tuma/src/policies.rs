//! The operator's policies: which are configured, loaded and put in order.

use lua::{LuaConfig, Script};
use policy::{Chain, Policy, Tally};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

settings::table! {
    /// Whom the operator has asked at each phase of a session; the script comes first. None of them can allow what the
    /// rest of this file forbids. docs/policy.md tells how to write one.
    #[derive(Eq)]
    pub struct PolicyConfig {
        /// A script in Lua.
        pub lua: Option<LuaConfig> = None,
    }
}

/// One of the counts.
type Counter = fn(&Tally) -> &AtomicU64;

/// What is counted of every kind of policy. It outlives reloads.
#[derive(Debug, Default)]
pub struct Tallies {
    lua: Arc<Tally>,
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

    fn all(&self) -> [(&'static str, &Tally); 1] {
        [("lua", &self.lua)]
    }
}

/// Loads every policy that is configured, and puts them in order. `threads` serve sessions.
pub async fn load(
    config: &PolicyConfig,
    threads: usize,
    tallies: &Tallies,
) -> anyhow::Result<Option<Arc<dyn Policy>>> {
    let mut policies: Vec<Arc<dyn Policy>> = Vec::new();
    if let Some(lua) = &config.lua {
        let script = Script::load(lua, threads, tallies.lua.clone()).await;
        policies.push(script.map_err(|error| anyhow::anyhow!("policy.lua: {error}"))?);
    }
    Ok(Chain::of(policies))
}
