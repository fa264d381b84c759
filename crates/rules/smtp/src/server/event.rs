//! What the machine asks of its driver, and what the driver may answer.

use mail::{Envelope, Protocol, Recipient, Reply};
use std::net::IpAddr;

/// A question, which stops the machine until [`answer`](super::Server::answer) is called, or an order.
#[derive(Debug)]
pub enum Event<'a> {
    /// HELO, EHLO or LHLO. Answers: accept, reply.
    Hello {
        /// What the client calls itself.
        name: &'a str,
        /// Not HELO.
        extended: bool,
    },
    /// MAIL. The envelope holds the reverse-path and what was asked of us, and no recipients. Answers: accept,
    /// reply.
    Mail {
        /// The transaction that would begin.
        envelope: &'a Envelope,
        /// SIZE: a claim, never to be trusted.
        size: Option<u64>,
        /// AUTH, in xtext: to be believed from trusted peers only.
        auth: Option<&'a str>,
    },
    /// RCPT. Answers: accept, reply.
    Rcpt {
        /// The transaction so far.
        envelope: &'a Envelope,
        /// Whom the client wants to add.
        recipient: &'a Recipient,
    },
    /// Content is about to come, by DATA or BDAT: reserve a place for it. Answers: accept, reply.
    Data {
        /// The transaction.
        envelope: &'a Envelope,
    },
    /// A whole message. Answers: reply, accept, or under LMTP one reply for each recipient.
    Message {
        /// The transaction.
        envelope: Envelope,
        /// The content: CRLF line ends and no bare CR or LF unless the envelope says BINARYMIME.
        content: Vec<u8>,
    },
    /// AUTH begins. Answers: challenge, authenticated, reply.
    Auth {
        /// The mechanism, as it was offered.
        mechanism: &'a str,
        /// The initial response, decoded, if one came.
        initial: Option<&'a [u8]>,
    },
    /// The client's answer to a challenge, decoded. Answers: challenge, authenticated, reply.
    AuthResponse(&'a [u8]),
    /// VRFY, if the configuration wants it asked. Answer: reply.
    Vrfy(&'a str),
    /// EXPN, if the configuration wants it asked. Answer: reply.
    Expn(&'a str),
    /// XCLIENT from a listed peer. When accepted the session begins anew with our 220, and the driver takes the
    /// attributes for the peer's own. Answers: accept, reply.
    XClient(&'a XClient),
    /// Order: send the output, throw away whatever else was read from the peer, handshake, call
    /// [`tls_started`](super::Server::tls_started).
    StartTls,
    /// Order: send the output, then close.
    Close,
}

/// The driver's answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes, with the usual reply.
    Accept,
    /// This reply; its class says yes (2yz) or no. 421 also closes.
    Reply(Reply),
    /// This reply, then close.
    Close(Reply),
    /// Under LMTP, the replies to a message: one for each recipient, in order.
    Replies(Vec<Reply>),
    /// AUTH: this challenge, not yet encoded.
    Challenge(Vec<u8>),
    /// AUTH: the client is this user.
    Authenticated(Box<str>),
}

/// The attributes of an XCLIENT command, decoded. What is absent, or `[UNAVAILABLE]`, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XClient {
    /// NAME: the client's host name.
    pub name: Option<Box<str>>,
    /// ADDR.
    pub address: Option<IpAddr>,
    /// PORT.
    pub port: Option<u16>,
    /// PROTO.
    pub protocol: Option<Protocol>,
    /// HELO.
    pub helo: Option<Box<str>>,
    /// LOGIN: the authenticated user.
    pub login: Option<Box<str>>,
    /// DESTADDR: our own end.
    pub destination_address: Option<IpAddr>,
    /// DESTPORT.
    pub destination_port: Option<u16>,
}
