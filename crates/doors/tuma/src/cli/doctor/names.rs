//! What of it is DNS: names of addresses, SPF, DKIM, DMARC, exchangers, MTA-STS, black lists.

use super::{Doctor, Finding, LOOKED_MAX};
use crate::cli::dkim;
use crate::root::Root;
use mail::Domain;
use mailauth::dmarc::{Policy, Record};
use mailauth::spf::{self, SpfResult, Subject};
use resolve::{
    AddressVerdict, Answer, Dns, Https, HttpsRequest, POLICY_OCTETS_MAX, Resolver, StsMode, StsPolicy,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Looks at everything.
pub(super) async fn look(doctor: &Doctor, root: &Root, dns: &Arc<Dns>, found: &mut Vec<Finding>) {
    let leaving = leaving(doctor, root, dns, found).await;
    for (address, name) in &leaving {
        found.push(name_of_address(dns, *address, name).await);
    }
    let domains: BTreeSet<&str> = root.dkim.values().map(|identity| identity.domain.as_str()).collect();
    if domains.is_empty() {
        let fix = "make a key: tuma dkim new --domain …; large receivers refuse bulk mail that is not signed";
        found.push(Finding::warn("dkim", "configuration", "no domain's mail is signed", fix));
    }
    for (name, identity) in root.dkim.iter().take(LOOKED_MAX) {
        match dkim::keys_of(root, name, identity) {
            Err(error) => {
                found.push(Finding::fail("dkim", name, format!("{error:#}"), "make its key readable"))
            }
            Ok(keys) => {
                for (selector, key, state) in keys {
                    let looked = dkim::check::key(dns, name, identity, &selector, key, state).await;
                    let about = looked.record_name.clone();
                    found.push(match looked.good {
                        true => Finding::ok("dkim", about, looked.text),
                        false => Finding::fail("dkim", about, looked.text, looked.advice.join("\n")),
                    });
                }
            }
        }
    }
    for domain in domains.into_iter().take(LOOKED_MAX).filter_map(|name| Domain::parse(name).ok()) {
        for (address, helo) in &leaving {
            found.push(sender_policy(dns, &domain, *address, helo).await);
        }
        found.push(dmarc(dns, &domain).await);
        found.push(exchangers(dns, &domain).await);
        found.push(mta_sts(dns, root, &domain).await);
    }
    let configured = root.doctor.listings.iter().map(|zone| &zone.0);
    for zone in configured.chain(&doctor.listing).take(LOOKED_MAX) {
        for (address, _) in &leaving {
            found.extend(listed(dns, zone, *address).await);
        }
    }
}

/// The addresses mail leaves from, each with the name given in EHLO.
async fn leaving(doctor: &Doctor, root: &Root, dns: &Dns, found: &mut Vec<Finding>) -> Vec<(IpAddr, String)> {
    let usual = root.delivery.ehlo_name.clone().unwrap_or_else(|| root.hostname().to_string());
    let mut leaving: Vec<(IpAddr, String)> = Vec::new();
    for source in root.source.values().filter(|source| source.enabled) {
        let name = source.ehlo_name.clone().unwrap_or_else(|| usual.clone());
        // Behind a proxy it is the proxy's address that others see.
        let v4 = source.proxy_v4.or(source.v4).map(IpAddr::from);
        let v6 = source.proxy_v6.or(source.v6).map(IpAddr::from);
        leaving.extend(v4.into_iter().chain(v6).map(|address| (address, name.clone())));
    }
    leaving.extend(doctor.address.iter().map(|address| (*address, usual.clone())));
    if leaving.is_empty() {
        match addresses(dns, &usual).await {
            Ok(list) if list.is_empty() => {
                let fix = format!(
                    "publish `{usual}. IN A …` with the address mail leaves from, or name the address: --address"
                );
                found.push(Finding::fail(
                    "name",
                    &usual,
                    "DNS has no address for the name given in EHLO",
                    fix,
                ));
            }
            Ok(list) => leaving.extend(list.into_iter().map(|address| (address, usual.clone()))),
            Err(why) => found.push(Finding::unknown("name", &usual, format!("DNS gives no answer: {why}"))),
        }
    }
    leaving.truncate(LOOKED_MAX);
    leaving
}

fn list<T: Clone>(answer: Answer<T>) -> Result<Vec<T>, String> {
    match answer {
        Answer::Found(records, _) => Ok(records.to_vec()),
        Answer::NoData(_) | Answer::NxDomain(_) => Ok(Vec::new()),
        Answer::Temporary(why) => Err(why.to_string()),
    }
}

async fn addresses(dns: &Dns, name: &str) -> Result<Vec<IpAddr>, String> {
    let Ok(domain) = Domain::parse(name) else { return Ok(Vec::new()) };
    let v4 = list(dns.a(&domain).await)?.into_iter().map(IpAddr::from);
    Ok(v4.chain(list(dns.aaaa(&domain).await)?.into_iter().map(IpAddr::from)).collect())
}

/// The address's name must be that of EHLO, and lead back.
async fn name_of_address(dns: &Dns, address: IpAddr, ehlo: &str) -> Finding {
    let about = format!("{address} = {ehlo}");
    let names = match list(dns.ptr(address).await) {
        Ok(names) => names,
        Err(why) => return Finding::unknown("ptr", about, format!("DNS gives no answer: {why}")),
    };
    let fix = format!("ask whoever gave you {address} to set its name (PTR) to {ehlo}");
    if names.is_empty() {
        return Finding::fail(
            "ptr",
            about,
            "the address has no name; large receivers refuse mail from such",
            fix,
        );
    }
    let shown = || names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    if !names.iter().any(|name| name.eq_ignore_ascii_case(ehlo)) {
        let text = format!("the address is called {}, EHLO says {ehlo}", shown());
        return Finding::fail("ptr", about, text, format!("{fix}, or set `ehlo_name` to {}", names[0]));
    }
    match addresses(dns, ehlo).await {
        Err(why) => Finding::unknown("ptr", about, format!("DNS gives no answer: {why}")),
        Ok(back) if back.contains(&address) => {
            Finding::ok("ptr", about, "the address's name is that of EHLO, and leads back")
        }
        Ok(_) => {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            let text = format!("{ehlo} does not lead back to {address}");
            Finding::fail("ptr", about, text, format!("publish:\n{ehlo}. IN {kind} {address}"))
        }
    }
}

async fn sender_policy(dns: &Dns, domain: &Domain, address: IpAddr, helo: &str) -> Finding {
    let about = format!("{domain} from {address}");
    let subject = Subject::new(b"", domain.as_str(), spf::Identity::MailFrom, helo, address, helo, 0);
    let deadline = tokio::time::Instant::now() + super::PATIENCE;
    let outcome = reception::drive(spf::Check::new(subject), dns, deadline).await;
    let term = format!("{}:{address}", if address.is_ipv4() { "ip4" } else { "ip6" });
    let problem = outcome.problem.as_ref().map(|problem| format!(" ({problem:?})")).unwrap_or_default();
    match outcome.result {
        SpfResult::Pass => Finding::ok("spf", about, "mail from this address passes"),
        SpfResult::None => {
            let fix = format!("publish:\n{domain}. IN TXT \"v=spf1 {term} -all\"");
            Finding::fail("spf", about, "the domain has no SPF record", fix)
        }
        SpfResult::TempError => Finding::unknown("spf", about, format!("DNS gives no answer{problem}")),
        result => {
            let fix = format!("add {term} to the record of {domain}, before its `all`");
            Finding::fail("spf", about, format!("the result is {result}{problem}"), fix)
        }
    }
}

async fn text_records(dns: &Dns, name: &str, begins: &str) -> Result<Vec<Vec<u8>>, String> {
    let all = list(dns.txt(name).await)?.into_iter().map(|text| text.to_vec());
    Ok(all
        .filter(|text| {
            text.get(..begins.len()).is_some_and(|head| head.eq_ignore_ascii_case(begins.as_bytes()))
        })
        .collect())
}

async fn dmarc(dns: &Dns, domain: &Domain) -> Finding {
    let name = format!("_dmarc.{domain}");
    let mut at = name.clone();
    let mut asked = domain.as_str().to_owned();
    let records = loop {
        match text_records(dns, &at, "v=DMARC1").await {
            Err(why) => return Finding::unknown("dmarc", name, format!("DNS gives no answer: {why}")),
            Ok(records) if !records.is_empty() => break records,
            // The policy of the organization above holds below it (RFC 9989 §4.10).
            Ok(_) => match asked.split_once('.').filter(|(_, rest)| rest.contains('.')) {
                Some((_, parent)) => {
                    asked = parent.to_owned();
                    at = format!("_dmarc.{asked}");
                }
                None => break Vec::new(),
            },
        }
    };
    let publish = format!("publish:\n{name}. IN TXT \"v=DMARC1; p=none; rua=mailto:dmarc@{domain}\"");
    match &records[..] {
        [] => Finding::fail(
            "dmarc",
            name,
            "there is no DMARC record; large receivers want one of who sends in bulk",
            publish,
        ),
        [one] => match Record::parse(one) {
            None => Finding::fail("dmarc", at, "the record cannot be read", publish),
            Some(record) if record.policy == Policy::None => {
                let text = "the policy is p=none: who forges the domain is only watched";
                Finding::warn(
                    "dmarc",
                    at,
                    text,
                    "once the reports show that your own mail passes, p=quarantine, then p=reject",
                )
            }
            Some(record) => Finding::ok("dmarc", at, format!("the policy is p={}", record.policy.word())),
        },
        _ => {
            Finding::fail("dmarc", at, "there are several DMARC records, so receivers take none", "leave one")
        }
    }
}

async fn exchangers(dns: &Dns, domain: &Domain) -> Finding {
    let about = domain.as_str();
    let exchangers = match list(dns.mx(domain).await) {
        Ok(list) => list,
        Err(why) => return Finding::unknown("mx", about, format!("DNS gives no answer: {why}")),
    };
    if exchangers.iter().any(|mx| mx.exchange.is_empty()) {
        let fix = "take the null MX away, or send from a domain that takes replies";
        return Finding::fail(
            "mx",
            about,
            "the domain says it takes no mail, so replies and bounces are lost",
            fix,
        );
    }
    if exchangers.is_empty() {
        let fix = format!("publish `{domain}. IN MX 10 …` with the server that takes its mail");
        return Finding::fail("mx", about, "the domain has no MX: replies and bounces may be lost", fix);
    }
    for mx in &exchangers {
        match addresses(dns, &mx.exchange).await {
            Err(why) => return Finding::unknown("mx", about, format!("DNS gives no answer: {why}")),
            Ok(list) if list.is_empty() => {
                let text = format!("its exchanger {} has no address", mx.exchange);
                return Finding::fail("mx", about, text, format!("publish `{}. IN A …`", mx.exchange));
            }
            Ok(_) => {}
        }
    }
    let names: Vec<&str> = exchangers.iter().map(|mx| &*mx.exchange).collect();
    Finding::ok("mx", about, format!("its mail goes to {}", names.join(", ")))
}

async fn mta_sts(dns: &Arc<Dns>, root: &Root, domain: &Domain) -> Finding {
    let name = format!("_mta-sts.{domain}");
    let records = match text_records(dns, &name, "v=STSv1").await {
        Ok(records) => records,
        Err(why) => return Finding::unknown("mta-sts", name, format!("DNS gives no answer: {why}")),
    };
    if records.is_empty() {
        let fix = format!(
            "when the exchangers have certificates: serve https://mta-sts.{domain}/.well-known/mta-sts.txt, and publish \
             `{name}. IN TXT \"v=STSv1; id=1\"`"
        );
        return Finding::warn("mta-sts", name, "the domain does not ask for TLS from who sends to it", fix);
    }
    if resolve::sts_id(records.iter().map(Vec::as_slice)).is_none() {
        return Finding::fail(
            "mta-sts",
            name,
            "the record cannot be used",
            "leave one record, such as `v=STSv1; id=1`",
        );
    }
    let host = format!("mta-sts.{domain}");
    match addresses(dns, &host).await {
        Err(why) => Finding::unknown("mta-sts", name, format!("DNS gives no answer: {why}")),
        Ok(list) if list.is_empty() => Finding::fail(
            "mta-sts",
            name,
            format!("{host}, which has the policy, has no address"),
            format!("publish `{host}. IN A …`"),
        ),
        Ok(_) => match sts_policy(dns, root, &host).await {
            Ok(policy) => sts_fits(dns, domain, name, &host, &policy).await,
            Err(why) => Finding::fail(
                "mta-sts",
                name,
                format!("https://{host}{STS_PATH}: {why}"),
                "serve the policy there as text/plain, with a certificate for that name and without a redirect; until \
                 then who sends to the domain goes without it",
            ),
        },
    }
}

/// Where a policy stands (RFC 8461 §3.3).
const STS_PATH: &str = "/.well-known/mta-sts.txt";

/// The policy, fetched as a sender would. It is our own domain's, so its host may be on this machine.
async fn sts_policy(dns: &Arc<Dns>, root: &Root, host: &str) -> Result<StsPolicy, String> {
    let domain = Domain::parse(host).map_err(|error| error.to_string())?;
    let config = &root.mta_sts;
    let tls = net::tls::client_config(config.ca_file.as_deref()).map_err(|error| error.to_string())?;
    let https = Https::new(dns.clone(), Arc::new(|_| AddressVerdict::Allowed), tls, 1);
    let request = HttpsRequest {
        host: &domain,
        port: config.port,
        path: STS_PATH,
        body: None,
        wanted: Some("text/plain"),
        answer_max: POLICY_OCTETS_MAX,
        timeout: config.fetch_timeout.min(super::PATIENCE),
    };
    let text = https.request(request).await.map_err(|error| error.to_string())?;
    StsPolicy::parse(&text).map_err(|error| format!("the policy cannot be used: {error}"))
}

/// Whether every exchanger of the domain is one that the policy names.
async fn sts_fits(dns: &Dns, domain: &Domain, name: String, host: &str, policy: &StsPolicy) -> Finding {
    let exchangers = match list(dns.mx(domain).await) {
        Ok(exchangers) => exchangers,
        Err(why) => return Finding::unknown("mta-sts", name, format!("DNS gives no answer: {why}")),
    };
    let missing: Vec<&str> =
        exchangers.iter().map(|mx| &*mx.exchange).filter(|exchange| !policy.allows(exchange)).collect();
    let later = format!("then change `id` in {name}");
    match policy.mode {
        StsMode::None => {
            let text = "the policy says `mode: none`: nobody is told to use TLS";
            Finding::warn("mta-sts", &name, text, format!("`mode: enforce` in the policy, {later}"))
        }
        mode if !missing.is_empty() => {
            let text = format!("the policy at {host} does not name {}", missing.join(", "));
            let lines: Vec<String> = missing.iter().map(|exchange| format!("mx: {exchange}")).collect();
            let fix = format!("add to it, {later}:\n{}", lines.join("\n"));
            match mode {
                StsMode::Enforce => Finding::fail("mta-sts", &name, text + ": no mail comes that way", fix),
                _ => Finding::warn("mta-sts", &name, text, fix),
            }
        }
        StsMode::Testing => {
            let text = "the policy says `mode: testing`: mail that cannot be encrypted comes in the clear";
            let fix = format!("once reports show no failures, `mode: enforce` in the policy, {later}");
            Finding::warn("mta-sts", &name, text, fix)
        }
        StsMode::Enforce => Finding::ok("mta-sts", name, "who sends to the domain is told to use TLS"),
    }
}

/// Asks a black list (RFC 5782 §2): first whether it answers at all.
async fn listed(dns: &Dns, zone: &Domain, address: IpAddr) -> Option<Finding> {
    let about = format!("{address} in {zone}");
    let ask = async |address: IpAddr| list(dns.a_of_any(&format!("{}.{zone}", reversed(address))).await);
    let probe = IpAddr::from([127, 0, 0, 2]);
    match ask(probe).await {
        Err(why) => return Some(Finding::unknown("listing", about, format!("DNS gives no answer: {why}"))),
        Ok(entries) if !entries.iter().any(is_entry) => {
            let text = "the list does not answer, or not to your name servers";
            return Some(Finding::unknown("listing", about, text));
        }
        Ok(_) => {}
    }
    Some(match ask(address).await {
        Err(why) => Finding::unknown("listing", about, format!("DNS gives no answer: {why}")),
        Ok(entries) if entries.iter().any(is_entry) => {
            let why = list(dns.txt(&format!("{}.{zone}", reversed(address))).await).unwrap_or_default();
            let why = why.first().map(|text| message::one_line(&String::from_utf8_lossy(text), 200));
            let text = format!("the address is listed: {}", why.as_deref().unwrap_or("no reason is given"));
            Finding::fail(
                "listing",
                about,
                text,
                "end what it is listed for, then ask the list to take it off",
            )
        }
        Ok(_) => Finding::ok("listing", about, "the address is not listed"),
    })
}

/// 127.0.0.0/8 without 127.255.255.0/24, which is how lists say that they do not answer you.
fn is_entry(address: &Ipv4Addr) -> bool {
    address.is_loopback() && address.octets()[1] != 255
}

fn reversed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.octets().iter().rev().map(u8::to_string).collect::<Vec<_>>().join("."),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect::<Vec<_>>().join(".")
        }
    }
}
