//! `tuma suppression`: who is not written to.

use super::Api;
use super::client::{ask_json, query, send_json};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::BufRead;
use std::process::ExitCode;

/// Entries sent at a time when a list is imported: what fits into a body with room to spare.
const IMPORT_BATCH: usize = 5_000;

/// Who is not written to.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma suppression add joe@a.example
  tuma suppression add --tenant acme --for 90d --note 'asked by phone' joe@a.example @b.example
  tuma suppression check --tenant acme joe@a.example
  tuma suppression remove joe@a.example
  tuma suppression import --tenant acme list.txt
  tuma suppression export
  tuma suppression stats

A list that is imported has an address a line, or a JSON object with `address`, `tenant`, `reason`, `note` and `for` or
`until_ms`, as an export has them. `@b.example` is everybody at a domain.")]
pub(super) enum Suppression {
    /// Put addresses on the list.
    Add {
        #[command(flatten)]
        api: Api,
        /// Only for this tenant's mail.
        #[arg(long)]
        tenant: Option<String>,
        /// For how long, such as 90d; left out, for ever.
        #[arg(long, value_name = "TIME")]
        r#for: Option<String>,
        /// Why, in a few words.
        #[arg(long)]
        note: Option<String>,
        /// manual, bounce, complaint, unsubscribe or import.
        #[arg(long, default_value = "manual")]
        reason: String,
        /// Addresses, or domains as `@a.example`.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Take addresses off the list.
    Remove {
        #[command(flatten)]
        api: Api,
        /// Off this tenant's list; left out, off that of all.
        #[arg(long)]
        tenant: Option<String>,
        /// Addresses, or domains as `@a.example`.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Say whether an address is written to, and why not. Ends with 1 if it is not.
    Check {
        #[command(flatten)]
        api: Api,
        /// Asked for this tenant's mail.
        #[arg(long)]
        tenant: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The address.
        address: String,
    },
    /// Add every address of a file, or of standard input.
    Import {
        #[command(flatten)]
        api: Api,
        /// For lines that name no tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// The file; left out, standard input.
        file: Option<std::path::PathBuf>,
    },
    /// Print every entry as a JSON object a line.
    Export {
        #[command(flatten)]
        api: Api,
        /// Only those of this tenant.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Print figures.
    Stats {
        #[command(flatten)]
        api: Api,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Suppression {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Add { api, tenant, r#for, note, reason, addresses } => {
                let line = |address: &String| {
                    json!({ "address": address, "tenant": tenant, "for": r#for, "note": note, "reason": reason })
                        .to_string()
                };
                let lines: Vec<String> = addresses.iter().map(line).collect();
                let answer = send_json(api.api, "POST", "/v1/suppressions", &lines.join("\n"))?;
                say!("{} given, {} new", answer["given"], answer["new"]);
            }
            Self::Remove { api, tenant, addresses } => {
                let body = json!({ "tenant": tenant, "addresses": addresses });
                let answer = send_json(api.api, "DELETE", "/v1/suppressions", &body.to_string())?;
                say!("{} removed", answer["removed"]);
            }
            Self::Check { api, tenant, json, address } => {
                let asked = query(&[("address", Some(&address)), ("tenant", tenant.as_deref())]);
                let answer = ask_json(api.api, "GET", &format!("/v1/suppressions{asked}"))?;
                let suppressed = answer["suppressed"].as_bool().unwrap_or(false);
                if json {
                    say!("{answer:#}");
                } else if suppressed {
                    say!("{address} is not written to: {}", told(&answer["entry"]));
                } else {
                    say!("{address} is not on the list");
                }
                return Ok(ExitCode::from(u8::from(suppressed)));
            }
            Self::Import { api, tenant, file } => return import(&api, tenant.as_deref(), file),
            Self::Export { api, tenant } => export(&api, tenant.as_deref())?,
            Self::Stats { api, json } => {
                let stats = ask_json(api.api, "GET", "/v1/suppressions/stats")?;
                if json {
                    say!("{stats:#}");
                    return Ok(ExitCode::SUCCESS);
                }
                say!("{} entries, {} of whole domains", stats["entries"], stats["domains"]);
                for (reason, count) in stats["by_reason"].as_object().into_iter().flatten() {
                    say!("  {reason:<12} {count}");
                }
                say!("{} octets on disk, {} records stale", stats["octets"], stats["stale"]);
                let lost: u64 =
                    ["damaged", "failed", "dropped"].iter().filter_map(|key| stats[key].as_u64()).sum();
                if lost > 0 {
                    say!(
                        "damaged {}, failed to write {}, dropped {}: see the log",
                        stats["damaged"],
                        stats["failed"],
                        stats["dropped"]
                    );
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Why and by which entry, in one line.
fn told(entry: &Value) -> String {
    let text = |key: &str| entry[key].as_str().unwrap_or("");
    let whose =
        entry["tenant"].as_str().map_or("for all".to_owned(), |tenant| format!("for tenant {tenant}"));
    let note = if text("note").is_empty() { String::new() } else { format!(", {}", text("note")) };
    format!("{} {whose} ({}{note})", text("address"), text("reason"))
}

fn import(api: &Api, tenant: Option<&str>, file: Option<std::path::PathBuf>) -> Result<ExitCode> {
    let input: Box<dyn BufRead> = match &file {
        Some(path) => {
            let opened = std::fs::File::open(path).with_context(|| path.display().to_string())?;
            Box::new(std::io::BufReader::new(opened))
        }
        None => Box::new(std::io::stdin().lock()),
    };
    let (mut batch, mut given, mut new) = (Vec::new(), 0, 0);
    let send = |batch: &mut Vec<String>, given: &mut u64, new: &mut u64, upto: usize| -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let answer = send_json(api.api, "POST", "/v1/suppressions", &batch.join("\n"))
            .with_context(|| format!("in the {} lines before line {}", batch.len(), upto + 1))?;
        *given += answer["given"].as_u64().unwrap_or(0);
        *new += answer["new"].as_u64().unwrap_or(0);
        batch.clear();
        Ok(())
    };
    let mut number = 0;
    for line in input.lines() {
        let line = line?;
        number += 1;
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let mut entry = if text.starts_with('{') {
            serde_json::from_str(text).with_context(|| format!("line {number}"))?
        } else {
            json!({ "address": text, "reason": "import" })
        };
        let Some(map) = entry.as_object_mut() else { bail!("line {number} is no object") };
        // An export has it; what counts here is when it was put on this list.
        map.remove("since_ms");
        if let (Some(tenant), true) = (tenant, map.get("tenant").is_none_or(Value::is_null)) {
            map.insert("tenant".into(), tenant.into());
        }
        batch.push(entry.to_string());
        if batch.len() == IMPORT_BATCH {
            send(&mut batch, &mut given, &mut new, number)?;
        }
    }
    send(&mut batch, &mut given, &mut new, number)?;
    say!("{given} given, {new} new");
    Ok(ExitCode::SUCCESS)
}

fn export(api: &Api, tenant: Option<&str>) -> Result<()> {
    let mut cursor: Option<u64> = None;
    loop {
        let cursor_text = cursor.map(|cursor| cursor.to_string());
        let asked = query(&[("cursor", cursor_text.as_deref()), ("max", Some("10000")), ("tenant", tenant)]);
        let page = ask_json(api.api, "GET", &format!("/v1/suppressions{asked}"))?;
        for entry in page["entries"].as_array().into_iter().flatten() {
            say!("{entry}");
        }
        match page["cursor"].as_u64() {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}
