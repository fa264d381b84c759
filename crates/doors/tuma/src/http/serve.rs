//! Connections: as many as there may be, with TLS where there is a certificate, and little patience.

use super::Http;
use super::access::Peer;
use anyhow::Result;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use net::Stream;
use net::tls::{Acceptor, AcceptorConfig, Certificates};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_service::Service;
use tracing::{debug, warn};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Octets of a request's head at most.
const HEAD_MAX: usize = 64 * 1024;

/// The certificate, if HTTPS is spoken.
pub(super) fn certificates(http: &Http) -> Result<Option<Arc<Certificates>>> {
    let Some(files) = http.certificate_files() else { return Ok(None) };
    Ok(Some(Certificates::load(&[files])?))
}

/// Takes connections for ever.
pub(super) async fn serve(socket: TcpListener, http: Arc<Http>, routes: Router) -> Result<()> {
    let acceptor = match http.certificates() {
        Some(certificates) => {
            let config = AcceptorConfig { handshake_timeout: HANDSHAKE_TIMEOUT, ..AcceptorConfig::default() };
            Some(Arc::new(Acceptor::new(certificates, &config)?))
        }
        None => None,
    };
    let places = Arc::new(Semaphore::new(http.config().connections_max));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others give some back.
                warn!(%error, "an HTTP connection could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (http, routes, acceptor) = (http.clone(), routes.clone(), acceptor.clone());
        tokio::spawn(async move {
            connection(stream, peer, &http, routes, acceptor.as_deref()).await;
            drop(place);
        });
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    http: &Http,
    routes: Router,
    acceptor: Option<&Acceptor>,
) {
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok();
    let mut stream = Stream::from(stream);
    if let Some(acceptor) = acceptor {
        match acceptor.accept(stream).await {
            Ok(encrypted) => stream = encrypted,
            Err(error) => {
                debug!(%peer, %error, "TLS handshake failed");
                return;
            }
        }
    }
    let peer = Peer::of(&stream, peer, local);
    let address = peer.address;
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(peer.clone());
        // A length may have stood beside it, by which a proxy in front counts: what follows is not read as a request
        // (RFC 9112 §6.1).
        let last = request.headers().contains_key(header::TRANSFER_ENCODING);
        let answer = routes.clone().call(request);
        async move {
            let mut answer = answer.await;
            if let (true, Ok(answer)) = (last, &mut answer) {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(http.config().head_timeout)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(peer = %address, %error, "HTTP connection ended");
    }
}
