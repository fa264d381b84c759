//! Certificates got and renewed by ACME (RFC 8555), names shown to be ours by HTTP (§8.3).
//!
//! It asks and keeps; it shows nothing to clients and does not decide when. [`Authority::obtain`] gets one certificate,
//! [`Challenges`] answers while the authority checks, [`Store`] keeps accounts and certificates, and `renewal` says
//! when a certificate's turn is. Who calls looks at a new certificate before it takes the old one's place.
//!
//! Read first: [`Authority::obtain`].

mod challenges;
mod config;
mod http;
pub mod renewal;
mod store;

pub use challenges::{Challenges, PREFIX};
pub use config::{Config, DirectoryUrl, DirectoryUrlError};
pub use store::{Memory, Store};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use mail::Domain;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Characters of what an authority says that are passed on.
const SAYS_MAX: usize = 500;

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcmeError {
    /// The authority could not be asked, or did not answer in time.
    Away(String),
    /// It said no: why, in its words.
    Refused(String),
    /// Its answer cannot be understood.
    Answer(String),
    /// What must be kept cannot be: the account, or the certificate.
    Store(String),
}

impl fmt::Display for AcmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(why) => write!(f, "the authority cannot be asked: {why}"),
            Self::Refused(why) => write!(f, "the authority refuses: {why}"),
            Self::Answer(why) => write!(f, "the authority's answer cannot be understood: {why}"),
            Self::Store(why) => write!(f, "it cannot be kept: {why}"),
        }
    }
}

impl std::error::Error for AcmeError {}

/// A text from outside, fit for a log line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAYS_MAX).collect()
}

impl From<Error> for AcmeError {
    fn from(error: Error) -> Self {
        let text = plain(&error.to_string());
        match error {
            Error::Api(problem) => {
                let kind = problem.r#type.unwrap_or_default();
                let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(&kind);
                let detail = problem.detail.unwrap_or_default();
                Self::Refused(plain(&format!("{kind}: {detail}")))
            }
            Error::Timeout(_) => Self::Away("it has not checked the names in time".into()),
            Error::Other(_) | Error::Http(_) => Self::Away(text),
            _ => Self::Answer(text),
        }
    }
}

impl From<io::Error> for AcmeError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// An authority, and our account there.
#[derive(Clone)]
pub struct Authority {
    config: Config,
    client: http::Client,
    store: Store,
    challenges: Challenges,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("directory", &self.config.directory).finish_non_exhaustive()
    }
}

impl Authority {
    /// As the settings say. `tls` says who may vouch for the authority's server.
    pub fn new(
        config: &Config,
        tls: Arc<rustls::ClientConfig>,
        store: Store,
        challenges: Challenges,
    ) -> Self {
        let client = http::Client { tls, timeout: config.timeout };
        Self { config: config.clone(), client, store, challenges }
    }

    /// Gets a certificate for names: a new key and the chain, as one PEM text. The first call makes the account.
    pub async fn obtain(&self, names: &[Domain]) -> Result<String, AcmeError> {
        let whole = tokio::time::timeout(self.config.order_timeout, self.ask(names)).await;
        whole.unwrap_or_else(|_| Err(AcmeError::Away("the order took too long".into())))
    }

    async fn ask(&self, names: &[Domain]) -> Result<String, AcmeError> {
        let identifiers: Vec<Identifier> =
            names.iter().map(|name| Identifier::Dns(name.as_str().to_owned())).collect();
        let order = NewOrder::new(&identifiers);
        let made = self.account().await?.new_order(&order).await;
        let mut order = match made {
            Err(Error::Api(problem)) if is_unknown_account(problem.r#type.as_deref()) => {
                // An authority forgets accounts that were deactivated. A new one costs nothing.
                self.store.retire_account(self.config.directory.as_str())?;
                self.account().await?.new_order(&order).await?
            }
            made => made?,
        };
        self.show(&mut order).await?;
        let (csr, key) = request(names).map_err(|error| AcmeError::Answer(error.to_string()))?;
        order.finalize_csr(&csr).await?;
        let chain = order.poll_certificate(&self.patience()).await?;
        Ok(format!("{}\n{chain}", key.trim_end()))
    }

    /// Shows the authority that the names are ours.
    async fn show(&self, order: &mut Order) -> Result<(), AcmeError> {
        let mut standing = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                // Shown not long ago.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                other => {
                    return Err(AcmeError::Refused(format!("an authorization of the order is {other:?}")));
                }
            }
            let mut challenge = authorization
                .challenge(ChallengeType::Http01)
                .ok_or_else(|| AcmeError::Refused("it does not check by http-01".into()))?;
            let answer = challenge.key_authorization();
            standing.push(self.challenges.put(&challenge.token, answer.as_str()));
            challenge.set_ready().await?;
        }
        let status = match order.poll_ready(&self.patience()).await {
            Ok(status) => status,
            Err(error @ Error::Api(_)) => return Err(why_not(order).await.unwrap_or_else(|| error.into())),
            Err(error) => return Err(error.into()),
        };
        match status {
            OrderStatus::Ready => Ok(()),
            status => Err(why_not(order)
                .await
                .unwrap_or_else(|| AcmeError::Refused(format!("the order is {status:?}")))),
        }
    }

    async fn account(&self) -> Result<Account, AcmeError> {
        let directory = self.config.directory.as_str();
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        if let Some(text) = self.store.account(directory)? {
            let credentials: AccountCredentials = serde_json::from_str(&text)
                .map_err(|error| AcmeError::Store(format!("the account's file is broken: {error}")))?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact: Vec<String> =
            self.config.contact.iter().map(|address| format!("mailto:{address}")).collect();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: self.config.terms_agreed,
            only_return_existing: false,
        };
        let (account, credentials) = builder.create(&new, directory.to_owned(), None).await?;
        let text = serde_json::to_string(&credentials).map_err(|e| AcmeError::Store(e.to_string()))?;
        self.store.keep_account(directory, &text)?;
        Ok(account)
    }

    fn patience(&self) -> RetryPolicy {
        // A poll each half minute at the slowest of an order of five minutes.
        RetryPolicy::new().backoff(1.2).timeout(self.config.order_timeout)
    }
}

fn is_unknown_account(kind: Option<&str>) -> bool {
    kind == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

/// What the authority found wrong with a name.
async fn why_not(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone())
            && let AcmeError::Refused(why) = AcmeError::from(Error::Api(problem))
        {
            return Some(AcmeError::Refused(plain(&format!("{name}: {why}"))));
        }
    }
    None
}

/// A request for a certificate (PKCS #10, DER), and its new key (PEM): ECDSA over P-256, which every client knows.
fn request(names: &[Domain]) -> Result<(Vec<u8>, String), rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok((request.der().to_vec(), key.serialize_pem()))
}
