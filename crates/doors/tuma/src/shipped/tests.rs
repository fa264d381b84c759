//! Each shipped rule meets the replies it is for, and no other rule takes them from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mail::Reply;
use regex_syntax::hir::{Hir, HirKind};
use shaping::{Action, PathFacts, Profile, Rule, Rules, Stage, Suspended};
use smtp::client::ReplyReader;

use super::*;

/// Least length of a text that must stand in any reply a rule matches, so that it is tried on few others.
const REQUIRED_MIN: usize = 4;
/// Least number of lines of replies.
const REPLIES_MIN: usize = 250;
/// Stands for every provider in a line.
const EVERY: &str = "*";
/// Stands for no provider, no rule or no action in a line.
const NONE: &str = "-";

fn rules() -> (Shipped, Rules) {
    let shipped = Shipped::read().unwrap_or_else(|report| panic!("{report}"));
    let layers: Vec<Layer<'_>> = shipped.layers().collect();
    let rules = Rules::compile(&layers).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    drop(layers);
    (shipped, rules)
}

fn providers(shipped: &Shipped) -> BTreeSet<&str> {
    shipped.files.iter().flat_map(|file| file.config.provider.keys()).map(String::as_str).collect()
}

fn profile(rules: &Rules, provider: Option<&str>) -> Arc<Profile> {
    rules.profile(&PathFacts { site: "mx.example.net", provider, domains: &[], pool: "", source: "" })
}

/// A line of `rules/replies`: `provider | stage | reply | rule | first action`. The reply is as it comes over the
/// wire, with `\n` between its lines.
struct Line {
    place: String,
    provider: String,
    stage: Stage,
    reply: Reply,
    rule: Option<String>,
    action: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rules/replies")
}

/// Lines of data in a text, with their places; `#` begins a comment, at the beginning of a line only.
fn data<'a>(name: &'a str, text: &'a str) -> impl Iterator<Item = (String, Vec<&'a str>)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(move |(n, line)| (format!("{name}:{}", n + 1), line.split(" | ").map(str::trim).collect()))
}

fn reply(place: &str, text: &str) -> Reply {
    let wire = text.replace("\\n", "\r\n") + "\r\n";
    let mut rest = wire.as_bytes();
    let reply = ReplyReader::default().read(&mut rest);
    let reply = reply.unwrap_or_else(|error| panic!("{place}: {error}"));
    let reply = reply.unwrap_or_else(|| panic!("{place}: the reply does not end"));
    assert!(rest.is_empty(), "{place}: there is more after the reply");
    reply
}

fn lines() -> Vec<Line> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let some = |text: &str| (text != NONE).then(|| text.to_string());
    let mut lines = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for (place, fields) in data(&name, &text) {
            let [provider, stage, text, rule, action] = fields[..] else {
                panic!("{place}: five fields are needed");
            };
            let stage = Stage::ALL.iter().copied().find(|known| known.word() == stage);
            lines.push(Line {
                stage: stage.unwrap_or_else(|| panic!("{place}: there is no such stage")),
                provider: provider.to_string(),
                reply: reply(&place, text),
                rule: some(rule),
                action: some(action),
                place,
            });
        }
    }
    lines
}

/// Every shipped rule with the provider it is for.
fn all_rules(shipped: &Shipped) -> Vec<(String, shaping::ReplyRule)> {
    let mut all = Vec::new();
    for file in &shipped.files {
        let config = &file.config;
        all.extend(config.default.reply.iter().map(|rule| (NONE.to_string(), rule.clone())));
        for (name, scope) in &config.provider {
            all.extend(scope.reply.iter().map(|rule| (name.clone(), rule.clone())));
        }
    }
    all
}

#[test]
fn each_reply_meets_the_rule_that_is_for_it() {
    let (shipped, rules) = rules();
    let known = providers(&shipped);
    let lines = lines();
    assert!(lines.len() >= REPLIES_MIN, "only {} lines", lines.len());
    let mut wrong = Vec::new();
    for line in &lines {
        let given: Vec<Option<&str>> = match line.provider.as_str() {
            EVERY => known.iter().map(|name| Some(*name)).chain([None]).collect(),
            NONE => vec![None],
            name if known.contains(name) => vec![Some(name)],
            name => panic!("{}: there is no provider {name}", line.place),
        };
        for provider in given {
            let fired = rules.verdict(&profile(&rules, provider), line.stage, &line.reply);
            let rule: Option<&Arc<Rule>> = fired.as_ref().map(|fired| fired.rule.rule());
            let name = rule.map(|rule| rule.name.to_string());
            let action = rule.and_then(|rule| rule.actions.first()).map(ToString::to_string);
            if (&name, &action) != (&line.rule, &line.action) {
                wrong.push(format!(
                    "{}: at {provider:?}, {name:?} {action:?}, not {:?} {:?}: {}",
                    line.place, line.rule, line.action, line.reply
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_rule_is_without_a_reply() {
    let (shipped, _) = rules();
    // A rule of a provider's must be met at that provider, one of the default rules anywhere.
    let met: BTreeSet<String> = lines().into_iter().filter_map(|line| line.rule).collect();
    let mut names = BTreeSet::new();
    for (provider, rule) in all_rules(&shipped) {
        let name = rule.name.unwrap_or_else(|| panic!("a rule of {provider} has no name"));
        assert!(met.contains(&name), "{name} has no reply in {}", folder().display());
        let own = provider == NONE || name.starts_with(&format!("{provider}-"));
        assert!(own, "{name} does not begin with {provider}, and logs say only the name");
        assert!(names.insert(name.clone()), "two rules are called {name}");
    }
}

/// Length of the longest text that must stand in whatever matches.
fn required(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().map(required).max().unwrap_or_default(),
        HirKind::Alternation(parts) => parts.iter().map(required).min().unwrap_or_default(),
        _ => 0,
    }
}

#[test]
fn each_pattern_has_a_text_to_look_for() {
    let (shipped, _) = rules();
    let mut wrong = Vec::new();
    for (_, rule) in all_rules(&shipped) {
        let length = required(&regex_syntax::parse(&rule.r#match).unwrap());
        if length < REQUIRED_MIN {
            wrong.push(format!("{:?} requires only {length} octets: {}", rule.name, *rule.r#match));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_shipped_rule_loses_mail() {
    let (shipped, _) = rules();
    for (provider, rule) in all_rules(&shipped) {
        for action in rule.r#do.iter().map(|action| &action.0) {
            // A receiver's block is no reason to give up what waits, to stop a source everywhere, or to make final
            // what the receiver calls temporary. A tenant is the operator's to judge, and pools are his to name.
            let strong = matches!(
                action,
                Action::BounceQueue
                    | Action::Permanent
                    | Action::DisableSource(_)
                    | Action::Pool(_)
                    | Action::Suspend(Suspended::Tenant | Suspended::Campaign, _)
            );
            assert!(!strong, "{:?} of {provider} does `{action}`", rule.name);
            if let Action::Suspend(_, time) | Action::Backoff(Some(time)) = action {
                assert!(time.as_secs() <= 4 * 3600, "{:?} of {provider} does `{action}`", rule.name);
            }
        }
    }
}

#[test]
fn each_provider_is_told_by_its_exchangers() {
    let (shipped, rules) = rules();
    let mut met = BTreeSet::new();
    let text = include_str!("../../rules/sites.txt");
    for (place, fields) in data("sites.txt", text) {
        let [domain, exchangers, provider, site] = fields[..] else {
            panic!("{place}: four fields are needed")
        };
        let exchangers: Vec<&str> = exchangers.split(' ').collect();
        let found = rules.site(domain, &exchangers);
        let shown = (found.provider.as_deref().unwrap_or(NONE).to_string(), found.name.to_string());
        assert_eq!(shown, (provider.to_string(), site.to_string()), "{place}");
        met.insert(provider.to_string());
    }
    for provider in providers(&shipped) {
        assert!(met.contains(provider), "{provider} has no line in rules/sites.txt");
    }
}

#[test]
fn no_two_files_say_anything_of_one_provider() {
    let (shipped, _) = rules();
    let mut of: BTreeMap<&str, usize> = BTreeMap::new();
    for (n, file) in shipped.files.iter().enumerate() {
        for name in file.config.provider.keys() {
            assert_eq!(of.insert(name, n), None, "{name} stands in {} too", FILES[n].0);
        }
    }
}

#[test]
fn an_operator_overrides_one_field_and_puts_a_rule_before() {
    let (shipped, _) = rules();
    let own = r#"
        [shaping.provider.gmail]
        connections = 3

        [[shaping.provider.gmail.reply]]
        name = "mine"
        match = '^421 4\.7\.28 '
        do = ["suspend path 6h"]
    "#;
    let own = config::load_text::<ShippedFile>("tuma.toml", own, &|_| None).unwrap();
    let place = |place: Place| origin(&own.warnings.sources, place);
    let mut layers: Vec<Layer<'_>> = shipped.layers().collect();
    layers.push(Layer { config: &own.value.shaping, origin: &place });
    let rules = Rules::compile(&layers).unwrap();
    let profile = profile(&rules, Some("gmail"));
    let shown = |name: &str| {
        let value = match name {
            "connections" => profile.connections.at.to_string(),
            _ => profile.messages_per_connection.at.to_string(),
        };
        value.split_once(" = ").unwrap().1.to_string()
    };
    assert_eq!(shown("connections"), "3 (tuma.toml:3)");
    let line = FILES[1].1.lines().position(|line| line.starts_with("messages_per_connection")).unwrap() + 1;
    assert_eq!(shown("messages_per_connection"), format!("50 (shipped/google.toml:{line})"));
    let rate = "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail.\\n421 4.7.28 a - gsmtp";
    let fired = rules.verdict(&profile, Stage::End, &reply("here", rate)).unwrap();
    assert_eq!(&*fired.rule.rule().name, "mine");
}

#[test]
fn the_files_can_be_printed_and_read_again() {
    let printed = print();
    for (name, text) in FILES {
        assert!(printed.contains(&format!("# ---- shipped/{name}\n")) && printed.contains(text));
    }
    let loaded = config::load_text::<ShippedFile>("all.toml", &printed, &|_| None);
    let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(loaded.value.shaping.provider.len(), providers(&Shipped::read().unwrap()).len());
}

#[test]
fn the_examples_of_the_page_are_right() {
    let page = include_str!("../../../../../docs/shaping.md");
    let examples: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 3, "the page has lost its examples");
    for example in examples {
        let loaded = config::load_text::<crate::root::Root>("docs/shaping.md", example, &|_| None);
        let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
        let place = |place: Place| origin(&loaded.warnings.sources, place);
        Rules::compile(&[Layer { config: &loaded.value.shaping, origin: &place }]).unwrap();
    }
}

/// The table of the page: what is shipped for each provider.
fn table(shipped: &Shipped) -> String {
    let mut text = String::from(
        "| provider | file | exchangers | one site | connections | messages each | reply rules |\n|---|---|---|---|---|---|---|\n",
    );
    for (file, (name, _)) in shipped.files.iter().zip(FILES) {
        for (provider, scope) in &file.config.provider {
            let exchangers: Vec<String> =
                scope.exchangers.iter().flatten().map(|pattern| format!("`{}`", pattern.0)).collect();
            let site = if scope.rollup == Some(true) { "yes" } else { "no" };
            let number = |value: Option<u32>| value.map_or("default".into(), |value| value.to_string());
            let _ = writeln!(
                text,
                "| {provider} | `{name}` | {} | {site} | {} | {} | {} |",
                exchangers.join(" "),
                number(scope.connections.as_ref().map(|value| value.value)),
                number(scope.messages_per_connection.as_ref().map(|value| value.value)),
                scope.reply.len(),
            );
        }
    }
    text
}

#[test]
fn the_page_lists_what_is_shipped() {
    let (shipped, _) = rules();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/shaping.md");
    let page = std::fs::read_to_string(page).unwrap();
    let table = table(&shipped);
    assert!(page.contains(&table), "docs/shaping.md does not hold this table:\n\n{table}");
    let names: Vec<String> = all_rules(&shipped)
        .into_iter()
        .filter(|(provider, _)| provider == NONE)
        .map(|(_, rule)| format!("`{}`", rule.name.unwrap_or_default()))
        .collect();
    let names = names.join(", ");
    assert!(page.contains(&names), "docs/shaping.md does not hold these names:\n\n{names}");
}
