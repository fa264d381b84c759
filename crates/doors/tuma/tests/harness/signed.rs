//! A name server on loopback whose root zone is signed with keys of the test's own, with delegations to zones that are
//! not signed, or wrongly.

use super::Process;
use hickory_server::Server;
use hickory_server::dnssec::NxProofKind;
use hickory_server::net::runtime::{Time, TokioRuntimeProvider};
use hickory_server::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_server::proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS};
use hickory_server::proto::dnssec::{DigestType, DnssecSigner, PublicKey, PublicKeyBuf, SigningKey};
use hickory_server::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_server::proto::rr::rdata::{A, MX, NS, SOA, TLSA};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Seconds that records are good for.
const TTL: u32 = 60;

/// How the zone of a name is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// The root: signed.
    Signed,
    /// Below `unsigned.test`, which is delegated without a key.
    Unsigned,
    /// Below `bogus.test`, whose key is another one than its parent says.
    Bogus,
}

/// Records to be served.
#[derive(Default)]
pub struct Signed {
    records: Vec<(Zone, Record)>,
}

/// The server.
pub struct SignedServer {
    at: SocketAddr,
    anchor: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    name.set_fqdn(true);
    name
}

fn zone_of(text: &str) -> Zone {
    let is_below = |zone: &str| text == zone || text.ends_with(&format!(".{zone}"));
    match text {
        _ if is_below("unsigned.test") => Zone::Unsigned,
        _ if is_below("bogus.test") => Zone::Bogus,
        _ => Zone::Signed,
    }
}

impl Signed {
    fn add(&mut self, at: &str, data: RData) -> &mut Self {
        self.records.push((zone_of(at), Record::from_rdata(name(at), TTL, data)));
        self
    }

    /// A domain's exchanger.
    pub fn mx(&mut self, domain: &str, host: &str) -> &mut Self {
        self.add(domain, RData::MX(MX::new(10, name(host))))
    }

    /// A host's address.
    pub fn a(&mut self, host: &str, last: u8) -> &mut Self {
        self.add(host, RData::A(A(Ipv4Addr::new(127, 0, 0, last))))
    }

    /// A TLSA record for a port of a host.
    pub fn tlsa(
        &mut self,
        host: &str,
        port: u16,
        (usage, selector, matching): (u8, u8, u8),
        data: &[u8],
    ) -> &mut Self {
        let (usage, selector, matching) =
            (CertUsage::from(usage), Selector::from(selector), Matching::from(matching));
        self.add(
            &format!("_{port}._tcp.{host}"),
            RData::TLSA(TLSA::new(usage, selector, matching, data.to_vec())),
        )
    }

    /// Signs it all and serves it; the anchor goes into a file in `folder`.
    pub fn serve(&self, folder: &Path) -> SignedServer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let at = super::fixed_address();
        let anchor = folder.join("anchor.key");
        let (root_signer, root_key) = signer(".");
        std::fs::write(&anchor, format!(". 3600 IN DNSKEY 257 3 15 {}\n", base64(root_key.public_bytes())))
            .expect("write the anchor");
        let (bogus_signer, _) = signer("bogus.test");
        let (_, other) = signer("bogus.test");
        let root = {
            let mut zone = self.zone(".", Zone::Signed);
            for delegated in ["unsigned.test", "bogus.test"] {
                put(&mut zone, delegated, RData::NS(NS(name(&format!("ns.{delegated}")))));
            }
            let ds = DS::from_key(&other, &name("bogus.test"), DigestType::SHA256);
            put(&mut zone, "bogus.test", RData::DNSSEC(DNSSECRData::DS(ds.expect("a DS"))));
            sign(zone, root_signer)
        };
        let unsigned = Arc::new(self.zone("unsigned.test", Zone::Unsigned));
        let bogus = sign(self.zone("bogus.test", Zone::Bogus), bogus_signer);
        runtime.block_on(async {
            let mut parents = Catalog::new();
            parents.upsert(name(".").into(), vec![root.clone()]);
            let mut all = Catalog::new();
            all.upsert(name(".").into(), vec![root]);
            all.upsert(name("unsigned.test").into(), vec![unsigned]);
            all.upsert(name("bogus.test").into(), vec![bogus]);
            let mut server = Server::new(Catalogs { parents, all });
            server.register_socket(tokio::net::UdpSocket::bind(at).await.expect("bind UDP"));
            let tcp = tokio::net::TcpListener::bind(at).await.expect("bind TCP");
            server.register_listener(tcp, Duration::from_secs(60), 64);
            tokio::spawn(async move { server.block_until_done().await });
        });
        SignedServer { at, anchor, runtime: Some(runtime) }
    }

    fn zone(&self, origin: &str, which: Zone) -> InMemoryZoneHandler<TokioRuntimeProvider> {
        let proofs = (which != Zone::Unsigned).then_some(NxProofKind::Nsec);
        let mut zone = InMemoryZoneHandler::empty(name(origin), ZoneType::Primary, AxfrPolicy::Deny, proofs);
        let soa = SOA::new(name("ns.test"), name("hostmaster.test"), 1, 3600, 600, 86_400, 60);
        put(&mut zone, origin, RData::SOA(soa));
        put(&mut zone, origin, RData::NS(NS(name("ns.test"))));
        for (_, record) in self.records.iter().filter(|(of, _)| *of == which) {
            zone.upsert_mut(record.clone(), 1);
        }
        zone
    }
}

fn put(zone: &mut InMemoryZoneHandler<TokioRuntimeProvider>, at: &str, data: RData) {
    zone.upsert_mut(Record::from_rdata(name(at), TTL, data), 1);
}

fn sign(
    mut zone: InMemoryZoneHandler<TokioRuntimeProvider>,
    signer: DnssecSigner,
) -> Arc<InMemoryZoneHandler<TokioRuntimeProvider>> {
    zone.add_zone_signing_key_mut(signer).expect("a signing key");
    zone.secure_zone_mut().expect("a signed zone");
    Arc::new(zone)
}

/// A new key for a zone, and its public half.
fn signer(zone: &str) -> (DnssecSigner, PublicKeyBuf) {
    let der = Ed25519SigningKey::generate_pkcs8().expect("a key");
    let key = Ed25519SigningKey::from_pkcs8(&der).expect("the key");
    let public = key.to_public_key().expect("its public half");
    let dnskey = DNSKEY::new(true, true, false, public.clone());
    (DnssecSigner::new(dnskey, Box::new(key), name(zone), Duration::from_secs(86_400)), public)
}

fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in octets.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, &octet| bits << 8 | u32::from(octet)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let at = (bits >> (18 - 6 * n)) as usize & 63;
            text.push(if n <= chunk.len() { ALPHABET[at] as char } else { '=' });
        }
    }
    text
}

/// A resolver that validates.
const UNBOUND: &str = "/usr/sbin/unbound";

/// True if there is unbound.
pub fn has_unbound() -> bool {
    super::has_program("unbound", Command::new("test").args(["-x", UNBOUND]))
}

fn dns_settings(at: SocketAddr, more: &str) -> String {
    format!(
        "[dns]\nnameservers = [\"{at}\"]\nquery_timeout = \"2s\"\nattempts = 1\nfailure_ttl = \"100ms\"\n\
         ttl_min = \"1s\"\nip_strategy = \"v4_only\"\ncase_randomization = false\n{more}"
    )
}

impl SignedServer {
    /// `[dns]` for a server that asks this one and checks signatures.
    pub fn settings(&self) -> String {
        let anchor = self.anchor.display();
        dns_settings(self.at, &format!("dnssec = \"validate\"\ndnssec_anchor_file = \"{anchor}\"\n"))
    }

    /// unbound, which asks this one and checks signatures, and `[dns]` for a server that believes it.
    pub fn trusted(&self, folder: &Path) -> (Process, String) {
        let (at, file) = (super::fixed_address(), folder.join("unbound.conf"));
        let conf = format!(
            "server:\n interface: {}@{}\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n \
             directory: \"{}\"\n use-syslog: no\n do-not-query-localhost: no\n num-threads: 1\n \
             local-zone: \"test.\" nodefault\n trust-anchor-file: \"{}\"\n module-config: \"validator iterator\"\n\
             remote-control:\n control-enable: no\n\
             forward-zone:\n name: \".\"\n forward-addr: {}@{}\n",
            at.ip(),
            at.port(),
            folder.display(),
            self.anchor.display(),
            self.at.ip(),
            self.at.port()
        );
        std::fs::write(&file, conf).expect("write unbound.conf");
        let log = std::fs::File::create(folder.join("unbound.log")).expect("its log");
        let mut command = Command::new(UNBOUND);
        command.args(["-d", "-c"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Process(command.spawn().expect("start unbound"));
        super::wait_until("unbound answers", || std::net::TcpStream::connect(at).is_ok());
        (process, dns_settings(at, "dnssec = \"trust\"\n"))
    }
}

impl Drop for SignedServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What is asked about a delegation is answered by the zone above it.
struct Catalogs {
    parents: Catalog,
    all: Catalog,
}

#[async_trait::async_trait]
impl RequestHandler for Catalogs {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response: R,
    ) -> ResponseInfo {
        let of_parent = request.request_info().is_ok_and(|info| info.query.query_type() == RecordType::DS);
        let catalog = if of_parent { &self.parents } else { &self.all };
        catalog.handle_request::<R, T>(request, response).await
    }
}
