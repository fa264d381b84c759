//! `tuma dkim check`: what DNS says of a key, and what to do about it.

use super::{record_name, zone_lines};
use delivery::{DkimConfig, Selector};
use mailauth::dkim::{self, KeyAnswer, KeyRecord, SigningKey, Verifier, VerifyPolicy};
use resolve::{Answer, Dns, Resolver};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What was found.
pub(in crate::cli) struct Looked {
    identity: String,
    /// What the key is for: `signs`, `next` or `former`.
    state: &'static str,
    pub(in crate::cli) record_name: String,
    /// Nothing is to be done at once.
    pub(in crate::cli) good: bool,
    /// One word for it.
    found: &'static str,
    /// In a sentence.
    pub(in crate::cli) text: String,
    /// What is to be done.
    pub(in crate::cli) advice: Vec<String>,
}

impl Looked {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "identity": self.identity,
            "state": self.state,
            "record_name": self.record_name,
            "good": self.good,
            "found": self.found,
            "text": self.text,
            "advice": self.advice,
        })
    }

    pub(super) fn print(&self) {
        let mark = if self.good { "ok  " } else { "FAIL" };
        say!("{mark} dkim.{} ({}) {}", self.identity, self.state, self.record_name);
        say!("     {}", self.text);
        for line in self.advice.iter().flat_map(|text| text.lines()) {
            say!("     {line}");
        }
    }
}

async fn ask(dns: &Dns, name: &str) -> Result<Vec<Vec<u8>>, String> {
    match dns.txt(name).await {
        Answer::Found(records, _) => Ok(records.iter().map(|text| text.to_vec()).collect()),
        Answer::NoData(_) | Answer::NxDomain(_) => Ok(Vec::new()),
        Answer::Temporary(why) => Err(why.to_string()),
    }
}

/// Looks at the record of a key.
pub(in crate::cli) async fn key(
    dns: &Dns,
    name: &str,
    identity: &DkimConfig,
    selector: &Selector,
    key: SigningKey,
    state: &'static str,
) -> Looked {
    let record_name = record_name(selector, &identity.domain);
    let answer = ask(dns, &record_name).await;
    let looked = |good, found, text: String, advice: Vec<String>| Looked {
        identity: name.to_owned(),
        state,
        record_name: record_name.clone(),
        good,
        found,
        text,
        advice,
    };
    let publish = || format!("publish:\n{}", zone_lines(&record_name, &key.record()));
    let records = match answer {
        Ok(records) => records,
        Err(why) => {
            let advice = "ask again later, or another name server: --nameserver".to_owned();
            return looked(false, "no_answer", format!("DNS gives no answer: {why}"), vec![advice]);
        }
    };
    if records.is_empty() {
        return looked(false, "absent", "DNS has no such record".into(), vec![publish()]);
    }
    let mut advice = Vec::new();
    if records.len() > 1 {
        let text = format!("{} TXT records stand there, and receivers may take any of them", records.len());
        return looked(false, "several", text, vec![format!("leave one; {}", publish())]);
    }
    let record = match KeyRecord::parse(&records[0]) {
        Ok(record) => record,
        Err(error) => {
            let shown = settings::quote(&String::from_utf8_lossy(&records[0]));
            let text = format!("the record cannot be used: {error}. It begins {shown}");
            return looked(false, "unreadable", text, vec![format!("in its place, {}", publish())]);
        }
    };
    let Some(published) = &record.key else {
        return looked(
            false,
            "revoked",
            "the record says that the key is revoked (an empty p=)".into(),
            vec![publish()],
        );
    };
    if *published != key.public() {
        let text = format!(
            "the record has another key ({} {}) than the file ({} {})",
            published.kind(),
            published.bits(),
            key.kind(),
            key.bits()
        );
        let advice = vec![
            "if the record is right, name its file in `key`; if the file is right,".to_owned(),
            format!("{} and wait until the old record's time to live is over", publish()),
        ];
        return looked(false, "another_key", text, advice);
    }
    if record.testing {
        advice.push(
            "t=y says that DKIM is only being tried out: take it away, or failures mean nothing".to_owned(),
        );
    }
    let (kind, bits) = (key.kind(), key.bits());
    // The proof of the pudding: a message is signed, and checked as a receiver would.
    if let Err(why) = prove(identity, selector, key, &record_name, &records) {
        return looked(
            false,
            "not_verified",
            format!("a message that it signs is not verified: {why}"),
            advice,
        );
    }
    let next = match state {
        "next" => {
            advice.push(format!(
                "it may sign now: set selector = \"{selector}\", its `key`, and former = [\"{}\"]",
                *identity.selector
            ));
            ", ready to take over"
        }
        _ => "",
    };
    looked(
        true,
        "good",
        format!("DNS has the key ({kind} {bits}), and a message that it signs is verified{next}"),
        advice,
    )
}

/// Signs a message and verifies it with the records that DNS has.
fn prove(
    config: &DkimConfig,
    selector: &Selector,
    key: SigningKey,
    record_name: &str,
    records: &[Vec<u8>],
) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut identity = delivery::dkim_identity(config, Arc::new(key));
    identity.selector = selector.0.clone();
    let content = format!("From: check@{}\r\nSubject: check\r\n\r\ncheck\r\n", *config.domain);
    let field = dkim::sign(&identity, content.as_bytes(), now).map_err(|error| error.to_string())?;
    let signed = [&field, content.as_bytes()].concat();
    let mut verifier = Verifier::of(&signed, &VerifyPolicy::default(), now);
    verifier.answer(record_name, &KeyAnswer::Records(records.to_vec()));
    match verifier.finish().pop() {
        Some(verified) => verified.reason.map_or(Ok(()), |reason| Err(reason.to_string())),
        None => Err("it has no signature".to_owned()),
    }
}

/// Looks whether the record of a former key is still there.
pub(super) async fn former(dns: &Dns, name: &str, identity: &DkimConfig, selector: &Selector) -> Looked {
    let record_name = record_name(selector, &identity.domain);
    let (good, found, text, advice) = match ask(dns, &record_name).await {
        Err(why) => (false, "no_answer", format!("DNS gives no answer: {why}"), "ask again later"),
        Ok(records) if records.is_empty() => {
            (true, "gone", "DNS has forgotten it".to_owned(), "take it out of `former`, and delete its file")
        }
        Ok(records) if KeyRecord::parse(&records[0]).is_ok_and(|record| record.key.is_none()) => {
            (true, "revoked", "it is revoked".to_owned(), "its record and its name in `former` may go")
        }
        Ok(_) => (
            true,
            "still_there",
            "it is still in DNS".to_owned(),
            "a week after it signed last, take the record out: who has the old key could sign until then",
        ),
    };
    let advice = vec![advice.to_owned()];
    Looked { identity: name.to_owned(), state: "former", record_name, good, found, text, advice }
}
