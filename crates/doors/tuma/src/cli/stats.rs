//! `tuma stats`: counters by minute, hour and day, as a table or a plot.

use super::Api;
use super::client::{ask_json, query};
use anyhow::Result;
use serde_json::Value;
use std::process::ExitCode;

/// Kinds that a table shows; JSON has all.
const KINDS: [&str; 8] =
    ["received", "delivered", "deferred", "bounced", "expired", "suppressed", "remote_bounce", "complained"];
/// Characters of the longest bar of a plot.
const BAR: u64 = 50;

/// Counters by minute, hour and day: how much of what, for whom, by which way.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tuma stats
  tuma stats --span minute --since 2h --plot delivered
  tuma stats --since 7d --by tenant,class --total
  tuma stats --span day --since 30d --tenant acme --by provider --json

They are kept where the configuration says `enabled = true` in [stats].")]
pub(super) struct Stats {
    #[command(flatten)]
    api: Api,
    /// minute, hour or day.
    #[arg(long, default_value = "hour")]
    span: String,
    /// How far back, such as 24h; left out, 60 spans.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Labels to tell apart: tenant, campaign, job, pool, source, provider, class.
    #[arg(long, value_name = "LABELS")]
    by: Option<String>,
    /// One row of all the time.
    #[arg(long)]
    total: bool,
    /// Rows at most.
    #[arg(long, default_value_t = 1_000)]
    max: usize,
    /// Only this tenant's.
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this campaign.
    #[arg(long)]
    campaign: Option<String>,
    /// Only of this job.
    #[arg(long)]
    job: Option<String>,
    /// Only by this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only by this source.
    #[arg(long)]
    source: Option<String>,
    /// Only to this provider.
    #[arg(long)]
    provider: Option<String>,
    /// Only failures of this class.
    #[arg(long)]
    class: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Plot one kind: received, delivered, deferred, bounced and so on; or octets.
    #[arg(long, value_name = "KIND", conflicts_with = "json")]
    plot: Option<String>,
}

impl Stats {
    pub(super) fn run(self) -> Result<ExitCode> {
        let max = self.max.to_string();
        let asked = query(&[
            ("span", Some(&self.span)),
            ("since", self.since.as_deref()),
            ("by", self.by.as_deref()),
            ("total", self.total.then_some("true")),
            ("max", Some(&max)),
            ("tenant", self.tenant.as_deref()),
            ("campaign", self.campaign.as_deref()),
            ("job", self.job.as_deref()),
            ("pool", self.pool.as_deref()),
            ("source", self.source.as_deref()),
            ("provider", self.provider.as_deref()),
            ("class", self.class.as_deref()),
        ]);
        let answer = ask_json(self.api.api, "GET", &format!("/v1/stats{asked}"))?;
        if self.json {
            say!("{answer:#}");
            return Ok(ExitCode::SUCCESS);
        }
        let by: Vec<&str> = answer["by"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        if rows.is_empty() {
            say!("nothing was counted in that time");
            return Ok(ExitCode::SUCCESS);
        }
        let lines = match &self.plot {
            Some(kind) => plot(rows, &by, kind, self.total)?,
            None => table(rows, &by, self.total),
        };
        lines.iter().for_each(|line| say!("{line}"));
        if answer["complete"] == Value::Bool(false) {
            say!("there is more: ask for less time, fewer labels, or with --max");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// When a row begins, to the minute.
fn time(row: &Value) -> String {
    let text = accounting::iso_time(mail::UnixMillis(row["start_ms"].as_u64().unwrap_or(0)));
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

/// The time and labels of each row, each as wide as the widest.
fn heads(rows: &[Value], by: &[&str], total: bool) -> (Vec<usize>, Vec<Vec<String>>) {
    let head = |row: &Value| -> Vec<String> {
        let labels = by.iter().map(|name| match row[name].as_str().unwrap_or("") {
            "" => "-".to_owned(),
            label => message::one_line(label, 60),
        });
        (!total).then(|| time(row)).into_iter().chain(labels).collect()
    };
    let heads: Vec<Vec<String>> = rows.iter().map(head).collect();
    let names = (!total).then_some("time (UTC)").into_iter().chain(by.iter().copied());
    let widest = |(n, name): (usize, &str)| {
        heads.iter().map(|head| head[n].chars().count()).chain([name.len()]).max().unwrap_or(0)
    };
    (names.enumerate().map(widest).collect(), heads)
}

fn padded(cells: &[String], widths: &[usize]) -> String {
    cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect()
}

fn table(rows: &[Value], by: &[&str], total: bool) -> Vec<String> {
    let (widths, heads) = heads(rows, by, total);
    let names: Vec<String> =
        (!total).then_some("time (UTC)").into_iter().chain(by.iter().copied()).map(str::to_owned).collect();
    // A column of which there is nothing says nothing.
    let some = |kind: &&&str| rows.iter().any(|row| row[**kind].as_u64().unwrap_or(0) > 0);
    let kinds: Vec<&&str> = KINDS.iter().filter(some).collect();
    let titles: String = kinds.iter().map(|kind| format!("{kind:>14}")).collect();
    let mut lines = vec![format!("{}{titles}", padded(&names, &widths)).trim_end().to_owned()];
    for (row, head) in rows.iter().zip(&heads) {
        let counts: String =
            kinds.iter().map(|kind| format!("{:>14}", row[**kind].as_u64().unwrap_or(0))).collect();
        lines.push(format!("{}{counts}", padded(head, &widths)));
    }
    lines
}

fn plot(rows: &[Value], by: &[&str], kind: &str, total: bool) -> Result<Vec<String>> {
    let known: Vec<&str> = rows
        .first()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(name, value)| value.is_u64() && *name != "start_ms")
        .map(|(name, _)| name.as_str())
        .collect();
    if !known.contains(&kind) {
        let near = settings::nearest(kind, known.iter().copied());
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        anyhow::bail!("there is nothing called `{}` to plot{near}", message::one_line(kind, 40));
    }
    let (widths, heads) = heads(rows, by, total);
    let counts: Vec<u64> = rows.iter().map(|row| row[kind].as_u64().unwrap_or(0)).collect();
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let bar = |count: u64| {
        // In eighths of a character, as terminals can draw them.
        let eighths = (u128::from(count) * u128::from(BAR) * 8 / u128::from(most)) as usize;
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        format!("{}{part}", "█".repeat(eighths / 8))
    };
    let line =
        |(head, count): (&Vec<String>, &u64)| format!("{}{count:>12} {}", padded(head, &widths), bar(*count));
    Ok(heads.iter().zip(&counts).map(|line_of| line(line_of).trim_end().to_owned()).collect())
}
