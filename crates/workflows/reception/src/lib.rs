//! From a connection to a durable message: listens, holds sessions, asks the policy, and says 250 when the spool
//! has given its proof.
//!
//! Nothing here knows that a queue exists: an accepted message goes into a bounded channel in which a place was
//! reserved before the client was told to send. What is said on the wire is `smtp`'s, what is kept is `spool`'s.
//!
//! At listeners with `verify`, the mail of strangers is judged before it is stored, by the machines of `mailauth`;
//! what was seen of a domain's mail is told to its owner in reports.
//!
//! Read first: [`serve`], then `session.rs`.

pub mod auth;
mod budget;
mod config;
mod context;
mod feedback;
mod hooks;
mod intake;
mod relay;
mod reports;
mod session;
mod tagging;
mod verify;

pub use budget::{Budget, Taken};
pub use config::{
    CertificateConfig, ListenerConfig, ListenerTls, Mechanism, ReceptionConfig, RelayConfig, Speaks,
    TagField, TagHeadersConfig, UnknownPool, UserConfig,
};
pub use context::{Context, ListenerContext, QueuedNow, Rules};
pub use feedback::{IncomingReport, ReadReports, ReportTaken};
pub use intake::{Asked, Place, Submission};
pub use relay::RelayRules;
pub use reports::{Collector, ReportFigures, ReportsConfig, report};
pub use tagging::{TagRules, UserTags};
pub use verify::drive::drive;
pub use verify::{
    BadFrom, DmarcFail, OnTemporary, OrganizationBy, SpfFail, VerifyConfig, VerifyFigures, VerifyRules,
};

use mail::{Reply, SessionId};
use net::{Accepted, Listener, Stream, proxy};
use session::{Peer, Session};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::debug;

/// How long a peer that must send a PROXY header may take.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes connections until the order to drain; each session is a task of its own, so a panic ends that one only.
pub async fn serve(context: Arc<Context>, listener: Arc<ListenerContext>, socket: Listener) {
    let mut drain = context.drain();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = std::future::poll_fn(|cx| if drain.poll(cx) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }) => return,
        };
        let (context, listener) = (context.clone(), listener.clone());
        tokio::spawn(connection(context, listener, accepted));
    }
}

/// Counts a session for as long as it lives, however it ends.
struct Counted(Arc<Context>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.session_ended();
    }
}

async fn connection(context: Arc<Context>, listener: Arc<ListenerContext>, accepted: Accepted) {
    let id = SessionId(context.session_began());
    let _counted = Counted(context.clone());
    let Accepted { mut stream, peer, local, admission } = accepted;
    let mut address = Peer { address: peer, local };
    // Both are held to the end: they are the connection's place among the open, or among those being refused.
    let (mut slot, refused) = match admission {
        Ok(slot) => (Some(slot), None),
        Err(refused) => (None, Some(refused)),
    };
    let mut refusal = refused.as_ref().map(|refused| Reply::new(421, (4, 7, 0), refused.why().to_string()));
    if listener.config.proxy_from.iter().any(|net| net.contains(peer.ip())) {
        match proxy::read(&mut stream, Instant::now() + PROXY_TIMEOUT).await {
            Ok(proxy::Header::Proxied { source, destination }) => {
                address = Peer { address: source, local: destination };
                // The limit by network is for clients, not for the balancer in front of them.
                if let Some(slot) = &mut slot
                    && let Err(why) = slot.readdress(source.ip())
                {
                    refusal = Some(Reply::new(421, (4, 7, 0), why.to_string()));
                }
            }
            Ok(proxy::Header::Local | proxy::Header::Unknown) => {}
            Err(error) => {
                debug!(session = %id, %peer, %error, "no PROXY header");
                return;
            }
        }
    }
    if listener.config.tls == ListenerTls::Implicit {
        let Some(acceptor) = &listener.acceptor else { return };
        match Box::pin(acceptor.accept(stream)).await {
            Ok(encrypted) => stream = encrypted,
            Err(error) => {
                debug!(session = %id, %peer, %error, "TLS handshake failed");
                return;
            }
        }
    }
    if context.is_draining() {
        refusal = Some(Reply::new(421, (4, 3, 2), "shutting down"));
    }
    debug!(session = %id, peer = %address.address, listener = %listener.name, "session began");
    run(context, listener, stream, address, id, refusal).await;
    drop((slot, refused));
}

async fn run(
    context: Arc<Context>,
    listener: Arc<ListenerContext>,
    stream: Stream,
    peer: Peer,
    id: SessionId,
    refusal: Option<Reply>,
) {
    Box::pin(Session::new(context, listener, stream, peer, id).run(refusal)).await;
}
