//! From a domain to the addresses its mail goes to.
//!
//! A [`Resolver`] answers DNS questions: [`Dns`] asks name servers, [`Cached`] remembers within bounds, and
//! [`zone::Zone`] is what a test writes instead. [`Routes`] makes of the answers a [`Route`]: exchangers by
//! preference with their addresses, or a [`RouteError`] that carries the reply a recipient gets.
//!
//! [`StsPolicies`] keeps what domains ask of TLS by MTA-STS, fetched by [`Https`].
//!
//! It opens no connection to a mail exchanger and does not know which addresses are fit to dial: whoever
//! builds it hands in an [`AddressRule`].
//!
//! Read first: [`Routes::route`].

mod cached;
mod config;
mod dns;
mod dnssec;
pub mod fuzzing;
mod https;
mod memo;
mod route;
mod sts;
mod trusted;
pub mod zone;

pub use cached::Cached;
pub use config::{Config, DnssecUse, IpStrategy};
pub use dns::{Dns, DnsError};
pub use dnssec::{Authentic, Dnssec, Tlsa, Vouched};
pub use https::{Https, HttpsError, HttpsRequest};
pub use route::{
    AddressRule, AddressVerdict, Exchanger, Hop, Route, RouteError, RouteErrorKind, Routes, SiteName,
};
pub use sts::{
    POLICY_OCTETS_MAX, Sts, StsConfig, StsFault, StsFigures, StsMode, StsPolicies, StsPolicy, StsPolicyError,
    replace_file, sts_id,
};

use mail::Domain;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A future in a box, as the methods of a `dyn` seam return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An MX record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mx {
    /// Lower is preferred.
    pub preference: u16,
    /// The exchanger as DNS has it, without the trailing dot; empty for the root, which stands for "no
    /// mail" (RFC 7505). It need not be a valid name.
    pub exchange: Box<str>,
}

/// What DNS says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Records, at least one, and how long they hold.
    Found(Arc<[T]>, Duration),
    /// The name exists and has no such record; how long that holds.
    NoData(Duration),
    /// The name does not exist; how long that holds.
    NxDomain(Duration),
    /// No answer that could be believed, and why: SERVFAIL, a timeout, an answer that makes no sense.
    Temporary(Arc<str>),
}

/// Answers DNS questions. CNAMEs are followed within a bound; a chain that is too long has no data at its
/// end.
pub trait Resolver: Send + Sync {
    /// The mail exchangers of `name`, in any order.
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Mx>>;
    /// The IPv4 addresses of `name`.
    fn a<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv4Addr>>;
    /// The IPv6 addresses of `name`.
    fn aaaa<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv6Addr>>;
    /// The TXT records of `name`, the strings of each joined. The name is in lower case without a trailing dot, and
    /// its labels may hold any octets: what SPF asks about has the sender's local part in it.
    fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Box<[u8]>>>;
    /// The IPv4 addresses of a name as `txt` takes it, which need not be a host's.
    fn a_of_any<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Ipv4Addr>>;
    /// The names of an address, without trailing dots. They need not be valid.
    fn ptr(&self, address: IpAddr) -> BoxFuture<'_, Answer<Box<str>>>;
}
