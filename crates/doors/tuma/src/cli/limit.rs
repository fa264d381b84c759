//! `tuma limit`: what is not as usual between sources and sites, and letting it go on.

use super::Api;
use super::client::{ask_json, field, length, query, send_json};
use super::order::kept;
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

/// What is not as usual.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma limit ls
  tuma limit ls --site mx.a.example
  tuma limit release --site mx.a.example
  tuma limit release --site mx.a.example --tenant acme
  tuma limit release --queue 'news:acme@a.example/bulk'

The limits of a path that is as usual are in `tuma explain user@domain`.")]
pub(super) enum Limit {
    /// List paths in backoff, suspended, slowed down, not reachable, in their warm-up or at an adaptive rate, and
    /// what else rules have stopped.
    Ls {
        #[command(flatten)]
        api: Api,
        /// Only of this site.
        #[arg(long)]
        site: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1_000)]
        max: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// End backoff, suspensions, slowness and waits.
    Release {
        #[command(flatten)]
        api: Api,
        /// At this site.
        #[arg(long)]
        site: Option<String>,
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Only of this campaign.
        #[arg(long)]
        campaign: Option<String>,
        /// Of this queue.
        #[arg(long)]
        queue: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Limit {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Ls { api, site, max, json } => {
                let max = max.to_string();
                let asked = query(&[("site", site.as_deref()), ("max", Some(&max))]);
                let list = ask_json(api.api, "GET", &format!("/v1/limits{asked}"))?;
                if json {
                    say!("{list:#}");
                    return Ok(ExitCode::SUCCESS);
                }
                let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
                if list.is_empty() {
                    say!("everything is as usual");
                }
                list.iter().for_each(print);
            }
            Self::Release { api, site, tenant, campaign, queue, json } => {
                let body = json!({ "site": site, "tenant": tenant, "campaign": campaign, "queue": queue });
                let answer = send_json(api.api, "POST", "/v1/limits/release", &body.to_string())?;
                if json {
                    say!("{answer:#}");
                    return Ok(kept(&answer));
                }
                match answer["released"].as_u64().unwrap_or(0) {
                    0 => say!("nothing was stopped there"),
                    n => say!("{n} released"),
                }
                return Ok(kept(&answer));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(limit: &Value) {
    let of = ["source", "tenant", "campaign", "queue"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", limit[*name].as_str()?)))
        .collect::<Vec<String>>()
        .join(", ");
    let site = limit["site"].as_str().map(|site| format!(" to {site}")).unwrap_or_default();
    let since = limit["held_for_seconds"].as_f64().map(|s| format!("since {} ago", length(s)));
    let until = limit["held_until_seconds"].as_f64().map(|s| format!("for {} yet", length(s)));
    let times: Vec<String> = [since, until].into_iter().flatten().collect();
    let times = if times.is_empty() { String::new() } else { format!(" ({})", times.join(", ")) };
    say!("{:<11} {of}{site}: {}{times}", field(limit, "state"), field(limit, "text"));
    if let Some(setting) = limit["setting"].as_str() {
        say!("{:<11} {setting}", "");
    }
    if let Some(change) = limit["change"].as_str() {
        say!("{:<11} to end it: {change}", "");
    }
}
