//! `tuma simulate`: when would this mail be through, under this configuration?

use crate::config::{self, Loaded};
use crate::root::Root;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use settings::show_duration;
use simulator::{CampaignReport, KindReport, Report, Setup, Simulation, Through, Traffic};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Columns of a plot in the terminal.
const COLUMNS: usize = 60;

/// Lines of each list that are printed; `--json` has all.
const LINES: usize = 8;

/// Send simulated mail to simulated receivers, with the sources, pools, limits and retries of a configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Simulate {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The traffic file: receivers and campaigns.
    #[arg(short, long, value_name = "FILE")]
    traffic: PathBuf,
    /// Another world of the same kind; the same number gives the same answer.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// Draw the deliveries of each receiver.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What stands above the reference page of traffic files.
const HEAD: &str = "\
<!-- Generated from the settings' declarations by `cargo xtask docs`. Edit those instead. -->

# Traffic files

What `tuma simulate` sends, and to whom; [its page](../simulate.md) tells what comes of it. Durations, sizes and
`${NAME}` are written as in [the configuration](config.md); a rate is a count, a slash and a period: `\"20/s\"`,
`\"5k/h\"`, `\"50/10s\"`. Times are counted from the beginning of the simulation.

";

/// The reference page of traffic files.
pub(super) fn reference() -> String {
    config::page::<Traffic>(HEAD)
}

fn load<T: settings::Setting>(path: &Path) -> Result<Option<Loaded<T>>> {
    match config::load::<T>(path, &config::process_environment) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(report) => {
            eprint!("{}", report.render(std::io::stderr().is_terminal()));
            Ok(None)
        }
    }
}

/// What a configuration says, as far as it is simulated.
pub fn setup(loaded: &Loaded<Root>) -> Result<Setup> {
    let root = &loaded.value;
    let egress = delivery::egress(&root.source, &root.pool, root.delivery.default_pool.as_deref())?;
    let (rules, _) = crate::traffic::rules(loaded)?;
    Ok(Setup {
        egress,
        rules,
        dispatch: delivery::dispatch_config(&root.delivery, &root.retry),
        schedule: root.retry.schedule(),
        connect_timeout: root.delivery.connect_timeout,
        greeting_timeout: root.delivery.greeting_timeout,
        idle_timeout: root.delivery.idle_timeout,
    })
}

/// Pools that campaigns name and the configuration does not have.
fn check_pools(traffic: &Loaded<Traffic>, setup: &Setup) -> Result<()> {
    for (name, campaign) in &traffic.value.campaign {
        if let Some(pool) = &campaign.pool
            && setup.egress.pool(&pool.value).is_none()
        {
            let near = settings::nearest(&pool.value, setup.egress.pools.iter().map(|pool| &*pool.name));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let place = traffic.warnings.sources.short(pool.place);
            bail!("{place}: `campaign.{name}.pool`: the configuration has no pool `{}`{hint}", pool.value);
        }
    }
    Ok(())
}

impl Simulate {
    pub(super) fn run(self) -> Result<ExitCode> {
        let path = super::config_path(&self.config);
        let (Some(root), Some(traffic)) = (load::<Root>(&path)?, load::<Traffic>(&self.traffic)?) else {
            return Ok(ExitCode::FAILURE);
        };
        let setup = setup(&root)?;
        check_pools(&traffic, &setup)?;
        if !root.value.route.is_empty() {
            eprintln!("static routes are not simulated: all mail goes to the receivers of the traffic file");
        }
        let mut simulation =
            Simulation::new(Instant::now(), setup, &traffic.value, self.seed).map_err(anyhow::Error::msg)?;
        run_with_progress(&mut simulation);
        let report = simulation.report();
        if let Some(path) = &self.svg {
            std::fs::write(path, drawing(&report)).with_context(|| path.display().to_string())?;
        }
        let text = if self.json { format!("{:#}\n", as_json(&report, self.seed)) } else { as_text(&report) };
        // A reader that has gone away is no failure.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(if report.limits_broken > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn run_with_progress(simulation: &mut Simulation) {
    let watched = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    let mut steps = 0u32;
    while simulation.step() {
        steps = steps.wrapping_add(1);
        if steps.is_multiple_of(4_096)
            && told.elapsed() > Duration::from_millis(if watched { 200 } else { 5_000 })
        {
            told = Instant::now();
            let (settled, all) = (simulation.settled(), simulation.messages());
            let line = format!("{} simulated, {settled} of {all} settled", short(simulation.now()));
            if watched { eprint!("\r{line}\x1b[K") } else { eprintln!("{line}") }
        }
    }
    if watched {
        eprint!("\r\x1b[K");
    }
}

/// A time span without the small change.
fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let rounded = match seconds {
        0..60 => return format!("{:.1}s", span.as_secs_f64()),
        60..7_200 => seconds,
        7_200..172_800 => seconds / 60 * 60,
        _ => seconds / 3_600 * 3_600,
    };
    show_duration(Duration::from_secs(rounded))
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn through(marks: &[Option<Duration>; 4]) -> String {
    let shown: Vec<String> = Through::PERCENT
        .iter()
        .zip(marks)
        .map(|(percent, mark)| match mark {
            Some(at) => format!("{percent} % after {}", short(*at)),
            None => format!("{percent} % not in this time"),
        })
        .collect();
    shown.join(", ")
}

// ---- for people -----------------------------------------------------------------------------------------

fn as_text(report: &Report) -> String {
    let mut lines = Vec::new();
    let outcomes = &report.outcomes;
    lines.push(format!(
        "{} messages accepted in {} simulated: {} delivered, {} bounced, {} expired, {} still queued",
        report.accepted,
        short(report.lasted),
        outcomes.delivered,
        outcomes.bounced,
        outcomes.expired,
        report.queued
    ));
    if report.to_come > 0 {
        lines.push(format!("{} messages were not handed in in this time", report.to_come));
    }
    lines.push(format!("at most {} connections at once", report.connections_peak));
    match &report.first_broken {
        None => lines.push(format!(
            "{} checks at the receivers: no configured limit was exceeded",
            report.limits_checked
        )),
        Some(first) => lines.push(format!(
            "A CONFIGURED LIMIT WAS EXCEEDED {} times at the receivers; first: {first}",
            report.limits_broken
        )),
    }
    for campaign in &report.campaigns {
        campaign_text(&mut lines, campaign, report.lasted);
    }
    for kind in report.receivers.iter().filter(|kind| kind.messages > 0) {
        kind_text(&mut lines, kind, report.lasted);
    }
    if !report.notes.is_empty() {
        lines.push(String::new());
        lines.push("what the rules did:".into());
        list(&mut lines, report.notes.iter().map(|(text, times)| format!("  {times:>8} × {text}")));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The first lines of a list, and how many there are besides.
fn list(lines: &mut Vec<String>, all: impl ExactSizeIterator<Item = String>) {
    let count = all.len();
    lines.extend(all.take(LINES));
    if count > LINES {
        lines.push(format!("    and {} more", count - LINES));
    }
}

fn campaign_text(lines: &mut Vec<String>, campaign: &CampaignReport, lasted: Duration) {
    let outcomes = &campaign.outcomes;
    lines.push(String::new());
    lines.push(format!(
        "campaign {}: {} messages, {} delivered, {} bounced, {} expired",
        campaign.name, campaign.messages, outcomes.delivered, outcomes.bounced, outcomes.expired
    ));
    lines.push(format!("  through: {}", through(&campaign.through)));
    let [half, most, nearly, all] = campaign.waits.map(short);
    lines.push(format!(
        "  wait of a delivered message: half {half}, 90 % {most}, 99 % {nearly}, longest {all}"
    ));
    let (plot, most) = simulator::bars(&campaign.settled, lasted, COLUMNS);
    lines.push(format!("  |{plot}| top {most:.1}/s"));
}

fn kind_text(lines: &mut Vec<String>, kind: &KindReport, lasted: Duration) {
    let outcomes = &kind.outcomes;
    lines.push(String::new());
    let many = if kind.receivers > 1 { format!(" ({} receivers)", kind.receivers) } else { String::new() };
    lines.push(format!(
        "receiver {}{many}: {} messages, {} delivered ({:.1} %), {} bounced, {} expired, {} attempts",
        kind.name,
        kind.messages,
        outcomes.delivered,
        percent(outcomes.delivered, kind.messages),
        outcomes.bounced,
        outcomes.expired,
        kind.attempts
    ));
    lines.push(format!("  through: {}", through(&kind.through)));
    let (plot, most) = simulator::bars(&kind.delivered, lasted, COLUMNS);
    lines.push(format!("  |{plot}| top {most:.1}/s delivered"));
    if !kind.held.is_empty() {
        let sites = if kind.receivers > 1 { ", summed over its sites" } else { "" };
        lines.push(format!("  mail waited for{sites}:"));
        list(
            lines,
            kind.held.iter().map(|held| {
                let setting = match &held.setting {
                    Some((name, value, place)) => format!("{name} = {value} ({place})"),
                    None => String::new(),
                };
                let sites = if held.sites > 1 { format!(" at {} sites", held.sites) } else { String::new() };
                format!("    {:>8} {}{sites}: {setting}", short(held.time), held.gate)
            }),
        );
    }
    if !kind.replies.is_empty() {
        lines.push("  replies:".into());
        list(lines, kind.replies.iter().map(|(text, times)| format!("    {times:>8} × {}", cut(text))));
    }
    if !kind.rules.is_empty() {
        let rules: Vec<String> = kind.rules.iter().map(|(name, times)| format!("{name} ({times})")).collect();
        lines.push(format!("  reply rules that matched: {}", rules.join(", ")));
    }
    for source in kind.sources.iter().filter(|source| source.for_others > 0 || kind.sources.len() > 1) {
        let days: Vec<String> = source.by_day.iter().map(u64::to_string).collect();
        lines.push(format!(
            "  by {}: {} delivered, {} of them of other pools; by day {}",
            source.source,
            source.delivered,
            source.for_others,
            days.join(" ")
        ));
    }
}

/// A reply's beginning.
fn cut(text: &str) -> String {
    match text.char_indices().nth(96) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

// ---- for programs ---------------------------------------------------------------------------------------

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

fn marks_json(marks: &[Option<Duration>; 4]) -> Value {
    let mark = |at: usize| marks[at].map(seconds);
    json!({ "50": mark(0), "90": mark(1), "99": mark(2), "100": mark(3) })
}

fn outcomes_json(outcomes: &simulator::Outcomes) -> Value {
    json!({ "delivered": outcomes.delivered, "bounced": outcomes.bounced, "expired": outcomes.expired })
}

fn series_json(series: &simulator::Series) -> Value {
    let (width, counts) = series.buckets();
    json!({ "bucket_seconds": width as f64 / 1e9, "counts": counts })
}

fn counted(list: &[(String, u64)]) -> Value {
    list.iter().map(|(text, times)| json!({ "text": text, "times": times })).collect()
}

fn as_json(report: &Report, seed: u64) -> Value {
    let campaigns: Vec<Value> = report
        .campaigns
        .iter()
        .map(|campaign| {
            let [half, most, nearly, all] = campaign.waits.map(seconds);
            json!({
                "name": campaign.name,
                "messages": campaign.messages,
                "starts_seconds": seconds(campaign.starts),
                "outcomes": outcomes_json(&campaign.outcomes),
                "through_seconds": marks_json(&campaign.through),
                "wait_seconds": { "50": half, "90": most, "99": nearly, "100": all },
                "settled": series_json(&campaign.settled),
            })
        })
        .collect();
    let receivers: Vec<Value> = report.receivers.iter().map(kind_json).collect();
    json!({
        "seed": seed,
        "begins_ms": report.begins.0,
        "lasted_seconds": seconds(report.lasted),
        "accepted": report.accepted,
        "outcomes": outcomes_json(&report.outcomes),
        "queued": report.queued,
        "to_come": report.to_come,
        "connections_peak": report.connections_peak,
        "limits": {
            "checked": report.limits_checked,
            "broken": report.limits_broken,
            "first_broken": report.first_broken,
        },
        "campaigns": campaigns,
        "receivers": receivers,
        "notes": counted(&report.notes),
    })
}

fn kind_json(kind: &KindReport) -> Value {
    let held: Vec<Value> = kind
        .held
        .iter()
        .map(|held| {
            let setting = held.setting.as_ref();
            json!({
                "gate": held.gate,
                "setting": setting.map(|(name, ..)| name),
                "value": setting.map(|(_, value, _)| value),
                "place": setting.map(|(.., place)| place),
                "seconds": seconds(held.time),
                "sites": held.sites,
                "messages_max": held.messages_max,
            })
        })
        .collect();
    let sources: Vec<Value> = kind
        .sources
        .iter()
        .map(|source| {
            json!({
                "source": source.source,
                "delivered": source.delivered,
                "for_other_pools": source.for_others,
                "by_day": source.by_day,
            })
        })
        .collect();
    json!({
        "name": kind.name,
        "receivers": kind.receivers,
        "messages": kind.messages,
        "outcomes": outcomes_json(&kind.outcomes),
        "attempts": kind.attempts,
        "through_seconds": marks_json(&kind.through),
        "peak_per_second": kind.peak_per_second,
        "replies": counted(&kind.replies),
        "rules": counted(&kind.rules),
        "held": held,
        "sources": sources,
        "delivered": series_json(&kind.delivered),
        "deferred": series_json(&kind.deferred),
    })
}

fn drawing(report: &Report) -> String {
    let panels: Vec<_> = report
        .receivers
        .iter()
        .filter(|kind| kind.messages > 0)
        .map(|kind| {
            (format!("{}: delivered, and put off in red", kind.name), &kind.delivered, Some(&kind.deferred))
        })
        .collect();
    let title = format!("{} messages in {}", report.accepted, short(report.lasted));
    simulator::svg(&title, report.lasted, &panels)
}

#[cfg(test)]
mod tests;
