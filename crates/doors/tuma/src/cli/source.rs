//! `tuma source`: egress sources are listed, and taken in and out of use.

use super::Api;
use super::client::{ask_json, encode, field, length, send_json, table};
use super::order::kept;
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Egress sources.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma source ls
  tuma source disable ip4 --for 6h --reason 'listed at a blocklist'
  tuma source enable ip4

Mail of a source that is disabled leaves by the others of its pools. What is said here outlives a restart.")]
pub(super) enum Source {
    /// List the sources.
    Ls {
        #[command(flatten)]
        api: Api,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a source into use again that a rule or an operator has disabled.
    Enable {
        #[command(flatten)]
        api: Api,
        /// Its name.
        source: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a source out of use.
    Disable {
        #[command(flatten)]
        api: Api,
        /// Its name.
        source: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
        /// How long, such as `6h`; without an end until it is enabled.
        #[arg(long = "for", value_name = "LENGTH")]
        length: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Source {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Ls { api, json } => {
                let list = ask_json(api.api, "GET", "/v1/sources")?;
                if json {
                    say!("{list:#}");
                } else {
                    print_list(&list);
                }
            }
            Self::Enable { api, source, json } => {
                let path = format!("/v1/sources/{}/enable", encode(&source));
                let answer = ask_json(api.api, "POST", &path)?;
                if json {
                    say!("{answer:#}");
                } else if answer["changed"] == Value::Bool(true) {
                    say!("the source {source} is in use again");
                } else {
                    say!("the source {source} was not disabled");
                }
                return Ok(kept(&answer));
            }
            Self::Disable { api, source, reason, length: ends_in, json } => {
                let path = format!("/v1/sources/{}/disable", encode(&source));
                let body = json!({ "reason": reason, "ends_in": ends_in }).to_string();
                let answer = send_json(api.api, "POST", &path, &body)?;
                if json {
                    say!("{answer:#}");
                    return Ok(kept(&answer));
                }
                let end = answer["enabled_in_seconds"].as_f64().map(|s| format!("for {}", length(s)));
                let end = end.unwrap_or_else(|| format!("until `tuma source enable {source}`"));
                say!("the source {source} is disabled {end}");
                return Ok(kept(&answer));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_list(list: &Value) {
    let row = |source: &Value| {
        let pools: Vec<String> = source["pools"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(pool, weight)| format!("{pool}={weight}"))
            .collect();
        let addresses: Vec<&str> = ["v4", "v6"].iter().filter_map(|name| source[*name].as_str()).collect();
        let backoff = source["sites_in_backoff"].as_u64().filter(|n| *n > 0);
        let state = match (source["disabled_by"].as_str(), source["enabled_in_configuration"].as_bool()) {
            (_, Some(false)) => "off in the configuration".to_owned(),
            (Some(by), _) => {
                let end = source["enabled_in_seconds"].as_f64().map(|s| format!(" for {} yet", length(s)));
                format!("disabled{} by {by}", end.unwrap_or_default())
            }
            (None, _) => match backoff {
                Some(sites) => format!("in use, in backoff at {sites} sites"),
                None => "in use".to_owned(),
            },
        };
        vec![
            field(source, "source").to_owned(),
            if addresses.is_empty() { "any".to_owned() } else { addresses.join(" ") },
            source["connections"].as_u64().unwrap_or(0).to_string(),
            source["sites"].as_u64().unwrap_or(0).to_string(),
            pools.join(" "),
            state,
        ]
    };
    let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(row).collect();
    table(&["source", "address", "connections", "sites", "pools", "state"], &rows);
}
