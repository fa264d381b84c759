//! `tuma key`: who may ask the server by HTTP.

use super::Api;
use super::client::{ask_json, encode, field, send_json, table};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

/// API keys.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma key new --name shop --tenant acme --from-domain acme.example --expires 90d
  tuma key new --name grafana --role viewer --network 192.0.2.0/24
  tuma key ls
  tuma key revoke 3k9x2p4t6v

A key is shown once, when it is made; only a hash of it is kept. A program sends it as
`Authorization: Bearer KEY`, or as the password of Basic authentication.")]
pub(super) enum Key {
    /// Make a key and print it.
    New {
        #[command(flatten)]
        api: Api,
        /// What lists and records call it.
        #[arg(long)]
        name: String,
        /// What it may do: sender, viewer, operator or admin.
        #[arg(long, default_value = "sender")]
        role: String,
        /// Whose mail it is limited to.
        #[arg(long)]
        tenant: Option<String>,
        /// A network it may be used from; may be given several times.
        #[arg(long = "network", value_name = "NETWORK")]
        networks: Vec<String>,
        /// A domain it may send from, those below it included; may be given several times.
        #[arg(long = "from-domain", value_name = "DOMAIN")]
        from_domains: Vec<String>,
        /// Requests a minute at most.
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// After how long it ends, such as `90d`.
        #[arg(long, value_name = "LENGTH")]
        expires: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the keys.
    Ls {
        #[command(flatten)]
        api: Api,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a key back, at once.
    Revoke {
        #[command(flatten)]
        api: Api,
        /// Its id: what `tuma key ls` shows first, and what stands between the underscores of the key.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Key {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::New { api, name, role, tenant, networks, from_domains, rate, expires, json } => {
                let body = json!({
                    "name": name, "role": role, "tenant": tenant, "networks": networks, "from_domains": from_domains,
                    "requests_per_minute_max": rate, "expires_in": expires,
                });
                let made = send_json(api.api, "POST", "/v1/keys", &body.to_string())?;
                if json {
                    say!("{made:#}");
                } else {
                    say!("{}", field(&made, "token"));
                    eprintln!(
                        "this is the key {} ({}); it is not shown again",
                        field(&made, "id"),
                        field(&made, "role")
                    );
                }
            }
            Self::Ls { api, json } => {
                let keys = ask_json(api.api, "GET", "/v1/keys")?;
                if json {
                    say!("{keys:#}");
                } else {
                    print_keys(&keys);
                }
            }
            Self::Revoke { api, id, json } => {
                let key = ask_json(api.api, "DELETE", &format!("/v1/keys/{}", encode(&id)))?;
                if json {
                    say!("{key:#}");
                } else {
                    say!("the key {} ({}) opens nothing any more", field(&key, "id"), field(&key, "name"));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn list(value: &Value) -> String {
    let texts: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if texts.is_empty() { "any".into() } else { texts.join(" ") }
}

fn print_keys(keys: &Value) {
    let rows: Vec<Vec<String>> = keys
        .as_array()
        .into_iter()
        .flatten()
        .map(|key| {
            let state = match (key["valid"].as_bool(), key["revoked_at_ms"].is_null()) {
                (Some(true), _) => "valid",
                (_, false) => "revoked",
                _ => "expired",
            };
            vec![
                field(key, "id").to_owned(),
                field(key, "name").to_owned(),
                field(key, "role").to_owned(),
                key["tenant"].as_str().unwrap_or("all").to_owned(),
                state.to_owned(),
                list(&key["networks"]),
                list(&key["from_domains"]),
            ]
        })
        .collect();
    if rows.is_empty() {
        say!("there are no keys; make one with `tuma key new --name NAME`");
        return;
    }
    table(&["ID", "NAME", "ROLE", "TENANT", "STATE", "NETWORKS", "FROM DOMAINS"], &rows);
}
