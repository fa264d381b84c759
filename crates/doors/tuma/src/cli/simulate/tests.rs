//! The example, the page, and what simulated receivers say to the shipped rules.

use super::*;
use crate::shipped::Shipped;
use shaping::{Action, Layer, PathFacts, Rules};
use simulator::{Phrasebook, Refusal, Replies};

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."))
}

fn example() -> Loaded<Traffic> {
    let path = repository().join("examples/campaign.toml");
    let loaded = config::load::<Traffic>(&path, &|_| None).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(loaded.warnings.to_string(), "");
    loaded
}

fn root(more: &str) -> Loaded<Root> {
    let text = format!(
        "hostname = \"relay.test\"\n[listener.smtp]\nlisten = \"127.0.0.1:25\"\n[spool]\ndirectory = \"/spool\"\n{more}"
    );
    config::load_text::<Root>("tuma.toml", &text, &|_| None).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn the_reference_is_fresh() {
    let path = repository().join("docs/reference/traffic.md");
    assert_eq!(config::stale(&path, &reference()), None);
    assert_eq!(settings::mistakes(&<Traffic as settings::Setting>::schema()), Vec::<String>::new());
}

#[test]
fn the_example_tells_when_it_is_through_and_what_it_waited_for() {
    let mut traffic = example().value;
    // Some receivers are never there; that they are given up after five days is not waited for.
    traffic.world.lasts = Duration::from_secs(4 * 3_600);
    let run = || {
        let setup = setup(&root("")).unwrap_or_else(|error| panic!("{error:#}"));
        let mut simulation = Simulation::new(Instant::now(), setup, &traffic, 1).expect("the world is sound");
        simulation.run();
        simulation.report()
    };
    let report = run();
    assert_eq!((report.limits_broken, report.first_broken.clone(), report.to_come), (0, None, 0));
    // Gmail throttles, and its rule keeps most of its mail for later.
    assert!(report.outcomes.delivered > report.accepted / 2, "{:?}", report.outcomes);
    let gmail = report.receivers.iter().find(|kind| kind.name == "gmail").expect("it is in the example");
    let places: Vec<&str> =
        gmail.held.iter().filter_map(|held| Some(held.setting.as_ref()?.2.as_str())).collect();
    assert!(places.iter().any(|place| place.starts_with("shipped/google.toml:")), "{places:?}");
    let text = as_text(&report);
    for expected in
        ["no configured limit was exceeded", "campaign newsletter: ", "50 % after ", "receiver gmail: "]
    {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let json = as_json(&report, 1);
    assert_eq!(json["outcomes"]["delivered"], report.outcomes.delivered);
    assert_eq!(json, as_json(&run(), 1), "the same seed gives the same answer");
    assert!(drawing(&report).contains("gmail: delivered"));
}

#[test]
fn mistakes_in_traffic_are_shown_where_they_stand() {
    let text = "[receiver.gmail]\n[campaign.a]\nmessages = 5\n[campaign.a.to]\ngmial = 1\n";
    let report =
        config::load_text::<Traffic>("campaign.toml", text, &|_| None).expect_err("gmial is no receiver");
    let printed = report.to_string();
    assert!(printed.contains("campaign.toml:5:"), "{printed}");
    assert!(
        printed.contains("no receiver is called `gmial`") && printed.contains("did you mean `gmail`?"),
        "{printed}"
    );
}

#[test]
fn a_pool_that_is_not_configured_is_told_with_its_place() {
    let text = "[receiver.x]\n[campaign.a]\nmessages = 5\npool = \"bluk\"\nto = { x = 1 }\n";
    let traffic =
        config::load_text::<Traffic>("campaign.toml", text, &|_| None).expect("it is sound by itself");
    let more = "[source.s1]\nv4 = \"192.0.2.1\"\n[pool.bulk]\nsources = { s1 = 1 }\n";
    let setup = setup(&root(more)).expect("it is sound");
    let error = check_pools(&traffic, &setup).expect_err("there is no such pool").to_string();
    assert!(error.contains("campaign.toml:4") && error.contains("did you mean `bulk`?"), "{error}");
}

/// A receiver that throttles in its own words meets the rule for them, which does something.
#[test]
fn what_simulated_receivers_say_fires_the_shipped_rules() {
    let shipped = Shipped::read().unwrap_or_else(|report| panic!("{report}"));
    let layers: Vec<Layer<'_>> = shipped.layers().collect();
    let rules = Rules::compile(&layers).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    let words = [
        (Replies::Plain, None),
        (Replies::Gmail, Some("gmail")),
        (Replies::Outlook, Some("outlook")),
        (Replies::Yahoo, Some("yahoo")),
    ];
    for (replies, provider) in words {
        let facts = PathFacts { site: "mx.example.net", provider, domains: &[], pool: "", source: "" };
        let (profile, phrases) = (rules.profile(&facts), Phrasebook::new(replies));
        for refusal in
            [Refusal::Connections, Refusal::ConnectionRate, Refusal::Rate, Refusal::Daily, Refusal::Blocked]
        {
            let said = phrases.say(refusal);
            let fired = rules.verdict(&profile, said.stage, &said.reply);
            let fired = fired.unwrap_or_else(|| panic!("{replies}, {refusal:?}: no rule for {}", said.shown));
            let acts = fired.rule.rule().actions.iter().any(|action| !matches!(action, Action::Notify));
            assert!(acts, "{replies}, {refusal:?}: {} does nothing", fired.rule.rule().name);
        }
    }
}
