//! Who asks, and what he may: by an API key, or from this machine.
//!
//! Without a key only this machine is let in, and only by itself: a request that a page in a browser caused carries
//! its Origin, or a Host that is not loopback (DNS rebinding), and one that a proxy passed on says so in its header.
//! With a key none of that matters, since no browser adds it by itself.

use super::Http;
use super::refusal::Refusal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mail::{Host, UnixMillis};
use net::Stream;
use settings::Cidr;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tenants::{AuditEntry, Key, Role, Token};
use tracing::{info, warn};

/// Failures of one network within ten minutes after which it is not listened to.
const FAILURES_MAX: u32 = 20;
/// Keys whose rate is watched at most; beyond it the longest unused are forgotten.
const RATES_MAX: usize = 10_000;
/// Octets of a body that the log of changes keeps.
const DETAIL_MAX: usize = 1_000;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) local: Option<SocketAddr>,
    pub(super) tls: Option<mail::TlsInfo>,
}

impl Peer {
    pub(super) fn of(stream: &Stream, address: SocketAddr, local: Option<SocketAddr>) -> Self {
        Self { address, local, tls: stream.tls_info() }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// This machine itself.
    Loopback,
    /// Who has this key.
    Key(Arc<Key>),
}

/// Who asks, from where.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) who: Who,
    pub(super) peer: Peer,
}

impl Access {
    pub(super) fn role(&self) -> Role {
        match &self.who {
            Who::Loopback => Role::Admin,
            Who::Key(key) => key.new.role,
        }
    }

    /// Whose mail alone this is about; `None` for those who may see all.
    pub(super) fn tenant(&self) -> Option<&str> {
        match &self.who {
            Who::Loopback => None,
            Who::Key(key) => key.new.tenant.as_deref(),
        }
    }

    /// For logs.
    pub(super) fn name(&self) -> &str {
        match &self.who {
            Who::Loopback => "loopback",
            Who::Key(key) => &key.id,
        }
    }

    /// For records: what people call the key.
    pub(super) fn user(&self) -> Option<Box<str>> {
        match &self.who {
            Who::Loopback => None,
            Who::Key(key) => Some(key.new.name.as_str().into()),
        }
    }

    /// Refuses an address to send from that the key does not cover.
    pub(super) fn check_from(&self, host: &Host, what: &str) -> Result<(), Refusal> {
        let Who::Key(key) = &self.who else { return Ok(()) };
        if key.new.from_domains.is_empty() || covers(key.new.from_domains.iter().map(String::as_str), host) {
            return Ok(());
        }
        let domains = key.new.from_domains.join(", ");
        Err(Refusal::forbidden(format!("this key may send from {domains} only; {what} is at {host}")))
    }
}

/// True if the host is one of the domains or below one.
pub(super) fn covers<'a>(mut domains: impl Iterator<Item = &'a str>, host: &Host) -> bool {
    let Host::Domain(domain) = host else { return false };
    let domain = domain.as_str();
    domains.any(|known| {
        domain.eq_ignore_ascii_case(known)
            || (domain.len() > known.len()
                && domain.as_bytes()[domain.len() - known.len() - 1] == b'.'
                && domain[domain.len() - known.len()..].eq_ignore_ascii_case(known))
    })
}

/// What is allowed to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// May send; of a tenant too.
    Send,
    /// Any key; what it sees is its tenant's.
    Own,
    /// A viewer of everything.
    View,
    /// An operator of everything.
    Operate,
    /// An admin.
    Admin,
}

impl Need {
    /// In words, for the document.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Send => "a key that may send: sender, operator or admin",
            Self::Own => "any key; a tenant's sees and changes that tenant's only",
            Self::View => "a viewer, operator or admin without a tenant",
            Self::Operate => "an operator or admin without a tenant",
            Self::Admin => "an admin without a tenant",
        }
    }
}

/// Requests of keys within a minute.
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<String, (Instant, u32)>>);

impl Rates {
    /// Counts a request. `Err` is the seconds until there is room for another.
    fn take(&self, id: &str, max: u32, now: Instant) -> Result<(), u32> {
        const MINUTE: Duration = Duration::from_secs(60);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= RATES_MAX {
            table.retain(|_, (since, _)| now.duration_since(*since) < MINUTE);
        }
        let (since, count) = table.entry(id.to_owned()).or_insert((now, 0));
        let age = now.duration_since(*since);
        if age >= MINUTE {
            (*since, *count) = (now, 0);
        }
        if *count >= max {
            return Err((MINUTE.saturating_sub(now.duration_since(*since))).as_secs() as u32 + 1);
        }
        *count += 1;
        Ok(())
    }
}

/// The token of a request: `Authorization: Bearer`, or the password of Basic, whose user does not matter.
fn token_of(headers: &HeaderMap) -> Option<Result<Token, ()>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok();
    let token = value.and_then(|value| {
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("Bearer") {
            return Token::parse(rest);
        }
        if scheme.eq_ignore_ascii_case("Basic") && compose::is_base64(rest) {
            let plain = String::from_utf8(message::read_base64(rest.as_bytes())).ok()?;
            return Token::parse(plain.split_once(':')?.1);
        }
        None
    });
    Some(token.ok_or(()))
}

/// True if nothing of a request says that somebody else than this machine is behind it.
fn is_own(headers: &HeaderMap) -> bool {
    let local = |text: &str| {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        let host =
            host.rsplit_once(':').map_or(host, |(host, port)| if port.ends_with(']') { text } else { host });
        matches!(host, "localhost" | "127.0.0.1" | "[::1]")
    };
    let strange = |name| headers.get_all(name).iter().any(|value| !value.to_str().is_ok_and(local));
    let passed_on = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
    !strange(header::ORIGIN)
        && !strange(header::HOST)
        && !passed_on.iter().any(|name| headers.contains_key(*name))
}

/// Finds out who asks.
pub(super) fn identify(http: &Http, headers: &HeaderMap, peer: &Peer) -> Result<Access, Refusal> {
    let ip = peer.address.ip().to_canonical();
    let now = tokio::time::Instant::now().into_std();
    let access = |who| Access { who, peer: peer.clone() };
    let Some(token) = token_of(headers) else {
        let trusted = http.config().loopback_trusted && ip.is_loopback();
        return match trusted && is_own(headers) {
            true => Ok(access(Who::Loopback)),
            false if trusted => Err(Refusal::forbidden(
                "without an API key this is only for programs on this machine, asked by its loopback name",
            )),
            false => {
                Err(unauthorized("an API key is needed: `Authorization: Bearer tuma_…`, see `tuma key new`"))
            }
        };
    };
    if http.brake.holds(now, FAILURES_MAX, Some(ip), None) {
        return Err(Refusal::too_many("too many wrong keys from this network, try again later", 600));
    }
    let key = token.ok().and_then(|token| http.store.check(&token));
    let Some(key) = key.filter(|key| key.is_valid(wall())) else {
        http.brake.failed(now, Some(ip), None);
        warn!(peer = %peer.address, "an API key was refused");
        return Err(unauthorized("this API key is not known, or no longer valid"));
    };
    let networks: Vec<Cidr> = key.new.networks.iter().filter_map(|text| text.parse().ok()).collect();
    if !key.new.networks.is_empty() && !networks.iter().any(|network| network.contains(ip)) {
        warn!(peer = %peer.address, key = %key.id, "an API key was used from a network it is not for");
        return Err(Refusal::forbidden("this API key is not for the network you ask from"));
    }
    if let Some(max) = key.new.requests_per_minute_max
        && let Err(seconds) = http.rates.take(&key.id, max, now)
    {
        return Err(Refusal::too_many(format!("this API key may ask {max} times a minute"), seconds));
    }
    Ok(access(Who::Key(key)))
}

fn unauthorized(text: &str) -> Refusal {
    Refusal::new(axum::http::StatusCode::UNAUTHORIZED, text)
}

/// What lets requests in.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) http: Arc<Http>,
    pub(super) need: Need,
    /// Octets of a body at most, where the guard reads it.
    pub(super) body_max: Option<usize>,
    /// The body has secrets, which the log of changes is not to keep.
    pub(super) secret: bool,
}

/// Lets those in who may, and writes down what they change.
pub(super) async fn guard(
    State(Guard { http, need, body_max, secret }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return Refusal::stopping().into_response();
    };
    let access = match identify(&http, request.headers(), &peer) {
        Ok(access) => access,
        Err(refusal) => return refusal.into_response(),
    };
    if let Err(refusal) = allow(&access, need) {
        return refusal.into_response();
    }
    let changes = matches!(need, Need::Operate | Need::Admin) || (need == Need::Own);
    let changes = changes && !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let (method, path) = (request.method().to_string(), request.uri().to_string());
    let mut detail = String::new();
    if changes {
        let (parts, body) = request.into_parts();
        let max = body_max.unwrap_or(super::BODY_MAX);
        let octets = match axum::body::to_bytes(body, max).await {
            Ok(octets) => octets,
            Err(_) => {
                let text = format!("a body has at most {max} octets here");
                return Refusal::new(axum::http::StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
            }
        };
        detail = match secret {
            true => format!("{} octets", octets.len()),
            false => message::one_line(&String::from_utf8_lossy(&octets), DETAIL_MAX),
        };
        request = Request::from_parts(parts, octets.into());
    }
    request.extensions_mut().insert(access.clone());
    let response = next.run(request).await;
    if changes {
        let status = response.status().as_u16();
        let entry = AuditEntry {
            number: 0,
            at: wall(),
            who: access.name().to_owned(),
            peer: access.peer.address.to_string(),
            method,
            path: message::one_line(&path, 500),
            status,
            detail,
        };
        info!(who = %entry.who, peer = %entry.peer, method = %entry.method, path = %entry.path, status, "asked to change");
        let store = http.store.clone();
        let written = tokio::task::spawn_blocking(move || store.audit(&entry)).await;
        if !matches!(written, Ok(Ok(()))) {
            tracing::error!("a change could not be written to the log of changes: {written:?}");
        }
    }
    response
}

fn allow(access: &Access, need: Need) -> Result<(), Refusal> {
    let role = access.role();
    let needs =
        |text: &str| Err(Refusal::forbidden(format!("this needs {text}; your key is that of a {role}")));
    match need {
        Need::Own => Ok(()),
        Need::Send if role.may_send() => Ok(()),
        Need::Send => needs("a key that may send: sender, operator or admin"),
        _ if access.tenant().is_some() => {
            Err(Refusal::forbidden("this is about everybody's mail; your key is limited to one tenant's"))
        }
        Need::View if role >= Role::Viewer => Ok(()),
        Need::View => needs("a viewer"),
        Need::Operate if role >= Role::Operator => Ok(()),
        Need::Operate => needs("an operator"),
        Need::Admin if role >= Role::Admin => Ok(()),
        Need::Admin => needs("an admin"),
    }
}

pub(super) fn wall() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::Domain;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn only_this_machine_itself_is_let_in_without_a_key() {
        for own in [
            &[("host", "127.0.0.1:8025")][..],
            &[("host", "localhost"), ("origin", "http://localhost:8025")],
            &[("host", "[::1]:8025")],
            &[],
        ] {
            assert!(is_own(&headers(own)), "{own:?}");
        }
        for foreign in [
            &[("host", "evil.test")][..],
            &[("host", "127.0.0.1.evil.test:8025")],
            &[("host", "127.0.0.1"), ("origin", "https://evil.test")],
            &[("host", "127.0.0.1"), ("origin", "null")],
            &[("host", "127.0.0.1"), ("x-forwarded-for", "192.0.2.1")],
            &[("host", "127.0.0.1"), ("forwarded", "for=192.0.2.1")],
            &[("host", "127.0.0.1"), ("host", "evil.test")],
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in foreign {
                map.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
            }
            assert!(!is_own(&map), "{foreign:?}");
        }
    }

    #[test]
    fn tokens_are_found_in_both_schemes() {
        let token = format!("tuma_{}_{}", "0".repeat(10), "a".repeat(52));
        let of = |value: &str| token_of(&headers(&[("authorization", value)]));
        let mut basic = Vec::new();
        message::write_base64(&mut basic, format!("apikey:{token}").as_bytes());
        let basic: String = String::from_utf8(basic).unwrap().split_whitespace().collect();
        for value in [format!("Bearer {token}"), format!("bearer  {token}"), format!("Basic {basic}")] {
            assert_eq!(of(&value).unwrap().unwrap().to_text(), token, "{value}");
        }
        for value in ["Bearer", "Bearer x", "Basic ####", "Basic QQ==", "Digest x", &token] {
            assert_eq!(of(value), Some(Err(())), "{value}");
        }
        assert!(token_of(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_domain_covers_itself_and_what_is_below() {
        let host = |text: &str| Host::Domain(Domain::parse(text).unwrap());
        let covers = |text: &str| covers(["acme.test"].into_iter(), &host(text));
        assert!(covers("acme.test") && covers("ACME.test") && covers("a.b.acme.test"));
        assert!(!covers("xacme.test") && !covers("acme.test.evil.test") && !covers("test"));
    }

    #[test]
    fn a_key_asks_so_often_a_minute() {
        let (rates, now) = (Rates::default(), Instant::now());
        assert!(rates.take("a", 2, now).is_ok() && rates.take("a", 2, now).is_ok());
        assert_eq!(rates.take("a", 2, now + Duration::from_secs(10)), Err(51));
        assert!(rates.take("b", 2, now).is_ok());
        assert!(rates.take("a", 2, now + Duration::from_secs(60)).is_ok());
    }
}
