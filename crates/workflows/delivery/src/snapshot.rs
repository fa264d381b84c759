//! The form on disk of what the rules for traffic remember: JSON, every duration in milliseconds. Whatever does not
//! fit is left out, never guessed.

use dispatch::Granted;
use serde_json::{Value, json};
use shaping::{
    QueueName, Rate, SavedCause, SavedCount, SavedPath, SavedQueue, SavedSender, SavedSlow, SavedSource,
    SavedState, SavedWarm, SavedWindow, Snapshot, Suspended, WindowKind,
};
use std::time::Duration;

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn span(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_millis)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().map(|items| items.iter().filter_map(read).collect()).unwrap_or_default()
}

/// The words for what a window counts, in the order of [`WindowKind`]'s list.
const KINDS: [(WindowKind, &str); 8] = [
    (WindowKind::Messages, "messages"),
    (WindowKind::Bytes, "bytes"),
    (WindowKind::Connections, "connections"),
    (WindowKind::BackoffMessages, "backoff-messages"),
    (WindowKind::BackoffBytes, "backoff-bytes"),
    (WindowKind::BackoffConnections, "backoff-connections"),
    (WindowKind::Probe, "probe"),
    (WindowKind::Adaptive, "adaptive"),
];

fn window(window: &SavedWindow) -> Option<Value> {
    let kind = KINDS.iter().find(|(kind, _)| *kind == window.kind)?.1;
    // Pairs in one flat list: a day's window has hundreds.
    let spends: Vec<u64> =
        window.spends.iter().flat_map(|(counts_for, amount)| [ms(*counts_for), *amount]).collect();
    Some(json!({
        "kind": kind,
        "count": window.rate.count,
        "period_ms": ms(window.rate.period),
        "spends": spends,
    }))
}

fn read_window(value: &Value) -> Option<SavedWindow> {
    let kind = KINDS.iter().find(|(_, word)| value["kind"].as_str() == Some(word))?.0;
    let rate = Rate { count: value["count"].as_u64()?, period: span(&value["period_ms"])? };
    let flat: Vec<u64> = list(&value["spends"], Value::as_u64);
    let spends = flat
        .chunks_exact(2)
        .filter_map(|pair| Some((Duration::from_millis(*pair.first()?).min(rate.period), *pair.last()?)))
        .collect();
    Some(SavedWindow { kind, rate, spends })
}

fn windows(list: &[SavedWindow]) -> Vec<Value> {
    list.iter().filter_map(window).collect()
}

fn cause(by: &SavedCause) -> Value {
    json!({
        "name": by.name,
        "setting": by.setting,
        "value": by.value,
        "file": by.file,
        "line": by.line,
        "reply": by.reply,
    })
}

fn read_cause(value: &Value) -> Option<SavedCause> {
    Some(SavedCause {
        name: text(&value["name"])?,
        setting: text(&value["setting"])?,
        value: text(&value["value"])?,
        file: text(&value["file"])?,
        line: u32::try_from(value["line"].as_u64()?).ok()?,
        reply: text(&value["reply"])?,
    })
}

fn state(state: &SavedState) -> Value {
    json!({ "held_ms": ms(state.held), "left_ms": state.left.map(ms), "by": cause(&state.by) })
}

fn read_state(value: &Value) -> Option<SavedState> {
    let left = match &value["left_ms"] {
        Value::Null => None,
        left => Some(span(left)?),
    };
    Some(SavedState { held: span(&value["held_ms"])?, left, by: read_cause(&value["by"])? })
}

fn path(path: &SavedPath) -> Value {
    json!({
        "source": path.source,
        "site": path.site,
        "windows": windows(&path.windows),
        "backoff": path.backoff.as_ref().map(state),
        "suspended": path.suspended.as_ref().map(state),
        "slow": path.slow.as_ref().map(|slow| json!({
            "factor": slow.factor,
            "by_step": slow.by_step,
            "step_ms": ms(slow.step),
            "left_ms": ms(slow.left),
            "by": cause(&slow.by),
        })),
        "adaptive_rate": path.adaptive_rate,
        "warm": path.warm.map(|warm| json!({ "day": warm.day, "sent": warm.sent, "began": warm.began })),
    })
}

fn read_path(value: &Value) -> Option<SavedPath> {
    let day = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let slow = |value: &Value| {
        Some(SavedSlow {
            factor: value["factor"].as_f64()?,
            by_step: value["by_step"].as_f64()?,
            step: span(&value["step_ms"])?,
            left: span(&value["left_ms"])?,
            by: read_cause(&value["by"])?,
        })
    };
    let warm = |value: &Value| {
        Some(SavedWarm {
            day: day(&value["day"])?,
            sent: value["sent"].as_u64()?,
            began: day(&value["began"]),
        })
    };
    Some(SavedPath {
        source: text(&value["source"])?,
        site: text(&value["site"])?,
        windows: list(&value["windows"], read_window),
        backoff: read_state(&value["backoff"]),
        suspended: read_state(&value["suspended"]),
        slow: slow(&value["slow"]),
        adaptive_rate: value["adaptive_rate"].as_f64().filter(|rate| rate.is_finite() && *rate >= 0.0),
        warm: warm(&value["warm"]),
    })
}

/// What can be suspended for a sender, with its word.
fn sender_kind(word: &str) -> Option<Suspended> {
    [Suspended::Tenant, Suspended::Campaign].into_iter().find(|what| what.word() == word)
}

/// One line of a journal.
pub(crate) fn granted(one: &Granted) -> Value {
    let domains: Vec<&str> = one.domains.iter().map(|domain| &**domain).collect();
    json!({
        "site": &*one.site,
        "provider": one.provider.as_deref(),
        "domains": domains,
        "source": &*one.source,
        "tenant": one.tenant.as_deref(),
        "campaign": one.campaign.as_deref(),
        "messages": one.messages,
        "octets": one.octets,
        "connections": one.connections,
    })
}

/// One line of a journal, read.
pub(crate) fn read_granted(value: &Value) -> Option<Granted> {
    let named = |value: &Value| value.as_str().map(Into::into);
    Some(Granted {
        site: named(&value["site"])?,
        provider: named(&value["provider"]),
        domains: list(&value["domains"], named),
        source: named(&value["source"])?,
        tenant: named(&value["tenant"]),
        campaign: named(&value["campaign"]),
        messages: value["messages"].as_u64()?,
        octets: value["octets"].as_u64()?,
        connections: value["connections"].as_u64()?,
    })
}

/// The text of a snapshot; `journal` is the number of the first journal that it does not know of.
pub(crate) fn write(snapshot: &Snapshot, journal: u64) -> String {
    let counts: Vec<Value> = snapshot
        .counts
        .iter()
        .map(|count| json!({ "key": count.key, "windows": windows(&count.windows) }))
        .collect();
    let queues: Vec<Value> = snapshot
        .queues
        .iter()
        .map(|queue| {
            json!({
                "tenant": queue.name.tenant.as_deref(),
                "campaign": queue.name.campaign.as_deref(),
                "domain": &*queue.name.domain,
                "pool": &*queue.name.pool,
                "state": state(&queue.state),
            })
        })
        .collect();
    let senders: Vec<Value> = snapshot
        .senders
        .iter()
        .map(|sender| {
            json!({
                "what": sender.what.word(),
                "site": sender.site,
                "name": sender.name,
                "state": state(&sender.state),
            })
        })
        .collect();
    let sources: Vec<Value> = snapshot
        .sources
        .iter()
        .map(|source| json!({ "name": source.name, "state": state(&source.state) }))
        .collect();
    json!({
        "version": 1,
        "journal": journal,
        "taken_at_ms": snapshot.taken_at.0,
        "paths": snapshot.paths.iter().map(path).collect::<Vec<_>>(),
        "counts": counts,
        "queues": queues,
        "senders": senders,
        "sources": sources,
    })
    .to_string()
}

/// A snapshot from its JSON; `None` if it has no time.
pub(crate) fn read(value: &Value) -> Option<Snapshot> {
    let named = |value: &Value| value.as_str().map(Into::into);
    Some(Snapshot {
        taken_at: mail::UnixMillis(value["taken_at_ms"].as_u64()?),
        paths: list(&value["paths"], read_path),
        counts: list(&value["counts"], |count| {
            Some(SavedCount { key: text(&count["key"])?, windows: list(&count["windows"], read_window) })
        }),
        queues: list(&value["queues"], |queue| {
            let name = QueueName {
                tenant: named(&queue["tenant"]),
                campaign: named(&queue["campaign"]),
                domain: named(&queue["domain"])?,
                pool: named(&queue["pool"])?,
            };
            Some(SavedQueue { name, state: read_state(&queue["state"])? })
        }),
        senders: list(&value["senders"], |sender| {
            Some(SavedSender {
                what: sender_kind(sender["what"].as_str()?)?,
                site: text(&sender["site"])?,
                name: text(&sender["name"])?,
                state: read_state(&sender["state"])?,
            })
        }),
        sources: list(&value["sources"], |source| {
            Some(SavedSource { name: text(&source["name"])?, state: read_state(&source["state"])? })
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        let by = SavedCause {
            name: "r".into(),
            setting: "shaping.default.reply".into(),
            value: "421".into(),
            file: "a \"b\".toml".into(),
            line: 7,
            reply: "421 4.7.0 no\nreally".into(),
        };
        let state = |left| SavedState { held: Duration::from_millis(5), left, by: by.clone() };
        let hour = Duration::from_secs(3600);
        let window = SavedWindow {
            kind: WindowKind::Messages,
            rate: Rate { count: 100, period: hour },
            spends: vec![(Duration::from_secs(10), 3), (hour, 1)],
        };
        let snapshot = Snapshot {
            taken_at: mail::UnixMillis(1_700_000_000_000),
            paths: vec![SavedPath {
                source: "s".into(),
                site: "mx.a.test".into(),
                windows: vec![window.clone()],
                backoff: Some(state(Some(hour))),
                suspended: None,
                slow: Some(SavedSlow {
                    factor: 0.25,
                    by_step: 0.5,
                    step: hour,
                    left: hour / 2,
                    by: by.clone(),
                }),
                adaptive_rate: Some(12.5),
                warm: Some(SavedWarm { day: 20_000, sent: 7, began: Some(19_999) }),
            }],
            counts: vec![SavedCount { key: "k\0x".into(), windows: vec![window] }],
            queues: vec![SavedQueue {
                name: QueueName {
                    tenant: Some("t".into()),
                    campaign: None,
                    domain: "a.test".into(),
                    pool: "p".into(),
                },
                state: state(Some(hour)),
            }],
            senders: vec![SavedSender {
                what: Suspended::Campaign,
                site: "mx.a.test".into(),
                name: "spring".into(),
                state: state(Some(hour)),
            }],
            sources: vec![SavedSource { name: "s".into(), state: state(None) }],
        };
        let value: Value = serde_json::from_str(&write(&snapshot, 3)).unwrap();
        assert_eq!(read(&value), Some(snapshot));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        for text in ["{}", "[]", "null", "{\"taken_at_ms\":-1}"] {
            assert_eq!(read(&serde_json::from_str(text).unwrap()), None, "{text}");
        }
        let odd = "{\"taken_at_ms\":1,\"paths\":[{},7,{\"source\":\"s\",\"site\":\"x\",\"windows\":[{\"kind\":\"?\"}]}]}";
        let found = read(&serde_json::from_str(odd).unwrap()).unwrap();
        assert_eq!((found.paths.len(), found.paths[0].windows.len()), (1, 0));
    }
}
