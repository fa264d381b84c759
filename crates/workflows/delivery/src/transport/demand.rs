//! What mail for a target asks of a connection.

use crate::candidates::Candidate;
use crate::config::TlsUse;
use crate::route::Route;
use crate::shared::{Settings, Shared};
use dispatch::Target;
use mail::Reply;
use net::tls::Policy;
use smtp::client;
use std::fmt::Write as _;
use std::sync::Arc;

/// What mail for a target asks of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The operator's word.
    pub tls: TlsUse,
    /// Where it stands, such as `tls_policy.a.test`.
    pub by: Box<str>,
    /// Names that the certificate must be for one of; none is the exchanger's own.
    pub names: Arc<[Box<str>]>,
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
}

impl Plan {
    /// The same without TLS.
    pub(crate) fn in_the_clear(&self) -> Self {
        Self { tls: client::TlsUse::Off, policy: Policy::Opportunistic, ..self.clone() }
    }
}

impl Demand {
    /// What tells it from others: connections made by demands of one text may carry each other's mail.
    pub fn text(&self) -> Arc<str> {
        let mut text = self.tls.word().to_owned();
        for name in &*self.names {
            // Writing to a string cannot fail.
            let _ = write!(text, " {name}");
        }
        text.into()
    }

    /// In a word.
    pub fn word(&self) -> &'static str {
        self.tls.word()
    }

    /// What else there is to say of it.
    pub fn detail(&self) -> Option<String> {
        (!self.names.is_empty()).then(|| format!("certificate for {}", self.names.join(" or ")))
    }

    /// The text, if mail for the target must be kept apart from that of domains of which nothing is known.
    pub(crate) fn apart(&self, settings: &Settings) -> Option<Arc<str>> {
        let is_usual = self.tls == settings.delivery.tls && self.names.is_empty();
        (!is_usual).then(|| self.text())
    }

    /// How a connection to an exchanger is made, or why none can be.
    pub(crate) fn plan(&self, _candidate: &Candidate) -> Result<Plan, Reply> {
        let plan = |tls, policy, falls_back| Plan { tls, policy, falls_back, word: self.tls.word() };
        Ok(match self.tls {
            TlsUse::Off => plan(client::TlsUse::Off, Policy::Opportunistic, false),
            TlsUse::Opportunistic => plan(client::TlsUse::Opportunistic, Policy::Opportunistic, true),
            TlsUse::Required => plan(client::TlsUse::Required, Policy::Required, false),
            TlsUse::Verified if self.names.is_empty() => {
                plan(client::TlsUse::Required, Policy::Verified, false)
            }
            TlsUse::Verified => plan(client::TlsUse::Required, Policy::Named(self.names.clone()), false),
        })
    }

    /// True if a connection that is not as it asks is no fault of the exchanger's reach: other mail may go there.
    pub(crate) fn is_strict(&self) -> bool {
        !matches!(self.tls, TlsUse::Off | TlsUse::Opportunistic)
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
        let of = |tls, by: &str| Demand { tls, by: by.into(), names: Arc::default() };
        if let Some(route) = route {
            return Ok(match route.tls {
                Some(tls) => of(tls, &format!("route.{}.tls", route.name)),
                None => of(settings.delivery.tls, "delivery.tls"),
            });
        }
        if let Target::Domain(domain) = target
            && let Some(policy) = settings.tls_policies.of(domain)
        {
            let by = format!("tls_policy.{}", policy.key).into();
            return Ok(Demand { tls: policy.tls, by, names: policy.names.clone() });
        }
        Ok(of(settings.delivery.tls, "delivery.tls"))
    }
}
