//! A small HTTPS client: one request over one connection, within bounds of time and size, no redirects, and only to
//! addresses that mail might go to as well. For what other domains publish and ask for: they choose the host, so it
//! must not lead to this machine or its neighbours.

use crate::{AddressRule, AddressVerdict, Answer, Resolver};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use mail::Domain;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Octets of an answer's head that are read at most.
const HEAD_OCTETS_MAX: usize = 16 * 1024;
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;
/// How long an address may take to be connected to while there is another one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpsError {
    /// The host has no address, or none that may be connected to, or none answers.
    Unreachable(Box<str>),
    /// The server's certificate is not good.
    Certificate(Box<str>),
    /// TLS or HTTP went wrong.
    Protocol(Box<str>),
    /// It answered with another status than 200, or 201 to 204.
    Status(u16),
    /// The answer is larger than wanted.
    TooLarge,
    /// The answer is of another media type than wanted.
    MediaType,
    /// It took too long.
    TimedOut,
}

impl fmt::Display for HttpsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Protocol(why) => f.write_str(why),
            Self::Certificate(why) => write!(f, "certificate not verified: {why}"),
            Self::Status(code) if (300..400).contains(code) => {
                write!(f, "it answered {code}, and redirects are not followed")
            }
            Self::Status(code) => write!(f, "it answered {code}"),
            Self::TooLarge => f.write_str("its answer is too large"),
            Self::MediaType => f.write_str("its answer is of another media type"),
            Self::TimedOut => f.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for HttpsError {}

/// Asks.
#[derive(Clone)]
pub struct Https {
    resolver: Arc<dyn Resolver>,
    rule: AddressRule,
    tls: Arc<ClientConfig>,
    open: Arc<tokio::sync::Semaphore>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").finish_non_exhaustive()
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct HttpsRequest<'a> {
    /// The host.
    pub host: &'a Domain,
    /// Its port.
    pub port: u16,
    /// The path, from its slash on.
    pub path: &'a str,
    /// The body with its media type and encoding, for a POST; without one it is a GET.
    pub body: Option<(Bytes, &'a str, Option<&'a str>)>,
    /// The media type that the answer must have.
    pub wanted: Option<&'a str>,
    /// Octets of the answer's body at most; a larger one is an error.
    pub answer_max: usize,
    /// How long all of it may take.
    pub timeout: Duration,
}

impl Https {
    /// `tls` says who may vouch for servers; `open_max` requests may be under way at once, further ones wait.
    pub fn new(
        resolver: Arc<dyn Resolver>,
        rule: AddressRule,
        tls: Arc<ClientConfig>,
        open_max: usize,
    ) -> Self {
        Self { resolver, rule, tls, open: Arc::new(tokio::sync::Semaphore::new(open_max.max(1))) }
    }

    /// Makes a request and gives the body of its answer.
    pub async fn request(&self, request: HttpsRequest<'_>) -> Result<Bytes, HttpsError> {
        let whole = async {
            // The semaphore is never closed.
            let _permit = self.open.acquire().await;
            let stream = self.connect(request.host, request.port).await?;
            self.exchange(stream, &request).await
        };
        timeout(request.timeout, whole).await.unwrap_or(Err(HttpsError::TimedOut))
    }

    async fn connect(&self, host: &Domain, port: u16) -> Result<TcpStream, HttpsError> {
        let unreachable = |why: String| HttpsError::Unreachable(why.into());
        let (v4, v6) = tokio::join!(self.resolver.a(host), self.resolver.aaaa(host));
        let mut failure = None;
        let mut found: Vec<IpAddr> = Vec::new();
        collect(v4, &mut found, &mut failure);
        collect(v6, &mut found, &mut failure);
        if found.is_empty() {
            return Err(unreachable(failure.map_or_else(
                || format!("{host} has no address"),
                |why| format!("{host}: name service: {why}"),
            )));
        }
        let mut last = format!("no address of {host} is one to connect to");
        for ip in
            found.into_iter().filter(|ip| (self.rule)(*ip) == AddressVerdict::Allowed).take(ADDRESSES_MAX)
        {
            let address = SocketAddr::new(ip, port);
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = format!("{address}: {error}"),
                Err(_) => last = format!("{address}: no answer in time"),
            }
        }
        Err(unreachable(last))
    }

    async fn exchange(&self, stream: TcpStream, asked: &HttpsRequest<'_>) -> Result<Bytes, HttpsError> {
        let protocol = |error: &dyn fmt::Display| HttpsError::Protocol(error.to_string().into());
        let name = ServerName::try_from(asked.host.as_str().to_owned()).map_err(|e| protocol(&e))?;
        let stream =
            TlsConnector::from(self.tls.clone()).connect(name, stream).await.map_err(|error| match error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            {
                Some(rustls::Error::InvalidCertificate(why)) => {
                    HttpsError::Certificate(why.to_string().into())
                }
                _ => protocol(&error),
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_OCTETS_MAX)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|e| protocol(&e))?;
        let host = match asked.port {
            443 => asked.host.to_string(),
            port => format!("{}:{port}", asked.host),
        };
        let mut request = Request::builder()
            .method(if asked.body.is_some() { Method::POST } else { Method::GET })
            .uri(asked.path)
            .header(HOST, host)
            .header(USER_AGENT, "tuma")
            .header(CONNECTION, "close");
        let mut body = Bytes::new();
        if let Some((octets, media_type, encoding)) = &asked.body {
            request = request.header(CONTENT_TYPE, *media_type).header(CONTENT_LENGTH, octets.len());
            if let Some(encoding) = encoding {
                request = request.header(CONTENT_ENCODING, *encoding);
            }
            body = octets.clone();
        }
        let request = request.body(Full::new(body)).map_err(|e| protocol(&e))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|e| protocol(&e))?;
            self.read(answer, asked).await
        };
        tokio::pin!(connection, answer);
        tokio::select! {
            answer = &mut answer => answer,
            // It drives the exchange; it may end just before all of the answer is taken.
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(protocol(&error)),
            },
        }
    }

    async fn read(
        &self,
        answer: hyper::Response<hyper::body::Incoming>,
        asked: &HttpsRequest<'_>,
    ) -> Result<Bytes, HttpsError> {
        let status = answer.status().as_u16();
        if !(status == 200 || (asked.body.is_some() && (201..=204).contains(&status))) {
            return Err(HttpsError::Status(status));
        }
        if let Some(wanted) = asked.wanted {
            let given =
                answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let media_type = given.split(';').next().unwrap_or_default().trim();
            if !media_type.eq_ignore_ascii_case(wanted) {
                return Err(HttpsError::MediaType);
            }
        }
        let mut body = answer.into_body();
        let mut octets = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| HttpsError::Protocol(error.to_string().into()))?;
            let Ok(data) = frame.into_data() else { continue };
            if octets.len() + data.len() > asked.answer_max {
                return Err(HttpsError::TooLarge);
            }
            octets.extend_from_slice(&data);
        }
        Ok(octets.into())
    }
}

fn collect<T: Copy + Into<IpAddr>>(
    answer: Answer<T>,
    found: &mut Vec<IpAddr>,
    failure: &mut Option<Arc<str>>,
) {
    match answer {
        Answer::Found(records, _) => found.extend(records.iter().map(|&address| address.into())),
        Answer::Temporary(why) => *failure = Some(why),
        Answer::NoData(_) | Answer::NxDomain(_) => {}
    }
}
