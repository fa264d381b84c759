//! Questions to a validating name server on this machine, whose word on DNSSEC is taken: the AD bit of its answers
//! (RFC 6840 §5.8, RFC 7672 §2.1.1).
//!
//! Each question has a socket and a port of its own. The server is on loopback, so nobody on the way can set the bit.

use hickory_resolver::proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Octets of an answer in one datagram; larger ones come by TCP.
const DATAGRAM_MAX: u16 = 4_096;

/// Name servers on loopback that are asked in turn.
#[derive(Debug)]
pub(crate) struct Trusted {
    servers: Vec<SocketAddr>,
    attempts: u32,
    query_timeout: Duration,
    open: Semaphore,
}

/// What one of them said.
#[derive(Debug)]
pub(crate) struct Said {
    /// It vouches for all of it.
    pub(crate) authentic: bool,
    /// Of the wanted kind or CNAME, in its order.
    pub(crate) records: Vec<Record>,
    /// How long it holds.
    pub(crate) ttl: Duration,
}

impl Trusted {
    /// `servers` are on loopback, and at least one. At most `open_max` questions are open at once; each server is
    /// asked `attempts` times again when it does not answer within `query_timeout`.
    pub(crate) fn new(
        servers: Vec<SocketAddr>,
        attempts: u32,
        query_timeout: Duration,
        open_max: usize,
    ) -> Self {
        Self { servers, attempts, query_timeout, open: Semaphore::new(open_max) }
    }

    /// Asks one after the other until one answers. An answer that no server of them stands by is an error, too.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType) -> Result<Said, Arc<str>> {
        // It is never closed.
        let _open = self.open.acquire().await;
        let mut why: Arc<str> = "there is no name server".into();
        for _ in 0..=self.attempts {
            for &server in &self.servers {
                match timeout(self.query_timeout, exchange(server, name, kind)).await {
                    Ok(Ok(message)) => match understood(&message) {
                        Ok(said) => return Ok(said),
                        Err(code) => why = format!("{server} says {code}").into(),
                    },
                    Ok(Err(error)) => why = format!("{server}: {error}").into(),
                    Err(_) => why = format!("{server} does not answer in time").into(),
                }
            }
        }
        Err(why)
    }
}

fn understood(message: &Message) -> Result<Said, ResponseCode> {
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        code => return Err(code),
    }
    let of_answers = message.answers.iter().map(|record| record.ttl).min();
    let of_absence = || {
        let soa = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        soa.unwrap_or(0)
    };
    Ok(Said {
        authentic: message.metadata.authentic_data,
        ttl: Duration::from_secs(of_answers.unwrap_or_else(of_absence).into()),
        records: message.answers.clone(),
    })
}

/// One question and its answer, by TCP if it does not fit a datagram.
async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Message> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    // Tells a server that the bit is understood without asking for signatures (RFC 6840 §5.7).
    question.metadata.authentic_data = true;
    question.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_MAX);
    question.set_edns(edns);
    let octets = question.to_vec().map_err(io::Error::other)?;
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&octets).await?;
    let mut buffer = vec![0; usize::from(DATAGRAM_MAX)];
    let answer = loop {
        let len = socket.recv(&mut buffer).await?;
        // What is no answer to the question is somebody else's: the time for the right one goes on.
        if let Some(answer) = answer_to(&question, &buffer[..len]) {
            break answer;
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(octets.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], &octets].concat()).await?;
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await?;
    answer_to(&question, &buffer)
        .filter(|answer| !answer.metadata.truncation)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what came by TCP is no whole answer"))
}

fn answer_to(question: &Message, octets: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(octets).ok()?;
    let same = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == question.metadata.op_code
        && answer.queries == question.queries;
    same.then_some(answer)
}
