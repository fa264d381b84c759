//! Every legal move of a session, in one table. A command is refused with 503 when the table has no row for
//! it; a move the table lacks is our mistake and stops the session.

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Connected; our greeting is not yet said.
    Greeting,
    /// Greeted; the client has not said who it is.
    Start,
    /// The client has said HELO, EHLO or LHLO; no transaction is open.
    Ready,
    /// MAIL was accepted, no recipient yet.
    Mail,
    /// At least one recipient was accepted.
    Rcpt,
    /// The content comes by DATA, or has come and awaits its answer.
    Data,
    /// The content comes by BDAT, or has come and awaits its answer.
    Chunks,
    /// The client and the driver exchange AUTH lines.
    Auth,
    /// 220 was said to STARTTLS; the driver handshakes.
    Tls,
    /// The greeting was a refusal; only QUIT is understood (RFC 5321 §3.1).
    Refused,
    /// Nothing more is read.
    Closed,
}

/// What moves a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Move {
    /// We said 220.
    Greet,
    /// We said 554 instead.
    Refuse,
    /// HELO, EHLO or LHLO was accepted.
    Hello,
    /// HELO, EHLO or LHLO was refused.
    HelloRefused,
    /// MAIL was accepted.
    Mail,
    /// RCPT was accepted.
    Rcpt,
    /// 354 was said.
    Data,
    /// A BDAT command was accepted.
    Bdat,
    /// The content was answered, or the transaction fell: both leave nothing behind.
    End,
    /// RSET.
    Reset,
    /// AUTH began.
    Auth,
    /// AUTH ended, well or not.
    AuthEnd,
    /// STARTTLS was accepted.
    StartTls,
    /// The TLS handshake is done.
    TlsStarted,
    /// XCLIENT was accepted.
    XClient,
    /// QUIT, a limit, or the driver's wish.
    Close,
}

const STATES: usize = State::Closed as usize + 1;
const MOVES: usize = Move::Close as usize + 1;

/// The table: from where, by what, to where. The order is that of a session's life.
pub const TRANSITIONS: &[(State, Move, State)] = &[
    (State::Greeting, Move::Greet, State::Start),
    (State::Greeting, Move::Refuse, State::Refused),
    (State::Greeting, Move::Close, State::Closed),
    (State::Start, Move::Hello, State::Ready),
    (State::Start, Move::HelloRefused, State::Start),
    (State::Start, Move::Reset, State::Start),
    (State::Start, Move::XClient, State::Start),
    (State::Start, Move::Close, State::Closed),
    (State::Ready, Move::Hello, State::Ready),
    (State::Ready, Move::HelloRefused, State::Start),
    (State::Ready, Move::Reset, State::Ready),
    (State::Ready, Move::StartTls, State::Tls),
    (State::Ready, Move::Auth, State::Auth),
    (State::Ready, Move::XClient, State::Start),
    (State::Ready, Move::Mail, State::Mail),
    (State::Ready, Move::Close, State::Closed),
    (State::Tls, Move::TlsStarted, State::Start),
    (State::Tls, Move::Close, State::Closed),
    (State::Auth, Move::AuthEnd, State::Ready),
    (State::Auth, Move::Close, State::Closed),
    (State::Mail, Move::Rcpt, State::Rcpt),
    (State::Mail, Move::Hello, State::Ready),
    (State::Mail, Move::HelloRefused, State::Start),
    (State::Mail, Move::Reset, State::Ready),
    (State::Mail, Move::Close, State::Closed),
    (State::Rcpt, Move::Rcpt, State::Rcpt),
    (State::Rcpt, Move::Data, State::Data),
    (State::Rcpt, Move::Bdat, State::Chunks),
    (State::Rcpt, Move::End, State::Ready),
    (State::Rcpt, Move::Hello, State::Ready),
    (State::Rcpt, Move::HelloRefused, State::Start),
    (State::Rcpt, Move::Reset, State::Ready),
    (State::Rcpt, Move::Close, State::Closed),
    (State::Data, Move::End, State::Ready),
    (State::Data, Move::Close, State::Closed),
    (State::Chunks, Move::Bdat, State::Chunks),
    (State::Chunks, Move::End, State::Ready),
    (State::Chunks, Move::Hello, State::Ready),
    (State::Chunks, Move::HelloRefused, State::Start),
    (State::Chunks, Move::Reset, State::Ready),
    (State::Chunks, Move::Close, State::Closed),
    (State::Refused, Move::Close, State::Closed),
];

/// The table by state and move; `None` where it has no row.
const LEGAL: [[Option<State>; MOVES]; STATES] = {
    let mut legal = [[None; MOVES]; STATES];
    let mut row = 0;
    while row < TRANSITIONS.len() {
        let (from, by, to) = TRANSITIONS[row];
        assert!(legal[from as usize][by as usize].is_none(), "two rows for one move");
        legal[from as usize][by as usize] = Some(to);
        row += 1;
    }
    legal
};

impl State {
    /// Where `by` leads from here; `None` if it is not legal here.
    pub const fn after(self, by: Move) -> Option<State> {
        LEGAL[self as usize][by as usize]
    }

    /// True if `by` is legal here.
    pub const fn permits(self, by: Move) -> bool {
        self.after(by).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_can_be_left_by_closing_and_only_closed_is_final() {
        for (from, _, _) in TRANSITIONS {
            assert_eq!(from.after(Move::Close), Some(State::Closed), "{from:?}");
        }
        assert!(TRANSITIONS.iter().all(|&(from, _, _)| from != State::Closed));
    }

    #[test]
    fn a_message_needs_mail_and_a_recipient() {
        for state in [State::Start, State::Ready, State::Mail, State::Auth, State::Tls, State::Refused] {
            assert!(!state.permits(Move::Data) && !state.permits(Move::Bdat), "{state:?}");
        }
        assert!(!State::Chunks.permits(Move::Data) && !State::Chunks.permits(Move::Rcpt));
    }
}
