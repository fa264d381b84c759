//! [`Dns`] against a name server on loopback that answers, fails and lies as a script says.

use super::*;
use crate::{AddressVerdict, Cached, Routes};
use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, SOA};
use mail::Host;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// What was asked, in lower case, and how it came.
struct Asked<'a> {
    name: &'a str,
    kind: RecordType,
    by_tcp: bool,
}

type Script = fn(&Asked<'_>, &mut Message) -> Says;

enum Says {
    /// The message as the script left it.
    This,
    /// Nothing at all.
    Nothing,
    /// These octets.
    Octets(Vec<u8>),
}

struct Server {
    at: SocketAddr,
    by_udp: Arc<AtomicUsize>,
    by_tcp: Arc<AtomicUsize>,
}

impl Server {
    async fn start(script: Script) -> Self {
        // The same port for both; another test may hold the first that UDP gives.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = Self { at: udp.local_addr().unwrap(), by_udp: Arc::default(), by_tcp: Arc::default() };
        let (udp_count, tcp_count) = (server.by_udp.clone(), server.by_tcp.clone());
        tokio::spawn(async move {
            let mut octets = [0; 4096];
            while let Ok((len, peer)) = udp.recv_from(&mut octets).await {
                udp_count.fetch_add(1, Relaxed);
                if let Some(reply) = reply(script, &octets[..len], false) {
                    let _ = udp.send_to(&reply, peer).await;
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let count = tcp_count.clone();
                tokio::spawn(async move {
                    while let Ok(len) = stream.read_u16().await {
                        let mut octets = vec![0; len.into()];
                        stream.read_exact(&mut octets).await.unwrap();
                        count.fetch_add(1, Relaxed);
                        if let Some(reply) = reply(script, &octets, true) {
                            stream.write_u16(reply.len() as u16).await.unwrap();
                            stream.write_all(&reply).await.unwrap();
                        }
                    }
                });
            }
        });
        server
    }

    fn dns(&self) -> Dns {
        Dns::new(&Config {
            nameservers: vec![self.at],
            query_timeout: Duration::from_millis(300),
            attempts: 1,
            ..Config::default()
        })
        .unwrap()
    }
}

fn reply(script: Script, octets: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(octets).unwrap();
    let question = query.queries[0].clone();
    let name = question.name().to_string().to_ascii_lowercase();
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.metadata.recursion_desired = true;
    reply.add_query(question.clone());
    match script(&Asked { name: &name, kind: question.query_type(), by_tcp }, &mut reply) {
        Says::This => Some(reply.to_vec().unwrap()),
        Says::Nothing => None,
        Says::Octets(octets) => Some(octets),
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn add(reply: &mut Message, owner: &str, ttl: u32, data: RData) {
    reply.add_answer(Record::from_rdata(name(owner), ttl, data));
}

fn a(address: &str) -> RData {
    RData::A(A(address.parse().unwrap()))
}

fn mx(preference: u16, exchange: &str) -> RData {
    RData::MX(MX::new(preference, name(exchange)))
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn script(asked: &Asked<'_>, reply: &mut Message) -> Says {
    use RecordType as T;
    match (asked.name, asked.kind) {
        ("a.test.", T::MX) => {
            add(reply, "a.test.", 300, mx(10, "MX.a.test."));
            add(reply, "a.test.", 300, mx(0, "."));
        }
        ("mx.a.test.", T::A) => add(reply, "mx.a.test.", 60, a("192.0.2.1")),
        ("mx.a.test.", _) => {}
        ("gone.test.", _) => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(name("ns.test."), name("root.test."), 1, 2, 3, 4, 77);
            reply.add_authority(Record::from_rdata(name("test."), 3600, RData::SOA(soa)));
        }
        ("servfail.test.", _) => reply.metadata.response_code = ResponseCode::ServFail,
        ("refused.test.", _) => reply.metadata.response_code = ResponseCode::Refused,
        ("notimp.test.", _) => reply.metadata.response_code = ResponseCode::NotImp,
        ("silent.test.", _) => return Says::Nothing,
        ("junk.test.", _) => return Says::Octets(b"\0\0\xFF".to_vec()),
        ("cut.test.", T::MX) if !asked.by_tcp => reply.metadata.truncation = true,
        // 64 KB less little: what fits into one message over TCP.
        ("cut.test.", T::MX) => {
            for n in 0..1000 {
                add(reply, "cut.test.", 300, mx(n, &format!("a-host-with-a-longer-name-{n}.test.")));
            }
        }
        ("big.test.", T::A) => {
            for n in 0..4000u32 {
                add(reply, "big.test.", 300, RData::A(A(Ipv4Addr::from(0x0A00_0000 + n))));
            }
        }
        ("alias.test.", _) => {
            add(reply, "alias.test.", 300, RData::CNAME(CNAME(name("real.test."))));
            add(reply, "real.test.", 300, a("192.0.2.2"));
        }
        // The target's records are left for another question.
        ("far.test.", _) => add(reply, "far.test.", 300, RData::CNAME(CNAME(name("mx.a.test.")))),
        ("loop.test.", _) => add(reply, "loop.test.", 300, RData::CNAME(CNAME(name("loop2.test.")))),
        ("loop2.test.", _) => add(reply, "loop2.test.", 300, RData::CNAME(CNAME(name("loop.test.")))),
        // Somebody else's address, sent along.
        ("poison.test.", _) => {
            add(reply, "bank.test.", 300, a("192.0.2.66"));
            reply.add_additional(Record::from_rdata(name("bank.test."), 300, a("192.0.2.66")));
        }
        ("both.test.", T::A) => {
            add(reply, "bank.test.", 300, a("192.0.2.66"));
            add(reply, "both.test.", 300, a("192.0.2.3"));
        }
        ("wrong-id.test.", _) => reply.metadata.id = reply.metadata.id.wrapping_add(1),
        ("wrong-question.test.", _) => {
            reply.queries[0].set_name(name("other.test."));
            add(reply, "wrong-question.test.", 300, a("192.0.2.66"));
        }
        ("lower.test.", _) => {
            reply.queries[0].set_name(name("lower.test."));
            add(reply, "lower.test.", 300, a("192.0.2.66"));
        }
        ("zero.test.", _) => add(reply, "zero.test.", 0, a("192.0.2.4")),
        ("ages.test.", _) => add(reply, "ages.test.", 1 << 31, a("192.0.2.5")),
        (odd, kind) => panic!("the script does not know {odd} {kind}"),
    }
    Says::This
}

fn found<T: Clone>(answer: Answer<T>) -> Vec<T> {
    match answer {
        Answer::Found(records, _) => records.to_vec(),
        Answer::NoData(_) => panic!("no data"),
        Answer::NxDomain(_) => panic!("no such domain"),
        Answer::Temporary(why) => panic!("{why}"),
    }
}

fn temporary<T>(answer: Answer<T>) -> String {
    match answer {
        Answer::Temporary(why) => why.to_string(),
        _ => panic!("not a temporary failure"),
    }
}

#[tokio::test]
async fn records_and_their_absence() {
    let server = Server::start(script).await;
    let dns = server.dns();
    let mut records = found(dns.mx(&domain("a.test")).await);
    records.sort();
    let text: Vec<_> = records.iter().map(|mx| format!("{} {}", mx.preference, mx.exchange)).collect();
    assert_eq!(text, ["0 ", "10 MX.a.test"]);
    assert_eq!(found(dns.a(&domain("mx.a.test")).await), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert!(matches!(dns.aaaa(&domain("mx.a.test")).await, Answer::NoData(_)));
    let Answer::NxDomain(ttl) = dns.a(&domain("gone.test")).await else { panic!("not absent") };
    assert_eq!(ttl.as_secs(), 77);
    assert_eq!(server.by_tcp.load(Relaxed), 0);
}

#[tokio::test]
async fn failures_are_temporary_and_named() {
    let server = Server::start(script).await;
    let dns = server.dns();
    assert_eq!(temporary(dns.mx(&domain("servfail.test")).await), "SERVFAIL");
    assert_eq!(temporary(dns.mx(&domain("refused.test")).await), "REFUSED");
    temporary(dns.mx(&domain("notimp.test")).await);
    temporary(dns.mx(&domain("junk.test")).await);
    let began = Instant::now();
    assert_eq!(temporary(dns.mx(&domain("silent.test")).await), "no answer from the name servers");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let nobody = Dns::new(&Config {
        nameservers: vec!["127.0.0.1:1".parse().unwrap()],
        query_timeout: Duration::from_millis(200),
        attempts: 0,
        ..Config::default()
    });
    temporary(nobody.unwrap().a(&domain("a.test")).await);
}

#[tokio::test]
async fn a_truncated_answer_comes_again_by_tcp_and_is_cut_to_size() {
    let server = Server::start(script).await;
    let dns = server.dns();
    let records = found(dns.mx(&domain("cut.test")).await);
    assert!(server.by_udp.load(Relaxed) >= 1 && server.by_tcp.load(Relaxed) >= 1);
    assert_eq!(records.len(), MX_MAX);
    assert!(records.iter().all(|mx| usize::from(mx.preference) < MX_MAX));
    // A datagram of 64 KB where 1,232 octets were announced.
    match dns.a(&domain("big.test")).await {
        Answer::Found(records, _) => assert!(records.len() <= ADDRESSES_MAX),
        Answer::Temporary(_) => {}
        _ => panic!("neither found nor temporary"),
    }
}

#[tokio::test]
async fn aliases_are_followed_within_a_bound() {
    let server = Server::start(script).await;
    let dns = server.dns();
    assert_eq!(found(dns.a(&domain("alias.test")).await), [Ipv4Addr::new(192, 0, 2, 2)]);
    assert_eq!(found(dns.a(&domain("far.test")).await), [Ipv4Addr::new(192, 0, 2, 1)]);
    let answer = dns.a(&domain("loop.test")).await;
    assert!(matches!(answer, Answer::NoData(_) | Answer::Temporary(_)), "{answer:?}");
    assert!(server.by_udp.load(Relaxed) < 40, "{}", server.by_udp.load(Relaxed));
}

#[tokio::test]
async fn answers_to_other_questions_are_not_believed() {
    let server = Server::start(script).await;
    let dns = server.dns();
    for text in ["poison.test", "wrong-id.test", "wrong-question.test"] {
        let answer = dns.a(&domain(text)).await;
        assert!(matches!(answer, Answer::NoData(_) | Answer::Temporary(_)), "{text} {answer:?}");
    }
    assert_eq!(found(dns.a(&domain("both.test")).await), [Ipv4Addr::new(192, 0, 2, 3)]);
    // Names go out in random case; one that comes back all in lower case was guessed. By TCP, where there
    // is nothing to guess, the same answer is believed.
    let (mut forged, mut open) = (0, 0);
    for _ in 0..5 {
        let tcp = server.by_tcp.load(Relaxed);
        match dns.a(&domain("lower.test")).await {
            Answer::Temporary(_) => forged += 1,
            Answer::Found(..) if server.by_tcp.load(Relaxed) > tcp => forged += 1,
            _ => open += 1,
        }
    }
    assert!(forged >= 4 && open <= 1, "{forged} {open}");
}

#[tokio::test]
async fn times_of_records() {
    let server = Server::start(script).await;
    let dns = server.dns();
    let Answer::Found(_, ttl) = dns.a(&domain("zero.test")).await else { panic!("not found") };
    assert_eq!(ttl, Duration::ZERO);
    let Answer::Found(_, ttl) = dns.a(&domain("ages.test")).await else { panic!("not found") };
    assert!(ttl <= Duration::from_secs(86_400), "{ttl:?}");
}

#[tokio::test]
async fn a_flood_of_questions_asks_once_and_a_route_is_found() {
    let server = Server::start(script).await;
    let resolver = Arc::new(Cached::new(Arc::new(server.dns()), &Config::default()));
    let routes =
        Arc::new(Routes::new(resolver, &Config::default(), [], Arc::new(|_| AddressVerdict::Allowed)));
    let host = Host::parse("a.test").unwrap();
    let flood: Vec<_> = (0..500)
        .map(|_| {
            let (routes, host) = (routes.clone(), host.clone());
            tokio::spawn(async move { routes.route(&host).await })
        })
        .collect();
    for task in flood {
        let route = task.await.unwrap().unwrap();
        assert_eq!(route.exchangers[0].addresses, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(route.site.as_str(), "mx.a.test");
    }
    assert_eq!(server.by_udp.load(Relaxed), 3);
}

#[tokio::test]
async fn texts_and_names_of_addresses() {
    use hickory_resolver::proto::rr::rdata::{PTR, TXT};
    let script = |asked: &Asked<'_>, reply: &mut Message| {
        let owner = reply.queries[0].name().clone();
        let mut add = |data| {
            reply.add_answer(Record::from_rdata(owner.clone(), 60, data));
        };
        match (asked.name, asked.kind) {
            ("_spf.a.test.", RecordType::TXT) => {
                add(RData::TXT(TXT::from_bytes(vec![b"v=spf1 ", b"-all"])));
                add(RData::TXT(TXT::from_bytes(vec![b"\xff"])));
            }
            // The server of the test writes blanks as escapes.
            ("o\\'neil\\040x\\+y._spf.a.test.", RecordType::A) => add(RData::A(A([127, 0, 0, 2].into()))),
            ("1.2.0.192.in-addr.arpa.", RecordType::PTR) => add(RData::PTR(PTR(name("Mail.A.test.")))),
            (
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
                RecordType::PTR,
            ) => {
                add(RData::PTR(PTR(name("six.test."))));
            }
            other => panic!("{other:?}"),
        }
        Says::This
    };
    let server = Server::start(script).await;
    let dns = Cached::new(Arc::new(server.dns()), &Config::default());
    for _ in 0..2 {
        let Answer::Found(texts, _) = dns.txt("_spf.a.test").await else { panic!("no texts") };
        assert_eq!(*texts, [b"v=spf1 -all"[..].into(), b"\xff"[..].into()]);
        let Answer::Found(names, _) = dns.ptr([192, 0, 2, 1].into()).await else { panic!("no names") };
        assert_eq!(names[0].to_ascii_lowercase(), "mail.a.test");
        let Answer::Found(names, _) = dns.ptr("2001:db8::1".parse().unwrap()).await else { panic!("none") };
        assert_eq!(&*names[0], "six.test");
        let Answer::Found(found, _) = dns.a_of_any("o'neil x+y._spf.a.test").await else { panic!("none") };
        assert_eq!(*found, [Ipv4Addr::new(127, 0, 0, 2)]);
    }
    assert_eq!(server.by_udp.load(Relaxed), 4);
    assert_eq!(dns.names(), 4);
}
