//! What mail waited for, and for how long: looked at now and then, as the machine itself says it.

use crate::counter::Nanos;
use dispatch::{Dispatch, Reason};
use shaping::{Gate, SettingAt};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What mail to receivers of one kind waited for.
#[derive(Clone, Debug)]
pub struct Held {
    /// The kind of receiver.
    pub kind: usize,
    /// What it was, in a few words.
    pub gate: &'static str,
    /// The setting that said so, where one did.
    pub setting: Option<Arc<SettingAt>>,
    /// For how long; of several sites, the sum.
    pub time: Nanos,
    /// Messages that waited, at most.
    pub messages_max: u32,
    sites: HashSet<Arc<str>>,
}

impl Held {
    /// Sites at which it was seen.
    pub fn sites(&self) -> usize {
        self.sites.len()
    }
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Holds {
    seen: Vec<Held>,
    /// By kind, gate and the address of the setting, which `seen` keeps in its place.
    places: HashMap<(usize, &'static str, usize), usize>,
}

impl Holds {
    /// Looks at what holds now; it is taken to last for so long.
    pub(crate) fn sample(&mut self, length: Nanos, dispatch: &Dispatch, kinds: &HashMap<Arc<str>, usize>) {
        for held in dispatch.held() {
            let Some(&kind) = kinds.get(held.site) else { continue };
            let setting = match &held.hold.reason {
                Reason::Shaping(hold) => Some(&hold.setting),
                _ => None,
            };
            let gate = gate(&held.hold.reason);
            let place = setting.map_or(0, |setting| Arc::as_ptr(setting).addr());
            let at = *self.places.entry((kind, gate, place)).or_insert_with(|| {
                self.seen.push(Held {
                    kind,
                    gate,
                    setting: setting.cloned(),
                    time: 0,
                    messages_max: 0,
                    sites: HashSet::new(),
                });
                self.seen.len() - 1
            });
            let known = &mut self.seen[at];
            known.time += length;
            known.messages_max = known.messages_max.max(held.ready);
            if !known.sites.contains(held.site) {
                known.sites.insert(held.site.clone());
            }
        }
    }

    /// What held mail to a kind of receiver, the longest first; one setting in several places of memory is one.
    pub fn of(&self, kind: usize) -> Vec<Held> {
        let mut list: Vec<Held> = Vec::new();
        for held in self.seen.iter().filter(|held| held.kind == kind) {
            match list.iter_mut().find(|known| known.gate == held.gate && known.setting == held.setting) {
                Some(known) => {
                    known.time += held.time;
                    known.messages_max = known.messages_max.max(held.messages_max);
                    known.sites.extend(held.sites.iter().cloned());
                }
                None => list.push(held.clone()),
            }
        }
        list.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.gate.cmp(b.gate)));
        list
    }
}

/// What holds, in a few words.
fn gate(reason: &Reason) -> &'static str {
    match reason {
        Reason::SourceOff(_) => "source switched off",
        Reason::Order { .. } => "order",
        Reason::NoSite(_) => "DNS",
        Reason::Total(_) => "connections in all",
        Reason::Shaping(hold) => match &hold.gate {
            Gate::Connections { .. } => "connections",
            Gate::Greeting => "first greeting",
            Gate::ConnectionRate(_) => "rate of connections",
            Gate::MessageRate(_) => "rate of messages",
            Gate::ByteRate(_) => "rate of octets",
            Gate::Ramp { .. } => "connection ramp",
            Gate::Unreachable { .. } => "not reachable",
            Gate::Backoff { .. } => "backoff",
            Gate::Probe { .. } => "backoff, probing",
            Gate::Suspended { .. } => "suspended",
            Gate::SourceDisabled { .. } => "source disabled",
            Gate::WarmUp { .. } => "warm-up",
            Gate::Adaptive { .. } => "adaptive rate",
            Gate::Shared { .. } => "shared limit",
        },
    }
}
