//! `tuma webhook`: how webhooks are doing, what was put aside, and posting again.

use super::Api;
use super::client::{ask_json, field, length, send_json};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Webhooks: how they are doing, what was put aside, and posting again.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma webhook ls
  tuma webhook dead crm
  tuma webhook replay crm
  tuma webhook replay --all crm")]
pub(super) enum Webhook {
    /// List webhooks with what they took and what waits for them.
    Ls {
        #[command(flatten)]
        api: Api,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print records that were put aside, one a line, oldest first.
    Dead {
        #[command(flatten)]
        api: Api,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        max: usize,
        /// The webhook.
        name: String,
    },
    /// Post again what was put aside.
    Replay {
        #[command(flatten)]
        api: Api,
        /// Everything that is kept, what was taken included.
        #[arg(long)]
        all: bool,
        /// The webhook.
        name: String,
    },
}

impl Webhook {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Ls { api, json } => {
                let list = ask_json(api.api, "GET", "/v1/webhooks")?;
                if json {
                    say!("{list:#}");
                    return Ok(ExitCode::SUCCESS);
                }
                let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
                if list.is_empty() {
                    say!("no webhook is configured");
                }
                list.iter().for_each(print);
            }
            Self::Dead { api, max, name } => {
                let dead = ask_json(api.api, "GET", &format!("/v1/webhooks/{name}/dead?max={max}"))?;
                dead.as_array().into_iter().flatten().for_each(|record| say!("{record}"));
            }
            Self::Replay { api, all, name } => {
                let body = json!({ "all": all }).to_string();
                let status = send_json(api.api, "POST", &format!("/v1/webhooks/{name}/replay"), &body)?;
                print(&status);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(status: &Value) {
    let n = |key: &str| status[key].as_u64().unwrap_or(0);
    say!(
        "{} to {}: {} records taken, {} octets wait, {} put aside",
        field(status, "webhook"),
        field(status, "url"),
        n("taken"),
        n("pending_octets"),
        n("dead_octets")
    );
    if let Some(why) = status["last_failure"].as_str() {
        let since = length(n("failing_seconds") as f64);
        say!("    not taken since {since}, after {} tries in all: {why}", n("failures"));
    }
    if n("lost_octets") + n("dropped") > 0 {
        say!(
            "    lost: {} octets from its log, {} records before they were in it",
            n("lost_octets"),
            n("dropped")
        );
    }
}
