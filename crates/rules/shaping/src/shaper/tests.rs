//! The shaper as a dispatcher drives it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{Reply, UnixMillis};

use super::*;
use crate::config::tests::compile;
use crate::{Rules, Stage};

/// A dispatcher with a clock.
struct Rig {
    shaper: Shaper,
    now: Instant,
    wall: u64,
}

/// Noon of a day.
const NOON: u64 = 20_780 * wall::DAY_MS + wall::DAY_MS / 2;

const fn facts<'a>(source: &'a str, site: &'a str) -> PathFacts<'a> {
    PathFacts { site, provider: None, domains: &[], pool: "pool", source }
}

fn rules(text: &str) -> Arc<Rules> {
    Arc::new(compile(&[("tuma.toml", text)]))
}

fn rig(text: &str) -> Rig {
    Rig { shaper: Shaper::new(rules(text)), now: Instant::now(), wall: NOON }
}

const MAIL: MessageFacts<'static> = MessageFacts { tenant: None, campaign: None, queue: 0, bytes: 1_000 };

impl Rig {
    fn path(&mut self, source: &str, site: &str) -> PathKey {
        self.shaper.path(self.now, &facts(source, site))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall += u64::try_from(time.as_millis()).unwrap();
    }

    fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    fn ask(&mut self, key: PathKey, facts: &MessageFacts<'_>) -> Result<Permit, Hold> {
        self.shaper.ask_message(self.now, UnixMillis(self.wall), key, facts)
    }

    fn spent(&mut self, permit: Permit) {
        self.shaper.spent(self.now, UnixMillis(self.wall), permit);
    }

    /// Sends until something holds: how many went, and what holds.
    fn send_all(&mut self, key: PathKey, facts: &MessageFacts<'_>) -> (u32, Hold) {
        for n in 0..10_000 {
            match self.ask(key, facts) {
                Ok(permit) => self.spent(permit),
                Err(hold) => return (n, hold),
            }
        }
        panic!("nothing held ten thousand messages");
    }

    /// A reply came for one recipient.
    fn reply(&mut self, key: PathKey, code: u16, text: &'static str) -> Vec<Effect> {
        self.reply_for(key, code, text, &Attempted { domain: "d.test", ..Attempted::default() })
    }

    fn reply_for(
        &mut self,
        key: PathKey,
        code: u16,
        text: &'static str,
        base: &Attempted<'_>,
    ) -> Vec<Effect> {
        let reply = Reply::bare(code, text);
        let rules = self.shaper.rules().clone();
        let fired = rules.verdict(self.shaper.profile(key), Stage::End, &reply);
        let shown = reply.to_string();
        let fired: Vec<_> = fired.into_iter().map(|fired| (fired, shown.as_str())).collect();
        let (delivered, deferred, bounced) = match code / 100 {
            2 => (1, 0, 0),
            4 => (0, 1, 0),
            _ => (0, 0, 1),
        };
        let attempted = Attempted { delivered, deferred, bounced, fired: &fired, ..*base };
        self.shaper.report(self.now, UnixMillis(self.wall), key, &attempted)
    }

    fn wake(&mut self) -> Woken {
        self.shaper.wake(self.now, UnixMillis(self.wall))
    }

    /// Ends the process, and begins another after some time.
    fn restart(&mut self, text: &str, down: Duration) {
        let snapshot = self.shaper.snapshot(self.now, UnixMillis(self.wall));
        self.pass(down);
        self.shaper = Shaper::new(rules(text));
        self.shaper.restore(self.now, UnixMillis(self.wall), snapshot);
    }
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

#[test]
fn every_window_holds_and_says_which_line() {
    let mut rig = rig("[shaping.default]\nmessage_rates = ['5/s', '12/m']\nbyte_rates = ['50kB/h']\n");
    let key = rig.path("s", "a");
    let (sent, hold) = rig.send_all(key, &MAIL);
    assert_eq!((sent, hold.scope), (5, HoldScope::Path));
    assert_eq!(hold.gate.to_string(), "the rate of messages (5/s) is used up");
    assert_eq!(hold.setting.to_string(), "shaping.default.message_rates = [\"5/s\", \"12/m\"] (tuma.toml:2)");
    assert_eq!(hold.until, Some(rig.now + Duration::from_secs(1)));
    rig.seconds(1);
    assert_eq!(rig.send_all(key, &MAIL).0, 5);
    rig.seconds(1);
    let (sent, hold) = rig.send_all(key, &MAIL);
    assert_eq!((sent, hold.gate), (2, Gate::MessageRate("12/m".parse().unwrap())));
    rig.seconds(60);
    let large = MessageFacts { bytes: 30_000, ..MAIL };
    assert_eq!(rig.send_all(key, &large).0, 1);
    let hold = rig.ask(key, &large).unwrap_err();
    assert_eq!(hold.gate.to_string(), "the rate of octets (50kB/h) is used up");
    assert!(rig.ask(key, &MAIL).is_ok(), "a smaller one has room");
}

#[test]
fn a_permit_given_back_makes_room_and_counts_once() {
    let mut rig = rig("[shaping.default]\nmessage_rates = ['1/m']\n");
    let key = rig.path("s", "a");
    let permit = rig.ask(key, &MAIL).unwrap();
    assert_eq!(rig.ask(key, &MAIL).unwrap_err().until, None, "only what is out can make room");
    rig.shaper.give_back(permit);
    rig.shaper.give_back(permit);
    let permit = rig.ask(key, &MAIL).unwrap();
    rig.spent(permit);
    rig.spent(permit);
    assert_eq!(rig.ask(key, &MAIL).unwrap_err().until, Some(rig.now + minutes(1)));
}

#[test]
fn without_limits_leave_costs_nothing() {
    let mut rig = rig("[shaping]\n");
    let key = rig.path("s", "a");
    let permit = rig.ask(key, &MAIL).unwrap();
    assert_eq!(permit, Permit::FREE);
    rig.spent(permit);
    assert!(rig.shaper.forget_if_idle(rig.now, key));
    assert_eq!(rig.shaper.sizes(), (0, 0, 0));
}

#[test]
fn connections_are_bounded_and_a_stalling_site_gets_two_probes() {
    let mut rig = rig("[shaping.default]\nconnections = 3\n");
    let (key, now) = (rig.path("s", "a"), rig.now);
    rig.shaper.ask_connection(now, key).unwrap();
    rig.shaper.ask_connection(now, key).unwrap();
    assert_eq!(rig.shaper.ask_connection(now, key).unwrap_err().gate, Gate::Greeting);
    rig.shaper.connected(now, key);
    rig.shaper.ask_connection(now, key).unwrap();
    let hold = rig.shaper.ask_connection(now, key).unwrap_err();
    assert_eq!(hold.gate, Gate::Connections { limit: 3 });
    assert_eq!(hold.setting.to_string(), "shaping.default.connections = 3 (tuma.toml:2)");
    rig.shaper.connected(now, key);
    rig.shaper.closed(key);
    rig.shaper.ask_connection(now, key).unwrap();
    rig.shaper.unopened(key);
    assert_eq!(rig.shaper.open(key), 2);
}

#[test]
fn waits_after_failures_double_and_a_success_ends_them() {
    let mut rig = rig("[shaping.default]\nreconnect_min = '1s'\nreconnect_max = '8s'\n");
    let key = rig.path("s", "a");
    for wait in [1, 2, 4, 8, 8] {
        rig.shaper.ask_connection(rig.now, key).unwrap();
        rig.shaper.connect_failed(rig.now, key);
        let hold = rig.shaper.ask_connection(rig.now, key).unwrap_err();
        assert_eq!(hold.until, Some(rig.now + Duration::from_secs(wait)));
        assert_eq!(rig.shaper.wake_at(), hold.until);
        rig.seconds(wait);
        assert_eq!(rig.wake().paths, [key]);
    }
    rig.shaper.ask_connection(rig.now, key).unwrap();
    assert!(rig.shaper.ask_connection(rig.now, key).is_err(), "one probe at a time after a failure");
    rig.shaper.connected(rig.now, key);
    rig.shaper.ask_connection(rig.now, key).unwrap();
}

#[test]
fn connections_ramp_up_one_by_one() {
    let mut rig = rig("[shaping.default]\nconnection_ramp = '10s'\n");
    let key = rig.path("s", "a");
    rig.shaper.ask_connection(rig.now, key).unwrap();
    rig.shaper.connected(rig.now, key);
    for open in 1..5 {
        let hold = rig.shaper.ask_connection(rig.now, key).unwrap_err();
        assert_eq!(hold.gate, Gate::Ramp { allowed: open });
        assert_eq!(hold.until, Some(rig.now + Duration::from_secs(10)));
        rig.seconds(10);
        rig.shaper.ask_connection(rig.now, key).unwrap();
        rig.shaper.connected(rig.now, key);
    }
}

#[test]
fn new_connections_have_a_rate() {
    let mut rig = rig("[shaping.default]\nconnection_rates = ['2/m']\n");
    let key = rig.path("s", "a");
    for _ in 0..2 {
        rig.shaper.ask_connection(rig.now, key).unwrap();
        rig.shaper.connected(rig.now, key);
        rig.shaper.closed(key);
    }
    let hold = rig.shaper.ask_connection(rig.now, key).unwrap_err();
    assert_eq!(hold.gate, Gate::ConnectionRate("2/m".parse().unwrap()));
    rig.pass(minutes(1));
    rig.shaper.ask_connection(rig.now, key).unwrap();
    rig.shaper.unopened(key);
    rig.shaper.ask_connection(rig.now, key).unwrap();
}

const BACKOFF: &str = r#"
[shaping.default]
message_rates = ["100/m"]
connections = 10
retry_waits = ["5m"]

[shaping.default.backoff]
message_rates = ["2/m"]
connections = 1
retry_waits = ["1h", "2h"]
leave_after = "30m"

[[shaping.default.reply]]
name = "too fast"
match = 'too fast'
do = ["backoff", "notify"]

[[shaping.default.reply]]
match = 'much too long'
do = ["backoff 2h"]

[[shaping.default.reply]]
match = 'all is well'
do = ["normal"]
"#;

#[test]
fn backoff_has_its_own_limits_and_ends_in_time() {
    let mut rig = rig(BACKOFF);
    let key = rig.path("s", "a");
    assert_eq!(rig.shaper.retry_waits(key), Some(&[minutes(5)][..]));
    let effects = rig.reply(key, 421, "you are too fast");
    let until = rig.now + minutes(30);
    let Effect::BackoffEntered { until: entered, by, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(*entered, until);
    assert_eq!(by.to_string(), "too fast (tuma.toml:15) on \"421 you are too fast\"");
    let Effect::Notify { text, .. } = &effects[1] else { panic!("{effects:?}") };
    assert_eq!(text, "s to a: too fast (tuma.toml:15) on \"421 you are too fast\"");
    assert_eq!(rig.shaper.retry_waits(key), Some(&[minutes(60), minutes(120)][..]));
    let (sent, hold) = rig.send_all(key, &MAIL);
    assert_eq!(sent, 2);
    assert!(matches!(hold.gate, Gate::Backoff { .. }), "{hold:?}");
    assert_eq!(hold.setting.to_string(), "shaping.default.backoff.message_rates = [\"2/m\"] (tuma.toml:8)");
    rig.shaper.ask_connection(rig.now, key).unwrap();
    assert_eq!(rig.shaper.ask_connection(rig.now, key).unwrap_err().gate, Gate::Connections { limit: 1 });
    assert_eq!(
        rig.reply(key, 421, "too fast"),
        [effects[1].clone()].map(|effect| match effect {
            Effect::Notify { .. } => {
                let by = Arc::new(Cause { reply: "421 too fast".into(), ..(**by).clone() });
                Effect::Notify { text: format!("s to a: {by}"), by }
            }
            other => other,
        })
    );
    assert_eq!(rig.shaper.wake_at(), Some(until));
    rig.pass(minutes(30));
    let woken = rig.wake();
    assert_eq!(woken.effects, [Effect::BackoffLeft { path: key, why: Left::Time }]);
    assert_eq!((woken.paths, rig.shaper.mode(key)), (vec![key], Mode::Normal));
    assert_eq!(rig.send_all(key, &MAIL).0, 100);
}

#[test]
fn backoff_is_prolonged_and_a_reply_or_an_operator_ends_it() {
    let mut rig = rig(BACKOFF);
    let key = rig.path("s", "a");
    rig.reply(key, 421, "too fast");
    rig.pass(minutes(10));
    assert_eq!(rig.reply(key, 421, "much too long"), []);
    let Mode::Backoff { until, .. } = rig.shaper.mode(key) else { panic!() };
    assert_eq!(until, rig.now + minutes(120));
    rig.pass(minutes(20));
    assert_eq!(rig.wake().effects, []);
    assert!(matches!(rig.shaper.mode(key), Mode::Backoff { .. }), "the first timer does not end it");
    assert_eq!(rig.reply(key, 250, "all is well"), [Effect::BackoffLeft { path: key, why: Left::Rule }]);
    rig.reply(key, 421, "too fast");
    let effects = rig.shaper.release(Release::Path(key));
    assert_eq!(effects, [Effect::BackoffLeft { path: key, why: Left::Operator }]);
    assert_eq!(rig.shaper.listed(), []);
}

#[test]
fn backoff_may_end_at_a_delivery_and_send_probes_until_then() {
    let text = "[shaping.default.backoff]\nleave_on_delivery = true\nprobe = '10m'\nmessage_rates = []\n\
                [[shaping.default.reply]]\nmatch = 'slow'\ndo = ['backoff']\n";
    let mut rig = rig(text);
    let key = rig.path("s", "a");
    rig.reply(key, 451, "slow");
    for _ in 0..3 {
        let (sent, hold) = rig.send_all(key, &MAIL);
        assert_eq!((sent, hold.until), (1, Some(rig.now + minutes(10))));
        assert!(matches!(hold.gate, Gate::Probe { .. }), "{hold:?}");
        rig.reply(key, 451, "slow");
        rig.pass(minutes(10));
    }
    assert_eq!(rig.reply(key, 250, "ok"), [Effect::BackoffLeft { path: key, why: Left::Delivery }]);
    assert!(rig.ask(key, &MAIL).is_ok());
}

#[test]
fn a_slowed_path_comes_back_step_by_step() {
    let text = "[shaping.default]\nmessage_rates = ['100/m']\nconnections = 8\n\
                [[shaping.default.reply]]\nmatch = 'slow'\ndo = ['slow 0.5 10m']\n";
    let mut rig = rig(text);
    let key = rig.path("s", "a");
    assert_eq!(rig.reply(key, 451, "slow"), [Effect::Slowed { path: key, factor: 0.5 }]);
    assert_eq!(rig.reply(key, 451, "slow"), [], "what was under way says the same once more");
    rig.pass(Duration::from_secs(30));
    assert_eq!(rig.reply(key, 451, "slow"), [Effect::Slowed { path: key, factor: 0.25 }]);
    assert_eq!(rig.send_all(key, &MAIL).0, 25);
    for (factor, sent) in [(0.5, 50), (1.0, 100)] {
        rig.pass(minutes(10));
        assert_eq!(rig.wake().effects, [Effect::Slowed { path: key, factor }]);
        assert_eq!(rig.send_all(key, &MAIL).0, sent);
    }
    assert_eq!((rig.wake().effects, rig.shaper.slowness(key)), (vec![], 1.0));
}

#[test]
fn rules_suspend_what_they_name_and_nothing_else() {
    let text = "[[shaping.default.reply]]\nmatch = 'path'\ndo = ['suspend path 2h']\n\
                [[shaping.default.reply]]\nmatch = 'queue'\ndo = ['suspend queue 1h']\n\
                [[shaping.default.reply]]\nmatch = 'tenant'\ndo = ['suspend tenant 1h']\n\
                [[shaping.default.reply]]\nmatch = 'campaign'\ndo = ['suspend campaign 1h']\n";
    let mut rig = rig(text);
    let (a, b, other) = (rig.path("s", "a"), rig.path("s", "b"), rig.path("t", "a"));
    let mine = MessageFacts { tenant: Some("mine"), campaign: Some("spring"), queue: 7, ..MAIL };
    let yours = MessageFacts { tenant: Some("yours"), campaign: Some("fall"), queue: 8, ..MAIL };
    let base = Attempted {
        tenant: mine.tenant,
        campaign: mine.campaign,
        queue: 7,
        domain: "d.test",
        ..Attempted::default()
    };
    for (word, scope) in
        [("tenant", HoldScope::Tenant), ("campaign", HoldScope::Campaign), ("queue", HoldScope::Queue)]
    {
        let effects = rig.reply_for(a, 451, word, &base);
        assert!(matches!(effects[..], [Effect::Suspended { .. }]), "{effects:?}");
        let hold = rig.ask(a, &mine).unwrap_err();
        assert_eq!((hold.scope, hold.until), (scope, Some(rig.now + minutes(60))));
        assert!(rig.ask(a, &yours).is_ok(), "{word}");
        // A tenant is suspended at the site, whatever the source; a queue wherever it goes.
        assert!(rig.ask(other, &mine).is_err());
        assert_eq!(rig.ask(b, &mine).is_ok(), word != "queue");
        assert_eq!(rig.shaper.listed().len(), 1);
        rig.pass(minutes(60));
        let woken = rig.wake();
        if word == "queue" {
            assert_eq!(woken.queues, [7]);
        } else {
            assert_eq!(woken.paths, [a, other]);
        }
        assert!(rig.ask(a, &mine).is_ok());
    }
    rig.reply_for(a, 451, "path", &base);
    assert_eq!(rig.ask(a, &yours).unwrap_err().scope, HoldScope::Path);
    assert!(rig.shaper.ask_connection(rig.now, a).is_err());
    assert!(rig.ask(b, &mine).is_ok() && rig.ask(other, &mine).is_ok());
}

#[test]
fn a_disabled_source_sends_nothing_anywhere_until_its_time() {
    let text = "[[shaping.default.reply]]\nmatch = 'blocked'\ndo = ['disable source 6h']\n";
    let mut rig = rig(text);
    let (a, b, other) = (rig.path("s", "a"), rig.path("s", "b"), rig.path("t", "a"));
    let effects = rig.reply(a, 554, "blocked");
    assert!(matches!(&effects[..], [Effect::SourceDisabled { source, .. }] if &**source == "s"));
    for key in [a, b] {
        assert_eq!(rig.ask(key, &MAIL).unwrap_err().scope, HoldScope::Source);
        assert_eq!(rig.shaper.ask_connection(rig.now, key).unwrap_err().scope, HoldScope::Source);
    }
    assert!(rig.ask(other, &MAIL).is_ok());
    assert_eq!(rig.reply(a, 554, "blocked"), []);
    rig.pass(minutes(360));
    let woken = rig.wake();
    assert_eq!(
        (woken.paths, woken.effects),
        (vec![a, b], vec![Effect::SourceEnabled { source: "s".into() }])
    );
    assert!(rig.ask(a, &MAIL).is_ok());
}

#[test]
fn effects_that_are_the_callers_are_told() {
    let text = "[[shaping.default.reply]]\nmatch = 'x'\ndo = ['bounce queue']\n\
                [[shaping.default.reply]]\nmatch = 'y'\ndo = ['skip exchanger 1h', 'pool slow']\n";
    let mut rig = rig(text);
    let key = rig.path("s", "a");
    let base = Attempted { queue: 3, domain: "d", exchanger: Some("mx1"), ..Attempted::default() };
    assert!(matches!(rig.reply_for(key, 554, "x", &base)[..], [Effect::BounceQueue { queue: 3, .. }]));
    let effects = rig.reply_for(key, 451, "y", &base);
    let [Effect::SkipExchanger { host: Some(host), length, .. }, Effect::MovePool { queue: 3, pool, .. }] =
        &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!((&**host, *length, &**pool), ("mx1", minutes(60), "slow"));
}

#[test]
fn a_rule_with_a_trigger_waits_for_it() {
    let text = "[[shaping.default.reply]]\nmatch = 'busy'\nwhen = '3/10m'\ndo = ['suspend path 1h']\n";
    let mut rig = rig(text);
    let key = rig.path("s", "a");
    for _ in 0..10 {
        assert_eq!(rig.reply(key, 451, "busy"), []);
        rig.pass(minutes(6));
    }
    rig.pass(minutes(10));
    assert_eq!((rig.reply(key, 451, "busy"), rig.reply(key, 451, "busy")), (vec![], vec![]));
    assert_eq!(rig.reply(key, 451, "busy").len(), 1);
}

#[test]
fn a_shared_limit_is_charged_by_all_its_paths() {
    let text =
        "[shaping.limit.all]\nsources = ['s*']\neach = ['site']\nmessage_rates = ['10/m']\nconnections = 2\n";
    let mut rig = rig(text);
    let (one, two) = (rig.path("s1", "a"), rig.path("s2", "a"));
    let (elsewhere, not_mine) = (rig.path("s1", "b"), rig.path("t", "a"));
    for n in 0..10 {
        let permit = rig.ask(if n % 2 == 0 { one } else { two }, &MAIL).unwrap();
        rig.spent(permit);
    }
    for key in [one, two] {
        let hold = rig.ask(key, &MAIL).unwrap_err();
        assert_eq!(hold.scope, HoldScope::Shared);
        assert_eq!(hold.gate.to_string(), "the limit shaping.limit.all (10/m) is used up");
        assert_eq!(hold.setting.origin.to_string(), "tuma.toml:4");
    }
    assert!(rig.ask(elsewhere, &MAIL).is_ok() && rig.ask(not_mine, &MAIL).is_ok());
    rig.shaper.ask_connection(rig.now, one).unwrap();
    rig.shaper.ask_connection(rig.now, two).unwrap();
    rig.shaper.connected(rig.now, one);
    let hold = rig.shaper.ask_connection(rig.now, one).unwrap_err();
    assert_eq!(hold.gate, Gate::Shared { name: "shaping.limit.all".into(), rate: None });
    rig.shaper.connect_failed(rig.now, two);
    rig.shaper.ask_connection(rig.now, one).unwrap();
}

#[test]
fn tenants_and_campaigns_have_limits_everywhere_and_at_sites() {
    let text = r#"
[shaping.tenant."*"]
message_rates = ["5/m"]
[shaping.tenant.Big]
message_rates = ["20/m"]
[shaping.tenant.Big.site."a"]
message_rates = ["8/m"]
[shaping.campaign.spring]
message_rates = ["3/m"]
"#;
    let mut rig = rig(text);
    let (a, b) = (rig.path("s", "a"), rig.path("s", "b"));
    let of = |tenant| MessageFacts { tenant: Some(tenant), ..MAIL };
    let (sent, hold) = rig.send_all(a, &of("big"));
    assert_eq!((sent, hold.scope), (8, HoldScope::Tenant));
    assert_eq!(hold.gate.to_string(), "the limit shaping.tenant.Big.site.a (8/m) is used up");
    assert_eq!(rig.send_all(b, &of("BIG")).0, 12, "twenty everywhere");
    assert_eq!(rig.send_all(b, &of("small")).0, 5);
    assert_eq!(rig.send_all(a, &of("other")).0, 5, "each tenant has its own count");
    assert!(rig.ask(a, &MAIL).is_ok());
    let (sent, hold) = rig.send_all(a, &MessageFacts { campaign: Some("spring"), ..MAIL });
    assert_eq!((sent, hold.scope), (3, HoldScope::Campaign));
}

const WARM: &str = "[shaping.default.source.new.warmup]\ncaps = [3, 5]\noverflow = ['old']\n";

#[test]
fn a_warm_up_counts_by_the_day_and_goes_over_to_other_sources() {
    let mut rig = rig(WARM);
    let (key, old) = (rig.path("new", "a"), rig.path("old", "a"));
    let other = rig.path("new", "b");
    let (sent, hold) = rig.send_all(key, &MAIL);
    assert_eq!((sent, hold.overflow, hold.gate), (3, true, Gate::WarmUp { sent: 3, cap: 3 }));
    assert_eq!(hold.until, Some(rig.now + minutes(720)));
    assert_eq!(hold.setting.to_string(), "shaping.default.source.new.warmup.caps = [3, 5] (tuma.toml:2)");
    assert_eq!(&*rig.shaper.profile(key).warmup.as_ref().unwrap().overflow, ["old".into()]);
    assert!(rig.ask(old, &MAIL).is_ok());
    assert_eq!(rig.send_all(other, &MAIL).0, 3, "each site has its own count");
    assert_eq!(rig.shaper.wake_at(), hold.until);
    rig.pass(minutes(720));
    assert_eq!(rig.wake().paths, [key, other]);
    assert_eq!(rig.send_all(key, &MAIL).0, 5);
    rig.pass(minutes(1440));
    let sent = (0..100).filter(|_| rig.ask(key, &MAIL).is_ok()).count();
    assert_eq!(sent, 100, "it is over");
}

#[test]
fn what_is_under_way_counts_for_the_warm_up() {
    let mut rig = rig(WARM);
    let key = rig.path("new", "a");
    let permits: Vec<_> = (0..3).map(|_| rig.ask(key, &MAIL).unwrap()).collect();
    assert!(rig.ask(key, &MAIL).is_err());
    rig.shaper.give_back(permits[0]);
    assert!(rig.ask(key, &MAIL).is_ok());
}

#[test]
fn a_warm_up_outlives_restarts_and_forgotten_paths() {
    let mut rig = rig(WARM);
    let key = rig.path("new", "a");
    assert_eq!(rig.send_all(key, &MAIL).0, 3);
    assert!(rig.shaper.forget_if_idle(rig.now, key));
    let key = rig.path("new", "a");
    assert_eq!(rig.send_all(key, &MAIL).0, 0);
    rig.restart(WARM, minutes(10));
    let key = rig.path("new", "a");
    assert_eq!(rig.send_all(key, &MAIL).0, 0);
    // Forgotten when it is cold, and saved again.
    assert!(rig.shaper.forget_if_idle(rig.now, key));
    rig.restart(WARM, minutes(720));
    let key = rig.path("new", "a");
    let (sent, hold) = rig.send_all(key, &MAIL);
    assert_eq!((sent, hold.gate), (5, Gate::WarmUp { sent: 5, cap: 5 }), "the second day");
}

#[test]
fn a_warm_up_may_begin_on_a_date() {
    let text =
        "[shaping.default.source.new.warmup]\nstart = 2\ngrowth = 2.0\nmax = 4\nbegins = '2026-11-24'\n";
    let mut rig = rig(text);
    let key = rig.path("new", "a");
    let begins = u64::from("2026-11-24".parse::<crate::Date>().unwrap().0);
    for (day, sent) in [(begins - 1, Some(0)), (begins, Some(2)), (begins + 1, Some(4)), (begins + 2, None)] {
        rig.shaper = Shaper::new(rules(text));
        rig.wall = day * wall::DAY_MS;
        let key = rig.shaper.path(rig.now, &facts("new", "a"));
        let went = (0..10).filter(|_| rig.ask(key, &MAIL).is_ok()).count();
        assert_eq!(went, sent.unwrap_or(10), "{day}");
    }
    assert_eq!(key, PathKey(0));
}

#[test]
fn a_clock_that_jumps_neither_ends_a_warm_up_nor_holds_for_years() {
    let mut rig = rig(WARM);
    let key = rig.path("new", "a");
    assert_eq!(rig.send_all(key, &MAIL).0, 3);
    let year = 365 * wall::DAY_MS;
    rig.wall += year;
    rig.now += Duration::from_secs(60);
    assert_eq!(rig.send_all(key, &MAIL).0, 0, "a year ahead is no new day");
    rig.wall -= 2 * year;
    rig.now += minutes(725);
    assert_eq!(rig.send_all(key, &MAIL).0, 0, "the jump is followed a tenth of the time");
    rig.now += minutes(150);
    assert_eq!(rig.send_all(key, &MAIL).0, 5, "a year back does not hold the next day");
}

#[test]
fn windows_and_states_outlive_a_restart() {
    let text = "[shaping.default]\nmessage_rates = ['100/s', '40/h']\n\
                [[shaping.default.reply]]\nmatch = 'back'\ndo = ['backoff 1h']\n\
                [[shaping.default.reply]]\nmatch = 'path'\ndo = ['suspend path 1h']\n\
                [[shaping.default.reply]]\nmatch = 'queue'\ndo = ['suspend queue 1h']\n\
                [[shaping.default.reply]]\nmatch = 'tenant'\ndo = ['suspend tenant 1h']\n\
                [[shaping.default.reply]]\nmatch = 'off'\ndo = ['disable source']\n\
                [[shaping.default.reply]]\nmatch = 'slow'\ndo = ['slow 0.5 1h']\n\
                [shaping.limit.all]\nsites = ['shared']\nmessage_rates = ['10/h']\n";
    let mut rig = rig(text);
    let keys = ["a", "b", "c", "d", "e", "shared"].map(|site| rig.path("s", site));
    assert_eq!(rig.send_all(keys[0], &MAIL).0, 40);
    let out = rig.ask(keys[5], &MAIL).unwrap();
    let _ = out;
    assert_eq!(rig.send_all(keys[5], &MAIL).0, 9);
    rig.reply(keys[1], 451, "back");
    rig.reply(keys[2], 451, "path");
    let base = Attempted { tenant: Some("mine"), queue: 4, domain: "d.test", ..Attempted::default() };
    rig.reply_for(keys[3], 451, "queue", &base);
    rig.reply_for(keys[3], 451, "tenant", &base);
    rig.reply(keys[4], 451, "slow");
    let gone = rig.path("gone", "a");
    rig.reply(gone, 451, "off");
    let before = rig.shaper.snapshot(rig.now, UnixMillis(rig.wall));
    rig.restart(text, minutes(20));

    // Saved again before anything is opened, it says the same, aged.
    let after = rig.shaper.snapshot(rig.now, UnixMillis(rig.wall));
    assert_eq!(after.paths.len(), before.paths.len());
    let keys = ["a", "b", "c", "d", "e", "shared"].map(|site| rig.path("s", site));
    let (sent, hold) = rig.send_all(keys[0], &MAIL);
    assert_eq!((sent, hold.gate), (0, Gate::MessageRate("40/h".parse().unwrap())));
    assert!(hold.until.is_some_and(|until| until > rig.now + minutes(39) && until < rig.now + minutes(41)));
    let hold = rig.ask(keys[5], &MAIL).unwrap_err();
    assert!(matches!(hold.gate, Gate::Shared { .. }), "what was out counts as spent: {hold:?}");
    let Mode::Backoff { until, by, .. } = rig.shaper.mode(keys[1]) else { panic!() };
    assert_eq!(
        (until, by.to_string().as_str()),
        (rig.now + minutes(40), "back (tuma.toml:4) on \"451 back\"")
    );
    assert_eq!(rig.ask(keys[2], &MAIL).unwrap_err().until, Some(rig.now + minutes(40)));
    let mine = MessageFacts { tenant: Some("mine"), queue: 9, ..MAIL };
    assert_eq!(rig.ask(keys[3], &mine).unwrap_err().scope, HoldScope::Tenant);
    let queue = MessageFacts { queue: 9, ..MAIL };
    assert!(rig.ask(keys[3], &queue).is_ok());
    let name = QueueName {
        tenant: Some("mine".into()),
        domain: "d.test".into(),
        pool: "pool".into(),
        campaign: None,
    };
    rig.shaper.queue_opened(9, &name);
    assert_eq!(rig.ask(keys[3], &queue).unwrap_err().scope, HoldScope::Queue);
    rig.shaper.queue_closed(9);
    assert!(rig.ask(keys[3], &queue).is_ok());
    assert_eq!(rig.shaper.slowness(keys[4]), 0.5);
    let gone = rig.path("gone", "b");
    let hold = rig.ask(gone, &MAIL).unwrap_err();
    assert_eq!((hold.scope, hold.until), (HoldScope::Source, None));
    assert_eq!(rig.shaper.release(Release::Source("gone")).len(), 1);
    assert!(rig.ask(gone, &MAIL).is_ok());
    rig.pass(minutes(41));
    rig.wake();
    assert_eq!(rig.shaper.listed(), []);
    assert_eq!(rig.send_all(keys[0], &MAIL).0, 40);
}

#[test]
fn a_wall_clock_that_went_back_holds_no_longer() {
    let text = "[[shaping.default.reply]]\nmatch = 'path'\ndo = ['suspend path 1h']\n";
    let mut rig = rig(text);
    let key = rig.path("s", "a");
    rig.reply(key, 451, "path");
    let snapshot = rig.shaper.snapshot(rig.now, UnixMillis(rig.wall));
    rig.wall -= 1_000 * wall::DAY_MS;
    rig.shaper = Shaper::new(rules(text));
    rig.shaper.restore(rig.now, UnixMillis(rig.wall), snapshot);
    let key = rig.path("s", "a");
    assert_eq!(rig.ask(key, &MAIL).unwrap_err().until, Some(rig.now + minutes(60)));
}

#[test]
fn a_reload_keeps_windows_whose_rate_stays_and_all_states() {
    let mut rig = rig("[shaping.default]\nmessage_rates = ['10/m', '20/h']\nconnections = 5\n\
                       [[shaping.default.reply]]\nmatch = 'back'\ndo = ['backoff 1h']\n\
                       [shaping.limit.all]\nmessage_rates = ['15/h']\n");
    let key = rig.path("s", "a");
    assert_eq!(rig.send_all(key, &MAIL).0, 10);
    let out = {
        rig.pass(minutes(1));
        rig.ask(key, &MAIL).unwrap()
    };
    rig.shaper.ask_connection(rig.now, key).unwrap();
    let new = "[shaping.default]\nmessage_rates = ['20/h', '100/d']\nconnections = 1\n\
               [shaping.limit.all]\nmessage_rates = ['15/h']\nconnections = 1\n";
    rig.shaper.set_rules(rig.now, rules(new));
    assert_eq!(rig.shaper.ask_connection(rig.now, key).unwrap_err().gate, Gate::Connections { limit: 1 });
    let other = rig.path("s", "b");
    let hold = rig.shaper.ask_connection(rig.now, other).unwrap_err();
    assert!(matches!(hold.gate, Gate::Shared { .. }), "open connections count under the new limit: {hold:?}");
    rig.spent(out);
    let (sent, hold) = rig.send_all(key, &MAIL);
    assert_eq!(
        (sent, hold.gate),
        (4, Gate::Shared { name: "shaping.limit.all".into(), rate: "15/h".parse().ok() })
    );
    rig.shaper.connected(rig.now, key);
    rig.shaper.closed(key);
    rig.shaper.ask_connection(rig.now, other).unwrap();
}

#[test]
fn a_domain_that_becomes_known_at_a_site_brings_its_limits() {
    let mut rig = rig("[shaping.domain.'big.test']\nmessage_rates = ['2/m']\n");
    let key = rig.path("s", "a");
    assert!(rig.shaper.profile(key).message_rates.is_empty());
    let with = PathFacts { domains: &["unknown.test", "big.test"], ..facts("s", "a") };
    assert_eq!(rig.shaper.path(rig.now, &with), key);
    assert_eq!(rig.send_all(key, &MAIL).0, 2);
    rig.shaper.set_domains(rig.now, key, &[]);
    assert_eq!(rig.ask(key, &MAIL), Ok(Permit::FREE));
}

#[test]
fn an_idle_path_is_forgotten_and_a_busy_one_is_not() {
    let mut rig = rig(BACKOFF);
    let key = rig.path("s", "a");
    let permit = rig.ask(key, &MAIL).unwrap();
    assert!(!rig.shaper.forget_if_idle(rig.now, key), "a message is under way");
    rig.spent(permit);
    assert!(!rig.shaper.forget_if_idle(rig.now, key), "its window knows of it");
    rig.pass(minutes(1));
    rig.shaper.ask_connection(rig.now, key).unwrap();
    assert!(!rig.shaper.forget_if_idle(rig.now, key), "a connection is being opened");
    rig.shaper.connect_failed(rig.now, key);
    assert!(!rig.shaper.forget_if_idle(rig.now, key), "it could not be reached");
    rig.pass(minutes(1));
    rig.reply(key, 421, "too fast");
    assert!(!rig.shaper.forget_if_idle(rig.now, key), "it is in backoff");
    rig.pass(minutes(30));
    rig.wake();
    assert!(rig.shaper.forget_if_idle(rig.now, key));
    assert_eq!(rig.shaper.sizes(), (0, 0, 0));
}

#[test]
fn counts_of_tenants_that_send_no_more_are_forgotten() {
    let mut rig = rig("[shaping.tenant.'*']\nmessage_rates = ['5/m']\n");
    let key = rig.path("s", "a");
    for n in 0..1_000 {
        let tenant = format!("tenant{n}");
        let permit = rig.ask(key, &MessageFacts { tenant: Some(&tenant), ..MAIL }).unwrap();
        rig.spent(permit);
    }
    assert_eq!(rig.shaper.sizes().1, 1_000);
    rig.pass(minutes(2));
    for _ in 0..200 {
        rig.wake();
    }
    assert_eq!(rig.shaper.sizes().1, 0);
}

#[test]
fn explanations_show_every_gate_by_the_checks_that_decide() {
    let mut rig = rig(BACKOFF);
    let key = rig.path("s", "a");
    for _ in 0..3 {
        let permit = rig.ask(key, &MAIL).unwrap();
        rig.spent(permit);
    }
    rig.reply(key, 421, "too fast");
    rig.send_all(key, &MAIL);
    let gates = rig.shaper.gates(rig.now, UnixMillis(rig.wall), key, &MAIL);
    let shown: Vec<String> = gates
        .iter()
        .map(|gate| format!("{} {}/{} {}", gate.setting.name, gate.used, gate.limit, gate.hold.is_some()))
        .collect();
    assert_eq!(
        shown,
        [
            "shaping.default.backoff.connections 0/1 false",
            "shaping.default.backoff.message_rates 2/2 true",
            "shaping.default.message_rates 5/100 false",
        ]
    );
    let hold = rig.ask(key, &MAIL).unwrap_err();
    assert!(gates.iter().any(|gate| gate.hold.as_ref() == Some(&hold)));
}

/// A receiver that tolerates so many messages in a second and defers the rest.
fn adapt(tolerated: u64, seconds: u64) -> (f64, f64, Vec<u64>) {
    let mut rig = rig("[shaping.default.adaptive]\nmin = '1/s'\nmax = '500/s'\nwindow = '10s'\n");
    let key = rig.path("s", "a");
    let (mut delivered, mut deferred, mut limits) = (0u64, 0u64, Vec::new());
    for second in 0..seconds {
        let mut here = 0;
        for tick in 0..20 {
            while let Ok(permit) = rig.ask(key, &MAIL) {
                rig.spent(permit);
                here += 1;
                let code = if here > tolerated { 421 } else { 250 };
                if second >= seconds / 2 {
                    (delivered, deferred) =
                        (delivered + u64::from(code == 250), deferred + u64::from(code == 421));
                }
                rig.reply(key, code, "slow down, please");
            }
            assert!(tick < 20);
            rig.pass(Duration::from_millis(50));
        }
        limits.push(rig.shaper.adaptive_limit(key).unwrap());
    }
    let half = (seconds - seconds / 2) as f64;
    (delivered as f64 / (tolerated as f64 * half), deferred as f64 / (delivered + deferred) as f64, limits)
}

#[test]
fn the_adaptive_rate_finds_what_a_receiver_tolerates() {
    for tolerated in [5, 40, 200] {
        let (used, deferrals, limits) = adapt(tolerated, 1_200);
        assert!(used > 0.75, "{tolerated}/s: {used:.2} used, {deferrals:.3} deferred, {limits:?}");
        assert!(deferrals < 0.05, "{tolerated}/s: {used:.2} used, {deferrals:.3} deferred");
    }
    let (.., limits) = adapt(1_000, 900);
    assert_eq!(limits.last(), Some(&500), "a receiver that tolerates more gets the most");
    assert_eq!(adapt(40, 100), adapt(40, 100), "the same each time");
}

#[test]
fn an_idle_path_is_small() {
    // The names of source and site come on top, and two entries in maps.
    assert!(std::mem::size_of::<state::PathState>() <= 304, "{}", std::mem::size_of::<state::PathState>());
    assert!(std::mem::size_of::<Permit>() == 8);
}
