//! What mail for a target asks of a connection.
//!
//! The operator's word comes first. Where that leaves it open, what the recipient's domain publishes raises it: TLSA
//! records by DNSSEC (DANE, RFC 7672), else an MTA-STS policy (RFC 8461). Neither ever lowers it.

use super::Memory;
use crate::candidates::Candidate;
use crate::config::TlsUse;
use crate::route::Route;
use crate::shared::{Settings, Shared};
use dispatch::Target;
use mail::{Domain, Host, Reply};
use net::tls::{Dane, Policy, Tlsa};
use resolve::{Sts, StsMode, StsPolicy, Vouched};
use smtp::client;
use std::fmt::Write as _;
use std::sync::Arc;

/// What a domain publishes, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    /// Its MTA-STS policy.
    pub(crate) sts: Sts,
    /// The exchangers that DNSSEC vouches for, which may be none; `None` if it vouches for nothing.
    pub(crate) secure: Option<Arc<[Box<str>]>>,
}

/// What mail for a target asks of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The operator's word.
    pub tls: TlsUse,
    /// Where it stands, such as `tls_policy.a.test`.
    pub by: Box<str>,
    /// Names that the certificate must be for one of; none is the exchanger's own.
    pub names: Arc<[Box<str>]>,
    /// What the domain publishes is not regarded, for the message does without (RFC 8689 §5).
    pub(crate) relaxed: bool,
    /// The domain, if its exchangers are found by DNS.
    pub(crate) domain: Option<Domain>,
    /// What that publishes.
    pub(crate) published: Arc<Published>,
}

/// How a connection to one exchanger is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The session's part.
    pub(crate) tls: client::TlsUse,
    /// The handshake's part.
    pub(crate) policy: Policy,
    /// Without TLS, if TLS fails.
    pub(crate) falls_back: bool,
    /// What records call it.
    pub(crate) word: &'static str,
    /// That this is an exchanger of the domain is the operator's word, or vouched for by DNSSEC or MTA-STS.
    pub(crate) is_its_host: bool,
    /// The policy that the session counts for in reports.
    pub(crate) kind: PolicyKind,
}

/// Kinds of policies, as reports name them (RFC 8460 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PolicyKind {
    /// TLSA records.
    Tlsa(Arc<Dane>),
    /// An MTA-STS policy.
    Sts(Arc<StsPolicy>),
    /// None.
    None,
}

impl Plan {
    /// The same without TLS.
    pub(crate) fn in_the_clear(&self) -> Self {
        Self { tls: client::TlsUse::Off, policy: Policy::Opportunistic, ..self.clone() }
    }
}

/// Why no connection to an exchanger can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoPlan {
    /// What the recipients' outcome is made of.
    pub(crate) reply: Reply,
    /// What reports call it.
    pub(crate) fault: super::SessionFault,
    pub(crate) kind: PolicyKind,
}

impl Demand {
    /// What remains of it for a message that does without what the domain publishes.
    pub(crate) fn relaxed(settings: &Settings, target: &Target, route: Option<&Route>) -> Self {
        Self { relaxed: true, ..operators(settings, target, route) }
    }

    /// What tells it from others: connections made by demands of one text may carry each other's mail.
    pub fn text(&self) -> Arc<str> {
        let mut text = self.tls.word().to_owned();
        // Writing to a string cannot fail.
        for name in &*self.names {
            let _ = write!(text, " {name}");
        }
        if let Some(secure) = self.dane() {
            // The names are those of the exchangers, which tell a site's targets apart anyway; the domain's own name is
            // one that the certificate may be for.
            let _ = write!(text, " dnssec {}", secure.join(","));
            if let Some(domain) = &self.domain {
                let _ = write!(text, " for {domain}");
            }
        }
        if let Some(policy) = self.enforced() {
            let _ = write!(text, " mta-sts {}", policy.mx.join(","));
        }
        text.into()
    }

    /// In a word.
    pub fn word(&self) -> &'static str {
        self.tls.word()
    }

    /// What else there is to say of it.
    pub fn detail(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.names.is_empty() {
            parts.push(format!("certificate for {}", self.names.join(" or ")));
        }
        if self.dane().is_some() {
            parts.push("DNSSEC vouches for its exchangers, so their TLSA records count".to_owned());
        }
        if let Some(policy) = &self.published.sts.policy {
            let effect = if self.enforced().is_some() || policy.mode != StsMode::Enforce {
                ""
            } else {
                ", overridden"
            };
            let mx = policy.mx.join(", ");
            parts.push(format!("MTA-STS policy, mode {}{effect}: {mx}", policy.mode.word()));
        }
        if let Some(fault) = &self.published.sts.fault {
            let word = super::SessionFault::from(fault).word();
            parts.push(format!("MTA-STS: {word}: {fault}"));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The text, if mail for the target must be kept apart from that of domains of which nothing is known.
    pub(crate) fn apart(&self, settings: &Settings) -> Option<Arc<str>> {
        let is_usual = self.tls == settings.delivery.tls
            && self.names.is_empty()
            && self.dane().is_none()
            && self.enforced().is_none();
        (!is_usual).then(|| self.text())
    }

    /// The MTA-STS policy that mail must keep to.
    pub(crate) fn enforced(&self) -> Option<&Arc<StsPolicy>> {
        let may = matches!(self.tls, TlsUse::Opportunistic | TlsUse::Required)
            || (self.tls == TlsUse::Verified && self.names.is_empty());
        self.published.sts.policy.as_ref().filter(|policy| may && policy.mode == StsMode::Enforce)
    }

    /// The exchangers whose TLSA records count.
    fn dane(&self) -> Option<&Arc<[Box<str>]>> {
        let may = matches!(self.tls, TlsUse::Opportunistic | TlsUse::Required | TlsUse::Dane);
        self.published.secure.as_ref().filter(|_| may)
    }

    /// True if what keeps mail from an exchanger may be that it is not as secure as the mail asks.
    pub(crate) fn is_strict(&self) -> bool {
        !matches!(self.tls, TlsUse::Off | TlsUse::Opportunistic)
            || self.dane().is_some()
            || self.enforced().is_some()
    }

    /// True if what the domain publishes is looked at.
    fn looks(tls: TlsUse, names: &[Box<str>]) -> bool {
        tls != TlsUse::Off && names.is_empty()
    }

    fn plan_by_operator(&self) -> Plan {
        let is_its_host = self.domain.is_none() || !self.names.is_empty();
        let plan = |tls, policy, falls_back| Plan {
            tls,
            policy,
            falls_back,
            word: self.tls.word(),
            is_its_host,
            kind: PolicyKind::None,
        };
        match self.tls {
            TlsUse::Off => plan(client::TlsUse::Off, Policy::Opportunistic, false),
            TlsUse::Opportunistic => plan(client::TlsUse::Opportunistic, Policy::Opportunistic, true),
            TlsUse::Required | TlsUse::Dane => plan(client::TlsUse::Required, Policy::Required, false),
            TlsUse::Verified if self.names.is_empty() => {
                plan(client::TlsUse::Required, Policy::Verified, false)
            }
            TlsUse::Verified => plan(client::TlsUse::Required, Policy::Named(self.names.clone()), false),
        }
    }
}

impl Shared {
    /// What mail for a target asks of a connection at this moment, or the reply for what waits when that cannot be
    /// known.
    pub(crate) async fn demand(
        &self,
        settings: &Settings,
        target: &Target,
        route: Option<&Route>,
    ) -> Result<Demand, Reply> {
        let demand = operators(settings, target, route);
        let Some(domain) = demand.domain.as_ref().filter(|_| Demand::looks(demand.tls, &demand.names)) else {
            return Ok(demand);
        };
        let secure = async {
            let Some(dnssec) = &self.dnssec else { return Ok(None) };
            match dnssec.exchangers(domain).await {
                Vouched::Secure(hosts) => Ok(Some(hosts)),
                Vouched::Insecure => Ok(None),
                Vouched::Failed(why) => {
                    let text = format!("{domain}: exchangers: {why}");
                    Err(Reply::new(451, (4, 7, 5), text))
                }
            }
        };
        let (sts, secure) = tokio::join!(self.sts.policy(domain), secure);
        let published = Arc::new(Published { sts, secure: secure? });
        self.published.put(domain, published.clone());
        Ok(Demand { published, ..demand })
    }

    /// The same as far as it is known without asking anybody; `None` if it is not.
    pub(crate) fn demand_known(
        &self,
        settings: &Settings,
        target: &Target,
        route: Option<&Route>,
    ) -> Option<Demand> {
        let demand = operators(settings, target, route);
        match &demand.domain {
            Some(domain) if Demand::looks(demand.tls, &demand.names) => {
                let published = self.published.find(domain)?;
                Some(Demand { published, ..demand })
            }
            _ => Some(demand),
        }
    }

    /// How a connection to an exchanger is made, or why none can be.
    pub(crate) async fn plan(&self, demand: &Demand, candidate: &Candidate) -> Result<Plan, NoPlan> {
        let plan = demand.plan_by_operator();
        let plan = match self.plan_by_dane(demand, candidate, plan).await? {
            (plan, true) => return Ok(plan),
            (plan, false) => plan,
        };
        if demand.tls == TlsUse::Dane {
            let text = format!("{}: no TLSA records that DNSSEC vouches for", candidate.host);
            return Err(NoPlan {
                reply: Reply::new(454, (4, 7, 5), text),
                fault: super::SessionFault::DaneRequired,
                kind: PolicyKind::None,
            });
        }
        plan_by_sts(demand, candidate, plan)
    }

    /// The plan, and whether TLSA records decide it.
    async fn plan_by_dane(
        &self,
        demand: &Demand,
        candidate: &Candidate,
        plan: Plan,
    ) -> Result<(Plan, bool), NoPlan> {
        let (Some(secure), Some(dnssec), Some(domain)) = (demand.dane(), &self.dnssec, &demand.domain) else {
            return Ok((plan, false));
        };
        let failed = |fault, text: String| {
            Err(NoPlan { reply: Reply::new(454, (4, 7, 5), text), fault, kind: PolicyKind::None })
        };
        let host = match Host::parse(&candidate.host) {
            Ok(Host::Domain(host)) => host,
            _ => return Ok((plan, false)),
        };
        // Where mail is about to go was found out without DNSSEC: it must be what DNSSEC says.
        let is_its_host = if secure.is_empty() {
            host == *domain
        } else {
            secure.iter().any(|name| **name == *host.as_str())
        };
        if !is_its_host {
            let text = format!("{host} is not among the exchangers of {domain} that DNSSEC vouches for");
            return failed(super::SessionFault::DnssecInvalid, text);
        }
        let records = match dnssec.tlsa(&host, candidate.address.port()).await {
            Vouched::Secure(records) if records.is_empty() => {
                return Ok((Plan { is_its_host, ..plan }, false));
            }
            Vouched::Secure(records) => records,
            Vouched::Insecure => return Ok((Plan { is_its_host, ..plan }, false)),
            Vouched::Failed(why) => {
                return failed(super::SessionFault::DnssecInvalid, format!("{host}: TLSA records: {why}"));
            }
        };
        let usable: Vec<Tlsa> = records
            .iter()
            .map(|record| Tlsa {
                usage: record.usage,
                selector: record.selector,
                matching: record.matching,
                data: record.data.clone(),
            })
            .filter(Tlsa::is_usable)
            .collect();
        let strict =
            Plan { tls: client::TlsUse::Required, falls_back: false, word: "dane", is_its_host, ..plan };
        if usable.is_empty() {
            // They say that there is TLS, and nothing that its certificate could be held against (RFC 7672 §2.2).
            return Ok((Plan { policy: Policy::Required, word: "required", ..strict }, true));
        }
        let names = vec![host.as_str().into(), domain.as_str().into()];
        let dane = Arc::new(Dane { records: usable, names });
        Ok((Plan { policy: Policy::Dane(dane.clone()), kind: PolicyKind::Tlsa(dane), ..strict }, true))
    }
}

fn plan_by_sts(demand: &Demand, candidate: &Candidate, plan: Plan) -> Result<Plan, NoPlan> {
    let Some(policy) = demand.published.sts.policy.as_ref().filter(|policy| policy.mode != StsMode::None)
    else {
        return Ok(plan);
    };
    let kind = PolicyKind::Sts(policy.clone());
    let allows = policy.allows(&candidate.host);
    if demand.enforced().is_none() {
        return Ok(Plan { kind, ..plan });
    }
    if !allows {
        let domain = demand.domain.as_ref().map_or("", |domain| domain.as_str());
        let text = format!("{} is not among the exchangers of {domain}'s MTA-STS policy", candidate.host);
        return Err(NoPlan {
            reply: Reply::new(454, (4, 7, 5), text),
            fault: super::SessionFault::Validation,
            kind,
        });
    }
    Ok(Plan {
        tls: client::TlsUse::Required,
        policy: Policy::Verified,
        falls_back: false,
        word: "mta-sts",
        is_its_host: true,
        kind,
    })
}

/// The operator's word on a target.
fn operators(settings: &Settings, target: &Target, route: Option<&Route>) -> Demand {
    let of = |tls, by: &str, domain: Option<&Domain>| Demand {
        tls,
        by: by.into(),
        names: Arc::default(),
        relaxed: false,
        domain: domain.cloned(),
        published: Arc::default(),
    };
    if let Some(route) = route {
        return match route.tls {
            Some(tls) => of(tls, &format!("route.{}.tls", route.name), None),
            None => of(settings.delivery.tls, "delivery.tls", None),
        };
    }
    let Target::Domain(domain) = target else { return of(settings.delivery.tls, "delivery.tls", None) };
    match settings.tls_policies.of(domain) {
        Some(policy) => Demand {
            names: policy.names.clone(),
            ..of(policy.tls, &format!("tls_policy.{}", policy.key), Some(domain))
        },
        None => of(settings.delivery.tls, "delivery.tls", Some(domain)),
    }
}

/// What domains were found to publish when they were asked for last.
pub(crate) type PublishedMemory = Memory<Domain, Arc<Published>>;
