//! `tuma explain`: the verdict first, then the gates in the order in which they are asked.

use super::Api;
use super::client::{ask_json, field, length, query};
use anyhow::Result;
use serde_json::Value;
use std::process::ExitCode;

/// Why mail does not move.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tuma explain 1fk2c9m3x5a                        a message, by the id of its 250 and of the records
  tuma explain user@a.example                     what is queued for an address; or, if nothing is, a dry run
  tuma explain user@a.example --tenant acme --pool bulk
  tuma explain 'news:acme@a.example/bulk'         a queue, as `tuma queue queues` calls it
  tuma explain mx.a.example                       a site, as `tuma status` calls it

Each gate has a mark: ✗ holds the mail, ✓ does not. A gate of one source holds it only if no other source is open.")]
pub(super) struct Explain {
    #[command(flatten)]
    api: Api,
    /// A message id, an address, a queue, a site or a domain.
    about: String,
    /// The tenant of mail that is not there yet.
    #[arg(long)]
    tenant: Option<String>,
    /// The campaign of mail that is not there yet.
    #[arg(long)]
    campaign: Option<String>,
    /// The pool of mail that is not there yet.
    #[arg(long)]
    pool: Option<String>,
    /// The reverse-path of mail that is not there yet.
    #[arg(long)]
    sender: Option<String>,
    /// The job of mail that is not there yet.
    #[arg(long)]
    job: Option<String>,
    /// The listener that mail which is not there yet would come by; may be left out if there is one.
    #[arg(long)]
    listener: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode> {
        let asked = query(&[
            ("about", Some(&self.about)),
            ("tenant", self.tenant.as_deref()),
            ("campaign", self.campaign.as_deref()),
            ("pool", self.pool.as_deref()),
            ("sender", self.sender.as_deref()),
            ("job", self.job.as_deref()),
            ("listener", self.listener.as_deref()),
        ]);
        let told = ask_json(self.api.api, "GET", &format!("/v1/explain{asked}"))?;
        if self.json {
            say!("{told:#}");
            return Ok(ExitCode::SUCCESS);
        }
        let answers = told["answers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if told["kind"] == "dry run" {
            say!("nothing is queued for {}; mail for it would go so:", field(&told, "about"));
        }
        if told["cut"] == Value::Bool(true) {
            match told["read"].as_u64() {
                Some(read) => say!("(there is more to look at than the {read} messages that were read)"),
                None => say!("(there is more of it than was looked at)"),
            }
        }
        for (n, answer) in answers.iter().enumerate() {
            if n > 0 {
                say!("");
            }
            print(answer);
        }
        if answers.is_empty() {
            say!("nothing of {} is queued; what is remembered of it:", field(&told, "about"));
            told["events"].as_array().into_iter().flatten().for_each(event);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn event(event: &Value) {
    let reply = event["reply"].as_str().map(|reply| format!("  {reply}")).unwrap_or_default();
    let host = event["host"].as_str().map(|host| format!("  at {host}")).unwrap_or_default();
    say!("  {:<10} {}{host}{reply}", field(event, "kind"), field(event, "recipient"));
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn print(answer: &Value) {
    if let Some(id) = answer["id"].as_str() {
        let recipients = texts(&answer["recipients"]);
        let more = answer["recipient_count"].as_u64().unwrap_or(0).saturating_sub(recipients.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        say!("{id}  <{}> -> {}{more}", field(answer, "sender"), recipients.join(", "));
    }
    let moves = match answer["moves_in_seconds"].as_f64() {
        Some(s) if s > 0.0 => format!("; it moves in {}", length(s)),
        _ => String::new(),
    };
    say!("{}{moves}", field(answer, "verdict"));
    let provider = answer["provider"].as_str().map(|name| format!(" [{name}]")).unwrap_or_default();
    let site = answer["site"].as_str().unwrap_or("not known yet");
    say!("  queue {}, site {site}{provider}", field(answer, "queue"));
    let sources = texts(&answer["sources"]);
    if !sources.is_empty() {
        say!("  sources: {}", sources.join(", "));
    }
    way(&answer["route"]);
    texts(&answer["dkim"]).iter().for_each(|signature| say!("  DKIM {signature}"));
    for gate in answer["gates"].as_array().into_iter().flatten() {
        print_gate(gate);
    }
    let limits = texts(&answer["limits"]);
    if !limits.is_empty() {
        say!("  what holds here:");
        limits.iter().for_each(|limit| say!("      {limit}"));
    }
}

fn way(route: &Value) {
    let tls = field(route, "tls");
    let (hops, exchangers) = (texts(&route["next_hops"]), texts(&route["exchangers"]));
    if !hops.is_empty() {
        say!("  by {} to {}, TLS {tls}", field(route, "target"), hops.join("; "));
    } else if !exchangers.is_empty() {
        say!("  by the exchangers {}, TLS {tls}", exchangers.join(", "));
    }
    let by = route["tls_by"].as_str().map(|by| format!("by {by}"));
    let detail = route["tls_detail"].as_str().map(str::to_owned);
    let facts: Vec<String> = [by, detail].into_iter().flatten().collect();
    if !facts.is_empty() {
        say!("      TLS {tls}: {}", facts.join("; "));
    }
    for clear in route["in_the_clear"].as_array().into_iter().flatten() {
        let left = clear["for_seconds"].as_f64().unwrap_or_default();
        say!(
            "      {} in the clear for {} yet: {}",
            field(clear, "exchanger"),
            length(left),
            field(clear, "why")
        );
    }
}

fn print_gate(gate: &Value) {
    let holds = gate["holds"] == Value::Bool(true);
    let source = gate["source"].as_str().map(|source| format!("{source}: ")).unwrap_or_default();
    let mark = if holds { '✗' } else { '✓' };
    let mut text = format!("{source}{}", field(gate, "text"));
    if let Some(setting) = gate["setting"].as_str() {
        text += &format!(" — {setting}");
    }
    say!("  {mark} {:<10} {text}", field(gate, "gate"));
    let since = gate["held_for_seconds"].as_f64().map(|s| format!("since {} ago", length(s)));
    let until = gate["held_until_seconds"].as_f64().map(|s| format!("for {} yet", length(s)));
    let times: Vec<String> = [since, until].into_iter().flatten().collect();
    if !times.is_empty() {
        say!("      {:<10} {}", "", times.join(", "));
    }
    if let Some(change) = gate["change"].as_str() {
        say!("      {:<10} to change it: {change}", "");
    }
}
