//! Sinks that behave as large receivers do, found by DNS under the receivers' own names, so that the rules that come
//! with the server meet them: limits as the receiver counts them, their replies, and all of it over a restart.

use crate::harness::dns::NameServer;
use crate::harness::{Setup, Tuma, fixed_address, rules, send, sink, wait_until};
use bench::sink::{Keep, Options, SinkHandle};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const GMAIL_UNUSUAL: &str = "close 421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from \
                             your IP address [192.0.2.1]. To protect our users from spam, mail sent from your IP \
                             address has been temporarily rate limited. gsmtp";
const YAHOO_TSS04: &str = "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or \
                           user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes";
const OUTLOOK_S3150: &str = "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your \
                             Internet service provider since part of their network is on our block list (S3150).";

/// A receiver at 127.0.0.2 under the name of an exchanger, with a domain of its own.
struct World {
    folder: tempfile::TempDir,
    dns: NameServer,
    sink: SinkHandle,
    port: u16,
}

impl World {
    fn new(domain: &str, exchanger: &str, options: Options) -> Self {
        let (dns, port) = (NameServer::start(), fixed_address().port());
        dns.mx(domain, &[(5, exchanger)]);
        dns.a(exchanger, [127, 0, 0, 2]);
        let sink = sink(Options { listen: ([127, 0, 0, 2], port).into(), ..options });
        Self { folder: tempfile::tempdir().unwrap(), dns, sink, port }
    }

    fn setup(&self, more: &str) -> Setup {
        Setup::direct(self.folder.path(), &self.dns, self.port, more)
    }

    fn data(&self) -> &Path {
        self.folder.path()
    }
}

/// What `/v1/status` says holds the site.
fn hold(tuma: &Tuma, site: &str) -> String {
    let status = tuma.status();
    let sites = status["sites"].as_array().cloned().unwrap_or_default();
    sites.iter().filter(|known| known["site"] == site).map(ToString::to_string).collect()
}

/// A receiver that takes only so much at once, and says so to all beyond, sees nobody beyond.
#[test]
fn a_limit_of_connections_and_messages_is_kept_as_the_receiver_counts() {
    // It counts for itself: more than four connections are refused, and a fifth message ends a session.
    let behaviour = ["banner:open=4:close 421 4.7.0 Too many concurrent connections", "dot:stall=10ms"];
    let world = World::new(
        "gmail.com",
        "gmail-smtp-in.l.google.com",
        Options { rules: rules(&behaviour), ..Options::default() },
    );
    let more = "[shaping.provider.gmail]\nconnections = 4\nmessages_per_connection = 5\n";
    let tuma = world.setup(more).start();
    send(&tuma, "x@gmail.com", 200);
    tuma.wait_until_settled();
    let stats = world.sink.stats();
    assert_eq!((stats.messages, tuma.figure("/recipients/deferred")), (200, 0));
    // A connection that has said QUIT counts until both ends have closed it, so one too many shows for a moment.
    assert!(stats.connections >= 40, "{stats}");
    assert!(stats.open_max <= 5, "{stats}");
}

/// A sink for gmail.com that remembers when messages came.
fn timed() -> (World, Arc<Mutex<Vec<Instant>>>) {
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = arrivals.clone();
    let keep = Keep::Call(Arc::new(move |_| seen.lock().unwrap().push(Instant::now())));
    let options = Options { keep, ..Options::default() };
    (World::new("gmail.com", "gmail-smtp-in.l.google.com", options), arrivals)
}

#[test]
fn a_rate_holds_in_any_window_that_the_receiver_may_choose() {
    let (world, arrivals) = timed();
    let tuma = world.setup("[shaping.provider.gmail]\nmessage_rates = [\"10/s\", \"25/3s\"]\n").start();
    send(&tuma, "x@gmail.com", 60);
    tuma.wait_until_settled();
    let times = arrivals.lock().unwrap().clone();
    assert_eq!(times.len(), 60);
    // The receiver's clock reads when octets have arrived: later than leave was given, by what loopback and threads
    // take. So its windows are a tenth shorter.
    for (allowed, window) in [(10, 900), (25, 2_700)] {
        for (n, first) in times.iter().enumerate() {
            let end = *first + Duration::from_millis(window);
            let within = times[n..].iter().take_while(|at| **at < end).count();
            assert!(within <= allowed, "{within} within {window} ms, {allowed} are allowed");
        }
    }
    // 25, 25 and 10: six seconds at the least, and the limit is used while there is something to send.
    assert!(*times.last().expect("60") - times[0] >= Duration::from_millis(5_400));
}

#[test]
fn a_limit_of_an_hour_is_exact_over_a_kill_and_a_stop() {
    let (world, arrivals) = timed();
    let arrived = || arrivals.lock().unwrap().len();
    // So slow that a kill finds it at work.
    let more = "[shaping.provider.gmail]\nmessage_rates = [\"10/s\", \"30/h\"]\n";
    let setup = world.setup(more);
    let tuma = setup.start();
    send(&tuma, "x@gmail.com", 50);
    wait_until("some have come", || arrived() >= 5);
    tuma.kill();
    let tuma = setup.start();
    wait_until("more have come", || arrived() >= 20);
    tuma.stop();
    let tuma = setup.start();
    wait_until("the hour's share is used up", || hold(&tuma, "gmail").contains("30/h"));
    // A kill may cost leave that was written down and not yet used, but never gives any twice.
    let count = arrived();
    assert!((20..=30).contains(&count), "{count} in an hour");
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
}

#[test]
fn gmails_unusual_rate_slows_the_path_and_bounces_nothing_also_over_a_restart() {
    let behaviour = format!("dot:first=2:{GMAIL_UNUSUAL}");
    let world = World::new(
        "gmail.com",
        "gmail-smtp-in.l.google.com",
        Options { rules: rules(&[&behaviour]), ..Options::default() },
    );
    let more = "[shaping.provider.gmail]\nconnections = 1\n[shaping.provider.gmail.backoff]\nmessage_rates = [\"1/h\"]\n";
    let setup = world.setup(more);
    let tuma = setup.start();
    send(&tuma, "x@gmail.com", 20);
    wait_until("the path is in backoff", || hold(&tuma, "gmail").contains("gmail-unusual-rate"));
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
    wait_until("people were to be told", || tuma.log().contains("a rule asks to be told"));
    tuma.stop();
    let tuma = setup.start();
    wait_until("it still is after a restart", || hold(&tuma, "gmail").contains("gmail-unusual-rate"));
    let delivered = world.sink.stats().messages;
    assert!(delivered <= 5, "{delivered} delivered in backoff");
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
}

#[test]
fn yahoos_tss04_suspends_the_path_over_a_restart() {
    let behaviour = format!("dot:first=2:{YAHOO_TSS04}");
    let world = World::new(
        "yahoo.com",
        "mta5.am0.yahoodns.net",
        Options { rules: rules(&[&behaviour]), ..Options::default() },
    );
    let setup = world.setup("[shaping.provider.yahoo]\nconnections = 1\n");
    let tuma = setup.start();
    send(&tuma, "x@yahoo.com", 20);
    wait_until("the path is suspended", || {
        let hold = hold(&tuma, "yahoo");
        hold.contains("suspended") && hold.contains("yahoo-deferred-long")
    });
    let connections = world.sink.stats().connections;
    tuma.stop();
    let tuma = setup.start();
    wait_until("it still is after a restart", || {
        tuma.figure("/recipients/queued") > 0 && hold(&tuma, "yahoo").contains("yahoo-deferred-long")
    });
    assert_eq!(world.sink.stats().connections, connections, "nothing is sent to it");
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
    assert!(world.data().join("state").exists());
}

#[test]
fn outlooks_block_of_the_address_keeps_the_mail() {
    // It refuses at RCPT with a 5yz for as long as the address is listed.
    let behaviour = format!("rcpt:first=3:{OUTLOOK_S3150}");
    let world = World::new(
        "hotmail.com",
        "hotmail-com.olc.protection.outlook.com",
        Options { rules: rules(&[&behaviour]), ..Options::default() },
    );
    let tuma = world.setup("[shaping.provider.outlook]\nconnections = 1\n").start();
    send(&tuma, "x@hotmail.com", 10);
    wait_until("the path is suspended", || hold(&tuma, "outlook").contains("outlook-blocked"));
    assert_eq!(tuma.figure("/recipients/bounced"), 0, "it is not the message's fault");
    let figures = ["queued", "delivered"].map(|kind| tuma.figure(&format!("/recipients/{kind}")));
    assert_eq!(figures[0] + figures[1], 10);
    assert!(figures[0] >= 3, "{figures:?}");
}

#[test]
fn a_warm_up_goes_on_where_it_was_after_a_stop_and_a_kill() {
    let world = World::new("gmail.com", "gmail-smtp-in.l.google.com", Options::default());
    let more = "[shaping.provider.gmail.warmup]\ncaps = [12, 1000]\n";
    let setup = world.setup(more);
    let tuma = setup.start();
    send(&tuma, "x@gmail.com", 5);
    tuma.wait_until_settled();
    tuma.kill();
    let tuma = setup.start();
    send(&tuma, "x@gmail.com", 5);
    tuma.wait_until_settled();
    tuma.stop();
    let tuma = setup.start();
    send(&tuma, "x@gmail.com", 10);
    wait_until("the day's share is used up", || hold(&tuma, "gmail").contains("warms up"));
    // The last of them may be on its way yet.
    wait_until("today's twelve have arrived", || tuma.figure("/recipients/queued") <= 8);
    assert_eq!(world.sink.stats().messages, 12, "of today's twelve");
    assert_eq!(tuma.figure("/recipients/queued"), 8);
}
