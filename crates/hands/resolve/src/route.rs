//! From a domain to its exchangers and their addresses (RFC 5321 §5, RFC 7505), or to the reply that says why
//! not.

use crate::memo::Memo;
use crate::{Answer, Config, IpStrategy, Mx, Resolver};
use mail::{Domain, Host, Reply};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;

/// What the builder's rule says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressVerdict {
    /// Mail may go there.
    Allowed,
    /// It is this server.
    Own,
    /// Mail may not go there.
    Refused,
}

/// Judges each address that DNS gives.
pub type AddressRule = Arc<dyn Fn(IpAddr) -> AddressVerdict + Send + Sync>;

/// Names the set of most preferred exchangers, whatever domain points at them: their names, sorted, joined by
/// commas.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteName(Arc<str>);

impl SiteName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host that takes a domain's mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanger {
    /// Its name; what its certificate should cover.
    pub host: Host,
    /// Lower is tried first.
    pub preference: u16,
    /// Its addresses, families in turn; at least one.
    pub addresses: Vec<IpAddr>,
}

/// Where a domain's mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The exchangers by preference; at least one.
    pub exchangers: Vec<Exchanger>,
    /// Which site they are.
    pub site: SiteName,
    /// The domain has no MX record and is its own exchanger (RFC 5321 §5.1).
    pub is_implicit: bool,
}

/// One address to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop<'a> {
    /// The exchanger it belongs to.
    pub exchanger: &'a Exchanger,
    /// The address.
    pub address: IpAddr,
}

impl Route {
    /// The addresses in the order to try them: by preference, equal preferences shuffled by `seed`, and
    /// each exchanger's addresses of one family turned by it (RFC 5321 §5.1).
    pub fn hops(&self, seed: u64) -> Vec<Hop<'_>> {
        let mut random = SplitMix(seed);
        let mut order: Vec<&Exchanger> = self.exchangers.iter().collect();
        for equals in order.chunk_by_mut(|a, b| a.preference == b.preference) {
            for n in (1..equals.len()).rev() {
                equals.swap(n, random.below(n + 1));
            }
        }
        let turn = random.next() as usize;
        let hops = order.into_iter().flat_map(|exchanger| {
            let addresses = &exchanger.addresses;
            // Each family's addresses take turns; which family stands where stays as it is.
            let places = |v4: bool| (0..addresses.len()).filter(move |&n| addresses[n].is_ipv4() == v4);
            let (v4, v6): (Vec<_>, Vec<_>) = (places(true).collect(), places(false).collect());
            (0..addresses.len()).map(move |n| {
                let same = if addresses[n].is_ipv4() { &v4 } else { &v6 };
                let rank = same.partition_point(|&place| place < n);
                let address = addresses[same[(rank + turn % same.len()) % same.len()]];
                Hop { exchanger, address }
            })
        });
        hops.collect()
    }
}

/// What kind of failure a route met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteErrorKind {
    /// DNS gave no answer: try later.
    Temporary,
    /// The domain does not exist.
    NoSuchDomain,
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// The domain exists, and no exchanger of it has an address.
    NoAddress,
    /// All addresses are such that mail may not go there.
    Refused,
    /// This server is the best exchanger and was not told what to do with the mail.
    Loop,
}

/// Why there is no route. Permanent unless [`RouteErrorKind::Temporary`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// What kind of failure.
    pub kind: RouteErrorKind,
    /// What a recipient's outcome is made of.
    pub reply: Reply,
}

impl RouteError {
    fn new(kind: RouteErrorKind, host: &impl fmt::Display, detail: &str) -> Self {
        use RouteErrorKind as K;
        let reply = match kind {
            K::Temporary => Reply::new(451, (4, 4, 3), format!("{host}: name service: {detail}")),
            K::NoSuchDomain => Reply::new(550, (5, 1, 2), format!("{host}: no such domain")),
            K::NullMx => Reply::new(556, (5, 1, 10), format!("{host} takes no mail (null MX)")),
            K::NoAddress => Reply::new(550, (5, 4, 4), format!("{host}: {detail}")),
            K::Refused => {
                Reply::new(550, (5, 4, 4), format!("{host}: its address is not one to send mail to"))
            }
            K::Loop => Reply::new(554, (5, 4, 6), format!("{host}: mail would loop back to this server")),
        };
        Self { kind, reply }
    }

    /// True if the mail should be kept and the route asked for again.
    pub fn is_temporary(&self) -> bool {
        self.kind == RouteErrorKind::Temporary
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reply.fmt(f)
    }
}

impl std::error::Error for RouteError {}

type Routed = Result<Arc<Route>, RouteError>;

/// Finds routes, and remembers them as long as their records hold.
pub struct Routes {
    resolver: Arc<dyn Resolver>,
    config: Config,
    own_names: HashSet<Domain>,
    rule: AddressRule,
    memo: Memo<Domain, Routed>,
}

impl Routes {
    /// `own_names` are this server's as others have them in MX records; `rule` judges addresses, and it
    /// judges at the time a route is made.
    pub fn new(
        resolver: Arc<dyn Resolver>,
        config: &Config,
        own_names: impl IntoIterator<Item = Domain>,
        rule: AddressRule,
    ) -> Self {
        let memo = Memo::new(config.routes_max.len(), weigh);
        let own_names = own_names.into_iter().collect();
        Self { resolver, config: config.clone(), own_names, rule, memo }
    }

    /// Where mail for `host` goes. Many who ask for one domain at once cause one set of questions.
    pub async fn route(&self, host: &Host) -> Routed {
        match host {
            Host::Literal(ip) => self.literal(*ip),
            Host::Domain(domain) => {
                let ask = || self.in_time(domain, self.make(domain));
                self.memo.get_or(domain, ask).await.0
            }
        }
    }

    /// The addresses of a host that the operator named: no MX is asked for, and the rule is not applied.
    /// The caller, who knows the port, judges each.
    pub async fn host(&self, host: &Host) -> Routed {
        let domain = match host {
            Host::Literal(ip) => return Ok(Arc::new(literal(*ip))),
            Host::Domain(domain) => domain,
        };
        let make = async {
            let found = self.addresses(Candidate::new(0, host.clone()), &|_| AddressVerdict::Allowed).await;
            self.conclude(domain, vec![found], true)
        };
        self.in_time(domain, make).await.0
    }

    /// Forgets the routes made so far: the rule judges otherwise from now on.
    pub fn forget(&self) {
        self.memo.forget();
    }

    /// Routes remembered now.
    pub fn routes(&self) -> usize {
        self.memo.len()
    }

    fn literal(&self, ip: IpAddr) -> Routed {
        let error = |kind| Err(RouteError::new(kind, &Host::Literal(ip), ""));
        match (self.rule)(ip) {
            AddressVerdict::Allowed => Ok(Arc::new(literal(ip))),
            AddressVerdict::Own => error(RouteErrorKind::Loop),
            AddressVerdict::Refused => error(RouteErrorKind::Refused),
        }
    }

    async fn in_time(
        &self,
        domain: &Domain,
        make: impl Future<Output = (Routed, Duration)>,
    ) -> (Routed, Duration) {
        let (routed, ttl) = timeout(self.config.route_timeout, make).await.unwrap_or_else(|_| {
            let why = "no answer in time";
            (Err(RouteError::new(RouteErrorKind::Temporary, domain, why)), self.config.failure_ttl)
        });
        match &routed {
            Ok(route) => tracing::debug!(%domain, site = %route.site, ttl_s = ttl.as_secs(), "route"),
            Err(error) => tracing::debug!(%domain, reply = %error.reply, ttl_s = ttl.as_secs(), "no route"),
        }
        (routed, ttl)
    }

    async fn make(&self, domain: &Domain) -> (Routed, Duration) {
        let error = |kind, detail: &str| Err(RouteError::new(kind, domain, detail));
        let (candidates, ttl, is_implicit) = match self.resolver.mx(domain).await {
            Answer::Temporary(why) => {
                return (error(RouteErrorKind::Temporary, &why), self.config.failure_ttl);
            }
            Answer::NxDomain(ttl) => return (error(RouteErrorKind::NoSuchDomain, ""), ttl),
            Answer::NoData(ttl) if self.own_names.contains(domain) => {
                return (error(RouteErrorKind::Loop, ""), ttl);
            }
            Answer::NoData(ttl) => (vec![Candidate::new(0, Host::Domain(domain.clone()))], ttl, true),
            Answer::Found(records, ttl) => match self.candidates(&records) {
                Ok(candidates) => (candidates, ttl, false),
                Err((kind, detail)) => return (error(kind, detail), ttl),
            },
        };
        let lookups = candidates.into_iter().map(|candidate| self.addresses(candidate, &*self.rule));
        let found = join_all(lookups.collect()).await;
        let (routed, lasts) = self.conclude(domain, found, is_implicit);
        (routed, lasts.min(ttl))
    }

    /// The hosts that MX records name, by preference, down to this server.
    fn candidates(&self, records: &[Mx]) -> Result<Vec<Candidate>, (RouteErrorKind, &'static str)> {
        if records.iter().all(|mx| mx.exchange.is_empty()) {
            return Err((RouteErrorKind::NullMx, ""));
        }
        // The root next to other exchangers means nothing (RFC 7505 §3), nor does what is no host's name.
        let mut best: BTreeMap<Host, u16> = BTreeMap::new();
        for mx in records {
            if let Some(host) = self.exchanger(&mx.exchange) {
                let preference = best.entry(host).or_insert(mx.preference);
                *preference = mx.preference.min(*preference);
            }
        }
        let is_own = |host: &Host| matches!(host, Host::Domain(domain) if self.own_names.contains(domain));
        let own = best.iter().filter(|(host, _)| is_own(host)).map(|(_, &preference)| preference).min();
        let found_any = !best.is_empty();
        // Only hosts better than this server may be tried (RFC 5321 §5.1): the others would send it back.
        let better = best.into_iter().filter(|&(_, preference)| own.is_none_or(|own| preference < own));
        let mut candidates: Vec<_> =
            better.map(|(host, preference)| Candidate::new(preference, host)).collect();
        candidates.sort_by_key(|candidate| candidate.preference);
        candidates.truncate(self.config.exchangers_max.max(1));
        match (candidates.is_empty(), found_any) {
            (false, _) => Ok(candidates),
            (true, true) => Err((RouteErrorKind::Loop, "")),
            (true, false) => Err((RouteErrorKind::NoAddress, "its MX records name no host")),
        }
    }

    fn exchanger(&self, text: &str) -> Option<Host> {
        if let Ok(ip) = text.parse() {
            return self.config.mx_may_be_address.then_some(Host::Literal(ip));
        }
        Domain::parse(text).ok().map(Host::Domain)
    }

    async fn addresses(
        &self,
        candidate: Candidate,
        rule: &(dyn Fn(IpAddr) -> AddressVerdict + Sync),
    ) -> Found {
        let mut found = Found {
            candidate,
            addresses: Vec::new(),
            ttl: Duration::MAX,
            failure: None,
            own: false,
            refused: false,
        };
        let (v4, v6) = match &found.candidate.host {
            Host::Literal(ip @ IpAddr::V4(_)) => (vec![*ip], vec![]),
            Host::Literal(ip @ IpAddr::V6(_)) => (vec![], vec![*ip]),
            Host::Domain(domain) => {
                let domain = domain.clone();
                let strategy = self.config.ip_strategy;
                let v4 = async {
                    if strategy == IpStrategy::V6Only { None } else { Some(self.resolver.a(&domain).await) }
                };
                let v6 = async {
                    if strategy == IpStrategy::V4Only {
                        None
                    } else {
                        Some(self.resolver.aaaa(&domain).await)
                    }
                };
                let (v4, v6) = tokio::join!(v4, v6);
                (found.take(v4), found.take(v6))
            }
        };
        let mut judge = |ips: Vec<IpAddr>| -> Vec<IpAddr> {
            let mut allowed = |&ip: &IpAddr| match rule(ip) {
                AddressVerdict::Allowed => true,
                AddressVerdict::Own => {
                    found.own = true;
                    false
                }
                AddressVerdict::Refused => {
                    tracing::debug!(host = %found.candidate.host, address = %ip, "address refused");
                    found.refused = true;
                    false
                }
            };
            ips.into_iter().filter(|ip| allowed(ip)).collect()
        };
        let (v4, v6) = (judge(v4), judge(v6));
        let (first, second) = match self.config.ip_strategy {
            IpStrategy::V6First | IpStrategy::V6Only => (v6, v4),
            IpStrategy::V4First | IpStrategy::V4Only => (v4, v6),
        };
        found.addresses = in_turn(first, second);
        found.addresses.truncate(self.config.addresses_max.max(1));
        found
    }

    /// What the look-ups come to, and how long it holds.
    fn conclude(&self, domain: &Domain, mut found: Vec<Found>, is_implicit: bool) -> (Routed, Duration) {
        let error = |kind, detail: &str| Err(RouteError::new(kind, domain, detail));
        let mut ttl = found.iter().map(|f| f.ttl).min().unwrap_or(self.config.failure_ttl);
        // An exchanger with an address of ours is this server by another name.
        let own = found.iter().filter(|f| f.own).map(|f| f.candidate.preference).min();
        found.retain(|f| own.is_none_or(|own| f.candidate.preference < own));
        if found.is_empty() {
            return (error(RouteErrorKind::Loop, ""), ttl);
        }
        let site = site_name(&found);
        let failure = found.iter().find_map(|f| f.failure.clone());
        if failure.is_some() {
            ttl = ttl.min(self.config.failure_ttl);
        }
        let is_refused = found.iter().any(|f| f.refused);
        let exchangers: Vec<Exchanger> = found.into_iter().filter_map(Found::into_exchanger).collect();
        let routed = match (exchangers.is_empty(), failure) {
            (false, _) => Ok(Arc::new(Route { exchangers, site, is_implicit })),
            (true, Some(why)) => error(RouteErrorKind::Temporary, &why),
            (true, None) if is_refused => error(RouteErrorKind::Refused, ""),
            (true, None) if is_implicit => error(RouteErrorKind::NoAddress, "it has neither MX nor address"),
            (true, None) => error(RouteErrorKind::NoAddress, "its exchangers have no address"),
        };
        (routed, ttl)
    }
}

/// About what a domain and its route hold on the heap.
fn weigh(domain: &Domain, routed: &Routed) -> usize {
    let of_host = |host: &Host| match host {
        Host::Domain(domain) => domain.as_str().len(),
        Host::Literal(_) => 0,
    };
    let of_exchanger = |exchanger: &Exchanger| {
        size_of::<Exchanger>() + of_host(&exchanger.host) + size_of_val::<[IpAddr]>(&exchanger.addresses)
    };
    domain.as_str().len()
        + match routed {
            Ok(route) => {
                let exchangers: usize = route.exchangers.iter().map(of_exchanger).sum();
                size_of::<Route>() + exchangers + route.site.as_str().len()
            }
            Err(error) => error.reply.text.len(),
        }
}

fn literal(ip: IpAddr) -> Route {
    let host = Host::Literal(ip);
    let site = SiteName(host.to_string().into());
    Route {
        exchangers: vec![Exchanger { host, preference: 0, addresses: vec![ip] }],
        site,
        is_implicit: true,
    }
}

/// A host to look up.
#[derive(Debug)]
struct Candidate {
    preference: u16,
    host: Host,
}

impl Candidate {
    fn new(preference: u16, host: Host) -> Self {
        Self { preference, host }
    }
}

/// What was found of a candidate.
#[derive(Debug)]
struct Found {
    candidate: Candidate,
    addresses: Vec<IpAddr>,
    ttl: Duration,
    failure: Option<Arc<str>>,
    own: bool,
    refused: bool,
}

impl Found {
    fn take<T: Copy + Into<IpAddr>>(&mut self, answer: Option<Answer<T>>) -> Vec<IpAddr> {
        match answer {
            None => Vec::new(),
            Some(Answer::Found(records, ttl)) => {
                self.ttl = self.ttl.min(ttl);
                records.iter().map(|&address| address.into()).collect()
            }
            Some(Answer::NoData(ttl) | Answer::NxDomain(ttl)) => {
                self.ttl = self.ttl.min(ttl);
                Vec::new()
            }
            Some(Answer::Temporary(why)) => {
                self.failure = Some(why);
                Vec::new()
            }
        }
    }

    fn into_exchanger(self) -> Option<Exchanger> {
        let Candidate { preference, host } = self.candidate;
        let addresses = self.addresses;
        (!addresses.is_empty()).then_some(Exchanger { host, preference, addresses })
    }
}

fn site_name(found: &[Found]) -> SiteName {
    let best = found.iter().map(|f| f.candidate.preference).min();
    let best = found.iter().filter(|f| Some(f.candidate.preference) == best);
    let mut names: Vec<String> = best.map(|f| f.candidate.host.to_string()).collect();
    names.sort_unstable();
    SiteName(names.join(",").into())
}

/// One of each by turns, then what is left.
fn in_turn(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::with_capacity(first.len() + second.len());
    while first.len() + second.len() > 0 {
        all.extend(first.next());
        all.extend(second.next());
    }
    all
}

/// Runs all of them side by side in this task.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match pin!(future).poll(cx) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

/// SplitMix64: a seed's worth of shuffling.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests;
