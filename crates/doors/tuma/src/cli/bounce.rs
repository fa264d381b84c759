//! `tuma bounce`: what failures are called, and by which rule.

use crate::classes;
use crate::config;
use crate::root::Root;
use anyhow::{Context, Result, bail};
use bounce::{ClassRules, Failure};
use mail::{BounceClass, EnhancedStatusCode, Reply, ReplyCode};
use replies::Stage;
use serde_json::json;
use std::io::BufRead;
use std::path::PathBuf;
use std::process::ExitCode;

/// Octets of a reply looked at.
const REPLY_MAX_OCTETS: usize = 8_192;

/// What failures are called, and by which rule.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma bounce classify '550 5.1.1 User unknown'
  tuma bounce classify --stage rcpt '550 Access denied'
  tuma bounce classes
  tuma bounce shipped

With `-` in place of the reply, a reply is read from each line of standard input.")]
pub(super) enum Bounce {
    /// Say which class a reply falls under, and the rule that says so.
    Classify {
        /// The configuration file whose rules go first; left out, the usual one if there is one.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where in a session it came: connect, greeting, ehlo, starttls, auth, mail, rcpt, data or end.
        #[arg(long)]
        stage: Option<String>,
        /// Print JSON, one object a line.
        #[arg(long)]
        json: bool,
        /// The reply, as a peer says it; `-` reads lines.
        reply: String,
    },
    /// List the classes with the words PowerMTA and KumoMTA have for them.
    Classes {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the rules that come with the server.
    Shipped,
}

impl Bounce {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Classify { config, stage, json, reply } => {
                let rules = rules(config)?;
                let stage = stage.map(|word| read_stage(&word)).transpose()?;
                if reply != "-" {
                    say_class(&rules, &reply, stage, json)?;
                    return Ok(ExitCode::SUCCESS);
                }
                for line in std::io::stdin().lock().lines() {
                    let line = line?;
                    if !line.trim().is_empty() {
                        say_class(&rules, &line, stage, json)?;
                    }
                }
            }
            Self::Classes { json } => classes_known(json),
            Self::Shipped => say!("{}", classes::SHIPPED.trim_end()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The rules of a configuration. Without one the shipped rules hold alone.
fn rules(given: Option<PathBuf>) -> Result<ClassRules> {
    let path = super::config_path(&given);
    if given.is_none() && !path.exists() {
        return classes::rules(&Root::default());
    }
    match config::load::<Root>(&path, &config::process_environment) {
        Ok(loaded) => classes::rules(&loaded.value),
        Err(report) => bail!("{report}"),
    }
}

fn read_stage(word: &str) -> Result<Stage> {
    let known = Stage::ALL.iter().copied().find(|stage| stage.word() == word);
    known.with_context(|| {
        let words: Vec<&str> = Stage::ALL.iter().map(|stage| stage.word()).collect();
        format!("no stage is called `{word}`; there is {}", words.join(", "))
    })
}

/// A reply as someone has copied it: code, enhanced code and text, on one line.
fn read_reply(text: &str) -> Result<Reply> {
    let text = text.trim();
    let bad = || format!("a reply begins with three digits, such as `550 5.1.1 no such user`, not `{text}`");
    let code = text.get(..3).and_then(|code| code.parse().ok()).and_then(ReplyCode::new).with_context(bad)?;
    let rest = text[3..].trim_start_matches(['-', ' ']);
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let enhanced = EnhancedStatusCode::parse(first);
    let said = if enhanced.is_some() { after } else { rest };
    let said: String = message::one_line(said, REPLY_MAX_OCTETS);
    Ok(Reply { code, enhanced, text: said.into() })
}

fn say_class(rules: &ClassRules, text: &str, stage: Option<Stage>, as_json: bool) -> Result<()> {
    let reply = read_reply(text)?;
    let found = rules.classify(&Failure { reply: &reply, stage });
    let (class, category) = (found.class, found.category());
    if as_json {
        let rule = found.rule.as_deref();
        say!(
            "{}",
            json!({ "class": class.as_str(), "category": category, "kumo": class.kumo(), "rule": rule, "hard": class.is_hard() })
        );
        return Ok(());
    }
    let by = found.rule.as_deref().map_or("by its code".to_owned(), |rule| format!("by rule `{rule}`"));
    say!("{class} ({by}); PowerMTA {category}, KumoMTA {}", class.kumo());
    Ok(())
}

fn classes_known(as_json: bool) {
    for class in BounceClass::ALL {
        let (category, kumo, meaning) = (class.category(), class.kumo(), class.meaning());
        if as_json {
            say!(
                "{}",
                json!({ "class": class.as_str(), "category": category, "kumo": kumo, "meaning": meaning, "hard": class.is_hard() })
            );
        } else {
            say!("{:<22} {category:<20} {kumo:<21} {meaning}", class.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_as_people_copy_them() {
        let read = |text: &str| read_reply(text).map(|reply| (reply.enhanced.is_some(), reply.to_string()));
        assert_eq!(read(" 550 5.1.1 No such user\n").unwrap(), (true, "550 5.1.1 No such user".into()));
        assert_eq!(read("550-no such user").unwrap(), (false, "550 no such user".into()));
        assert_eq!(read("421").unwrap(), (false, "421 ".into()));
        for wrong in ["", "55", "no such user", "999 x", "\u{e4}\u{e4}\u{e4} x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
