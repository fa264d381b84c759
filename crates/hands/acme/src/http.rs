//! The requests that are made of an authority: HTTPS only, one connection each, no redirects, bounded answers.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Octets of an answer at most; a long chain has a tenth of it.
const ANSWER_MAX_OCTETS: usize = 256 * 1024;
/// Octets of an answer's head at most.
const HEAD_MAX_OCTETS: usize = 16 * 1024;

/// Asks.
#[derive(Clone)]
pub(crate) struct Client {
    pub tls: Arc<rustls::ClientConfig>,
    pub timeout: Duration,
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let asked = tokio::time::timeout(client.timeout, client.ask(request)).await;
            let answer = asked.unwrap_or_else(|_| Err(io::Error::other("no answer in time")));
            answer.map(BytesResponse::from).map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

impl Client {
    async fn ask(&self, request: Request<BodyWrapper<Bytes>>) -> io::Result<Response<Full<Bytes>>> {
        let (mut parts, body) = request.into_parts();
        let uri = std::mem::take(&mut parts.uri);
        // The authority names the places of everything itself, and is held to HTTPS (RFC 8555 §6.1).
        let authority = match (uri.scheme_str(), uri.authority()) {
            (Some("https"), Some(authority)) => authority.clone(),
            _ => return Err(io::Error::other(format!("the authority points to {uri}, which is not HTTPS"))),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(443);
        let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("{authority}: {error}"));
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| failed(&e))?;
        let name = ServerName::try_from(host).map_err(|e| failed(&e))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|e| failed(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_MAX_OCTETS)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse::<Uri>().map_err(|e| failed(&e))?;
        parts.headers.insert(HOST, authority.as_str().parse().map_err(|_| failed(&"no host"))?);
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let Ok(body) = body.collect().await;
        let request = Request::from_parts(parts, Full::new(body.to_bytes()));
        let answer = async {
            let (parts, body) = sender.send_request(request).await.map_err(|e| failed(&e))?.into_parts();
            let body = Limited::new(body, ANSWER_MAX_OCTETS).collect().await.map_err(|e| failed(&e))?;
            Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
        };
        tokio::pin!(connection, answer);
        tokio::select! {
            answer = &mut answer => answer,
            // It drives the exchange; it may end just before the answer is given out.
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(failed(&error)),
            },
        }
    }
}
