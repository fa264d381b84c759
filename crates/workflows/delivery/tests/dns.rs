//! Delivery by DNS: a zone written in the test, real sinks on loopback addresses as the exchangers.

use accounting::{Kind, Metrics, Recorder};
use bench::sink::{Keep, Options, Sink, SinkHandle};
use delivery::{
    Config, Delivery, DsnConfig, Keeper, MakeRules, Parts, RetryConfig, Routes, Settings, Sources,
    TlsPolicies,
};
use mail::{Domain, Envelope, Mailbox, Message, Origin, Recipient, ReversePath, Tags, UnixMillis};
use net::tls::{Connector, ConnectorConfig};
use net::{Destinations, DestinationsConfig, OwnAddresses, TcpDialer};
use resolve::AddressVerdict;
use resolve::zone::Zone;
use settings::{Place, Placed};
use shaping::{Layer, Rules, ShapingConfig};
use spool::{Accepted, Content, Draft, Spool};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use suppression::Suppression;
use tokio::sync::mpsc;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A delivery whose exchangers listen at `port` of addresses in 127.0.0.0/8.
struct World {
    spool: Spool,
    recorder: Arc<Recorder>,
    delivery: Delivery,
    intake: mpsc::Sender<Accepted>,
    zone: Arc<Zone>,
    _folder: tempfile::TempDir,
}

fn world(port: u16, change: impl FnOnce(&mut Settings)) -> World {
    let folder = tempfile::tempdir().unwrap();
    let (spool, loader) =
        spool::open_directory(&folder.path().join("spool"), &spool::Config::default()).unwrap();
    assert_eq!(loader.filter(|event| matches!(event, spool::LoadEvent::Message(_))).count(), 0);
    let recorder = Arc::new(Recorder::without_files(Arc::new(Metrics::new())));
    let zone = Arc::new(Zone::new());
    let config = resolve::Config { failure_ttl: Duration::from_millis(50), ..resolve::Config::default() };
    let rule = Arc::new(
        |ip: std::net::IpAddr| {
            if ip.is_loopback() { AddressVerdict::Allowed } else { AddressVerdict::Refused }
        },
    );
    let hostname = Domain::parse("tuma.test").unwrap();
    let routes = resolve::Routes::new(zone.clone(), &config, [hostname.clone()], rule);
    let second = Duration::from_millis(200);
    let retry = RetryConfig { waits: vec![second], jitter: 0.0, ..RetryConfig::default() };
    let mut shaping = ShapingConfig::default();
    let wait = |span| Some(Placed { value: span, place: Place::whole(0) });
    shaping.default.reconnect_min = wait(second);
    shaping.default.reconnect_max = wait(second);
    let origin = |_: Place| shaping::Origin::built_in();
    let rules = Arc::new(Rules::compile(&[Layer { config: &shaping, origin: &origin }]).unwrap());
    let egress = delivery::egress(&BTreeMap::new(), &BTreeMap::new(), None).unwrap();
    let mut settings = Settings {
        hostname,
        delivery: Config {
            port,
            resolve_again_min: second,
            resolve_again_max: second,
            connect_timeout: Duration::from_secs(2),
            connect_next_after: Duration::from_secs(1),
            ..Config::default()
        },
        schedule: retry.schedule(),
        retry,
        dsn: DsnConfig::default(),
        notify: notify::Config::default(),
        webhook: None,
        routes: Routes::default(),
        tls_policies: TlsPolicies::default(),
        tls_reports: delivery::TlsReportsConfig::default(),
        sources: Sources::new(&BTreeMap::new(), egress, "tuma.test", &ConnectorConfig::default()).unwrap(),
        signing: Arc::default(),
        rules: rules.clone(),
        classes: Arc::new(bounce::ClassRules::compile([]).unwrap()),
        returns: Arc::default(),
        report_addresses: Vec::new(),
        suppressed: mail::Reply::new(550, (5, 7, 1), "suppressed"),
        make_rules: MakeRules(Arc::new(move |_| rules.clone())),
        run_max: 100,
        hot_bytes_max: 1 << 20,
    };
    change(&mut settings);
    let (intake, accepted) = mpsc::channel(64);
    let (_, loaded) = mpsc::channel(1);
    let allow = ["127.0.0.0/8".parse().unwrap()].into();
    let destinations = Destinations::new(
        DestinationsConfig { allow, ..DestinationsConfig::default() },
        OwnAddresses::default(),
    );
    let parts = Parts {
        settings,
        spool: spool.clone(),
        recorder: recorder.clone(),
        suppression: Suppression::open(folder.path(), 1_000).unwrap(),
        routes,
        resolver: zone.clone(),
        https: no_https(zone.clone()),
        reports: Arc::new(delivery::TlsReports::open(None, &delivery::TlsReportsConfig::default())),
        sts: Arc::new(no_policies(zone.clone())),
        dnssec: None,
        dialer: Arc::new(TcpDialer),
        traces: Arc::default(),
        connector: Connector::new(&ConnectorConfig::default()).unwrap(),
        destinations,
        intake: intake.clone(),
        seed: 7,
    };
    World {
        spool,
        recorder,
        delivery: Delivery::start(parts, Keeper::none(), accepted, loaded),
        intake,
        zone,
        _folder: folder,
    }
}

/// HTTPS to nobody.
fn no_https(zone: Arc<Zone>) -> resolve::Https {
    let tls = net::tls::client_config(None).unwrap();
    resolve::Https::new(zone, Arc::new(|_| AddressVerdict::Refused), tls, 1)
}

/// MTA-STS that is off.
fn no_policies(zone: Arc<Zone>) -> resolve::StsPolicies {
    let https = no_https(zone.clone());
    let config = resolve::StsConfig { enabled: false, ..resolve::StsConfig::default() };
    resolve::StsPolicies::open(zone, https, config, None)
}

impl World {
    async fn send(&self, from: &str, to: &[&str]) -> mail::SpoolId {
        let path = Mailbox::parse(from).map_or(ReversePath::Null, ReversePath::Mailbox);
        let recipients = to.iter().map(|to| Recipient::new(Mailbox::parse(to).unwrap())).collect();
        let id = self.spool.next_id();
        let content = Content { body: "Subject: x\r\n\r\nx\r\n".into(), ..Content::default() };
        let message = Message {
            id,
            received_at: UnixMillis::from(SystemTime::now()),
            size: content.len(),
            envelope: Envelope::new(path, recipients),
            origin: Origin::default(),
            tags: Tags::default(),
            headers: Vec::new(),
            extras: None,
        };
        let accepted = self.spool.accept(Draft { message, content }).await.unwrap();
        self.intake.send(accepted).await.unwrap();
        id
    }

    /// Waits for a record of a kind; gives its reply.
    async fn reply(&self, id: mail::SpoolId, kind: Kind) -> String {
        let began = Instant::now();
        loop {
            if let Some(record) = self.recorder.events_of(id).iter().find(|record| record.kind == kind) {
                return record.reply.as_ref().map(|reply| reply.to_string()).unwrap_or_default();
            }
            assert!(began.elapsed() < PATIENCE, "no {kind:?} in {:?}", self.recorder.events_of(id));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_empty(&self) {
        let began = Instant::now();
        while self.delivery.status().await.unwrap().status.recipients > 0 {
            assert!(began.elapsed() < PATIENCE, "still queued");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn sink_at(address: SocketAddr) -> SinkHandle {
    let keep = Keep::Memory { messages_max: 100 };
    Sink::start(Options { listen: address, threads: 1, keep, strict: true, ..Options::default() }).unwrap()
}

/// Sinks at several loopback addresses and one port.
fn sinks(addresses: &[&str]) -> (Vec<SinkHandle>, u16) {
    let first = sink_at(SocketAddr::new(addresses[0].parse().unwrap(), 0));
    let port = first.addr().port();
    let rest = addresses[1..].iter().map(|ip| sink_at(SocketAddr::new(ip.parse().unwrap(), port)));
    (std::iter::once(first).chain(rest).collect(), port)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preferred_exchanger_gets_the_mail_and_a_dead_one_is_passed_over() {
    let (sinks, port) = sinks(&["127.0.0.2", "127.0.0.3"]);
    let world = world(port, |_| {});
    world.zone.mx("a.test", 10, "mx1.a.test").mx("a.test", 20, "mx2.a.test");
    world.zone.a("mx1.a.test", "127.0.0.2").a("mx2.a.test", "127.0.0.3");
    world.zone.mx("b.test", 10, "dead.b.test").mx("b.test", 20, "mx2.a.test").a("dead.b.test", "127.0.0.9");
    let (a, b) = (world.send("s@s.test", &["u@a.test"]).await, world.send("s@s.test", &["u@b.test"]).await);
    world.reply(a, Kind::Delivered).await;
    world.reply(b, Kind::Delivered).await;
    assert_eq!(sinks.iter().map(|sink| sink.messages().len()).collect::<Vec<_>>(), [1, 1]);
    assert!(
        world.recorder.events_of(b).iter().all(|record| record.kind != Kind::Deferred),
        "no attempt was lost on it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_arrive_bounces_with_its_reason_and_the_sender_is_told() {
    let (sinks, port) = sinks(&["127.0.0.2"]);
    let world = world(port, |_| {});
    world
        .zone
        .a("s.test", "127.0.0.2")
        .mx("null.test", 0, "")
        .empty("bare.test")
        .a("private.test", "10.0.0.1");
    world.zone.mx("loop.test", 10, "tuma.test");
    for (to, reply) in [
        ("u@null.test", "556 5.1.10 "),
        ("u@missing.test", "550 5.1.2 "),
        ("u@bare.test", "550 5.4.4 "),
        ("u@private.test", "550 5.4.4 "),
        ("u@loop.test", "554 5.4.6 "),
        ("u@[10.0.0.1]", "550 5.4.4 "),
    ] {
        let id = world.send("s@s.test", &[to]).await;
        let got = world.reply(id, Kind::Bounced).await;
        assert!(got.starts_with(reply), "{to}: {got}");
    }
    world.until_empty().await;
    let told = sinks[0].messages();
    assert_eq!(told.len(), 6, "each is reported to its sender");
    assert!(told.iter().all(|m| m.reverse_path.is_empty() && m.field("Auto-Submitted").is_some()));
    // A bounce of a bounce is nobody's mail.
    let id = world.send("", &["u@missing.test"]).await;
    world.reply(id, Kind::Bounced).await;
    world.until_empty().await;
    assert_eq!(sinks[0].messages().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_fails_only_delays() {
    let (sinks, port) = sinks(&["127.0.0.2"]);
    let world = world(port, |_| {});
    world.zone.fail("a.test", "SERVFAIL");
    let id = world.send("s@s.test", &["u@a.test"]).await;
    let reply = world.reply(id, Kind::Deferred).await;
    assert!(reply.starts_with("451 4.4.3 "), "{reply}");
    world.zone.remove("a.test").a("a.test", "127.0.0.2");
    world.reply(id, Kind::Delivered).await;
    assert_eq!(sinks[0].messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_two_domains_is_one_transaction_for_each() {
    let (sinks, port) = sinks(&["127.0.0.2", "127.0.0.3"]);
    let world = world(port, |_| {});
    world.zone.a("a.test", "127.0.0.2").a("b.test", "127.0.0.3");
    let id = world.send("s@s.test", &["u@a.test", "v@a.test", "w@b.test", "x@a.test"]).await;
    world.reply(id, Kind::Delivered).await;
    world.until_empty().await;
    let mut got: Vec<Vec<String>> = sinks
        .iter()
        .flat_map(|sink| sink.messages())
        .map(|m| m.recipients.iter().map(|r| r.address.clone()).collect())
        .collect();
    got.sort();
    let wanted: [&[&str]; 2] = [&["u@a.test", "v@a.test", "x@a.test"], &["w@b.test"]];
    assert_eq!(got, wanted.map(|list| list.iter().map(|s| s.to_string()).collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread")]
async fn time_runs_out_wherever_a_message_waits() {
    let world = world(9, |settings| settings.retry.expire_after = Duration::from_secs(1));
    world.zone.a("a.test", "127.0.0.2");
    let id = world.send("", &["u@a.test"]).await;
    let reply = world.reply(id, Kind::Expired).await;
    assert!(reply.contains("4.4.7") || reply.starts_with("451"), "{reply}");
    world.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_stalls_slows_nobody_else() {
    let (sinks, port) = sinks(&["127.0.0.2", "127.0.0.3"]);
    sinks[0].set_rules(vec!["banner:stall".parse().expect("a rule")]);
    let world = world(port, |_| {});
    world.zone.a("stalled.test", "127.0.0.2").a("quick.test", "127.0.0.3");
    for n in 0..20 {
        world.send("s@s.test", &[&format!("u{n}@stalled.test")]).await;
    }
    for n in 0..20 {
        let id = world.send("s@s.test", &[&format!("u{n}@quick.test")]).await;
        world.reply(id, Kind::Delivered).await;
    }
    let status = world.delivery.status().await.unwrap();
    let stalled = status.status.sites.iter().find(|site| site.site == "stalled.test").unwrap();
    assert_eq!((stalled.recipients, stalled.connections), (20, 2), "a stalling destination gets two probes");
}
