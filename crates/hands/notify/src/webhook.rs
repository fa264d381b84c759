//! Posting notices to a webhook: one at a time, each over a connection of its own, with a bounded queue in front.

use crate::book::Notice;
use crate::url::WebhookUrl;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::{debug, warn};

/// Notices that may wait for a webhook; further ones are dropped and counted.
const PENDING_MAX: usize = 256;

/// Octets of an answer's head that are read at most.
const HEAD_MAX_OCTETS: usize = 16 * 1024;

/// Where notices are posted, and how.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub url: WebhookUrl,
    /// Who may vouch for its server; needed for `https`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The longest one post may take.
    pub timeout: Duration,
    /// Waits before it is tried again.
    pub waits: Vec<Duration>,
    /// Our own name, so that one webhook can serve several servers.
    pub server: String,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What became of notices so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Posted and taken.
    pub posted: AtomicU64,
    /// Given up after the last try.
    pub failed: AtomicU64,
    /// Left out because too many waited.
    pub dropped: AtomicU64,
}

/// The queue in front of a webhook. Dropping it ends the task that serves it.
#[derive(Debug)]
pub struct Webhook {
    queue: mpsc::Sender<(Arc<Target>, Notice)>,
    tally: Arc<Tally>,
}

impl Webhook {
    /// Begins a task that posts what it is told.
    pub fn start() -> Self {
        let (queue, mut notices) = mpsc::channel::<(Arc<Target>, Notice)>(PENDING_MAX);
        let tally = Arc::new(Tally::default());
        let counts = tally.clone();
        tokio::spawn(async move {
            while let Some((target, notice)) = notices.recv().await {
                deliver(&target, &notice, &counts).await;
            }
        });
        Self { queue, tally }
    }

    /// Queues a notice; never waits. False if it was dropped because too many wait.
    pub fn post(&self, target: &Arc<Target>, notice: Notice) -> bool {
        let taken = self.queue.try_send((target.clone(), notice)).is_ok();
        if !taken {
            self.tally.dropped.fetch_add(1, Relaxed);
        }
        taken
    }

    /// What became of notices so far.
    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }
}

/// Why a post came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Another try may help.
    ForNow(String),
    /// It would fail again.
    ForGood(String),
}

async fn deliver(target: &Target, notice: &Notice, tally: &Tally) {
    let body = body(&target.server, notice);
    let mut waits = target.waits.iter();
    let why = loop {
        match post(target, &[], body.clone()).await {
            Ok(()) => {
                tally.posted.fetch_add(1, Relaxed);
                return;
            }
            Err(Failure::ForGood(why)) => break why,
            Err(Failure::ForNow(why)) => match waits.next() {
                Some(wait) => {
                    debug!(webhook = %target.url.shown(), why, ?wait, "a notice is posted again");
                    tokio::time::sleep(*wait).await;
                }
                None => break why,
            },
        }
    };
    tally.failed.fetch_add(1, Relaxed);
    warn!(webhook = %target.url.shown(), about = %notice.about, why, "a notice could not be posted");
}

fn body(server: &str, notice: &Notice) -> Bytes {
    #[derive(Serialize)]
    struct Body<'a> {
        server: &'a str,
        #[serde(flatten)]
        notice: &'a Notice,
    }
    // Texts and numbers only: it cannot fail.
    serde_json::to_vec(&Body { server, notice }).unwrap_or_default().into()
}

/// Posts JSON once, with further header fields. Taken is what is answered with a 2yz; of the answer only the head is
/// read, and redirects are not followed.
pub async fn post(target: &Target, fields: &[(&'static str, String)], body: Bytes) -> Result<(), Failure> {
    let posted = timeout(target.timeout, post_unhurried(target, fields, body)).await;
    posted.unwrap_or_else(|_| Err(Failure::ForNow("no answer in time".into())))
}

async fn post_unhurried(
    target: &Target,
    fields: &[(&'static str, String)],
    body: Bytes,
) -> Result<(), Failure> {
    let url = &target.url;
    let io = |error: std::io::Error| Failure::ForNow(error.to_string());
    // The operator's own URL: any address that its name has is meant.
    let stream = TcpStream::connect((url.host(), url.port())).await.map_err(io)?;
    if !url.is_secure() {
        return exchange(stream, url, fields, body).await;
    }
    let tls = target.tls.clone().ok_or_else(|| Failure::ForGood("TLS is not set up".into()))?;
    let name = ServerName::try_from(url.host().to_owned())
        .map_err(|_| Failure::ForGood(format!("{} cannot be a server's name in TLS", url.host())))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(io)?;
    exchange(stream, url, fields, body).await
}

/// One request over a connection, which is closed after the answer's head.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &WebhookUrl,
    fields: &[(&'static str, String)],
    body: Bytes,
) -> Result<(), Failure> {
    let http = |error: hyper::Error| Failure::ForNow(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_MAX_OCTETS)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let request =
        fields.iter().fold(Request::post(url.path()), |request, (name, value)| request.header(*name, value));
    let request = request
        .header(HOST, url.authority())
        .header(USER_AGENT, "tuma")
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|error| Failure::ForGood(error.to_string()))?;
    tokio::pin!(connection);
    let mut answer = Box::pin(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // It drives the exchange; it may end just before the answer is given out.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = answer.map_err(http)?.status();
    let told = format!("it answered {}", status.as_u16());
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_redirection() => {
            Err(Failure::ForGood(format!("{told}, and redirects are not followed")))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(Failure::ForNow(told))
        }
        status if status.is_server_error() => Err(Failure::ForNow(told)),
        _ => Err(Failure::ForGood(told)),
    }
}

#[cfg(test)]
mod tests;
