//! `tuma order`: orders are listed, tried, given and cancelled.

use super::Api;
use super::client::{ask_json, field, length, send_json, table};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  tuma order suspend --domain a.example --reason 'they asked us to' --for 2h
  tuma order hold --tenant acme --dry-run
  tuma order bounce --job run-42 --reason 'sent by mistake'
  tuma order limit 100/h 2/s --tenant acme --site mx.a.example
  tuma order reroute warm --domain '*.a.example' --until 2026-12-24T18:00Z
  tuma order cancel 3

What is given must all hold. A text may begin or end with `*`. Orders outlive a restart.";

/// Operator orders.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Order {
    /// List the orders in force.
    Ls {
        #[command(flatten)]
        api: Api,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// No attempt is made; mail grows old meanwhile, and expires.
    #[command(after_help = EXAMPLES)]
    Suspend(Give),
    /// No attempt is made, and time does not count: nothing expires.
    #[command(after_help = EXAMPLES)]
    Hold(Give),
    /// Mail is given up, now and while the order is in force; senders are told as of any bounce.
    #[command(after_help = EXAMPLES)]
    Bounce {
        #[command(flatten)]
        give: Give,
        /// Do it, whatever the count.
        #[arg(long)]
        yes: bool,
    },
    /// Mail keeps within these rates, all that the order names together.
    #[command(after_help = EXAMPLES)]
    Limit {
        /// Such as `100/h`; several hold together.
        #[arg(required = true, value_name = "RATE")]
        rates: Vec<String>,
        #[command(flatten)]
        give: Give,
    },
    /// Mail leaves by another pool.
    #[command(after_help = EXAMPLES)]
    Reroute {
        /// The pool, or a source's name.
        #[arg(value_name = "POOL")]
        to_pool: String,
        #[command(flatten)]
        give: Give,
    },
    /// End an order.
    Cancel {
        #[command(flatten)]
        api: Api,
        /// Its number, as `tuma order ls` shows it.
        id: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// To which mail, why and for how long.
#[derive(Debug, clap::Args)]
pub(super) struct Give {
    #[command(flatten)]
    api: Api,
    /// Of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Of this campaign.
    #[arg(long)]
    campaign: Option<String>,
    /// For this domain of recipients; or `route:NAME`.
    #[arg(long)]
    domain: Option<String>,
    /// For this site.
    #[arg(long)]
    site: Option<String>,
    /// That leaves by this source.
    #[arg(long)]
    source: Option<String>,
    /// Of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// With this reverse-path.
    #[arg(long)]
    sender: Option<String>,
    /// Of this job.
    #[arg(long)]
    job: Option<String>,
    /// All mail there is.
    #[arg(long, conflicts_with_all = ["tenant", "campaign", "domain", "site", "source", "pool", "sender", "job"])]
    all: bool,
    /// Why; shown wherever the order is, and in the report of a bounce.
    #[arg(long)]
    reason: Option<String>,
    /// How long, such as `2h`; without an end it holds until it is cancelled.
    #[arg(long = "for", value_name = "LENGTH", conflicts_with = "until")]
    length: Option<String>,
    /// Until when, such as `2026-12-24T18:00Z`.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only count what it would touch now.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Order {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Ls { api, json } => {
                let list = ask_json(api.api, "GET", "/v1/orders")?;
                if json {
                    say!("{list:#}");
                } else {
                    print_list(&list);
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::Suspend(give) => give.run("suspend", &[], None, true),
            Self::Hold(give) => give.run("hold", &[], None, true),
            Self::Bounce { give, yes } => give.run("bounce", &[], None, yes),
            Self::Limit { rates, give } => give.run("limit", &rates, None, true),
            Self::Reroute { to_pool, give } => give.run("reroute", &[], Some(&to_pool), true),
            Self::Cancel { api, id, json } => {
                let order = ask_json(api.api, "DELETE", &format!("/v1/orders/{id}"))?;
                if json {
                    say!("{order:#}");
                } else {
                    say!("order {id} ({} {}) has ended", field(&order, "action"), field(&order, "names"));
                }
                Ok(kept(&order))
            }
        }
    }
}

/// What could not be written down is said, and is a failure to whoever looks at the exit status.
pub(super) fn kept(order: &Value) -> ExitCode {
    match order["warning"].as_str() {
        Some(warning) => {
            eprintln!("tuma: {warning}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

impl Give {
    fn body(&self, action: &str, rates: &[String], to_pool: Option<&str>) -> Value {
        let given = [
            ("tenant", &self.tenant),
            ("campaign", &self.campaign),
            ("domain", &self.domain),
            ("site", &self.site),
            ("source", &self.source),
            ("pool", &self.pool),
            ("sender", &self.sender),
            ("job", &self.job),
        ];
        let mut scope: serde_json::Map<String, Value> = given
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), Value::from(value.as_deref()?))))
            .collect();
        if self.all {
            // A limit is counted by site, not by domain.
            let name = if action == "limit" { "site" } else { "domain" };
            scope.insert(name.to_owned(), "*".into());
        }
        json!({
            "action": action,
            "rates": (!rates.is_empty()).then_some(rates),
            "to_pool": to_pool,
            "scope": scope,
            "reason": self.reason,
            "ends_in": self.length,
            "ends_at": self.until,
        })
    }

    fn run(self, action: &str, rates: &[String], to_pool: Option<&str>, sure: bool) -> Result<ExitCode> {
        let api = self.api.api;
        let body = self.body(action, rates, to_pool).to_string();
        if self.dry_run || !sure {
            let count = send_json(api, "POST", "/v1/orders/preview", &body)?;
            if self.json && self.dry_run {
                say!("{count:#}");
                return Ok(ExitCode::SUCCESS);
            }
            let touched = touched(&count);
            if self.dry_run {
                say!("this order would name {touched}");
                return Ok(ExitCode::SUCCESS);
            }
            let said = format!("this order would bounce {touched}, and such mail that comes later");
            if !std::io::stdin().is_terminal() {
                bail!("{said}; write --yes to do it");
            }
            eprint!("{said}. Type yes to do it: ");
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer)?;
            if answer.trim() != "yes" {
                bail!("no order was given");
            }
        }
        let order = send_json(api, "POST", "/v1/orders", &body)?;
        if self.json {
            say!("{order:#}");
            return Ok(kept(&order));
        }
        let until = order["ends_in_seconds"].as_f64().map(|s| format!(", for {}", length(s)));
        let until = until.unwrap_or_else(|| ", until it is cancelled".into());
        say!(
            "order {} ({} {}) is in force{until}; it names {}",
            order["id"],
            field(&order, "action"),
            field(&order, "names"),
            touched(&order)
        );
        say!("to end it: tuma order cancel {}", order["id"]);
        Ok(kept(&order))
    }
}

/// What a count says: recipients, and how sure that is.
fn touched(count: &Value) -> String {
    let n = |name: &str| count[name].as_u64().unwrap_or(0);
    let mut text = format!("{} recipients in {} queues", n("recipients"), n("queues"));
    match (n("uncertain"), n("read")) {
        (0, _) => {}
        (some, 0) => text += &format!(", and some of {some} more (their messages tell)"),
        (some, _) => text += &format!(", and perhaps {some} more (their site or source is not known yet)"),
    }
    if count["cut"] == Value::Bool(true) {
        text += &format!(", of the {} messages that were looked at; there are more", n("read"));
    }
    text
}

fn print_list(list: &Value) {
    let row = |order: &Value| {
        let action = match (order["rates"].as_array(), order["to_pool"].as_str()) {
            (Some(rates), _) => {
                let rates: Vec<&str> = rates.iter().filter_map(Value::as_str).collect();
                format!("limit {}", rates.join(" "))
            }
            (None, Some(pool)) => format!("reroute {pool}"),
            (None, None) => field(order, "action").to_owned(),
        };
        let ends = order["ends_in_seconds"].as_f64().map_or_else(|| "-".to_owned(), length);
        vec![
            order["id"].to_string(),
            action,
            field(order, "names").to_owned(),
            order["age_seconds"].as_f64().map_or_else(|| "?".to_owned(), length),
            ends,
            order["reason"].as_str().unwrap_or_default().to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        say!("no orders are in force");
        return;
    }
    table(&["order", "action", "mail", "age", "ends in", "reason"], &rows);
}
