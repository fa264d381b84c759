//! What is done about what was found out, and what is written of it. Pure: no waiting here.

use super::{BadFrom, Dmarc, DmarcFail, Incoming, Judged, OnTemporary, SpfFail, VerifyConfig};
use mail::{Envelope, Host, Origin, Reply, ReplyClass, ReversePath};
use mailauth::arc::{self, ArcResult};
use mailauth::dkim::{Verdict, Verified};
use mailauth::dmarc::{DmarcResult, Policy, report};
use mailauth::results::{MethodResult, write_results};
use mailauth::spf::{self, SpfResult};
use mailauth::{dmarc, iprev};
use routing::{VerdictWord, Verdicts};
use std::net::IpAddr;

/// What was found out; nothing where a check is off.
pub(super) struct Found<'a> {
    pub(super) incoming: Incoming<'a>,
    pub(super) client: Option<IpAddr>,
    pub(super) spf: Option<spf::Outcome>,
    pub(super) iprev: Option<iprev::Outcome>,
    pub(super) dkim: Option<Vec<Verified>>,
    pub(super) dmarc: Option<Dmarc>,
    pub(super) arc: Option<arc::Outcome>,
}

/// What becomes of a message by its author's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disposition {
    /// What is done.
    pub(super) done: Policy,
    /// The author's policy is not followed, since a forwarder who is trusted vouches for the message.
    pub(super) vouched: bool,
}

/// The domain that SPF was asked about.
pub(super) fn spf_domain(envelope: &Envelope, origin: &Origin) -> String {
    match &envelope.reverse_path {
        ReversePath::Null => origin.helo.to_string(),
        ReversePath::Mailbox(mailbox) => match mailbox.host() {
            Host::Domain(domain) => domain.as_str().to_owned(),
            literal => literal.to_string(),
        },
    }
}

impl Found<'_> {
    pub(super) fn spf_result(&self) -> Option<SpfResult> {
        self.spf.as_ref().map(|outcome| outcome.result)
    }

    pub(super) fn dmarc_result(&self) -> Option<DmarcResult> {
        self.dmarc.as_ref().map(|dmarc| match dmarc {
            Ok(outcome) => outcome.result,
            Err(_) => DmarcResult::PermError,
        })
    }

    /// The best of the signatures.
    pub(super) fn dkim_word(&self) -> Option<&'static str> {
        let verified = self.dkim.as_ref()?;
        let order = [
            Verdict::Pass,
            Verdict::TempError,
            Verdict::Fail,
            Verdict::Policy,
            Verdict::PermError,
            Verdict::Neutral,
        ];
        let best = order.into_iter().find(|verdict| verified.iter().any(|v| v.verdict == *verdict));
        Some(best.map_or("none", Verdict::as_str))
    }

    pub(super) fn disposition(&self, config: &VerifyConfig) -> Disposition {
        let wanted = match &self.dmarc {
            Some(Ok(outcome)) => outcome.wanted(),
            _ => Policy::None,
        };
        let vouched = wanted != Policy::None && self.is_vouched_for(config);
        let done = match config.dmarc_fail {
            _ if vouched => Policy::None,
            DmarcFail::Accept => Policy::None,
            DmarcFail::Quarantine => wanted.min(Policy::Quarantine),
            DmarcFail::Follow => wanted,
        };
        Disposition { done, vouched }
    }

    /// True if the last to seal is trusted, and found that the message passed DMARC (RFC 8617 §7.2).
    fn is_vouched_for(&self, config: &VerifyConfig) -> bool {
        let Some(chain) = self.arc.as_ref().filter(|chain| chain.result == ArcResult::Pass) else {
            return false;
        };
        let trusted = chain
            .sealer
            .as_ref()
            .is_some_and(|sealer| config.arc_trusted.iter().any(|domain| domain.0 == *sealer));
        trusted && chain.said.iter().any(|said| &*said.method == "dmarc" && &*said.result == "pass")
    }
}

/// The fields that say what was found, or the reply that refuses the message.
pub(super) fn judge(config: &VerifyConfig, id: &str, found: &Found<'_>) -> Result<Judged, Reply> {
    let disposition = found.disposition(config);
    if let Some(reply) = refusal(config, found, disposition) {
        return Err(reply);
    }
    let mut fields = Vec::with_capacity(512);
    let results = results(found, disposition);
    write_results(&mut fields, None, id, &results);
    if config.received_spf {
        received_spf(&mut fields, id, found);
    }
    let quarantined = disposition.done == Policy::Quarantine;
    if quarantined {
        let name = config.quarantine_field.as_str();
        fields.extend_from_slice(format!("{name}: yes (DMARC policy)\r\n").as_bytes());
    }
    let word = |word: Option<&str>| word.and_then(VerdictWord::of);
    let verdicts = Verdicts {
        spf: word(found.spf_result().map(SpfResult::word)),
        dkim: word(found.dkim_word()),
        dmarc: word(found.dmarc_result().map(DmarcResult::word)),
        arc: word(found.arc.as_ref().map(|chain| chain.result.word())),
        iprev: word(found.iprev.as_ref().map(|outcome| outcome.result.word())),
        quarantined,
    };
    Ok(Judged { fields, summary: summary(&verdicts), verdicts, results, chain: found.arc.clone() })
}

fn summary(verdicts: &Verdicts) -> Box<str> {
    let Verdicts { spf, dkim, dmarc, arc, iprev, quarantined } = verdicts;
    let methods = [("spf", spf), ("dkim", dkim), ("dmarc", dmarc), ("arc", arc), ("iprev", iprev)];
    let words = methods.iter().filter_map(|(method, word)| Some(format!("{method}={}", (**word)?)));
    let quarantine = quarantined.then(|| "quarantine".to_owned());
    words.chain(quarantine).collect::<Vec<_>>().join(" ").into()
}

fn refusal(config: &VerifyConfig, found: &Found<'_>, disposition: Disposition) -> Option<Reply> {
    let dmarc = found.dmarc_result();
    if let Some(Err(error)) = &found.dmarc
        && config.bad_from == BadFrom::Reject
    {
        return Some(Reply::new(550, (5, 7, 1), format!("who wrote this message cannot be told: {error}")));
    }
    if disposition.done == Policy::Reject
        && let Some(Ok(outcome)) = &found.dmarc
    {
        let text = format!("{} wants mail refused that fails DMARC, as this message does", outcome.author);
        return Some(Reply::new(550, (5, 7, 1), text));
    }
    let spf = found.spf_result();
    let spf_refuses = match config.spf_fail {
        SpfFail::Accept => false,
        SpfFail::Reject => dmarc != Some(DmarcResult::Pass),
        SpfFail::RejectAlways => true,
    };
    if spf == Some(SpfResult::Fail) && spf_refuses {
        return Some(Reply::new(550, (5, 7, 23), spf_refusal(found)));
    }
    if config.temporary == OnTemporary::Defer {
        if dmarc == Some(DmarcResult::TempError) && config.dmarc_fail != DmarcFail::Accept {
            return Some(Reply::new(451, (4, 7, 1), "DMARC cannot be checked now, try again later"));
        }
        if spf == Some(SpfResult::TempError) && spf_refuses {
            return Some(Reply::new(451, (4, 7, 24), "SPF cannot be checked now, try again later"));
        }
    }
    None
}

fn spf_refusal(found: &Found<'_>) -> String {
    let Incoming { envelope, origin, .. } = found.incoming;
    let domain = spf_domain(envelope, origin);
    let client = found.client.map(|client| client.to_string()).unwrap_or_default();
    let mut text = format!("{client} may not send mail of {}", message_text(&domain));
    if let Some(explanation) = found.spf.as_ref().and_then(|outcome| outcome.explanation.as_ref()) {
        // RFC 7208 §6.2: what the domain says is said to be its word.
        text += &format!("; {} says: {explanation}", message_text(&domain));
    }
    // All of it is ASCII.
    text.truncate(REPLY_TEXT_MAX_OCTETS);
    text
}

/// Octets of a reply's text that fit a line with its codes (RFC 5321 §4.5.3.1.5).
const REPLY_TEXT_MAX_OCTETS: usize = 480;

/// A client's own name is any text.
fn message_text(text: &str) -> String {
    text.chars().take(255).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

fn results(found: &Found<'_>, disposition: Disposition) -> Vec<MethodResult> {
    let Incoming { envelope, origin, .. } = found.incoming;
    let mut results = Vec::new();
    if let Some(outcome) = &found.spf {
        let mut result = MethodResult::new("spf", outcome.result.word());
        if let Some(problem) = &outcome.problem {
            result = result.comment(problem.to_string());
        }
        results.push(match &envelope.reverse_path {
            ReversePath::Null => result.property("smtp.helo", &*origin.helo),
            ReversePath::Mailbox(mailbox) => result.property("smtp.mailfrom", mailbox.to_string()),
        });
    }
    match found.dkim.as_deref() {
        None => {}
        Some([]) => results.push(MethodResult::new("dkim", "none")),
        Some(signatures) => results.extend(signatures.iter().map(dkim_result)),
    }
    match &found.dmarc {
        None => {}
        Some(Err(error)) => results.push(MethodResult::new("dmarc", "permerror").comment(error.to_string())),
        Some(Ok(outcome)) => results.push(dmarc_result(outcome, disposition)),
    }
    if let Some(chain) = &found.arc {
        let mut result = MethodResult::new("arc", chain.result.word());
        if let Some(problem) = &chain.problem {
            result = result.comment(problem.to_string());
        } else if let Some(sealer) = &chain.sealer {
            result = result.comment(format!("i={}, sealed by {sealer}", chain.sets));
        }
        results.push(result);
    }
    if let Some(outcome) = &found.iprev {
        let mut result = MethodResult::new("iprev", outcome.result.word());
        if let Some(name) = &outcome.name {
            result = result.comment(name.as_str());
        }
        let client = found.client.map(|client| client.to_string()).unwrap_or_default();
        results.push(result.property("policy.iprev", client));
    }
    results
}

fn dkim_result(verified: &Verified) -> MethodResult {
    let mut result = MethodResult::new("dkim", verified.verdict.as_str());
    let mut comments = Vec::new();
    comments.extend(verified.reason.map(|reason| reason.to_string()));
    comments.extend(verified.key_bits.map(|bits| format!("{bits}-bit key")));
    if verified.testing {
        comments.push("testing".to_owned());
    }
    if !comments.is_empty() {
        result = result.comment(comments.join(", "));
    }
    let Some(signature) = &verified.signature else { return result };
    result = result.property("header.d", signature.domain.as_str());
    if *signature.identity != format!("@{}", signature.domain) {
        result = result.property("header.i", &*signature.identity);
    }
    result
        .property("header.s", signature.selector.as_str())
        .property("header.a", signature.algorithm.as_str())
        .property("header.b", &*signature.prefix)
}

fn dmarc_result(outcome: &dmarc::Outcome, disposition: Disposition) -> MethodResult {
    let result = MethodResult::new("dmarc", outcome.result.word());
    let result = match &outcome.published {
        None => result,
        Some(published) => {
            let why = if disposition.vouched { ", trusted forwarder" } else { "" };
            let (policy, done) = (published.policy, disposition.done);
            result.comment(format!("p={policy} dis={done} at {}{why}", published.domain))
        }
    };
    result.property("header.from", outcome.author.as_str())
}

/// RFC 7208 §9.1.
fn received_spf(out: &mut Vec<u8>, id: &str, found: &Found<'_>) {
    let (Some(outcome), Some(client)) = (&found.spf, found.client) else { return };
    let Incoming { envelope, origin, .. } = found.incoming;
    let quoted = |text: &str| {
        let plain = message_text(text).replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{plain}\"")
    };
    let (identity, sender) = match &envelope.reverse_path {
        ReversePath::Null => ("helo", String::new()),
        ReversePath::Mailbox(mailbox) => ("mailfrom", mailbox.to_string()),
    };
    let text = format!(
        "Received-SPF: {} ({id}: SPF of {})\r\n\tclient-ip={client}; identity={identity};\r\n\t\
         envelope-from={};\r\n\thelo={}\r\n",
        outcome.result,
        message_text(&spf_domain(envelope, origin)).replace(['(', ')', '\\'], "?"),
        quoted(&sender),
        quoted(&origin.helo),
    );
    out.extend_from_slice(text.as_bytes());
}

/// What an aggregate report tells of a message; nothing if its author has no policy, or wants no reports, or if the
/// client will come again.
pub(super) fn report_line(
    config: &VerifyConfig,
    found: &Found<'_>,
    refused: Option<&Reply>,
) -> Option<String> {
    let Some(Ok(outcome)) = &found.dmarc else { return None };
    let published = outcome.published.as_ref().filter(|published| !published.record.report_to.is_empty())?;
    let client = found.client?;
    if outcome.result == DmarcResult::TempError
        || refused.is_some_and(|reply| reply.code.class() == ReplyClass::Transient)
    {
        return None;
    }
    let Disposition { done, vouched } = found.disposition(config);
    let (disposition, reason) = match outcome.result {
        _ if refused.is_some() && done != Policy::Reject => {
            (report::Disposition::Done(Policy::Reject), Some("local_policy"))
        }
        DmarcResult::Pass => (report::Disposition::Pass, None),
        _ => {
            let reason = match () {
                () if vouched => Some("trusted_forwarder"),
                () if done != published.wanted => Some("local_policy"),
                () if published.wanted != published.policy => Some("policy_test_mode"),
                () => None,
            };
            (report::Disposition::Done(done), reason)
        }
    };
    let Incoming { envelope, origin, .. } = found.incoming;
    let sender = spf_domain(envelope, origin);
    let (scope, envelope_from) = match &envelope.reverse_path {
        ReversePath::Null => ("helo", None),
        ReversePath::Mailbox(_) => ("mfrom", Some(sender.as_str())),
    };
    let signatures = found.dkim.as_deref().unwrap_or_default().iter().filter_map(|verified| {
        let signature = verified.signature.as_ref()?;
        Some((signature.domain.as_str(), signature.selector.as_str(), verified.verdict.as_str()))
    });
    let row = report::Row {
        domain: &published.domain,
        record: &published.record,
        organization: config.organization(),
        source: client,
        disposition,
        dkim_aligned: outcome.aligned.dkim,
        spf_aligned: outcome.aligned.spf,
        reason,
        header_from: &outcome.author,
        envelope_from,
        spf: found.spf_result().map(|result| (sender.as_str(), scope, result.word())),
        dkim: signatures.collect(),
    };
    Some(row.to_line())
}
