//! Simulations of texts, as the binary makes them of files.

use dispatch::{Egress, Pool, Source, SourceAt};
use queue::{Backoff, Schedule};
use settings::{Key, Node, Place, Problems, Setting, Sources, Value};
use shaping::{Layer, Origin, Rules, ShapingConfig};
use simulator::{Counter, Observed, Setup, Simulation, Traffic};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3_600)
}

fn place(span: std::ops::Range<usize>) -> Place {
    Place::new(0, span.start, span.end)
}

fn table(table: DeTable<'_>) -> Value {
    let entry = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<DeValue<'_>>)| {
        let at = place(key.span());
        (Key { name: key.into_inner().into_owned(), place: at }, node(value))
    };
    let mut entries: Vec<(Key, Node)> = table.into_iter().map(entry).collect();
    entries.sort_by_key(|(key, _)| key.place.start);
    Value::Table(entries)
}

fn node(value: Spanned<DeValue<'_>>) -> Node {
    let at = place(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::Array(items.into_iter().map(node).collect()),
        DeValue::Table(inner) => table(inner),
        DeValue::Float(float) => Value::Float(float.as_str().parse().expect("TOML has read it")),
        DeValue::Integer(int) => {
            Value::Int(i128::from_str_radix(int.as_str(), int.radix()).expect("TOML has read it"))
        }
    };
    Node::new(value, at)
}

/// Reads a table from TOML; what is wrong with it fails the test as a person would see it.
fn read<T: Setting>(text: &str) -> T {
    let mut sources = Sources::default();
    sources.add("test.toml", text);
    let mut problems = Problems::new();
    let tree = table(DeTable::parse(text).expect("the test's TOML is sound").into_inner());
    let value = T::read(&Node::new(tree, Place::whole(0)), &mut problems);
    assert!(!problems.has_errors(), "{}", problems.render(&sources, false));
    value.expect("it has no errors")
}

/// Pools of sources by name, each weighted alike: `[("bulk", &["a", "b"])]`.
pub fn egress(pools: &[(&str, &[&str])]) -> Egress {
    let mut sources: Vec<Source> = Vec::new();
    let mut list = Vec::new();
    for (name, members) in pools {
        let mut at = Vec::new();
        for member in *members {
            let known = sources.iter().position(|source| &*source.name == *member).unwrap_or_else(|| {
                sources.push(Source { name: (*member).into(), enabled: true });
                sources.len() - 1
            });
            at.push((SourceAt(known as u16), 1));
        }
        list.push(Pool { name: (*name).into(), sources: at });
    }
    Egress { sources, pools: list }
}

/// What a server without a word of configuration but these shaping tables has.
pub fn setup(shaping: &str) -> Setup {
    let config: ShapingConfig = read(shaping);
    let origin = |_| Origin { file: "test.toml".into(), line: 0 };
    let rules = Rules::compile(&[Layer { config: &config, origin: &origin }]).expect("the rules compile");
    let backoff = Backoff::Exponential { first: seconds(600), factor: 1.5, max: seconds(14_400) };
    Setup {
        egress: Egress::default(),
        rules: rules.into(),
        dispatch: dispatch::Config::default(),
        schedule: Schedule { backoff, jitter: 0.1 },
        connect_timeout: seconds(30),
        greeting_timeout: seconds(300),
        idle_timeout: seconds(5),
    }
}

pub fn simulation(setup: Setup, traffic: &str, seed: u64) -> Simulation {
    let traffic: Traffic = read(traffic);
    Simulation::new(Instant::now(), setup, &traffic, seed).expect("the world is sound")
}

/// Something seen at a receiver, with its time since the beginning.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Duration,
    pub what: What,
    pub source: String,
    pub site: String,
    pub campaign: String,
    pub tenant: Option<String>,
    pub octets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Opened,
    Closed,
    Offered,
}

/// Everything that receivers saw.
pub type Log = Rc<RefCell<Vec<Seen>>>;

/// Writes down everything that receivers see.
pub fn watch(simulation: &mut Simulation) -> Log {
    let log = Log::default();
    let writer = log.clone();
    simulation.observe(Box::new(move |at, observed| {
        let blank = Seen {
            at,
            what: What::Opened,
            source: String::new(),
            site: String::new(),
            campaign: String::new(),
            tenant: None,
            octets: 0,
        };
        let seen = match observed {
            Observed::Opened { source, site } => Seen { source: source.into(), site: site.into(), ..blank },
            Observed::Closed { source, site } => {
                Seen { what: What::Closed, source: source.into(), site: site.into(), ..blank }
            }
            Observed::Offered { source, site, campaign, tenant, octets, .. } => Seen {
                what: What::Offered,
                source: source.into(),
                site: site.into(),
                campaign: campaign.into(),
                tenant: tenant.map(str::to_owned),
                octets,
                ..blank
            },
        };
        writer.borrow_mut().push(seen);
    }));
    log
}

/// The most open connections at once, of those that `wanted` picks.
pub fn most_open(log: &Log, wanted: impl Fn(&Seen) -> bool) -> i64 {
    let (mut open, mut most) = (0i64, 0i64);
    for seen in log.borrow().iter().filter(|seen| wanted(seen)) {
        match seen.what {
            What::Opened => open += 1,
            What::Closed => open -= 1,
            What::Offered => {}
        }
        most = most.max(open);
    }
    most
}

/// Holds that those that `wanted` picks kept to a rate in every sliding window; how many there were.
pub fn keeps_to(log: &Log, rate: &str, amount: impl Fn(&Seen) -> Option<u64>) -> u64 {
    let mut counter = Counter::new(rate.parse().expect("the test's rate is sound"));
    let mut count = 0;
    for seen in log.borrow().iter() {
        let Some(amount) = amount(seen) else { continue };
        let at = u64::try_from(seen.at.as_nanos()).expect("a test is short");
        assert!(counter.check(at, amount), "more than {rate} at {:?}: {seen:?}", seen.at);
        count += 1;
    }
    count
}

/// One for each message that is offered.
pub fn offered(seen: &Seen) -> Option<u64> {
    (seen.what == What::Offered).then_some(1)
}

/// One for each connection.
pub fn opened(seen: &Seen) -> Option<u64> {
    (seen.what == What::Opened).then_some(1)
}
