//! What the authority finds at `/.well-known/acme-challenge/` while it checks a name (RFC 8555 §8.3).

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Where the authority looks.
pub const PREFIX: &str = "/.well-known/acme-challenge/";
/// Connections answered at once; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Octets of a request's head at most. hyper takes no fewer.
const HEAD_MAX_OCTETS: usize = 8 * 1024;

/// The answers of the checks under way. Tokens are there only as long as the order they belong to.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Arc<Mutex<BTreeMap<Box<str>, Box<str>>>>);

impl Challenges {
    /// What is answered for a token.
    pub fn answer(&self, token: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token).map(|answer| answer.to_string())
    }

    /// Answers so from now on, until what comes back is dropped.
    pub(crate) fn put(&self, token: &str, answer: &str) -> Standing {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token.into(), answer.into());
        Standing { all: self.clone(), token: token.into() }
    }

    /// Answers at a socket, for ever.
    pub async fn serve(self, socket: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let all = self.clone();
                    tokio::spawn(async move {
                        if tokio::time::timeout(CONNECTION_TIMEOUT, all.connection(stream)).await.is_err() {
                            debug!(%peer, "a connection to the ACME listener took too long");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others give some back.
                    warn!(%error, "a connection to the ACME listener could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let answer = self.respond(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(CONNECTION_TIMEOUT)
            .keep_alive(false)
            .max_buf_size(HEAD_MAX_OCTETS)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            debug!(%error, "a connection to the ACME listener broke");
        }
    }

    fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let found = match *method {
            Method::GET | Method::HEAD => path.strip_prefix(PREFIX).and_then(|token| self.answer(token)),
            _ => None,
        };
        let mut response = Response::new(Full::from(found.clone().unwrap_or_default()));
        if found.is_none() {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        let octets = hyper::header::HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, octets);
        response
    }
}

/// An answer that stands until this is dropped.
#[derive(Debug)]
pub(crate) struct Standing {
    all: Challenges,
    token: Box<str>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_of_orders_under_way_are_answered() {
        let challenges = Challenges::default();
        let status = |method: Method, path: &str| challenges.respond(&method, path).status().as_u16();
        let standing = challenges.put("token", "token.thumbprint");
        assert_eq!(challenges.answer("token").as_deref(), Some("token.thumbprint"));
        assert_eq!(status(Method::GET, "/.well-known/acme-challenge/token"), 200);
        assert_eq!(status(Method::POST, "/.well-known/acme-challenge/token"), 404);
        for path in ["/", "/token", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/toke", "*"] {
            assert_eq!(status(Method::GET, path), 404, "{path}");
        }
        drop(standing);
        assert_eq!(status(Method::GET, "/.well-known/acme-challenge/token"), 404);
    }
}
