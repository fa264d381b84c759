//! The PROXY protocol, versions 1 and 2: a balancer in front tells who the client is.
//!
//! [`parse`] is a pure function over bytes; [`read`] feeds it from a connection by a deadline, and takes no
//! octet beyond the header. A header is read only from peers the configuration lists, and then it is
//! required: anything else in its place is an error, and the connection is to be closed without a word.
//! Specification: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use crate::Stream;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

/// The longest header of version 1, its line end included (§2.1).
const V1_OCTETS_MAX: usize = 107;
/// The shortest header of version 1, `PROXY UNKNOWN` and a line end: this much may be read before more is known.
const V1_OCTETS_MIN: usize = 15;
/// What every header of version 2 begins with (§2.2).
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_FIXED_OCTETS: usize = 16;
/// The longest header of version 2 we take: the addresses need 232 octets at most, the rest is room for TLVs.
const V2_OCTETS_MAX: usize = 4096;
/// `PP2_TYPE_CRC32C` (§2.2.3).
const TLV_CRC32C: u8 = 3;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// `LOCAL`, or a health check: the balancer speaks for itself, the connection's own addresses hold.
    Local,
    /// The client's address is unknown or no internet address: the connection's own addresses hold.
    Unknown,
    /// A client's connection, passed on.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where the client dialled to.
        destination: SocketAddr,
    },
}

/// What [`parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header, and the octets it takes.
    Header(Header, usize),
    /// So far it may be a header; it needs at least this many octets in all.
    Incomplete(usize),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Neither signature stands at the beginning.
    Signature,
    /// A version 1 line that is no such line, or longer than 107 octets.
    Line,
    /// An address or port that is none, or of another family than announced.
    Address,
    /// A version, command, family or transport that version 2 does not know or SMTP does not run over.
    Kind,
    /// The lengths within a version 2 header contradict each other, or exceed 4,096 octets in all.
    Length,
    /// The CRC32c of a version 2 header is wrong.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signature => "no PROXY header",
            Self::Line => "malformed PROXY line",
            Self::Address => "malformed address in the PROXY header",
            Self::Kind => "unknown version, command or protocol in the PROXY header",
            Self::Length => "wrong length in the PROXY header",
            Self::Checksum => "wrong checksum in the PROXY header",
        })
    }
}

impl std::error::Error for Malformed {}

/// Reads a header from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.is_empty() {
        return Ok(Parsed::Incomplete(V1_OCTETS_MIN));
    }
    let begins = |word: &[u8]| bytes.iter().zip(word).all(|(a, b)| a == b);
    if begins(V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins(b"PROXY ") {
        parse_v1(bytes)
    } else {
        Err(Malformed::Signature)
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let line = &bytes[..bytes.len().min(V1_OCTETS_MAX)];
    let Some(end) = line.iter().position(|&b| b == b'\n') else {
        return if line.len() == V1_OCTETS_MAX {
            Err(Malformed::Line)
        } else {
            Ok(Parsed::Incomplete((bytes.len() + 1).max(V1_OCTETS_MIN)))
        };
    };
    let text = line[..end].strip_suffix(b"\r").ok_or(Malformed::Line)?;
    let text = std::str::from_utf8(text).map_err(|_| Malformed::Line)?;
    let mut words = text.split(' ').skip(1);
    let header = match words.next() {
        // What follows UNKNOWN is to be ignored (§2.1).
        Some("UNKNOWN") => return Ok(Parsed::Header(Header::Unknown, end + 1)),
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut address = || {
                let word = words.next().ok_or(Malformed::Line)?;
                match family {
                    "TCP4" => word.parse().map(IpAddr::V4),
                    _ => word.parse().map(IpAddr::V6),
                }
                .map_err(|_| Malformed::Address)
            };
            let (source, destination) = (address()?, address()?);
            let mut port = || v1_port(words.next().ok_or(Malformed::Line)?);
            let (source_port, destination_port) = (port()?, port()?);
            proxied(SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port))
        }
        _ => return Err(Malformed::Line),
    };
    if words.next().is_some() {
        return Err(Malformed::Line);
    }
    Ok(Parsed::Header(header, end + 1))
}

/// Decimal digits without a leading zero or sign.
fn v1_port(word: &str) -> Result<u16, Malformed> {
    if !word.bytes().all(|b| b.is_ascii_digit()) || (word.len() > 1 && word.starts_with('0')) {
        return Err(Malformed::Address);
    }
    word.parse().map_err(|_| Malformed::Address)
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_OCTETS>() else {
        return Ok(Parsed::Incomplete(V2_FIXED_OCTETS));
    };
    let [kind, family, high, low] = [fixed[12], fixed[13], fixed[14], fixed[15]];
    let total = V2_FIXED_OCTETS + usize::from(u16::from_be_bytes([high, low]));
    if kind >> 4 != 2 || kind & 15 > 1 {
        return Err(Malformed::Kind);
    }
    if total > V2_OCTETS_MAX {
        return Err(Malformed::Length);
    }
    let Some(whole) = bytes.get(..total) else {
        return Ok(Parsed::Incomplete(total));
    };
    let rest = &whole[V2_FIXED_OCTETS..];
    let (header, tlvs) = match (kind & 15, family) {
        // LOCAL: whatever the family, its addresses are to be skipped; so their length is not known.
        (0, _) => return Ok(Parsed::Header(Header::Local, total)),
        (_, 0x00) => (Header::Unknown, rest),
        (_, 0x11) => {
            let (a, tlvs) = rest.split_first_chunk::<12>().ok_or(Malformed::Length)?;
            let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(a[at], a[at + 1], a[at + 2], a[at + 3]));
            let port = |at: usize| u16::from_be_bytes([a[at], a[at + 1]]);
            (proxied(SocketAddr::new(ip(0), port(8)), SocketAddr::new(ip(4), port(10))), tlvs)
        }
        (_, 0x21) => {
            let (a, tlvs) = rest.split_first_chunk::<36>().ok_or(Malformed::Length)?;
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&a[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            let port = |at: usize| u16::from_be_bytes([a[at], a[at + 1]]);
            (proxied(SocketAddr::new(ip(0), port(32)), SocketAddr::new(ip(16), port(34))), tlvs)
        }
        // A UNIX stream: two paths of 108 octets, which are no address a mail server could judge.
        (_, 0x31) => (Header::Unknown, rest.get(216..).ok_or(Malformed::Length)?),
        _ => return Err(Malformed::Kind),
    };
    check_tlvs(whole, tlvs)?;
    Ok(Parsed::Header(header, total))
}

fn proxied(source: SocketAddr, destination: SocketAddr) -> Header {
    let (source, destination) = (crate::stream::canonical(source), crate::stream::canonical(destination));
    Header::Proxied { source, destination }
}

/// Lengths must fit, and a checksum, if there is one, must be right.
fn check_tlvs(whole: &[u8], mut tlvs: &[u8]) -> Result<(), Malformed> {
    while !tlvs.is_empty() {
        let ([kind, high, low], rest) = tlvs.split_first_chunk::<3>().ok_or(Malformed::Length)?;
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(len).ok_or(Malformed::Length)?;
        if *kind == TLV_CRC32C {
            let stated = value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Length)?;
            // Computed with the checksum itself taken as zero.
            let at = whole.len() - rest.len() - len;
            let crc = [&whole[..at], &[0; 4], rest].iter().fold(!0, |crc, part| crc32c(crc, part));
            if !crc != stated {
                return Err(Malformed::Checksum);
            }
        }
        tlvs = rest;
    }
    Ok(())
}

/// CRC-32C (Castagnoli), a bit at a time: a header is short, and there is one a connection.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

/// Why no header was read from a connection.
#[derive(Debug)]
pub enum ReadError {
    /// Not all of it came by the deadline.
    TimedOut,
    /// What came is no header.
    Malformed(Malformed),
    /// The connection ended or broke.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("no PROXY header in time"),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Io(error) => write!(f, "no PROXY header: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Reads the header a listed peer must begin with, and nothing after it.
pub async fn read(stream: &mut Stream, deadline: Instant) -> Result<Header, ReadError> {
    match timeout_at(deadline, read_header(stream)).await {
        Ok(result) => result,
        Err(_) => Err(ReadError::TimedOut),
    }
}

async fn read_header(stream: &mut Stream) -> Result<Header, ReadError> {
    // `parse` never asks for more than the shortest header that may still stand there, so filling up to
    // what it asks for reads nothing that belongs to SMTP or TLS. Version 1 ends octet by octet.
    let mut bytes = Vec::with_capacity(V1_OCTETS_MAX);
    loop {
        match parse(&bytes).map_err(ReadError::Malformed)? {
            Parsed::Header(header, _) => return Ok(header),
            Parsed::Incomplete(needed) => {
                let held = bytes.len();
                bytes.resize(needed, 0);
                let read = stream.read(&mut bytes[held..]).await.map_err(ReadError::Io)?;
                if read == 0 {
                    return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
                }
                bytes.truncate(held + read);
            }
        }
    }
}

/// What the fuzz target calls: no panic, progress in every answer, and a header never longer than the input.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    match parse(bytes) {
        Ok(Parsed::Header(header, octets)) => {
            assert!(octets <= bytes.len());
            assert_eq!(parse(&bytes[..octets]), Ok(Parsed::Header(header, octets)));
            assert!(matches!(parse(&bytes[..octets - 1]), Ok(Parsed::Incomplete(n)) if n <= octets));
        }
        Ok(Parsed::Incomplete(needed)) => assert!(needed > bytes.len() && needed <= V2_OCTETS_MAX),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;

    fn proxied(source: &str, destination: &str) -> Header {
        Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// A version 2 header.
    fn v2(kind: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([kind, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xC0, 0, 0, 25];

    fn with_crc(mut bytes: Vec<u8>, wrong: bool) -> Vec<u8> {
        let crc = !crc32c(!0, &bytes) ^ u32::from(wrong);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn check(bytes: &[u8], expected: Result<Header, Malformed>) {
        fuzz(bytes);
        let found = match parse(bytes) {
            Ok(Parsed::Header(header, octets)) => {
                assert_eq!(octets, bytes.len(), "{}", bytes.escape_ascii());
                for cut in 0..octets {
                    fuzz(&bytes[..cut]);
                }
                let more = [bytes, b"EHLO a\r\n"].concat();
                assert_eq!(parse(&more), Ok(Parsed::Header(header, octets)));
                Ok(header)
            }
            Ok(Parsed::Incomplete(needed)) => panic!("{} needs {needed}", bytes.escape_ascii()),
            Err(error) => Err(error),
        };
        assert_eq!(found, expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn version_1() {
        check(
            b"PROXY TCP4 192.0.2.1 198.51.100.1 49152 25\r\n",
            Ok(proxied("192.0.2.1:49152", "198.51.100.1:25")),
        );
        check(
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
            Ok(proxied("[2001:db8::1]:1", "[2001:db8::2]:65535")),
        );
        check(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Ok(proxied("192.0.2.1:1", "[::1]:2")));
        check(b"PROXY UNKNOWN\r\n", Ok(Header::Unknown));
        check(b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", Ok(Header::Unknown));
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 49152\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 49152 25 x\r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 49152 25\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 49152 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 49152 25\n",
            "PROXY\r\nEHLO x\r\n",
            "PROXY unknown\r\n",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        }
        for line in [
            "PROXY TCP4 2001:db8::1 198.51.100.1 49152 25\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 49152 25\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 49152 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 25\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 025 25\r\n",
        ] {
            check(line.as_bytes(), Err(Malformed::Address));
        }
        check(&[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(), Err(Malformed::Line));
    }

    #[test]
    fn version_2() {
        check(&v2(0x21, 0x11, &V4), Ok(proxied("192.0.2.1:49152", "198.51.100.1:25")));
        let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        check(
            &v2(0x21, 0x21, &[&v6[..], &[0, 1, 0, 25]].concat()),
            Ok(proxied("[2001:db8::1]:1", "[2001:db8::1]:25")),
        );
        check(&v2(0x20, 0x00, &[]), Ok(Header::Local));
        check(&v2(0x20, 0x11, b"whatever"), Ok(Header::Local));
        check(&v2(0x21, 0x00, &[]), Ok(Header::Unknown));
        check(&v2(0x21, 0x31, &[b'/'; 216]), Ok(Header::Unknown));
        check(&v2(0x21, 0x31, &[b'/'; 215]), Err(Malformed::Length));
        check(&v2(0x21, 0x11, &V4[..11]), Err(Malformed::Length));
        check(&v2(0x21, 0x12, &V4), Err(Malformed::Kind));
        check(&v2(0x21, 0x41, &V4), Err(Malformed::Kind));
        check(&v2(0x11, 0x11, &V4), Err(Malformed::Kind));
        check(&v2(0x22, 0x11, &V4), Err(Malformed::Kind));
        check(&v2(0x21, 0x11, &[0; 4081]), Err(Malformed::Length));
    }

    #[test]
    fn version_2_tlvs() {
        let tlv = |tail: &[u8]| v2(0x21, 0x11, &[&V4[..], tail].concat());
        let good = Ok(proxied("192.0.2.1:49152", "198.51.100.1:25"));
        check(&tlv(&[4, 0, 3, 0, 0, 0, 1, 0, 2, b'h', b'2']), good);
        check(&tlv(&[4, 0]), Err(Malformed::Length));
        check(&tlv(&[4, 0, 4, 0, 0, 0]), Err(Malformed::Length));
        check(&with_crc(tlv(&[4, 0, 0, TLV_CRC32C, 0, 4, 0, 0, 0, 0]), false), good);
        check(&with_crc(tlv(&[TLV_CRC32C, 0, 4, 0, 0, 0, 0]), true), Err(Malformed::Checksum));
        check(&tlv(&[TLV_CRC32C, 0, 3, 0, 0, 0]), Err(Malformed::Length));
        // The check value that the CRC's definition gives.
        assert_eq!(!crc32c(!0, b"123456789"), 0xE306_9283);
    }

    #[test]
    fn what_is_no_header() {
        for bytes in [
            &b"EHLO a.test\r\n"[..],
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"\r\n\r\n\0\r\nQUIX",
            b"proxy ",
        ] {
            check(bytes, Err(Malformed::Signature));
        }
    }

    #[test]
    fn bytes_from_nowhere() {
        // A cheap stand-in for the fuzzer: headers with every octet changed in turn.
        for seed in [v2(0x21, 0x11, &V4), b"PROXY TCP4 192.0.2.1 198.51.100.1 49152 25\r\n".to_vec()] {
            for at in 0..seed.len() {
                for value in 0..=255 {
                    let mut bytes = seed.clone();
                    bytes[at] = value;
                    fuzz(&bytes);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reading_takes_the_header_and_nothing_more() {
        let address = "192.0.2.1:25".parse().unwrap();
        for header in [v2(0x21, 0x11, &V4), b"PROXY TCP4 192.0.2.1 198.51.100.1 49152 25\r\n".to_vec()] {
            let (mut client, mut server) = memory::pair(address, address);
            client.write_all(&[&header[..], b"EHLO a\r\n"].concat()).await.unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            assert_eq!(
                read(&mut server, deadline).await.unwrap(),
                proxied("192.0.2.1:49152", "198.51.100.1:25")
            );
            let mut rest = [0; 8];
            server.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"EHLO a\r\n");

            let (mut client, mut server) = memory::pair(address, address);
            client.write_all(&header[..20]).await.unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            assert!(matches!(read(&mut server, deadline).await, Err(ReadError::TimedOut)));
            drop(client);
            let deadline = Instant::now() + Duration::from_secs(5);
            assert!(matches!(read(&mut server, deadline).await, Err(ReadError::Io(_))));
        }
    }
}
