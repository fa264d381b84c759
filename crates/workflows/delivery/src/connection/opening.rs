//! From the first candidate address to a session that is ready, or the reason why there is none.

use super::{Connection, stage_of};
use crate::candidates::Candidate;
use crate::exchangers::Lease;
use crate::route::Route;
use crate::session::{Session, Turn};
use crate::settle::Hop;
use crate::transport::{Demand, Finding, NoPlan, Plan, PolicyKind, SessionFault, SessionSeen, needs_no_tls};
use accounting::{Connection as RecordConnection, Via};
use mail::{Host, Reply};
use net::Verification;
use net::trace::{About, Direction};
use smtp::client::{self, Client, Event as SmtpEvent, Stage};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info};

/// Why no candidate became a session.
pub(super) struct NoSession {
    pub(super) reply: Reply,
    /// The destination exists no more or never will: everything that waits for it may be told so.
    pub(super) permanent: bool,
    /// Nothing was tried, for our own limits: no message is to blame.
    pub(super) barred: bool,
    /// It was reached, and could not be spoken to as securely as the mail asks: no fault of the site's.
    pub(super) insecure: bool,
    /// What reports call it, where TLS is to blame.
    pub(super) fault: Option<SessionFault>,
    pub(super) stage: shaping::Stage,
    pub(super) hop: Option<Arc<Hop>>,
}

impl NoSession {
    pub(super) fn new(reply: Reply) -> Self {
        Self {
            reply,
            permanent: false,
            barred: false,
            insecure: false,
            fault: None,
            stage: shaping::Stage::Connect,
            hop: None,
        }
    }
}

/// A session that is ready.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) hop: Arc<Hop>,
    /// What it was made for.
    pub(super) demand: Arc<str>,
    /// It is encrypted, with a server that is known to be the domain's exchanger: mail under REQUIRETLS may go.
    pub(super) assured: bool,
    /// It was made without regard to what the domain publishes: only mail that says so may go.
    pub(super) relaxed: bool,
}

/// A session with what was found out about its TLS.
struct Ready {
    session: Session,
    hop: Arc<Hop>,
    verification: Verification,
}

impl Connection {
    /// Connects as the mail asks; if that is not to be had and the message at hand says that it does without
    /// (RFC 8689 §5), as if its domain published nothing.
    pub(super) async fn connect_as_asked(&self, route: Option<&Route>) -> Result<(Opened, Lease), NoSession> {
        let none = match self.connect(route, false).await {
            Err(none) if none.insecure => none,
            done => return done,
        };
        let hot = match &self.first {
            Some(errand) => match &errand.hot {
                Some(hot) => Some(hot.clone()),
                None => self.shared.read(errand.handle()).await.ok(),
            },
            None => None,
        };
        if hot.is_some_and(|hot| needs_no_tls(&hot)) { self.connect(route, true).await } else { Err(none) }
    }

    /// Tries the candidates in turn until one is ready.
    async fn connect(&self, route: Option<&Route>, relaxed: bool) -> Result<(Opened, Lease), NoSession> {
        let permanent = |reply: Reply| NoSession { permanent: reply.is_permanent(), ..NoSession::new(reply) };
        let candidates =
            self.shared.candidates(&self.settings, &self.target, route).await.map_err(permanent)?;
        let unknown = |reply: Reply| NoSession { insecure: true, ..NoSession::new(reply) };
        let demand = if relaxed {
            Demand::relaxed(&self.settings, &self.target, route)
        } else {
            self.shared.demand(&self.settings, &self.target, route).await.map_err(unknown)?
        };
        let mut last: Option<NoSession> = None;
        let delivery = &self.settings.delivery;
        let count = candidates.len().min(delivery.addresses_max as usize);
        for (n, candidate) in candidates.into_iter().take(count).enumerate() {
            let patience = if n + 1 == count {
                delivery.connect_timeout
            } else {
                delivery.connect_timeout.min(delivery.connect_next_after)
            };
            let lease = match self.enter(&candidate) {
                Ok(lease) => lease,
                Err(none) => {
                    // What was really tried says more than what was not.
                    last.get_or_insert(none);
                    continue;
                }
            };
            match self.connect_to(&candidate, route, &demand, patience).await {
                Ok(opened) => return Ok((opened, lease)),
                Err(none) => {
                    debug!(target = %self.target, host = %candidate.host, address = %candidate.address, reply = %none.reply, "candidate failed");
                    // A refusal for good counts only if no other exchanger could be hoped for.
                    if last.as_ref().is_none_or(|last| last.permanent || last.barred) {
                        last = Some(none);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| NoSession::new(Reply::new(451, (4, 4, 4), "no address to connect to"))))
    }

    /// Asks the limits of the exchanger itself.
    fn enter(&self, candidate: &Candidate) -> Result<Lease, NoSession> {
        let (now, rules) = (Instant::now().into_std(), self.shared.rules());
        self.shared.exchangers.enter(now, &rules, &candidate.host, candidate.address.ip()).map_err(|barred| {
            NoSession { barred: true, ..NoSession::new(Reply::new(451, (4, 3, 2), barred.text)) }
        })
    }

    async fn connect_to(
        &self,
        candidate: &Candidate,
        route: Option<&Route>,
        demand: &Demand,
        patience: Duration,
    ) -> Result<Opened, NoSession> {
        let host = &candidate.host;
        let plan = match self.shared.plan(demand, candidate).await {
            Ok(plan) => plan,
            Err(NoPlan { reply, fault, kind }) => {
                let finding = Finding { fault: Some(fault), reason: (*reply.text).into() };
                self.report(demand, &kind, candidate, None, &finding);
                let stage = shaping::Stage::Starttls;
                return Err(NoSession { insecure: true, stage, ..NoSession::new(reply) });
            }
        };
        let clear = &self.shared.in_the_clear;
        let known = plan.falls_back.then(|| clear.why(Instant::now().into_std(), host)).flatten();
        let first = if known.is_some() { plan.in_the_clear() } else { plan.clone() };
        let opened = match self.open(candidate, route, &first, patience).await {
            // Opportunistic means that mail goes on without TLS when TLS fails, on a new connection.
            Err((Stage::StartTls, failed)) if plan.falls_back && known.is_none() => {
                let opened = self.open(candidate, route, &plan.in_the_clear(), patience).await;
                if opened.is_ok() {
                    self.shared.metrics.tls_fallbacks.fetch_add(1, Relaxed);
                    let lasts = self.settings.delivery.tls_clear_for;
                    let why = &failed.reply.text;
                    if clear.remember(Instant::now().into_std(), host, why, lasts) {
                        info!(%host, reply = %failed.reply, ?lasts, "TLS fails, mail goes there in the clear");
                    }
                }
                opened
            }
            other => other,
        };
        match opened {
            Ok(Ready { session, hop, verification }) => {
                let finding = Finding::of(&plan.kind, host, &verification);
                self.report(demand, &plan.kind, candidate, hop.record.local, &finding);
                let verified = matches!(verification, Verification::Verified | Verification::Dane);
                let assured = verified && plan.is_its_host;
                Ok(Opened { session, hop, demand: demand.text(), assured, relaxed: demand.relaxed })
            }
            Err((stage, none)) => {
                if let Some(fault) = none.fault {
                    let finding = Finding { fault: Some(fault), reason: (*none.reply.text).into() };
                    let local = none.hop.as_ref().and_then(|hop| hop.record.local);
                    self.report(demand, &plan.kind, candidate, local, &finding);
                }
                Err(NoSession {
                    // A host that refuses our greeting for good may be one of several; a refused AUTH is our own
                    // misconfiguration and no fault of the message.
                    permanent: none.permanent && matches!(stage, Stage::Greeting),
                    insecure: stage == Stage::StartTls && demand.is_strict(),
                    ..none
                })
            }
        }
    }

    /// Counts a session for the reports that the domain may ask for.
    fn report(
        &self,
        demand: &Demand,
        kind: &PolicyKind,
        candidate: &Candidate,
        local: Option<SocketAddr>,
        finding: &Finding,
    ) {
        if let Some(fault) = finding.fault {
            debug!(
                target = %self.target, host = %candidate.host, address = %candidate.address, by = %demand.by,
                fault = fault.word(), reason = %finding.reason, "TLS of a session"
            );
        }
        // Where TLS is off, or the message does without, nothing is said of the domain's TLS.
        let Some(domain) = demand.domain.as_ref().filter(|_| demand.is_reported()) else { return };
        let config = &self.settings.tls_reports;
        let seen = SessionSeen {
            domain,
            kind,
            fault: finding.fault,
            reason: &finding.reason,
            sending: local.map(|local| local.ip()),
            host: &candidate.host,
            receiving: Some(candidate.address.ip()),
        };
        self.shared.reports.record(config, &seen);
        // A policy that could not be had is told of beside the session that went without it (RFC 8460 §4.3.2.2).
        if let Some(fault) = &demand.published.sts.fault {
            let reason = fault.to_string();
            let kind = demand.published.sts.policy.clone().map_or(PolicyKind::None, PolicyKind::Sts);
            let seen = SessionSeen { kind: &kind, fault: Some(fault.into()), reason: &reason, ..seen };
            self.shared.reports.record(config, &seen);
        }
    }

    async fn open(
        &self,
        candidate: &Candidate,
        route: Option<&Route>,
        plan: &Plan,
        patience: Duration,
    ) -> Result<Ready, (Stage, NoSession)> {
        let delivery = &self.settings.delivery;
        let none = |stage, reply: Reply, hop: Option<Arc<Hop>>| {
            let none = NoSession {
                fault: (stage == Stage::StartTls).then_some(SessionFault::NoStarttls),
                permanent: reply.is_permanent(),
                // A connection that was never made has no greeting either.
                stage: if hop.is_none() && stage == Stage::Greeting {
                    shaping::Stage::Connect
                } else {
                    stage_of(stage)
                },
                hop,
                ..NoSession::new(reply)
            };
            (stage, none)
        };
        let source = self.settings.sources.get(self.source);
        let deadline = Instant::now() + patience;
        let stream = self
            .shared
            .dialer
            .dial(&source.egress, candidate.address, deadline)
            .await
            .map_err(|error| none(Stage::Greeting, error.reply(), None))?;
        let local = stream.local_addr().ok();
        let hop = |session: &Session, verification: &Verification| {
            let record = RecordConnection {
                via: if route.is_some_and(|route| route.lmtp) { Via::Lmtp } else { Via::Smtp },
                site: (&*self.site).into(),
                provider: self.provider.clone(),
                host: candidate.host.clone(),
                remote: Some(candidate.address),
                local,
                source: source.egress.name.clone(),
                tls: session.stream.tls_info(),
                tls_policy: plan.word.into(),
                tls_verified: match verification {
                    Verification::None => None,
                    Verification::Verified => Some("verified".into()),
                    Verification::Dane => Some("dane".into()),
                    Verification::NotVerified(_, why) => Some(why.clone()),
                },
                ..RecordConnection::default()
            };
            Arc::new(Hop::new(record, session.client.extensions()))
        };
        let config = client::Config {
            ehlo_name: source.ehlo_name.clone(),
            lmtp: route.is_some_and(|route| route.lmtp),
            tls: plan.tls,
            auth: route.and_then(|route| route.auth.clone()),
            auth_in_clear: route.is_some_and(|route| route.auth_without_tls),
            pipelining: delivery.pipelining,
            chunking: delivery.chunking,
            timeouts: delivery.timeouts(),
        };
        let tap = self.shared.traces.begin(|n| About {
            direction: Direction::Out,
            session: format!("out{n}"),
            peer: candidate.address,
            host: candidate.host.to_string(),
        });
        let mut session = Session::new(stream, Client::new(config, false, Instant::now().into_std()), tap);
        loop {
            match session.turn(None, |_, _| Poll::<()>::Pending).await {
                Turn::Event(SmtpEvent::StartTls) => {
                    let Session { stream, mut client, tap, .. } = session;
                    let deadline = Instant::now() + delivery.ehlo_timeout;
                    let name = candidate.name();
                    let connector = source.connector.as_ref().unwrap_or(&self.shared.connector);
                    match connector.starttls(stream, &name, &plan.policy, &[], deadline).await {
                        Ok(stream) => {
                            client.tls_started(Instant::now().into_std());
                            session = Session::new(stream, client, tap);
                        }
                        Err(error) => {
                            let (stage, failed) = none(Stage::StartTls, error.reply(), None);
                            return Err((stage, NoSession { fault: Some((&error).into()), ..failed }));
                        }
                    }
                }
                Turn::Event(SmtpEvent::Ready) => {
                    let verification = session.stream.verification();
                    let hop = hop(&session, &verification);
                    return Ok(Ready { session, hop, verification });
                }
                Turn::Event(SmtpEvent::Failed(failure)) => {
                    let hop = hop(&session, &session.stream.verification());
                    return Err(none(failure.stage, failure.reply, Some(hop)));
                }
                _ => {}
            }
        }
    }
}

impl Candidate {
    /// The name for SNI and certificates.
    fn name(&self) -> Host {
        Host::parse(&self.host).unwrap_or(Host::Literal(self.address.ip()))
    }
}
