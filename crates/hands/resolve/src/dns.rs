//! DNS by hickory: asks name servers, and says of each answer what it means for mail.

use crate::{Answer, BoxFuture, Config, Mx, Resolver};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError as HickoryDnsError, NetError, runtime::TokioRuntimeProvider};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use mail::Domain;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// CNAMEs followed within one answer.
const CNAMES_MAX: usize = 8;
/// MX records taken from one answer, the most preferred: far more than anybody has, and a bound for the rest.
const MX_MAX: usize = 128;
/// Addresses taken from one answer.
const ADDRESSES_MAX: usize = 64;
/// TXT records taken from one answer. Domains that prove themselves to many services have some dozens; what is over
/// is left out, which SPF and DMARC could not use anyway.
const TXT_MAX: usize = 256;
/// Names taken from one answer about an address: more than SPF looks at.
const POINTERS_MAX: usize = 16;

/// The system's configuration of name servers is of no use; name some in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsError(Box<str>);

impl DnsError {
    pub(crate) fn new(problem: String) -> Self {
        Self(problem.into())
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name servers: {}", self.0)
    }
}

impl std::error::Error for DnsError {}

/// Asks name servers. It remembers nothing: put [`crate::Cached`] in front.
pub struct Dns {
    hickory: TokioResolver,
    open: Semaphore,
}

impl Dns {
    /// Reads the system's configuration if no name servers are given.
    pub fn new(config: &Config) -> Result<Self, DnsError> {
        let failed = |error: NetError| DnsError(error.to_string().into());
        let servers = name_servers(config)?;
        let provider = TokioRuntimeProvider::default();
        let mut builder =
            TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), provider);
        set_options(builder.options_mut(), config);
        let permits = (config.queries_max.max(1) as usize).min(Semaphore::MAX_PERMITS);
        Ok(Self { hickory: builder.build().map_err(failed)?, open: Semaphore::new(permits) })
    }

    async fn ask<T>(
        &self,
        name: Result<Name, ProtoError>,
        kind: RecordType,
        records_max: usize,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> Answer<T>
    where
        T: Ord,
    {
        // The semaphore is never closed.
        let _permit = self.open.acquire().await;
        let mut query = match name {
            Ok(query) => query,
            // A name that cannot be asked about is nobody's.
            Err(_) => return Answer::NxDomain(Duration::ZERO),
        };
        query.set_fqdn(true);
        match self.hickory.lookup(query.clone(), kind).await {
            Ok(lookup) => found(&query, &lookup, records_max, pick),
            Err(error) => not_found(&error),
        }
    }
}

fn named(name: &Domain) -> Result<Name, ProtoError> {
    Name::from_ascii(name.as_str())
}

/// A name whose labels may hold any octets.
fn any_name(name: &str) -> Result<Name, ProtoError> {
    Name::from_labels(name.split('.').map(str::as_bytes))
}

/// The name servers to ask: those of the system if none are given.
pub(crate) fn name_servers(config: &Config) -> Result<Vec<NameServerConfig>, DnsError> {
    if !config.nameservers.is_empty() {
        return Ok(config.nameservers.iter().map(|&server| name_server(server)).collect());
    }
    let (system, _) = system_conf::read_system_conf().map_err(|error| DnsError::new(error.to_string()))?;
    // Search domains are for people who type short names; a domain in mail is whole.
    Ok(system.into_parts().2)
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    config
}

pub(crate) fn set_options(options: &mut ResolverOpts, config: &Config) {
    options.timeout = config.query_timeout;
    options.attempts = config.attempts as usize;
    options.case_randomization = config.case_randomization;
    options.use_hosts_file = if config.hosts_file { ResolveHosts::Always } else { ResolveHosts::Never };
    // `Cached` remembers less of each answer, and is bounded in more than their number.
    options.cache_size = 0;
    options.edns0 = true;
    // Fits one datagram on any path (RFC 9715); larger answers come by TCP.
    options.edns_payload_len = 1232;
    options.max_active_requests = config.queries_max as usize;
}

/// The records of the wanted kind that belong to the name asked for, or to the end of its chain of CNAMEs: what
/// else a server puts into its answer is its own affair.
fn found<T: Ord>(
    query: &Name,
    lookup: &Lookup,
    records_max: usize,
    pick: impl Fn(&RData) -> Option<T>,
) -> Answer<T> {
    let mut owner = query;
    for _ in 0..CNAMES_MAX {
        let next = lookup.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some(&target.0),
            _ => None,
        });
        match next {
            Some(target) => owner = target,
            None => break,
        }
    }
    let of_owner = lookup.answers().iter().filter(|record| record.name == *owner);
    let mut records: Vec<T> = of_owner.filter_map(|record| pick(&record.data)).collect();
    let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
    if records.is_empty() {
        return Answer::NoData(ttl);
    }
    if records.len() > records_max {
        records.sort_unstable();
        records.truncate(records_max);
    }
    Answer::Found(records.into(), ttl)
}

fn not_found<T>(error: &NetError) -> Answer<T> {
    let NetError::Dns(HickoryDnsError::NoRecordsFound(none)) = error else {
        return Answer::Temporary(describe(error).into());
    };
    let ttl = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
    match none.response_code {
        ResponseCode::NXDomain => Answer::NxDomain(ttl),
        ResponseCode::NoError => Answer::NoData(ttl),
        other => Answer::Temporary(other.to_string().into()),
    }
}

/// In words an operator knows.
pub(crate) fn describe(error: &NetError) -> String {
    match error {
        NetError::Dns(HickoryDnsError::ResponseCode(ResponseCode::ServFail)) => "SERVFAIL".to_owned(),
        NetError::Dns(HickoryDnsError::ResponseCode(ResponseCode::Refused)) => "REFUSED".to_owned(),
        NetError::Timeout => "no answer from the name servers".to_owned(),
        other => other.to_string(),
    }
}

impl Resolver for Dns {
    fn mx<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Mx>> {
        Box::pin(self.ask(named(name), RecordType::MX, MX_MAX, |data| match data {
            RData::MX(mx) => {
                let exchange = mx.exchange.to_ascii().trim_end_matches('.').into();
                Some(Mx { preference: mx.preference, exchange })
            }
            _ => None,
        }))
    }

    fn a<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv4Addr>> {
        Box::pin(self.ask(named(name), RecordType::A, ADDRESSES_MAX, |data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        }))
    }

    fn aaaa<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Answer<Ipv6Addr>> {
        Box::pin(self.ask(named(name), RecordType::AAAA, ADDRESSES_MAX, |data| match data {
            RData::AAAA(aaaa) => Some(aaaa.0),
            _ => None,
        }))
    }

    fn txt<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Box<[u8]>>> {
        Box::pin(self.ask(any_name(name), RecordType::TXT, TXT_MAX, |data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat().into()),
            _ => None,
        }))
    }

    fn a_of_any<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<Ipv4Addr>> {
        Box::pin(self.ask(any_name(name), RecordType::A, ADDRESSES_MAX, |data| match data {
            RData::A(a) => Some(a.0),
            _ => None,
        }))
    }

    fn ptr(&self, address: IpAddr) -> BoxFuture<'_, Answer<Box<str>>> {
        Box::pin(self.ask(Ok(address.into()), RecordType::PTR, POINTERS_MAX, |data| match data {
            RData::PTR(ptr) => Some(ptr.0.to_ascii().trim_end_matches('.').into()),
            _ => None,
        }))
    }
}

#[cfg(test)]
mod tests;
