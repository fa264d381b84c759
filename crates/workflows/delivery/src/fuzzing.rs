//! What the fuzz target calls: any octets as a state file, of which a broken promise is a panic. What an operator or a
//! broken disk has made of a file must not stop a start, nor overflow what counts.

use crate::{snapshot, state};
use dispatch::{Config, Dispatch, Egress, NewMail, SiteFound, Target};
use mail::UnixMillis;
use queue::orders::{Action, Scope};
use serde_json::Value;
use settings::{Place, Placed, Text};
use shaping::{Layer, Origin, Rate, Rules, ShapingConfig, SharedScope, WarmupLimits};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WALL: UnixMillis = UnixMillis(1_700_000_000_000);

/// Rules with one of each thing that is counted, so that what is read finds what it is of.
fn rules() -> Arc<Rules> {
    fn set<T>(value: T) -> Option<Placed<T>> {
        Some(Placed { value, place: Place::whole(0) })
    }
    let rates = |texts: &[&str]| -> Vec<Text<Rate>> {
        texts.iter().filter_map(|text| text.parse().ok()).map(Text).collect()
    };
    let mut config = ShapingConfig::default();
    config.default.message_rates = set(rates(&["100/h", "1000/d"]));
    config.default.connection_rates = set(rates(&["50/h"]));
    config.default.warmup = WarmupLimits { caps: set(vec![10, 20]), ..WarmupLimits::default() };
    let limit = SharedScope { message_rates: set(rates(&["7/h"])), ..SharedScope::default() };
    config.limit.insert("all".into(), limit);
    let origin = |_| Origin::built_in();
    let rules = Rules::compile(&[Layer { config: &config, origin: &origin }]);
    Arc::new(rules.unwrap_or_else(|wrong| panic!("the rules of the fuzz target: {wrong:?}")))
}

/// Octets as each of the files: `orders.json`, `shaping.json`, a line of a journal.
pub fn state(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    orders(&value);
    shaping(&value);
}

fn orders(value: &Value) {
    let Some(mut orders) = state::orders_of(value) else { return };
    let text = state::orders_text(&orders);
    let again = serde_json::from_str(&text).ok().and_then(|value| state::orders_of(&value));
    assert!(
        again.is_some_and(|again| (again.list(), again.last()) == (orders.list(), orders.last())),
        "{text}"
    );
    let (last, scope) = (orders.last(), Scope { job: Some("x".into()), ..Scope::default() });
    if let Ok(order) = orders.add(Action::Hold, scope, "", WALL, None) {
        assert!(order.id.0 > last, "a name is never given twice");
    }
}

/// What is remembered is put in force, mail goes by it for a while, and it is written down again.
fn shaping(value: &Value) {
    let now = Instant::now();
    let mut dispatch = Dispatch::new(now, Config::default(), Egress::default(), rules());
    let mut known = false;
    if let Some(read) = snapshot::read(value) {
        let text = snapshot::write(&read, 0);
        let again = serde_json::from_str(&text).ok().and_then(|value| snapshot::read(&value));
        assert!(again.as_ref() == Some(&read), "{text}");
        dispatch.shaper().restore(now, WALL, read);
        known = true;
    }
    if let Some(granted) = snapshot::read_granted(value) {
        assert_eq!(snapshot::read_granted(&snapshot::granted(&granted)).as_ref(), Some(&granted));
        dispatch.replay(now, WALL, &[granted.clone(), granted]);
        known = true;
    }
    if !known {
        return;
    }
    let Ok(domain) = mail::Domain::parse("a.test") else { return };
    let target = Target::Domain(domain);
    for handle in 0..3 {
        dispatch.push(now, &NewMail { tenant: Some("t"), size: 1_000, ..NewMail::new(handle, &target) });
    }
    for hours in [0, 1, 25, 24 * 400] {
        let later = now + Duration::from_secs(3_600 * hours);
        let wall = UnixMillis(WALL.0 + 3_600_000 * hours);
        dispatch.advance(later, wall);
        dispatch.serve(later, wall);
        let hosts = vec!["mx.a.test".into()];
        dispatch.site_found(later, &target, SiteFound::Exchangers(hosts, Duration::from_secs(600)));
        dispatch.serve(later, wall);
        dispatch.limits(later, wall, 100);
        snapshot::write(&dispatch.shaper().snapshot(later, wall), 0);
    }
}

/// Octets as the TXT records that say where reports about TLS go, one a line, and as the counts kept for them.
pub fn tls_reports(input: &[u8]) {
    crate::transport::fuzz_reports(input);
}
