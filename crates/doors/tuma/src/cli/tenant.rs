//! `tuma tenant`: those whose mail is kept apart.

use super::Api;
use super::client::{ask_json, encode, field, send_json, table};
use super::key::list;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Tenants: those whose mail is kept apart.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma tenant new acme --from-domain acme.example --pool shared --per-day 500000
  tuma key new --name shop --tenant acme
  tuma tenant change acme --per-hour 50000
  tuma tenant suspend acme
  tuma tenant rm acme

A tenant that is declared as `[tenant.NAME]` in the configuration is changed there and not here.")]
pub(super) enum Tenant {
    /// Make a tenant.
    New {
        #[command(flatten)]
        api: Api,
        /// The name that its mail, its keys and its records carry.
        name: String,
        #[command(flatten)]
        what: What,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change what is named of a tenant, and nothing else.
    Change {
        #[command(flatten)]
        api: Api,
        /// The tenant.
        name: String,
        #[command(flatten)]
        what: What,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take nothing from a tenant over HTTP until `resume`. What was taken stays on its way.
    Suspend {
        #[command(flatten)]
        api: Api,
        /// The tenant.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take mail from a suspended tenant again.
    Resume {
        #[command(flatten)]
        api: Api,
        /// The tenant.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a tenant, take its keys back and delete its templates. What was taken stays on its way.
    Rm {
        #[command(flatten)]
        api: Api,
        /// The tenant.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one tenant.
    Show {
        #[command(flatten)]
        api: Api,
        /// The tenant.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the tenants.
    Ls {
        #[command(flatten)]
        api: Api,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What a tenant may.
#[derive(Debug, clap::Args)]
pub(super) struct What {
    /// A domain it may send from, those below it included; may be given several times. None is all.
    #[arg(long = "from-domain", value_name = "DOMAIN")]
    from_domains: Vec<String>,
    /// A pool it may choose, the first if it chooses none; may be given several times. None is all.
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// Recipients an hour at most; `none` takes the limit away.
    #[arg(long, value_name = "N", value_parser = limit)]
    per_hour: Option<Value>,
    /// Recipients a day at most; `none` takes the limit away.
    #[arg(long, value_name = "N", value_parser = limit)]
    per_day: Option<Value>,
}

fn limit(text: &str) -> Result<Value, String> {
    match text {
        "none" => Ok(Value::Null),
        _ => text.parse::<u64>().map(Value::from).map_err(|_| "a number, or `none`".to_owned()),
    }
}

impl What {
    fn body(self) -> Value {
        let mut map = Map::new();
        if !self.from_domains.is_empty() {
            map.insert("from_domains".into(), json!(self.from_domains));
        }
        if !self.pools.is_empty() {
            map.insert("pools".into(), json!(self.pools));
        }
        for (name, limit) in
            [("recipients_per_hour_max", self.per_hour), ("recipients_per_day_max", self.per_day)]
        {
            if let Some(limit) = limit {
                map.insert(name.into(), limit);
            }
        }
        Value::Object(map)
    }
}

impl Tenant {
    pub(super) fn run(self) -> Result<ExitCode> {
        let path = |name: &str| format!("/v1/tenants/{}", encode(name));
        let (answer, json, text) = match self {
            Self::New { api, name, what, json } => {
                let made = send_json(api.api, "PUT", &path(&name), &what.body().to_string())?;
                let text = format!(
                    "the tenant {name} may send; make it a key: tuma key new --name NAME --tenant {name}"
                );
                (made, json, text)
            }
            Self::Change { api, name, what, json } => {
                let changed = send_json(api.api, "PATCH", &path(&name), &what.body().to_string())?;
                (changed, json, format!("the tenant {name} is changed"))
            }
            Self::Suspend { api, name, json } => {
                let changed = send_json(api.api, "PATCH", &path(&name), "{\"suspended\":true}")?;
                (changed, json, format!("nothing is taken from the tenant {name} any more"))
            }
            Self::Resume { api, name, json } => {
                let changed = send_json(api.api, "PATCH", &path(&name), "{\"suspended\":false}")?;
                (changed, json, format!("the tenant {name} may send"))
            }
            Self::Rm { api, name, json } => {
                let gone = ask_json(api.api, "DELETE", &path(&name))?;
                let text = format!(
                    "the tenant {name} is removed, {} of its keys taken back, {} templates deleted",
                    gone["keys_revoked"], gone["templates_deleted"]
                );
                (gone, json, text)
            }
            Self::Show { api, name, json } => {
                let tenant = ask_json(api.api, "GET", &path(&name))?;
                if !json {
                    print(std::slice::from_ref(&tenant));
                    return Ok(ExitCode::SUCCESS);
                }
                (tenant, json, String::new())
            }
            Self::Ls { api, json } => {
                let tenants = ask_json(api.api, "GET", "/v1/tenants")?;
                if !json {
                    print(tenants.as_array().map_or(&[], Vec::as_slice));
                    return Ok(ExitCode::SUCCESS);
                }
                (tenants, json, String::new())
            }
        };
        if json {
            say!("{answer:#}");
        } else {
            say!("{text}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(tenants: &[Value]) {
    if tenants.is_empty() {
        say!(
            "there are no tenants; make one with `tuma tenant new NAME`, or as [tenant.NAME] in the configuration"
        );
        return;
    }
    let use_of = |tenant: &Value, counted: &str, limit: &str| {
        let limit = tenant[limit].as_u64().map_or("-".to_owned(), |limit| limit.to_string());
        format!("{} of {limit}", tenant[counted])
    };
    let rows: Vec<Vec<String>> = tenants
        .iter()
        .map(|tenant| {
            let state = if tenant["suspended"] == Value::Bool(true) { "suspended" } else { "may send" };
            let made = if tenant["declared"] == Value::Bool(true) { "configuration" } else { "run time" };
            vec![
                field(tenant, "tenant").to_owned(),
                state.to_owned(),
                made.to_owned(),
                use_of(tenant, "recipients_this_hour", "recipients_per_hour_max"),
                use_of(tenant, "recipients_this_day", "recipients_per_day_max"),
                tenant["keys"].to_string(),
                list(&tenant["from_domains"]),
                list(&tenant["pools"]),
            ]
        })
        .collect();
    table(&["TENANT", "STATE", "MADE BY", "THIS HOUR", "THIS DAY", "KEYS", "FROM DOMAINS", "POOLS"], &rows);
}
