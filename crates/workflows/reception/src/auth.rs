//! AUTH: who a client is (RFC 4954), by PLAIN (RFC 4616), LOGIN, or SCRAM-SHA-256 (RFC 5802, RFC 7677).
//!
//! A user is known by a [`Verifier`], what SCRAM keeps of a password. Unknown users are checked against a
//! verifier that nobody has the password of, so that time does not tell whether a user exists.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use smtp::base64;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rounds of PBKDF2 for verifiers made here: what RFC 7677 §4 asks for, and a millisecond of work.
const ROUNDS: u32 = 4096;
/// Rounds taken from a configured hash at most: more would let one AUTH hold a core for seconds.
const ROUNDS_MAX: u32 = 200_000;

/// What is kept of a password: enough to check it, not enough to use it elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    rounds: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(***)")
    }
}

fn encode(octets: &[u8]) -> String {
    let mut text = Vec::new();
    base64::encode(octets, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

fn hmac_of(key: &[u8], data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    // The system's generator fails only where no TLS and no process would run either.
    rand::fill(&mut out).expect("the system gives random octets");
    out
}

impl Verifier {
    /// The verifier of a password, with a salt of its own.
    pub fn of(password: &str) -> Self {
        Self::derive(password, random::<16>().to_vec(), ROUNDS)
    }

    fn derive(password: &str, salt: Vec<u8>, rounds: u32) -> Self {
        let mut salted = [0; 32];
        let count = NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, &salt, password.as_bytes(), &mut salted);
        let client_key = hmac_of(&salted, b"Client Key");
        Self { rounds, salt, stored_key: sha256(&client_key), server_key: hmac_of(&salted, b"Server Key") }
    }

    /// Reads `SCRAM-SHA-256$rounds:salt$stored:server`, the form that PostgreSQL uses too.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (rounds, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let rounds = rounds.parse().ok().filter(|rounds| (1..=ROUNDS_MAX).contains(rounds))?;
        Some(Self {
            rounds,
            salt: base64::decode(salt.as_bytes())?,
            stored_key: base64::decode(stored.as_bytes())?.try_into().ok()?,
            server_key: base64::decode(server.as_bytes())?.try_into().ok()?,
        })
    }

    /// The text form.
    pub fn to_text(&self) -> String {
        let keys = [&self.salt[..], &self.stored_key, &self.server_key].map(encode);
        format!("SCRAM-SHA-256${}:{}${}:{}", self.rounds, keys[0], keys[1], keys[2])
    }

    /// True if this is the password. A millisecond or more of work.
    pub fn check(&self, password: &str) -> bool {
        let given = Self::derive(password, self.salt.clone(), self.rounds);
        constant_time::verify_slices_are_equal(&given.stored_key, &self.stored_key).is_ok()
    }
}

/// The users of the configuration.
#[derive(Debug)]
pub struct Users {
    known: HashMap<Box<str>, Verifier>,
    nobody: Verifier,
}

impl Users {
    /// Users and their verifiers.
    pub fn new(known: HashMap<Box<str>, Verifier>) -> Self {
        Self { known, nobody: Verifier::derive("", random::<32>().to_vec(), ROUNDS) }
    }

    /// The user's verifier; for an unknown one a verifier that no password meets, and false.
    fn verifier(&self, user: &str) -> (&Verifier, bool) {
        self.known.get(user).map_or((&self.nobody, false), |verifier| (verifier, true))
    }

    /// True if the user exists and this is the password. Takes as long either way.
    pub fn check(&self, user: &str, password: &str) -> bool {
        let (verifier, known) = self.verifier(user);
        verifier.check(password) & known
    }
}

/// An exchange under way.
#[derive(Debug)]
pub enum Exchange {
    /// PLAIN waits for its one message.
    Plain,
    /// LOGIN waits for the user.
    LoginUser,
    /// LOGIN waits for the password.
    LoginPassword(Box<str>),
    /// SCRAM waits for the first message.
    ScramFirst,
    /// SCRAM waits for the proof.
    ScramProof(Box<Scram>),
    /// SCRAM has told its own proof and waits for an empty answer.
    ScramEnd(Box<str>),
}

/// State of a SCRAM exchange.
#[derive(Debug)]
pub struct Scram {
    user: Box<str>,
    known: bool,
    verifier: Verifier,
    nonce: String,
    bare_first: String,
    server_first: String,
    gs2: String,
}

/// What an exchange leads to.
#[derive(Debug)]
pub enum Step {
    /// Say this and wait for an answer.
    Challenge(Vec<u8>, Exchange),
    /// This password of this user is to be checked; work for a thread that may be busy.
    Check {
        /// The user.
        user: Box<str>,
        /// The password.
        password: Box<str>,
    },
    /// The client is this user.
    Proven(Box<str>),
    /// It is not; with the user's name, if one was said.
    Failed(Option<Box<str>>),
    /// What came is not what the mechanism says.
    Malformed,
}

impl Exchange {
    /// An exchange by a mechanism's name.
    pub fn new(mechanism: &str) -> Option<Self> {
        match mechanism {
            "PLAIN" => Some(Self::Plain),
            "LOGIN" => Some(Self::LoginUser),
            "SCRAM-SHA-256" => Some(Self::ScramFirst),
            _ => None,
        }
    }

    /// What to say before the client has said anything.
    pub fn opening(self) -> Step {
        let challenge: &[u8] = match self {
            Self::LoginUser => b"Username:",
            _ => b"",
        };
        Step::Challenge(challenge.to_vec(), self)
    }

    /// Takes what the client said.
    pub fn step(self, users: &Users, response: &[u8]) -> Step {
        let Ok(text) = std::str::from_utf8(response) else { return Step::Malformed };
        match self {
            Self::Plain => {
                let mut parts = text.split('\0');
                let (Some(authorised), Some(user), Some(password), None) =
                    (parts.next(), parts.next(), parts.next(), parts.next())
                else {
                    return Step::Malformed;
                };
                if user.is_empty() {
                    return Step::Malformed;
                }
                // Nobody may act for another here.
                if !authorised.is_empty() && authorised != user {
                    return Step::Failed(Some(user.into()));
                }
                Step::Check { user: user.into(), password: password.into() }
            }
            Self::LoginUser => Step::Challenge(b"Password:".to_vec(), Self::LoginPassword(text.into())),
            Self::LoginPassword(user) => Step::Check { user, password: text.into() },
            Self::ScramFirst => scram_first(users, text),
            Self::ScramProof(scram) => scram.proof(text),
            Self::ScramEnd(user) if text.is_empty() => Step::Proven(user),
            Self::ScramEnd(_) => Step::Malformed,
        }
    }
}

/// RFC 5802 §7: `n,,n=user,r=nonce`.
fn scram_first(users: &Users, text: &str) -> Step {
    let mut parts = text.splitn(3, ',');
    let (Some(binding), Some(authorised), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
        return Step::Malformed;
    };
    // `y`: the client could bind to the channel and thinks we cannot, which is so. `p` asks for what we do not
    // offer.
    if !matches!(binding, "n" | "y") {
        return Step::Malformed;
    }
    let mut attributes = bare.split(',');
    let (Some(name), Some(nonce)) = (
        attributes.next().and_then(|a| a.strip_prefix("n=")),
        attributes.next().and_then(|a| a.strip_prefix("r=")),
    ) else {
        return Step::Malformed;
    };
    if nonce.is_empty() || nonce.len() > 256 {
        return Step::Malformed;
    }
    let user: Box<str> = name.replace("=2C", ",").replace("=3D", "=").into();
    if !authorised.is_empty() && authorised.strip_prefix("a=") != Some(name) {
        return Step::Failed(Some(user));
    }
    let (verifier, known) = users.verifier(&user);
    // An unknown user's salt must look like one: it is made of the name, so that it stays the same.
    let salt =
        if known { verifier.salt.clone() } else { hmac_of(&verifier.salt, user.as_bytes())[..16].to_vec() };
    let nonce = format!("{nonce}{}", encode(&random::<18>()));
    let server_first = format!("r={nonce},s={},i={}", encode(&salt), verifier.rounds);
    let scram = Scram {
        known,
        verifier: verifier.clone(),
        nonce,
        bare_first: bare.into(),
        server_first: server_first.clone(),
        gs2: format!("{binding},{authorised},"),
        user,
    };
    Step::Challenge(server_first.into_bytes(), Exchange::ScramProof(Box::new(scram)))
}

impl Scram {
    /// RFC 5802 §7: `c=binding,r=nonce,p=proof`.
    fn proof(self: Box<Self>, text: &str) -> Step {
        let Some((without_proof, proof)) = text.rsplit_once(",p=") else { return Step::Malformed };
        let Some(proof) = base64::decode(proof.as_bytes()).filter(|proof| proof.len() == 32) else {
            return Step::Malformed;
        };
        let mut attributes = without_proof.split(',');
        let binding =
            attributes.next().and_then(|a| a.strip_prefix("c=")).and_then(|c| base64::decode(c.as_bytes()));
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r="));
        if binding.as_deref() != Some(self.gs2.as_bytes()) || nonce != Some(&self.nonce) {
            return Step::Failed(Some(self.user));
        }
        let message = format!("{},{},{without_proof}", self.bare_first, self.server_first);
        let signature = hmac_of(&self.verifier.stored_key, message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let stored_key = sha256(&client_key);
        let right = constant_time::verify_slices_are_equal(&stored_key, &self.verifier.stored_key).is_ok();
        if !(right & self.known) {
            return Step::Failed(Some(self.user));
        }
        let server = encode(&hmac_of(&self.verifier.server_key, message.as_bytes()));
        Step::Challenge(format!("v={server}").into_bytes(), Exchange::ScramEnd(self.user))
    }
}

/// How long a failure is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// Networks and users remembered at most; beyond it the oldest half is forgotten.
const REMEMBERED_MAX: usize = 20_000;

/// The brake on guessing: failures by network and by user.
#[derive(Debug, Default)]
pub struct Brake(Mutex<HashMap<String, (Instant, u32)>>);

impl Brake {
    /// True if this network or user has failed too often lately.
    pub fn holds(&self, now: Instant, max: u32, peer: Option<IpAddr>, user: Option<&str>) -> bool {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys(peer, user).any(|key| {
            table.get(&key).is_some_and(|(since, count)| now.duration_since(*since) < MEMORY && *count >= max)
        })
    }

    /// A failure.
    pub fn failed(&self, now: Instant, peer: Option<IpAddr>, user: Option<&str>) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= REMEMBERED_MAX {
            table.retain(|_, (since, _)| now.duration_since(*since) < MEMORY / 2);
            if table.len() >= REMEMBERED_MAX {
                table.clear();
            }
        }
        for key in keys(peer, user) {
            let (since, count) = table.entry(key).or_insert((now, 0));
            if now.duration_since(*since) >= MEMORY {
                (*since, *count) = (now, 0);
            }
            *count += 1;
        }
    }
}

fn keys(peer: Option<IpAddr>, user: Option<&str>) -> impl Iterator<Item = String> {
    let peer = peer.map(|ip| match ip {
        IpAddr::V4(ip) => format!("@{ip}"),
        IpAddr::V6(ip) => format!("@{:x?}", &ip.segments()[..4]),
    });
    let user = user.map(|user| user.chars().take(128).collect());
    peer.into_iter().chain(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users::new(HashMap::from([("user".into(), Verifier::of("pencil"))]))
    }

    #[test]
    fn verifiers_read_back_and_check() {
        let verifier = Verifier::of("sesame");
        assert_eq!(Verifier::parse(&verifier.to_text()).unwrap(), verifier);
        assert!(verifier.check("sesame") && !verifier.check("Sesame") && !verifier.check(""));
        for text in ["", "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$0:AA==$AA==:AA==", "plain"] {
            assert!(Verifier::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_example_of_rfc_7677() {
        // RFC 7677 §3: user "user", password "pencil".
        let salt = base64::decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let scram = Scram {
            user: "user".into(),
            known: true,
            verifier: Verifier::derive("pencil", salt, 4096),
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
            bare_first: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
            server_first:
                "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
                    .into(),
            gs2: "n,,".into(),
        };
        let proof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        match Box::new(scram).proof(proof) {
            Step::Challenge(text, _) => assert_eq!(text, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plain_and_login() {
        let users = users();
        let check = |step: Step| match step {
            Step::Check { user, password } => users.check(&user, &password),
            other => panic!("{other:?}"),
        };
        assert!(check(Exchange::Plain.step(&users, b"\0user\0pencil")));
        assert!(!check(Exchange::Plain.step(&users, b"\0user\0pen")));
        assert!(!check(Exchange::Plain.step(&users, b"\0nobody\0pencil")));
        assert!(matches!(Exchange::Plain.step(&users, b"other\0user\0pencil"), Step::Failed(_)));
        for bad in [&b""[..], b"user", b"\0\0pencil", b"\0user\0a\0b", b"\xff\0a\0b"] {
            assert!(matches!(Exchange::Plain.step(&users, bad), Step::Malformed), "{bad:?}");
        }
        let Step::Challenge(_, next) = Exchange::LoginUser.step(&users, b"user") else { panic!() };
        assert!(check(next.step(&users, b"pencil")));
    }

    #[test]
    fn an_unknown_user_looks_like_a_known_one_to_scram() {
        let users = users();
        let first =
            |user: &str| match Exchange::ScramFirst.step(&users, format!("n,,n={user},r=abc").as_bytes()) {
                Step::Challenge(text, _) => String::from_utf8(text).unwrap(),
                other => panic!("{other:?}"),
            };
        let salt = |text: String| text.split(",s=").nth(1).unwrap().to_owned();
        assert_eq!(salt(first("nobody")), salt(first("nobody")));
        assert_ne!(salt(first("nobody")), salt(first("nobody2")));
        assert_eq!(salt(first("user")).len(), salt(first("nobody")).len());
    }

    #[test]
    fn the_brake_holds_a_network_and_a_user_and_lets_go() {
        let (brake, now) = (Brake::default(), Instant::now());
        let peer = Some("192.0.2.1".parse().unwrap());
        for _ in 0..3 {
            brake.failed(now, peer, Some("u"));
        }
        assert!(brake.holds(now, 3, peer, None) && brake.holds(now, 3, None, Some("u")));
        assert!(!brake.holds(now, 4, peer, Some("u")) && !brake.holds(now, 3, None, Some("v")));
        assert!(!brake.holds(now + MEMORY, 3, peer, Some("u")));
    }
}
