//! Secrets kept in HashiCorp Vault: one field of one secret of a KV engine (version 2), read over the HTTP API.
//!
//! It reads and keeps nothing: who asks keeps what it was told, and asks again when it likes. A token in a file is read
//! at each request, since who renews it (Vault's agent) writes it anew. Redirects are not followed, which would carry
//! the token elsewhere.
//!
//! Read first: [`Vault::read`].

mod config;
mod path;

pub use config::Config;
pub use path::{SecretPath, SecretPathError};

use bytes::Bytes;
use config::Address;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Octets of an answer at most.
const ANSWER_MAX_OCTETS: usize = 1 << 20;
/// Octets of an answer's head at most.
const HEAD_MAX_OCTETS: usize = 16 * 1024;
/// Octets of a file with a token at most.
const TOKEN_MAX_OCTETS: u64 = 16 * 1024;

/// Why a secret was not had. The token is in none of the texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultError {
    /// It could not be asked, or did not answer in time.
    Away(String),
    /// It answered, but not with a secret: 403 for a wrong token, 404 for no such path.
    Refused(u16),
    /// The secret has no such field, or one that is no text.
    Field,
    /// The answer cannot be understood.
    Answer,
    /// The token cannot be read, or cannot be sent.
    Token(String),
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) => write!(f, "Vault cannot be asked: {why}"),
            Self::Refused(403) => {
                f.write_str("Vault answered 403: the token is wrong, or may not read this path")
            }
            Self::Refused(404) => f.write_str("Vault answered 404: there is no secret at this path"),
            Self::Refused(code) => write!(f, "Vault answered {code}"),
            Self::Field => f.write_str("the secret has no such field, or one that is no text"),
            Self::Answer => f.write_str("Vault's answer cannot be understood"),
            Self::Token(why) => write!(f, "the token for Vault: {why}"),
        }
    }
}

impl std::error::Error for VaultError {}

#[derive(Clone)]
enum Token {
    Text(Box<str>),
    File(PathBuf),
}

/// A Vault to ask.
#[derive(Clone)]
pub struct Vault {
    address: Address,
    token: Token,
    namespace: Option<Box<str>>,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("address", &self.address.to_string()).finish_non_exhaustive()
    }
}

impl Vault {
    /// As the settings say; `None` if they name no address. `tls` says who may vouch for its server, and is needed for
    /// `https`.
    pub fn new(config: &Config, tls: Option<Arc<rustls::ClientConfig>>) -> Option<Self> {
        let token = match (&config.token_file, &config.token) {
            (Some(file), _) => Token::File(file.clone()),
            (None, Some(text)) => Token::Text(text.as_str().into()),
            // The table was checked when it was read.
            (None, None) => Token::Text(Box::default()),
        };
        Some(Self {
            address: config.address.clone()?.0,
            token,
            namespace: config.namespace.as_deref().map(Box::from),
            tls,
            timeout: config.timeout,
        })
    }

    /// Reads a field of a secret.
    pub async fn read(&self, path: &SecretPath) -> Result<String, VaultError> {
        let asked = tokio::time::timeout(self.timeout, self.ask(path)).await;
        let answer = asked.unwrap_or_else(|_| Err(VaultError::Away("no answer in time".into())))?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| VaultError::Answer)?;
        // Version 2 of the engine puts the secret's own data below data.
        let data = answer.pointer("/data/data").ok_or(VaultError::Answer)?;
        data.get(path.field()).and_then(Value::as_str).map(str::to_owned).ok_or(VaultError::Field)
    }

    async fn token(&self) -> Result<String, VaultError> {
        let path = match &self.token {
            Token::Text(text) => return Ok(text.to_string()),
            Token::File(path) => path,
        };
        let wrong = |why: String| VaultError::Token(format!("{}: {why}", path.display()));
        let meta = tokio::fs::metadata(path).await.map_err(|error| wrong(error.to_string()))?;
        if !meta.is_file() || meta.len() > TOKEN_MAX_OCTETS {
            return Err(wrong("it is no file of at most 16 KiB".into()));
        }
        let text = tokio::fs::read_to_string(path).await.map_err(|error| wrong(error.to_string()))?;
        match text.trim() {
            "" => Err(wrong("it is empty".into())),
            token => Ok(token.to_owned()),
        }
    }

    async fn ask(&self, path: &SecretPath) -> Result<Bytes, VaultError> {
        let token = self.token().await?;
        let away = |error: std::io::Error| VaultError::Away(error.to_string());
        // The operator's own address: any that its name has is meant.
        let stream = TcpStream::connect((self.address.host(), self.address.port())).await.map_err(away)?;
        if !self.address.is_secure() {
            return self.exchange(stream, path, &token).await;
        }
        let tls = self.tls.clone().ok_or_else(|| VaultError::Away("TLS is not set up".into()))?;
        let name = ServerName::try_from(self.address.host().to_owned())
            .map_err(|_| VaultError::Away("its host cannot be a server's name in TLS".into()))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(away)?;
        self.exchange(stream, path, &token).await
    }

    /// One request over a connection.
    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &SecretPath,
        token: &str,
    ) -> Result<Bytes, VaultError> {
        let http = |error: hyper::Error| VaultError::Away(error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_MAX_OCTETS)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(http)?;
        let mut request = Request::get(format!("/v1/{}", path.request()))
            .header(HOST, self.address.authority())
            .header(USER_AGENT, "tuma")
            .header(CONNECTION, "close")
            .header("X-Vault-Request", "true")
            .header("X-Vault-Token", token);
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", &**namespace);
        }
        let request = request
            .body(Empty::new())
            .map_err(|_| VaultError::Token("it holds octets that cannot be sent".into()))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(http)?;
            let status = answer.status();
            if status != StatusCode::OK {
                return Err(VaultError::Refused(status.as_u16()));
            }
            let body = Limited::new(answer.into_body(), ANSWER_MAX_OCTETS).collect().await;
            Ok(body.map_err(|error| VaultError::Away(error.to_string()))?.to_bytes())
        };
        tokio::pin!(connection, answer);
        tokio::select! {
            answer = &mut answer => answer,
            // It drives the exchange; it may end just before the answer is given out.
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(http(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
