//! A name server on loopback, with real sockets, whose zone a test writes and changes.

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, CNAME, MX, PTR, SOA, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Seconds that records and their absence are good for, unless a test says otherwise.
const TTL: u32 = 60;

#[derive(Clone, Debug)]
enum Known {
    Records(Vec<RData>, u32),
    /// The answer is an error.
    Fails(ResponseCode),
}

/// What the server knows, by name in lower case without the last dot. `*.` in front stands for any name below that
/// has no entry of its own.
#[derive(Default)]
struct Zone {
    known: BTreeMap<String, Known>,
    asked: BTreeMap<String, u64>,
}

impl Zone {
    fn find(&self, name: &str) -> Option<&Known> {
        let wild = || {
            let mut rest = name;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(known) = self.known.get(&format!("*.{parent}")) {
                    return Some(known);
                }
                rest = parent;
            }
            None
        };
        self.known.get(name).or_else(wild)
    }
}

/// The server and its zone.
pub struct NameServer {
    /// Where it answers, by UDP and TCP.
    pub at: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl NameServer {
    /// One that answers NXDOMAIN to everything.
    pub fn start() -> Self {
        let mut server = Self { at: super::fixed_address(), zone: Arc::default(), runtime: None };
        server.come_back();
        server
    }

    /// It no longer answers: its sockets are closed.
    pub fn go_away(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    /// It answers again.
    pub fn come_back(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (at, handler) = (self.at, Handler(self.zone.clone()));
        runtime.block_on(async move {
            let mut server = Server::new(handler);
            server.register_socket(tokio::net::UdpSocket::bind(at).await.expect("bind UDP"));
            let tcp = tokio::net::TcpListener::bind(at).await.expect("bind TCP");
            server.register_listener(tcp, Duration::from_secs(60), 16);
            tokio::spawn(async move { server.block_until_done().await });
        });
        self.runtime = Some(runtime);
    }

    fn set(&self, name: &str, known: Known) {
        self.zone.lock().unwrap().known.insert(name.to_ascii_lowercase(), known);
    }

    fn add(&self, name: &str, data: RData, ttl: u32) {
        let mut zone = self.zone.lock().unwrap();
        let entry =
            zone.known.entry(name.to_ascii_lowercase()).or_insert_with(|| Known::Records(Vec::new(), ttl));
        match entry {
            Known::Records(records, old) => {
                records.push(data);
                *old = ttl;
            }
            fails => *fails = Known::Records(vec![data], ttl),
        }
    }

    /// The exchangers of a domain, each with its preference; these replace what was known of it.
    pub fn mx(&self, domain: &str, exchangers: &[(u16, &str)]) {
        self.mx_for(domain, exchangers, TTL);
    }

    /// The same with a TTL.
    pub fn mx_for(&self, domain: &str, exchangers: &[(u16, &str)], ttl: u32) {
        self.zone.lock().unwrap().known.remove(domain);
        for (preference, host) in exchangers {
            self.add(domain, RData::MX(MX::new(*preference, name(host))), ttl);
        }
    }

    /// An address of a host.
    pub fn a(&self, host: &str, address: [u8; 4]) {
        self.add(host, RData::A(A(Ipv4Addr::from(address))), TTL);
    }

    /// The same with a TTL.
    pub fn a_for(&self, host: &str, address: [u8; 4], ttl: u32) {
        self.add(host, RData::A(A(Ipv4Addr::from(address))), ttl);
    }

    /// A text of a name, in strings of at most 255 octets; beside those it has.
    pub fn txt(&self, at: &str, text: &str) {
        let strings: Vec<&[u8]> = text.as_bytes().chunks(255).collect();
        self.add(at, RData::TXT(TXT::from_bytes(strings)), TTL);
    }

    /// The only text of a name, for a second.
    pub fn only_txt(&self, at: &str, text: &str) {
        self.set(at, Known::Records(vec![RData::TXT(TXT::new(vec![text.to_owned()]))], 1));
    }

    /// The name of an IPv4 address.
    pub fn ptr(&self, address: [u8; 4], host: &str) {
        let [a, b, c, d] = address;
        self.add(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), RData::PTR(PTR(name(host))), TTL);
    }

    /// Another name for a host.
    pub fn cname(&self, alias: &str, host: &str) {
        self.set(alias, Known::Records(vec![RData::CNAME(CNAME(name(host)))], TTL));
    }

    /// Questions about a name fail with SERVFAIL.
    pub fn servfail(&self, domain: &str) {
        self.set(domain, Known::Fails(ResponseCode::ServFail));
    }

    /// Nothing is known of a name any more.
    pub fn forget(&self, name: &str) {
        self.zone.lock().unwrap().known.remove(name);
    }

    /// How often a name was asked for, whatever the type.
    pub fn asked(&self, name: &str) -> u64 {
        self.zone.lock().unwrap().asked.get(name).copied().unwrap_or(0)
    }

    /// Questions answered in all.
    pub fn asked_in_all(&self) -> u64 {
        self.zone.lock().unwrap().asked.values().sum()
    }

    /// `[dns]` for a server that asks this one, impatient and without memory of failures beyond a moment.
    pub fn settings(&self) -> String {
        format!(
            "[dns]\nnameservers = [\"{}\"]\nquery_timeout = \"1s\"\nattempts = 1\nfailure_ttl = \"100ms\"\n\
             negative_ttl_min = \"0s\"\nttl_min = \"1s\"\nip_strategy = \"v4_only\"\n",
            self.at
        )
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    name.set_fqdn(true);
    name
}

struct Handler(Arc<Mutex<Zone>>);

impl Handler {
    /// The code, and the answers with their chain of aliases.
    fn answer(&self, asked: &str, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let mut zone = self.0.lock().unwrap();
        *zone.asked.entry(asked.to_owned()).or_default() += 1;
        let mut answers: Vec<Record> = Vec::new();
        let mut at = asked.to_owned();
        // A loop of aliases is answered as far as it goes round once.
        for _ in 0..20 {
            let (records, ttl) = match zone.find(&at) {
                Some(Known::Fails(code)) => return (*code, Vec::new()),
                Some(Known::Records(records, ttl)) => (records, *ttl),
                None => return (ResponseCode::NXDomain, answers),
            };
            let record = |data: &RData| Record::from_rdata(name(&at), ttl, data.clone());
            let alias = records.iter().find(|data| data.record_type() == RecordType::CNAME);
            let Some(RData::CNAME(target)) = alias.filter(|_| kind != RecordType::CNAME) else {
                answers.extend(records.iter().filter(|data| data.record_type() == kind).map(record));
                return (ResponseCode::NoError, answers);
            };
            let target = target.0.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            let link = record(alias.expect("found above"));
            if answers.iter().any(|known| known.name == link.name) {
                break;
            }
            answers.push(link);
            at = target;
        }
        (ResponseCode::NoError, answers)
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        let query = &request.queries.queries()[0];
        let asked = query.name().to_string().trim_end_matches('.').to_ascii_lowercase();
        let (code, answers) = self.answer(&asked, query.query_type());
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        // RFC 2308 §2: how long an absence may be remembered stands in the SOA record.
        let zone = SOA::new(name("ns.test"), name("hostmaster.test"), 1, 3600, 600, 86_400, TTL);
        let soa = Record::from_rdata(name("test"), TTL, RData::SOA(zone));
        let absent = answers.is_empty() && matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        let builder = MessageResponseBuilder::new(&request.queries, request.edns.as_ref());
        let response = builder.build(metadata, &answers, [], absent.then_some(&soa), []);
        handle.send_response(response).await.unwrap_or_else(|_| {
            // The client is gone; nobody reads what this says.
            let metadata = Metadata::response_from_request(&request.metadata);
            Header { metadata, counts: HeaderCounts::default() }.into()
        })
    }
}
