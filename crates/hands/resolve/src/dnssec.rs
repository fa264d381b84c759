//! What DNSSEC vouches for: a domain's exchangers, and TLSA records of exchangers (RFC 7672 §2). Signatures are
//! checked here, down from the root's keys, and name servers need only pass them on; or a validating name server on
//! this machine is believed.
//!
//! It asks apart from [`crate::Dns`]: whose mail goes where must not hang on it. What it vouches for must therefore be
//! compared with where mail is about to go.

use crate::dns::{name_servers, set_options};
use crate::memo::Memo;
use crate::trusted::Trusted;
use crate::{BoxFuture, Config, DnsError, DnssecUse};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{
    DnsError as HickoryDnsError, NetError, NoRecords, runtime::TokioRuntimeProvider,
};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use mail::Domain;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// CNAMEs followed within one answer.
const CNAMES_MAX: usize = 8;
/// TLSA records taken from one answer.
const TLSA_MAX: usize = 32;
/// Exchangers taken from one answer.
const MX_MAX: usize = 128;
/// Octets of memory for what is remembered, for each of three kinds of questions.
const REMEMBERED_OCTETS_MAX: usize = 4 << 20;

/// A TLSA record as DNS has it (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector.
    pub selector: u8,
    /// Matching type.
    pub matching: u8,
    /// Certificate association data.
    pub data: Box<[u8]>,
}

/// What DNSSEC says of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vouched<T> {
    /// It is as the zone's owner has signed it. Nothing at all can be just that, too.
    Secure(Arc<[T]>),
    /// Nobody signs there, and that is proven.
    Insecure,
    /// It cannot be believed, or nobody answered: why.
    Failed(Arc<str>),
}

/// Answers what DNSSEC vouches for.
pub trait Authentic: Send + Sync {
    /// The exchangers of a domain, in lower case; none if it has no MX record.
    fn exchangers<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Vouched<Box<str>>>;
    /// The TLSA records for a port of a host.
    fn tlsa<'a>(&'a self, host: &'a Domain, port: u16) -> BoxFuture<'a, Vouched<Tlsa>>;
}

/// Whom it asks.
enum Asked {
    /// Any name servers; signatures are checked here.
    Any(Box<TokioResolver>),
    /// One that checks them itself.
    Trusted(Trusted),
}

/// Asks name servers, checks signatures or has them checked, and remembers.
pub struct Dnssec {
    asked: Asked,
    config: Config,
    exchangers: Memo<Domain, Vouched<Box<str>>>,
    addresses: Memo<Domain, Vouched<()>>,
    tlsa: Memo<(Domain, u16), Vouched<Tlsa>>,
}

impl std::fmt::Debug for Dnssec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dnssec").finish_non_exhaustive()
    }
}

impl Dnssec {
    /// As `dnssec` says: begins at the root's keys, or at those of `dnssec_anchor_file`; or believes name servers, which
    /// must all be on loopback.
    pub fn new(config: &Config) -> Result<Self, DnsError> {
        let asked = match config.dnssec {
            DnssecUse::Trust => Asked::Trusted(trusted(config)?),
            DnssecUse::Validate | DnssecUse::Off => Asked::Any(Box::new(validating(config)?)),
        };
        Ok(Self {
            asked,
            config: config.clone(),
            exchangers: Memo::new(REMEMBERED_OCTETS_MAX, |domain: &Domain, found| {
                domain.as_str().len() + weigh(found, |name| name.len())
            }),
            addresses: Memo::new(REMEMBERED_OCTETS_MAX, |domain: &Domain, _| domain.as_str().len()),
            tlsa: Memo::new(REMEMBERED_OCTETS_MAX, |(domain, _): &(Domain, u16), found| {
                domain.as_str().len() + weigh(found, |record: &Tlsa| record.data.len())
            }),
        })
    }

    async fn ask<T>(
        &self,
        query: Name,
        kind: RecordType,
        records_max: usize,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> (Vouched<T>, Duration) {
        let hickory = match &self.asked {
            Asked::Trusted(trusted) => {
                return self.ask_trusted(trusted, &query, kind, records_max, pick).await;
            }
            Asked::Any(hickory) => hickory,
        };
        let asked = timeout(self.config.route_timeout, hickory.lookup(query.clone(), kind)).await;
        let (found, ttl) = match asked {
            Err(_) => (Vouched::Failed("no answer in time".into()), Duration::ZERO),
            Ok(Ok(lookup)) => {
                let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
                (judge(&query, &lookup, records_max, pick), ttl)
            }
            Ok(Err(NetError::Dns(HickoryDnsError::NoRecordsFound(none)))) => {
                let ttl = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
                (judge_absence(&query, &none), ttl)
            }
            Ok(Err(error)) => (Vouched::Failed(describe(&error).into()), Duration::ZERO),
        };
        self.lasting(found, ttl)
    }

    /// The same of a name server whose word is taken.
    async fn ask_trusted<T>(
        &self,
        trusted: &Trusted,
        query: &Name,
        kind: RecordType,
        records_max: usize,
        pick: impl Fn(&RData) -> Option<T>,
    ) -> (Vouched<T>, Duration) {
        match timeout(self.config.route_timeout, trusted.ask(query, kind)).await {
            Err(_) => self.lasting(Vouched::Failed("no answer in time".into()), Duration::ZERO),
            Ok(Err(why)) => self.lasting(Vouched::Failed(why), Duration::ZERO),
            // Nobody vouches for it: that is what an unsigned zone looks like to who asks such a server.
            Ok(Ok(said)) if !said.authentic => self.lasting(Vouched::Insecure, said.ttl),
            Ok(Ok(said)) => {
                let owner = last_name(query, &said.records);
                let of_owner = said.records.iter().filter(|record| record.name == *owner);
                let found = of_owner.filter_map(|record| pick(&record.data)).take(records_max).collect();
                self.lasting(Vouched::Secure(found), said.ttl)
            }
        }
    }

    /// With how long it is remembered.
    fn lasting<T>(&self, found: Vouched<T>, ttl: Duration) -> (Vouched<T>, Duration) {
        let lasts = match &found {
            Vouched::Failed(_) => self.config.failure_ttl,
            _ => ttl.max(self.config.ttl_min).min(self.config.ttl_max),
        };
        (found, lasts)
    }

    /// Whether the zone of a host's addresses is signed: TLSA records are only asked for where it is, for other
    /// zones' servers often do not know the type (RFC 7672 §2.2.2).
    async fn addresses(&self, host: &Domain) -> Vouched<()> {
        let ask = || async {
            let Ok(query) = fqdn(host.as_str()) else {
                return (Vouched::Insecure, self.config.ttl_max);
            };
            let of = |data: &RData| matches!(data, RData::A(_) | RData::AAAA(_)).then_some(());
            match self.ask(query.clone(), RecordType::A, 1, of).await {
                (Vouched::Secure(found), lasts) if found.is_empty() => {
                    match self.ask(query, RecordType::AAAA, 1, of).await {
                        (v6 @ Vouched::Failed(_), lasts) => (v6, lasts),
                        (v6, _) => (v6, lasts),
                    }
                }
                v4 => v4,
            }
        };
        self.addresses.get_or(host, ask).await.0
    }
}

fn validating(config: &Config) -> Result<TokioResolver, DnsError> {
    let anchors = match &config.dnssec_anchor_file {
        Some(file) => {
            TrustAnchors::from_file(file).map_err(|e| DnsError::new(format!("{}: {e}", file.display())))?
        }
        None => TrustAnchors::default(),
    };
    if anchors.is_empty() {
        return Err(DnsError::new("the file of DNSSEC anchors holds no key of the root".to_owned()));
    }
    let servers = ResolverConfig::from_name_servers(name_servers(config)?);
    let mut builder = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
    set_options(builder.options_mut(), config);
    // It asks many times for the keys of zones on the way: those are remembered by hickory, what is made of
    // answers by us.
    builder.options_mut().cache_size = 4_096;
    builder.options_mut().validate = true;
    builder.with_trust_anchor(Arc::new(anchors)).build().map_err(|e| DnsError::new(e.to_string()))
}

fn trusted(config: &Config) -> Result<Trusted, DnsError> {
    let servers: Vec<SocketAddr> = name_servers(config)?
        .iter()
        .map(|server| {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            SocketAddr::new(server.ip, port)
        })
        .collect();
    if let Some(far) = servers.iter().find(|server| !server.ip().is_loopback()) {
        let text = format!(
            "dnssec = \"trust\" believes name servers on this machine only, and {far} is not: anybody on the way \
             could vouch in its name. Run a validating resolver here, or write \"validate\""
        );
        return Err(DnsError::new(text));
    }
    Ok(Trusted::new(servers, config.attempts, config.query_timeout, config.queries_max as usize))
}

fn weigh<T>(found: &Vouched<T>, of: impl Fn(&T) -> usize) -> usize {
    match found {
        Vouched::Secure(records) => size_of_val::<[T]>(records) + records.iter().map(of).sum::<usize>(),
        Vouched::Insecure => 0,
        Vouched::Failed(why) => why.len(),
    }
}

fn fqdn(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|e| e.to_string())?;
    name.set_fqdn(true);
    Ok(name)
}

/// What the proofs of an answer's records come to: the name asked for, each alias on the way, and the records at the
/// end must all be signed.
fn judge<T>(
    query: &Name,
    lookup: &Lookup,
    records_max: usize,
    pick: impl Fn(&RData) -> Option<T>,
) -> Vouched<T> {
    let mut owner = query.clone();
    let mut worst = Proof::Secure;
    for _ in 0..CNAMES_MAX {
        let alias = lookup.answers().iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == owner => Some((target.0.clone(), record.proof)),
            _ => None,
        });
        let Some((target, proof)) = alias else { break };
        worst = worse(worst, proof);
        owner = target;
    }
    let mut records = Vec::new();
    for record in lookup.answers().iter().filter(|record| record.name == owner) {
        if let Some(found) = pick(&record.data) {
            worst = worse(worst, record.proof);
            records.push(found);
        }
    }
    records.truncate(records_max);
    match worst {
        // An alias that leads nowhere proves nothing about its end.
        Proof::Secure if records.is_empty() => {
            Vouched::Failed("an answer without the records asked for".into())
        }
        Proof::Secure => Vouched::Secure(records.into()),
        Proof::Insecure => Vouched::Insecure,
        Proof::Bogus => Vouched::Failed("DNSSEC: bogus".into()),
        Proof::Indeterminate => Vouched::Failed("DNSSEC: not all signatures could be looked up".into()),
    }
}

/// The name at the end of the aliases.
fn last_name<'a>(query: &'a Name, records: &'a [Record]) -> &'a Name {
    let mut owner = query;
    for _ in 0..CNAMES_MAX {
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some(&target.0),
            _ => None,
        });
        let Some(target) = alias else { break };
        owner = target;
    }
    owner
}

fn worse(a: Proof, b: Proof) -> Proof {
    let rank = |proof: Proof| match proof {
        Proof::Secure => 0,
        Proof::Insecure => 1,
        Proof::Indeterminate => 2,
        Proof::Bogus => 3,
    };
    if rank(a) >= rank(b) { a } else { b }
}

/// That there is nothing is believed if a zone that holds the name says so, signed, or if that zone is proven to be
/// unsigned. What another zone's records are shown for proves nothing.
fn judge_absence<T>(query: &Name, none: &NoRecords) -> Vouched<T> {
    let authorities = none.authorities.as_deref().unwrap_or_default();
    let of_zone = authorities
        .iter()
        .filter(|record| record.record_type() == RecordType::SOA && record.name.zone_of(query))
        .max_by_key(|record| record.name.num_labels());
    match of_zone.map(|record| record.proof) {
        Some(Proof::Secure) => Vouched::Secure(Arc::default()),
        Some(Proof::Insecure) => Vouched::Insecure,
        Some(Proof::Bogus) => Vouched::Failed("DNSSEC: bogus".into()),
        Some(Proof::Indeterminate) | None => Vouched::Failed("DNSSEC: absence is not proven".into()),
    }
}

fn describe(error: &NetError) -> String {
    match error {
        NetError::Dns(HickoryDnsError::Nsec { proof, .. }) => format!("DNSSEC: {proof}").to_lowercase(),
        NetError::Dns(HickoryDnsError::DnssecBogus) => "DNSSEC: bogus".to_owned(),
        other => crate::dns::describe(other),
    }
}

impl Authentic for Dnssec {
    fn exchangers<'a>(&'a self, domain: &'a Domain) -> BoxFuture<'a, Vouched<Box<str>>> {
        Box::pin(async move {
            let ask = || async {
                let Ok(query) = fqdn(domain.as_str()) else {
                    return (Vouched::Insecure, self.config.ttl_max);
                };
                self.ask(query, RecordType::MX, MX_MAX, |data| match data {
                    RData::MX(mx) => {
                        Some(mx.exchange.to_ascii().trim_end_matches('.').to_ascii_lowercase().into())
                    }
                    _ => None,
                })
                .await
            };
            self.exchangers.get_or(domain, ask).await.0
        })
    }

    fn tlsa<'a>(&'a self, host: &'a Domain, port: u16) -> BoxFuture<'a, Vouched<Tlsa>> {
        Box::pin(async move {
            match self.addresses(host).await {
                Vouched::Secure(_) => {}
                Vouched::Insecure => return Vouched::Insecure,
                Vouched::Failed(why) => return Vouched::Failed(why),
            }
            let ask = || async {
                let Ok(query) = fqdn(&format!("_{port}._tcp.{host}")) else {
                    return (Vouched::Insecure, self.config.ttl_max);
                };
                self.ask(query, RecordType::TLSA, TLSA_MAX, |data| match data {
                    RData::TLSA(tlsa) => Some(Tlsa {
                        usage: tlsa.cert_usage.into(),
                        selector: tlsa.selector.into(),
                        matching: tlsa.matching.into(),
                        data: tlsa.cert_data.as_slice().into(),
                    }),
                    _ => None,
                })
                .await
            };
            self.tlsa.get_or(&(host.clone(), port), ask).await.0
        })
    }
}
