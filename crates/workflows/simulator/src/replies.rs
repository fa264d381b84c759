//! What simulated receivers say, in the words of real ones, so that the rules that ship with the server fire.

use crate::traffic::Replies;
use mail::Reply;
use shaping::Stage;
use std::sync::Arc;

/// Why a receiver does not take what it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Its addresses refuse connections.
    Refused,
    /// Its addresses do not answer.
    NoAnswer,
    /// It accepted the connection and did not greet.
    NoGreeting,
    /// Too many connections at once.
    Connections,
    /// Too many new connections in a time.
    ConnectionRate,
    /// Too many messages or octets in a time.
    Rate,
    /// The most messages of one connection.
    Session,
    /// More than it takes on a day from a source that it hardly knows.
    Daily,
    /// The source is refused altogether for a time.
    Blocked,
    /// The first attempt of a message.
    Greylisted,
    /// The recipient does not exist.
    UnknownUser,
    /// The recipient's mailbox is full.
    MailboxFull,
}

impl Refusal {
    /// All.
    pub const ALL: [Self; 12] = [
        Self::Refused,
        Self::NoAnswer,
        Self::NoGreeting,
        Self::Connections,
        Self::ConnectionRate,
        Self::Rate,
        Self::Session,
        Self::Daily,
        Self::Blocked,
        Self::Greylisted,
        Self::UnknownUser,
        Self::MailboxFull,
    ];
}

/// A reply as it is said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Where in the session.
    pub stage: Stage,
    /// The reply; of connections that were never made, what our own side says.
    pub reply: Reply,
    /// Its text on one line.
    pub shown: Arc<str>,
    /// The receiver ends the session with it.
    pub closes: bool,
}

/// What receivers of one kind say.
#[derive(Clone, Debug)]
pub struct Phrasebook(Vec<Said>);

impl Phrasebook {
    /// In whose words.
    pub fn new(replies: Replies) -> Self {
        Self(Refusal::ALL.iter().map(|refusal| said(replies, *refusal)).collect())
    }

    /// What is said to this.
    pub fn say(&self, refusal: Refusal) -> &Said {
        &self.0[refusal as usize]
    }
}

fn said(words: Replies, refusal: Refusal) -> Said {
    use Refusal::{
        Blocked, ConnectionRate, Connections, Daily, Greylisted, MailboxFull, NoAnswer, NoGreeting, Rate,
        Refused, Session, UnknownUser,
    };
    use Replies::{Gmail, Outlook, Plain, Yahoo};
    let (stage, code, enhanced, text) = match (refusal, words) {
        (Refused, _) => (Stage::Connect, 451, (4, 4, 1), "connection refused"),
        (NoAnswer, _) => (Stage::Connect, 451, (4, 4, 1), "no answer within the time for connecting"),
        (NoGreeting, _) => (Stage::Greeting, 451, (4, 4, 2), "no greeting within the time for it"),

        (Connections, Plain) => {
            (Stage::Greeting, 421, (4, 7, 0), "mx.example.org Error: too many connections from 192.0.2.1")
        }
        (ConnectionRate, Plain) => (Stage::Greeting, 450, (4, 7, 1), "You are connecting too often"),
        (Rate, Plain) => (Stage::Mail, 450, (4, 7, 1), "Error: too much mail from 192.0.2.1"),
        (Session, Plain) => (Stage::Mail, 421, (4, 7, 0), "Too many messages in this session"),
        (Daily, Plain) => {
            (Stage::Mail, 451, (4, 7, 1), "You have exceeded the daily message limit, rate limited")
        }
        (Blocked, Plain) => {
            (Stage::Mail, 450, (4, 7, 1), "Your IP address is temporarily blocked for its poor reputation")
        }
        (Greylisted, Plain | Gmail | Outlook) => (
            Stage::Rcpt,
            450,
            (4, 2, 0),
            "Greylisted, see http://postgrey.schweikert.ch/help/example.org.html",
        ),
        (UnknownUser, Plain) => (Stage::Rcpt, 550, (5, 1, 1), "User unknown in virtual mailbox table"),
        (MailboxFull, Plain | Yahoo) => (Stage::Rcpt, 452, (4, 2, 2), "Mailbox full"),

        (Connections | ConnectionRate, Gmail) => {
            (Stage::Greeting, 421, (4, 7, 0), "Try again later, closing connection. w5si123456wrn.12 - gsmtp")
        }
        (Rate, Gmail) => (
            Stage::End,
            421,
            (4, 7, 28),
            "Gmail has detected an unusual rate of unsolicited mail originating\nfrom your IP address [192.0.2.1      \
             15]. To protect our users from\nspam, mail sent from your IP address has been temporarily rate\nlimited. \
             w5si123456wrn.12 - gsmtp",
        ),
        (Session, Gmail) => {
            (Stage::Mail, 421, (4, 7, 0), "Try again later, closing connection. w5si123456wrn.12 - gsmtp")
        }
        (Daily, Gmail) => (
            Stage::End,
            421,
            (4, 7, 0),
            "[192.0.2.1      15] Our system has detected an unusual rate of\nunsolicited mail originating from your IP \
             address. To protect our\nusers from spam, mail sent from your IP address has been temporarily\nrate \
             limited. w5si123456wrn.12 - gsmtp",
        ),
        (Blocked, Gmail) => (
            Stage::End,
            421,
            (4, 7, 0),
            "[192.0.2.1      19] Our system has detected that this message is\nsuspicious due to the very low \
             reputation of the sending IP address.\nTo protect our users from spam, mail sent from your IP address \
             has\nbeen temporarily rate limited. w5si123456wrn.12 - gsmtp",
        ),
        (UnknownUser, Gmail) => (
            Stage::Rcpt,
            550,
            (5, 1, 1),
            "The email account that you tried to reach does not exist. w5si123456wrn.12 - gsmtp",
        ),
        (MailboxFull, Gmail) => (
            Stage::Rcpt,
            452,
            (4, 2, 2),
            "The recipient's inbox is out of storage space. w5si123456wrn.12 - gsmtp",
        ),

        (Connections | ConnectionRate, Outlook) => (
            Stage::Greeting,
            421,
            (4, 3, 2),
            "The maximum number of concurrent connections has exceeded a limit, closing transmission channel",
        ),
        (Rate, Outlook) => (
            Stage::Rcpt,
            451,
            (4, 7, 500),
            "Server busy. Please try again later from [192.0.2.1]. (AS761) \
             [AM5EUR03FT031.eop-EUR03.prod.protection.outlook.com]",
        ),
        (Session, Outlook) => (
            Stage::Mail,
            451,
            (4, 7, 652),
            "The mail server [192.0.2.1] has exceeded the maximum number of messages per connection. For e-mail \
             delivery information, see https://postmaster.live.com (S777)",
        ),
        (Daily, Outlook) => (
            Stage::Rcpt,
            451,
            (4, 7, 550),
            "Access denied, please try again later [AM5EUR03FT031.eop-EUR03.prod.protection.outlook.com]",
        ),
        (Blocked, Outlook) => (
            Stage::Mail,
            451,
            (4, 7, 650),
            "The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. For e-mail delivery \
             information, see https://postmaster.live.com (S775)",
        ),
        (UnknownUser, Outlook) => {
            (Stage::Rcpt, 550, (5, 5, 0), "Requested action not taken: mailbox unavailable (S2017062302).")
        }
        (MailboxFull, Outlook) => (Stage::Rcpt, 452, (4, 2, 2), "The recipient's mailbox is full"),

        (Connections | ConnectionRate, Yahoo) => {
            (Stage::Greeting, 421, (4, 3, 2), "Too many concurrent connections")
        }
        (Rate, Yahoo) => (
            Stage::Mail,
            421,
            (4, 7, 0),
            "[TSS02] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - \
             4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
        ),
        (Session, Yahoo) => {
            (Stage::Mail, 421, (4, 7, 0), "Max message per connection reached, closing transmission channel")
        }
        (Daily, Yahoo) => (
            Stage::Mail,
            421,
            (4, 7, 0),
            "[TSS03] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - \
             4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
        ),
        (Blocked, Yahoo) => (
            Stage::Mail,
            421,
            (4, 7, 0),
            "[TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - \
             4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
        ),
        (Greylisted, Yahoo) => (
            Stage::Mail,
            451,
            (4, 7, 1),
            "[GL01] Message from (192.0.2.1) temporarily deferred - 4.16.50. Please refer to \
             https://senders.yahooinc.com/error-codes",
        ),
        (UnknownUser, Yahoo) => (
            Stage::End,
            554,
            (5, 1, 1),
            "30 Sorry, your message to someone@aol.com cannot be delivered. This mailbox is disabled (554.30).",
        ),
    };
    let reply = Reply::new(code, enhanced, text);
    Said { stage, shown: reply.to_string().into(), closes: code == 421, reply }
}
