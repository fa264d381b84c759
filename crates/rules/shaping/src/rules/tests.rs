//! What the configuration means: which value holds on which path, which site, which rule.

use std::net::IpAddr;

use mail::Reply;

use super::*;
use crate::config::tests::compile;
use crate::{Rate, Stage};

const fn facts<'a>(site: &'a str, provider: Option<&'a str>, source: &'a str) -> PathFacts<'a> {
    PathFacts { site, provider, domains: &[], pool: "", source }
}

const SHIPPED: &str = r#"
[shaping.default]
connections = 15

[shaping.provider.gmail]
exchangers = ["*.google.com", "*.googlemail.com"]
domains = ["gmail.com", "googlemail.com"]
rollup = true
connections = 10
message_rates = ["20/s"]

[[shaping.provider.gmail.reply]]
name = "shipped"
match = 'unusual rate'
do = ["backoff"]

[[shaping.provider.gmail.reply]]
match = '^550 5\.7\.26 '
do = ["suspend path 1h"]
"#;

const OWN: &str = r#"
[shaping.default]
expire_after = "3d"

[shaping.provider.gmail]
messages_per_connection = 50

[shaping.provider.gmail.pool.bulk]
connections = 6
message_rates = ["5/s", "1000/h"]

[shaping.provider.gmail.source.new]
connections = 2

[[shaping.provider.gmail.reply]]
name = "own"
match = 'unusual RATE'
stage = ["end", "greeting"]
do = ["backoff 2h"]

[[shaping.default.reply]]
match = 'mailbox full'
do = ["temporary"]

[shaping.site."mx1.example.net,mx2.example.net"]
connections = 3

[shaping.domain."big.example"]
connections = 8
message_rates = ["9/s"]

[shaping.domain."*.example"]
connections = 7
message_rates = ["100/m"]
rollup = false

[shaping.domain."shared.example"]
rollup = true
"#;

fn both() -> Rules {
    compile(&[("shipped.toml", SHIPPED), ("tuma.toml", OWN)])
}

#[test]
fn the_most_specific_value_holds_field_by_field_and_knows_its_line() {
    let rules = both();
    let shown = |set: &Traced<u32>| set.at.to_string();
    let profile = rules.profile(&facts("a", None, "s"));
    assert_eq!(shown(&profile.connections), "shaping.default.connections = 15 (shipped.toml:3)");
    assert_eq!(
        shown(&profile.recipients_per_transaction),
        "shaping.default.recipients_per_transaction = 100 (default)"
    );
    let profile = rules.profile(&facts("gmail", Some("gmail"), "s"));
    assert_eq!(shown(&profile.connections), "shaping.provider.gmail.connections = 10 (shipped.toml:9)");
    assert_eq!(
        shown(&profile.messages_per_connection),
        "shaping.provider.gmail.messages_per_connection = 50 (tuma.toml:6)"
    );
    assert_eq!(
        profile.message_rates.at.to_string(),
        "shaping.provider.gmail.message_rates = [\"20/s\"] (shipped.toml:10)"
    );
    assert_eq!(profile.expire_after.as_ref().unwrap().at.origin.to_string(), "tuma.toml:3");
    let profile = rules.profile(&PathFacts { pool: "bulk", ..facts("gmail", Some("gmail"), "new") });
    assert_eq!(
        shown(&profile.connections),
        "shaping.provider.gmail.source.new.connections = 2 (tuma.toml:13)"
    );
    assert_eq!(profile.message_rates.value, ["5/s", "1000/h"].map(|rate| rate.parse::<Rate>().unwrap()));
}

#[test]
fn of_several_domains_at_a_site_the_tighter_numbers_and_all_rates_hold() {
    let rules = both();
    assert!(rules.names_domain("big.example") && rules.names_domain("x.example"));
    assert!(!rules.names_domain("x.test"));
    let at = |domains| rules.profile(&PathFacts { domains, ..facts("s", None, "s") });
    assert_eq!(at(&["big.example"]).connections.value, 8, "a name goes before a pattern");
    let profile = at(&["big.example", "x.example"]);
    assert_eq!(profile.connections.value, 7);
    assert_eq!(profile.message_rates.value.len(), 2);
}

#[test]
fn paths_under_the_same_scopes_share_one_profile() {
    let rules = both();
    let one = rules.profile(&facts("a", None, "s"));
    assert!(Arc::ptr_eq(&one, &rules.profile(&facts("b", None, "t"))));
    assert!(!Arc::ptr_eq(&one, &rules.profile(&facts("gmail", Some("gmail"), "s"))));
}

#[test]
fn a_layer_may_do_without_the_shipped_rules() {
    let rules = compile(&[("shipped.toml", SHIPPED), ("tuma.toml", "[shaping]\nshipped = false")]);
    assert_eq!(rules.profile(&facts("gmail", Some("gmail"), "s")).connections.value, 20);
    assert_eq!(rules.site("gmail.com", &["gmail-smtp-in.l.google.com"]).provider, None);
}

#[test]
fn domains_belong_to_sites() {
    let rules = both();
    for (domain, exchangers, name, provider) in [
        ("gmail.com", vec!["gmail-smtp-in.l.google.com"], "gmail", Some("gmail")),
        ("corp.test", vec!["ASPMX.l.google.com.", "alt1.aspmx.l.google.com"], "gmail", Some("gmail")),
        ("mixed.test", vec!["aspmx.l.google.com", "mx.other.test"], "aspmx.l.google.com,mx.other.test", None),
        ("a.test", vec!["MX2.example.net", "mx1.example.net."], "mx1.example.net,mx2.example.net", None),
        (
            "b.test",
            vec!["mx1.example.net", "mx2.example.net", "mx1.example.net"],
            "mx1.example.net,mx2.example.net",
            None,
        ),
        ("x.example", vec!["mx1.example.net"], "x.example", None),
        ("shared.example", vec!["mx1.example.net"], "mx1.example.net", None),
        ("None.test", vec![], "none.test", None),
        ("googlemail.com", vec!["elsewhere.test"], "gmail", Some("gmail")),
    ] {
        let site = rules.site(domain, &exchangers);
        assert_eq!((&*site.name, site.provider.as_deref()), (name, provider), "{domain}");
    }
    let many: Vec<String> = (0..50).map(|n| format!("mx{n:02}.long-name.example.net")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let site = rules.site("many.test", &many);
    assert!(site.name.starts_with("mx00.long-name.example.net+49#") && site.name.len() < 60, "{}", site.name);
    assert_eq!(site, rules.site("other.test", &many));
}

#[test]
fn the_first_matching_rule_of_the_most_specific_scope_is_taken() {
    let rules = both();
    assert_eq!(rules.reply_rules(), 4);
    let gmail = rules.profile(&facts("gmail", Some("gmail"), "s"));
    let other = rules.profile(&facts("a", None, "s"));
    let fired = |profile: &Profile, stage, code, text: &'static str| {
        let enhanced = if code == 550 { (5, 7, 26) } else { (4, 7, 28) };
        let fired = rules.verdict(profile, stage, &Reply::new(code, enhanced, text))?;
        Some((fired.rule.rule().name.to_string(), fired.treat))
    };
    let named = |name: &str| Some((name.to_string(), None));
    assert_eq!(fired(&gmail, Stage::End, 421, "an Unusual Rate of mail"), named("own"));
    assert_eq!(fired(&gmail, Stage::Mail, 421, "an unusual\nrate of mail"), named("shipped"));
    assert_eq!(fired(&other, Stage::End, 421, "an unusual rate of mail"), None);
    assert_eq!(fired(&gmail, Stage::End, 550, "unauthenticated"), named(r"^550 5\.7\.26 "));
    assert_eq!(
        fired(&other, Stage::Rcpt, 550, "Mailbox FULL"),
        Some(("mailbox full".into(), Some(Treat::Temporary)))
    );
    let full = rules.verdict(&other, Stage::Rcpt, &Reply::new(550, (5, 2, 2), "mailbox full")).unwrap();
    assert_eq!(full.rule.rule().at.to_string(), "shaping.default.reply[0] = mailbox full (tuma.toml:22)");
}

#[test]
fn the_fast_way_finds_what_trying_each_pattern_finds() {
    // Patterns of every shape, against texts made of their pieces.
    let shapes = [
        "blocked",
        "^421 ",
        r"4\.7\.\d",
        "(?i)Spam",
        "spam|abuse|virus",
        "a.*b",
        "[sk]ick",
        "rate (limit|exceed)",
        "über",
        "x{2,3}y",
        "(foo)?bar",
        r"\bRBL\b",
        "\u{212a}",
        "s+",
        "^$",
        "temporar(y|ily)|later",
    ];
    let text: String = shapes
        .iter()
        .enumerate()
        .map(|(n, shape)| format!("[[shaping.default.reply]]\nname = '{n}'\nmatch = '{shape}'\ndo = []\n"))
        .collect();
    let rules = compile(&[("t.toml", &text)]);
    let profile = rules.profile(&facts("a", None, "s"));
    let plain: Vec<regex::Regex> = shapes
        .iter()
        .map(|shape| regex::RegexBuilder::new(shape).case_insensitive(true).build().unwrap())
        .collect();
    let pieces = [
        "BLOCKED",
        " ",
        "4.7.1",
        "spam",
        "Virus",
        "a",
        "b",
        "\u{212a}ick",
        "rate ",
        "LIMIT",
        "Über",
        "xxy",
        "bar",
        "rbl",
        "s",
        "ſ",
        "later",
        "Temporarily",
        "\n",
        "z",
    ];
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut matched = 0;
    for _ in 0..3_000 {
        let text: String = (0..next(6)).map(|_| pieces[next(pieces.len())]).collect();
        let reply = Reply::bare(if next(2) == 0 { 421 } else { 550 }, text);
        let mut subject = String::new();
        replies::subject(&reply, &mut subject);
        let expected = plain.iter().position(|regex| regex.is_match(&subject)).map(|n| n.to_string());
        let found =
            rules.verdict(&profile, Stage::End, &reply).map(|fired| fired.rule.rule().name.to_string());
        assert_eq!(found, expected, "{subject:?}");
        matched += usize::from(found.is_some());
    }
    assert!((500..3_000).contains(&matched), "{matched} of 3000 matched");
}

#[test]
fn exchangers_have_limits_of_their_own() {
    let text = r#"
[shaping.exchanger."mx*.example.net"]
connections = 5
[shaping.exchanger."mx1.example.net"]
connections = 9
[shaping.exchanger."192.0.2.0/24"]
message_rates = ["10/m"]
"#;
    let rules = compile(&[("t.toml", text)]);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let counted = |host: &str, address: &str| -> Vec<(String, Option<u32>)> {
        let limits = rules.exchanger_limits(host, ip(address));
        limits
            .iter()
            .map(|limit| (limit.counted.to_string(), limit.connections.as_ref().map(|set| set.value)))
            .collect()
    };
    assert_eq!(counted("MX7.example.net.", "198.51.100.1"), [("mx7.example.net".into(), Some(5))]);
    assert_eq!(
        counted("mx1.example.net", "192.0.2.7"),
        [("192.0.2.0/24".into(), None), ("mx1.example.net".into(), Some(9))]
    );
    assert_eq!(counted("other.test", "198.51.100.1"), []);
}

#[test]
fn a_warm_up_grows_and_ends() {
    let caps = Caps::Growth { start: 100, factor: 1.5, max: 300 };
    assert_eq!([0, 1, 2, 3].map(|day| caps.on(day)), [Some(100), Some(150), Some(225), None]);
    assert_eq!(caps.on(u32::MAX), None);
    assert_eq!(Caps::List(vec![50, 80]).on(2), None);
}
