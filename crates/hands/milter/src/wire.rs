//! Packets of the milter protocol, version 6: a length of four octets, a command, and its data.

use std::fmt;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The version spoken.
pub(crate) const VERSION: u32 = 6;
/// The oldest version of a filter that can be served.
pub(crate) const VERSION_MIN: u32 = 2;
/// Octets of a packet of a filter: a piece of a body is at most 65,535, a header field may be longer.
const PACKET_MAX: usize = 1 << 20;
/// Octets of a piece of a body as it is sent.
pub(crate) const CHUNK: usize = 65_535;

/// What a filter may do at the end of a message.
pub(crate) mod actions {
    pub(crate) const ADD_HEADERS: u32 = 0x01;
    pub(crate) const CHANGE_BODY: u32 = 0x02;
    pub(crate) const ADD_RCPT: u32 = 0x04;
    pub(crate) const DELETE_RCPT: u32 = 0x08;
    pub(crate) const CHANGE_HEADERS: u32 = 0x10;
    pub(crate) const QUARANTINE: u32 = 0x20;
    pub(crate) const CHANGE_FROM: u32 = 0x40;
    pub(crate) const ADD_RCPT_PAR: u32 = 0x80;
    pub(crate) const ALL: u32 = 0xff;
}

/// Which steps a filter does not want, and which it does not answer.
pub(crate) mod steps {
    pub(crate) const NO_CONNECT: u32 = 0x01;
    pub(crate) const NO_HELO: u32 = 0x02;
    pub(crate) const NO_MAIL: u32 = 0x04;
    pub(crate) const NO_RCPT: u32 = 0x08;
    pub(crate) const NO_BODY: u32 = 0x10;
    pub(crate) const NO_HEADERS: u32 = 0x20;
    pub(crate) const NO_EOH: u32 = 0x40;
    pub(crate) const MUTE_HEADERS: u32 = 0x80;
    pub(crate) const NO_UNKNOWN: u32 = 0x100;
    pub(crate) const NO_DATA: u32 = 0x200;
    pub(crate) const SKIP: u32 = 0x400;
    pub(crate) const MUTE_CONNECT: u32 = 0x1000;
    pub(crate) const MUTE_HELO: u32 = 0x2000;
    pub(crate) const MUTE_MAIL: u32 = 0x4000;
    pub(crate) const MUTE_RCPT: u32 = 0x8000;
    pub(crate) const MUTE_DATA: u32 = 0x10000;
    pub(crate) const MUTE_UNKNOWN: u32 = 0x20000;
    pub(crate) const MUTE_EOH: u32 = 0x40000;
    pub(crate) const MUTE_BODY: u32 = 0x80000;
    pub(crate) const LEADING_SPACE: u32 = 0x100000;
    pub(crate) const ALL: u32 = NO_CONNECT
        | NO_HELO
        | NO_MAIL
        | NO_RCPT
        | NO_BODY
        | NO_HEADERS
        | NO_EOH
        | MUTE_HEADERS
        | NO_UNKNOWN
        | NO_DATA
        | SKIP
        | MUTE_CONNECT
        | MUTE_HELO
        | MUTE_MAIL
        | MUTE_RCPT
        | MUTE_DATA
        | MUTE_UNKNOWN
        | MUTE_EOH
        | MUTE_BODY
        | LEADING_SPACE;
}

/// Writes one packet: the command and its data in pieces.
pub(crate) fn put(out: &mut Vec<u8>, command: u8, pieces: &[&[u8]]) {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    out.extend_from_slice(&((len + 1) as u32).to_be_bytes());
    out.push(command);
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// Writes texts with a NUL behind each.
pub(crate) fn texts(list: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(list.iter().map(|text| text.len() + 1).sum());
    for text in list {
        // A NUL within would be read as the end.
        out.extend(text.iter().copied().filter(|octet| *octet != 0));
        out.push(0);
    }
    out
}

/// What a filter did that the protocol does not know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WireError {
    /// The connection broke or ended.
    Gone(std::io::ErrorKind),
    /// Not the protocol.
    Broken(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(std::io::ErrorKind::UnexpectedEof) => f.write_str("it closed the connection"),
            Self::Gone(kind) => write!(f, "the connection broke: {kind}"),
            Self::Broken(what) => write!(f, "it broke the protocol: {what}"),
        }
    }
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> Self {
        Self::Gone(error.kind())
    }
}

/// Reads one packet: its command and data.
pub(crate) async fn get(stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<(u8, Vec<u8>), WireError> {
    let len = stream.read_u32().await? as usize;
    if len == 0 || len > PACKET_MAX {
        return Err(WireError::Broken("a packet of no or too great length"));
    }
    let command = stream.read_u8().await?;
    let mut data = vec![0; len - 1];
    stream.read_exact(&mut data).await?;
    Ok((command, data))
}

/// The texts of some data, each ended by a NUL.
pub(crate) fn split(data: &[u8]) -> Result<Vec<&[u8]>, WireError> {
    let Some(data) = data.strip_suffix(b"\0") else {
        return Err(WireError::Broken("a text without its end"));
    };
    Ok(data.split(|octet| *octet == 0).collect())
}

/// A number at the beginning of some data, and what follows.
pub(crate) fn number(data: &[u8]) -> Result<(u32, &[u8]), WireError> {
    let (number, rest) = data.split_first_chunk::<4>().ok_or(WireError::Broken("a number too short"))?;
    Ok((u32::from_be_bytes(*number), rest))
}
