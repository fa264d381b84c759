//! Is the mail of a stranger what it says it is? SPF, DKIM, DMARC and iprev are asked at the end of data, before
//! anything is stored; what is done about the answers is the operator's choice.
//!
//! Nothing here blocks a thread for long: DNS is waited for within a deadline, bodies are hashed and signatures
//! checked one piece at a time.

mod config;
pub(crate) mod drive;
mod figures;
mod judge;

pub use config::{BadFrom, DmarcFail, OnTemporary, OrganizationBy, SpfFail, VerifyConfig};
pub use figures::VerifyFigures;

use crate::relay::RelayRules;
use crate::reports::Collector;
use bytes::Bytes;
use drive::drive;
use judge::Found;
use mail::{Envelope, Origin, Reply, UnixMillis};
use mailauth::arc::{self, Sealer};
use mailauth::dkim::{Verdict, Verified, Verifier};
use mailauth::dmarc::{self, Evidence, EvidenceKind};
use mailauth::dns::Name;
use mailauth::results::MethodResult;
use mailauth::spf::{self, SpfResult, Subject};
use mailauth::{FromError, from_domain, iprev, results};
use resolve::Resolver;
use routing::Verdicts;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::task::yield_now;
use tokio::time::Instant;
use tracing::warn;

/// Octets of a body that are hashed before other tasks get their turn: about 50 microseconds.
const PIECE_OCTETS: usize = 32 * 1024;

/// The settings, ready to be used.
#[derive(Clone, Debug)]
pub struct VerifyRules {
    config: VerifyConfig,
    /// Our name in Authentication-Results.
    id: Box<str>,
    policy: mailauth::dkim::VerifyPolicy,
    sealer: Option<Arc<Sealer>>,
}

/// A message to be verified.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) content: &'a [u8],
    pub(crate) envelope: &'a Envelope,
    pub(crate) origin: &'a Origin,
    pub(crate) at: UnixMillis,
}

/// What was found out of a message that is taken.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// The fields that say so, to be put in front.
    pub(crate) fields: Vec<u8>,
    /// The verdicts, for rules.
    pub(crate) verdicts: Verdicts,
    /// The verdicts in one line, for records.
    pub(crate) summary: Box<str>,
    /// What a seal would say.
    pub(crate) results: Vec<MethodResult>,
    /// The chain that a seal would lengthen.
    pub(crate) chain: Option<arc::Outcome>,
}

impl VerifyRules {
    /// Of the settings; `hostname` is this server's name, `sealer` whom `arc_seal` names.
    pub fn new(config: &VerifyConfig, hostname: &mail::Domain, sealer: Option<Sealer>) -> Self {
        let id = config.authserv_id.as_deref().unwrap_or(hostname).as_str().into();
        Self { config: config.clone(), id, policy: config.policy(), sealer: sealer.map(Arc::new) }
    }

    /// True if mail of this client is to be verified.
    pub(crate) fn concerns(&self, relay: &RelayRules, peer: Option<IpAddr>, user: Option<&str>) -> bool {
        let excepted =
            peer.is_some_and(|peer| self.config.except.iter().any(|network| network.contains(peer)));
        !excepted && !relay.trusts(peer, user)
    }

    /// Takes out of a header what only this server may say. What is left begins at the offset returned.
    pub(crate) fn take_out_forged(&self, content: &mut [u8]) -> usize {
        message::take_out_fields(content, |field| {
            (field.is("authentication-results") && results::claims(field.value, &self.id))
                || field.is(self.config.quarantine_field.as_str())
        })
    }

    /// Verifies a message: the fields to put in front, or the reply that refuses it.
    pub(crate) async fn verify(
        &self,
        incoming: Incoming<'_>,
        dns: &dyn Resolver,
        figures: &VerifyFigures,
        reports: Option<&Arc<Collector>>,
    ) -> Result<Judged, Reply> {
        let began = Instant::now();
        let deadline = began + self.config.timeout;
        let Incoming { content, envelope, origin, at } = incoming;
        let client = origin.peer.map(|peer| peer.ip().to_canonical());
        let seconds = at.0 / 1000;
        let spf = async {
            let subject = Subject::sender(&envelope.reverse_path, &origin.helo, client?, &self.id, seconds);
            Some(drive(spf::Check::new(subject), dns, deadline).await)
        };
        let spf = async { if self.config.spf { spf.await } else { None } };
        let iprev = async {
            if !self.config.iprev {
                return None;
            }
            Some(drive(iprev::Check::new(client?), dns, deadline).await)
        };
        let signed = self.signatures(content, seconds, dns, deadline);
        let (spf, iprev, (dkim, arc)) = tokio::join!(spf, iprev, signed);
        let author = from_domain(content);
        let dmarc = if self.config.dmarc {
            match &author {
                Ok(author) => {
                    let evidence = evidence(envelope, origin, spf.as_ref(), dkim.as_deref());
                    let check = dmarc::Check::new(Name::of(author), evidence, self.config.organization());
                    Some(Ok(drive(check, dns, deadline).await))
                }
                Err(error) => Some(Err(*error)),
            }
        } else {
            None
        };
        let found = Found { incoming, client, spf, iprev, dkim, dmarc, arc };
        let judged = judge::judge(&self.config, &self.id, &found);
        figures.count(&found, judged.as_ref().err(), began.elapsed());
        if let Some(collector) = reports
            && let Some(line) = judge::report_line(&self.config, &found, judged.as_ref().err())
        {
            collector.take(line);
        }
        judged
    }

    /// Verifies one message by itself, for measurements: the fields that would be put in front.
    #[doc(hidden)]
    pub async fn measure(
        &self,
        content: &[u8],
        envelope: &Envelope,
        origin: &Origin,
        dns: &dyn Resolver,
        figures: &VerifyFigures,
    ) -> Result<Vec<u8>, Reply> {
        let incoming = Incoming { content, envelope, origin, at: UnixMillis(1_700_000_000_000) };
        self.verify(incoming, dns, figures, None).await.map(|judged| judged.fields)
    }

    /// The signatures of DKIM and the chain of ARC, over a body that is hashed once for both.
    async fn signatures(
        &self,
        content: &[u8],
        now: u64,
        dns: &dyn Resolver,
        deadline: Instant,
    ) -> (Option<Vec<Verified>>, Option<arc::Outcome>) {
        let mut dkim = self.config.dkim.then(|| Verifier::new(content, &self.policy, now));
        let mut chain = self.config.arc.then(|| arc::Validator::new(content, &self.policy));
        let wants_body = dkim.as_ref().is_some_and(Verifier::has_signatures)
            || chain.as_ref().is_some_and(arc::Validator::is_open);
        if wants_body {
            for piece in content[message::scan(content).body_start..].chunks(PIECE_OCTETS) {
                if let Some(dkim) = &mut dkim {
                    dkim.body(piece);
                }
                if let Some(chain) = &mut chain {
                    chain.body(piece);
                }
                yield_now().await;
            }
        }
        if let Some(dkim) = &mut dkim {
            dkim.end();
            for name in dkim.questions() {
                let answer = drive::key(&name, dns, deadline).await;
                dkim.answer(&name, &answer);
                yield_now().await;
            }
        }
        if let Some(chain) = &mut chain {
            for name in chain.questions() {
                let answer = drive::key(&name, dns, deadline).await;
                chain.answer(&name, &answer);
            }
            while chain.advance() {
                yield_now().await;
            }
        }
        (dkim.map(Verifier::finish), chain.map(arc::Validator::finish))
    }

    /// True if mail that was verified is sealed.
    pub(crate) fn seals(&self) -> bool {
        self.sealer.is_some()
    }

    /// The fields that seal a message, on a thread where that holds nobody up; nothing if it cannot be sealed.
    pub(crate) async fn seal(
        &self,
        judged: &Judged,
        header: Vec<u8>,
        body: Bytes,
        at: UnixMillis,
        figures: &VerifyFigures,
    ) -> Vec<u8> {
        let (Some(sealer), Some(chain)) = (self.sealer.clone(), judged.chain.clone()) else {
            return Vec::new();
        };
        if !chain.may_be_sealed() {
            return Vec::new();
        }
        let (id, results) = (self.id.clone(), judged.results.clone());
        let work = move || arc::seal(&sealer, &header, &body, &chain, &id, &results, at.0 / 1000);
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(fields)) => {
                figures.sealed(true);
                fields
            }
            // A seal is a service to others: the mail goes on without.
            Ok(Err(error)) => {
                figures.sealed(false);
                warn!(%error, "message not sealed");
                Vec::new()
            }
            Err(_) => {
                figures.sealed(false);
                Vec::new()
            }
        }
    }
}

/// What was authenticated, or would have been had DNS answered.
fn evidence(
    envelope: &Envelope,
    origin: &Origin,
    spf: Option<&spf::Outcome>,
    dkim: Option<&[Verified]>,
) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    if let Some(outcome) = spf
        && matches!(outcome.result, SpfResult::Pass | SpfResult::TempError)
        && let Some(domain) = Name::parse(judge::spf_domain(envelope, origin).as_bytes())
    {
        let is_sure = outcome.result == SpfResult::Pass;
        evidence.push(Evidence { domain, kind: EvidenceKind::Spf, is_sure });
    }
    let signed = dkim.unwrap_or_default().iter().filter_map(|verified| {
        let is_sure = match verified.verdict {
            Verdict::Pass => true,
            Verdict::TempError => false,
            _ => return None,
        };
        let domain = Name::of(&verified.signature.as_ref()?.domain);
        Some(Evidence { domain, kind: EvidenceKind::Dkim, is_sure })
    });
    evidence.extend(signed);
    // Of many, those that are sure are compared first.
    evidence.sort_by_key(|evidence| !evidence.is_sure);
    evidence
}

/// DMARC's outcome, or why there is no author to ask about.
type Dmarc = Result<dmarc::Outcome, FromError>;
