//! `tuma queue`: what is queued, and making it due now.

use super::Api;
use super::client::{ask_json, field, length, query, table};
use anyhow::Result;
use serde_json::Value;
use std::process::ExitCode;

/// The queue of the running server.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Queue {
    /// List messages that are queued.
    #[command(
        after_help = "Examples:\n  tuma queue ls\n  tuma queue ls a.example --max 10\n  tuma queue ls 'news:acme@a.example/bulk'"
    )]
    Ls {
        #[command(flatten)]
        api: Api,
        /// Only this destination: a domain, `route:NAME`, a site or a queue.
        destination: Option<String>,
        /// At most so many entries.
        #[arg(long, default_value_t = 100)]
        max: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List queues, those with the most recipients first.
    #[command(
        after_help = "A queue is the mail of one tenant, campaign, destination and pool:\n  campaign:tenant@destination/pool"
    )]
    Queues {
        #[command(flatten)]
        api: Api,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        max: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make what waits for its next attempt due now, and try a site that could not be reached.
    #[command(
        after_help = "Examples:\n  tuma queue flush a.example\n  tuma queue flush 'news:acme@a.example/bulk'\n  tuma queue flush"
    )]
    Flush {
        #[command(flatten)]
        api: Api,
        /// Only this destination: a domain, `route:NAME`, a site or a queue.
        destination: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Queue {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Ls { api, destination, max, json } => {
                let max = max.to_string();
                let asked = query(&[("destination", destination.as_deref()), ("max", Some(&max))]);
                let list = ask_json(api.api, "GET", &format!("/v1/queue{asked}"))?;
                if json {
                    say!("{list:#}");
                    return Ok(ExitCode::SUCCESS);
                }
                list.as_array().into_iter().flatten().for_each(entry);
            }
            Self::Queues { api, max, json } => {
                let list = ask_json(api.api, "GET", &format!("/v1/queues?max={max}"))?;
                if json {
                    say!("{list:#}");
                    return Ok(ExitCode::SUCCESS);
                }
                queues(&list);
            }
            Self::Flush { api, destination, json } => {
                let asked = query(&[("destination", destination.as_deref())]);
                let answer = ask_json(api.api, "POST", &format!("/v1/queue/flush{asked}"))?;
                if json {
                    say!("{answer:#}");
                    return Ok(ExitCode::SUCCESS);
                }
                say!("{} entries are due now", answer["moved"]);
                if let Some(hint) = answer["hint"].as_str() {
                    say!("{hint}");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn entry(entry: &Value) {
    let recipients: Vec<&str> =
        entry["recipients"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let due = match (entry["in_attempt"].as_bool(), entry["due_in_seconds"].as_f64()) {
        (Some(true), _) => "being attempted".to_owned(),
        (_, Some(s)) if s > 0.0 => format!("due in {s} s"),
        _ => "ready".to_owned(),
    };
    let expires = match entry["expires_in_seconds"].as_f64() {
        Some(s) => format!("expires in {s} s"),
        None => "does not expire while it is held".to_owned(),
    };
    say!(
        "{}  <{}> -> {}  [{}] {due}, {} attempts, {expires}",
        field(entry, "id"),
        field(entry, "reverse_path"),
        recipients.join(", "),
        field(entry, "destination"),
        entry["attempts"]
    );
    if let Some(reply) = entry["last_reply"].as_str() {
        say!("             last reply: {reply}");
    }
}

fn queues(list: &Value) {
    let row = |queue: &Value| {
        let count = |name: &str| queue[name].as_i64().unwrap_or(0).to_string();
        let aside = queue["set_aside"].as_str().map(|why| {
            let since = queue["set_aside_for_seconds"].as_f64().map(|s| format!(" for {}", length(s)));
            format!("  set aside{}: {why}", since.unwrap_or_default())
        });
        vec![
            count("recipients"),
            count("ready"),
            count("waiting"),
            count("attempted"),
            queue["site"].as_str().unwrap_or("-").to_owned(),
            format!("{}{}", field(queue, "queue"), aside.unwrap_or_default()),
        ]
    };
    let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        say!("nothing is queued");
        return;
    }
    table(&["recipients", "ready", "waiting", "attempt", "site", "queue"], &rows);
}
