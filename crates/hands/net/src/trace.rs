//! Sessions that somebody watches: what both sides say, line by line, while they say it.
//!
//! A session is followed from its beginning if somebody watches then; all others pay one look at a counter. What is
//! told is made of the octets on the wire by a reader that errs towards silence: of what a client sends only lines
//! that begin with a command are shown, content is counted, and what belongs to AUTH is hidden. A watcher who does not
//! keep up misses lines, and is told how many; no session waits for one.

use ipnet::IpNet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::mpsc;

/// Watchers at once.
const WATCHERS_MAX: usize = 8;
/// Lines that wait for one watcher.
const WAITING_MAX: usize = 4_096;
/// Octets of a line that are shown.
const LINE_MAX: usize = 600;

/// Which way a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Somebody connected to us.
    In,
    /// We connected to somebody.
    Out,
}

/// A session that is followed.
#[derive(Debug, PartialEq, Eq)]
pub struct About {
    /// Which way it goes.
    pub direction: Direction,
    /// Its name, as in logs where they have one.
    pub session: String,
    /// The other end.
    pub peer: SocketAddr,
    /// The other end's name, or the listener's.
    pub host: String,
}

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The session itself: that it begins or ends.
    Session,
    /// The client.
    Client,
    /// The server.
    Server,
}

/// Something that was said.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub at: SystemTime,
    /// In which session.
    pub about: Arc<About>,
    /// By whom.
    pub from: From,
    /// What, in one line without control characters.
    pub text: Arc<str>,
}

/// Which sessions somebody wants to see.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of this direction only.
    pub direction: Option<Direction>,
    /// Those with this network only.
    pub network: Option<IpNet>,
    /// Those with a host or listener whose name holds this text, in lower case.
    pub host: Option<String>,
}

impl Filter {
    fn wants(&self, about: &About) -> bool {
        self.direction.is_none_or(|direction| direction == about.direction)
            && self.network.is_none_or(|network| network.contains(&about.peer.ip().to_canonical()))
            && self.host.as_ref().is_none_or(|host| about.host.to_ascii_lowercase().contains(host))
    }
}

#[derive(Debug)]
struct Watcher {
    number: u64,
    filter: Filter,
    out: mpsc::Sender<Line>,
    missed: Arc<AtomicU64>,
}

/// Who watches. One for the whole server.
#[derive(Debug, Default)]
pub struct Traces {
    watchers: Mutex<Vec<Watcher>>,
    count: AtomicUsize,
    next: AtomicU64,
}

/// What a watcher reads from; dropped, it watches no longer.
#[derive(Debug)]
pub struct Watch {
    traces: Arc<Traces>,
    number: u64,
    lines: mpsc::Receiver<Line>,
    missed: Arc<AtomicU64>,
}

impl Watch {
    /// The next line.
    pub async fn next(&mut self) -> Option<Line> {
        self.lines.recv().await
    }

    /// Lines that were left out since this was asked last.
    pub fn missed(&self) -> u64 {
        self.missed.swap(0, Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.traces.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.number != self.number);
        self.traces.count.store(watchers.len(), Relaxed);
    }
}

impl Traces {
    /// Watches sessions that begin from now on. `None` if too many watch already.
    pub fn watch(self: &Arc<Self>, filter: Filter) -> Option<Watch> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let (out, lines) = mpsc::channel(WAITING_MAX);
        let number = self.next.fetch_add(1, Relaxed);
        let missed = Arc::<AtomicU64>::default();
        watchers.push(Watcher { number, filter, out, missed: missed.clone() });
        self.count.store(watchers.len(), Relaxed);
        Some(Watch { traces: self.clone(), number, lines, missed })
    }

    /// A tap for a session that begins, if anybody wants to see it. What it is about is asked only if somebody watches.
    pub fn begin(self: &Arc<Self>, about: impl FnOnce(u64) -> About) -> Option<Box<Tap>> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let about = Arc::new(about(self.next.fetch_add(1, Relaxed)));
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = watchers.iter().any(|watcher| watcher.filter.wants(&about));
        drop(watchers);
        if !wanted {
            return None;
        }
        let tap = Tap {
            traces: self.clone(),
            about,
            client: Side::default(),
            server: Side::default(),
            hidden: Hidden::Nothing,
        };
        tap.tell(From::Session, "begins");
        Some(Box::new(tap))
    }

    fn tell(&self, line: &Line) {
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter().filter(|watcher| watcher.filter.wants(&line.about)) {
            if watcher.out.try_send(line.clone()).is_err() {
                watcher.missed.fetch_add(1, Relaxed);
            }
        }
    }
}

/// A line that is coming.
#[derive(Debug, Default)]
struct Side {
    /// Its beginning.
    octets: Vec<u8>,
    /// All of its octets so far.
    length: u64,
}

impl Side {
    /// Takes octets up to the end of a line; what is left, and whether the line is whole.
    fn take<'a>(&mut self, octets: &'a [u8]) -> (&'a [u8], bool) {
        let end = octets.iter().position(|octet| *octet == b'\n').map_or(octets.len(), |at| at + 1);
        let (line, rest) = octets.split_at(end);
        let room = LINE_MAX.saturating_sub(self.octets.len()).min(line.len());
        self.octets.extend_from_slice(&line[..room]);
        self.length += line.len() as u64;
        (rest, line.last() == Some(&b'\n'))
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.length = 0;
    }

    /// What is shown of it.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.octets);
        let text = text.trim_end_matches(['\r', '\n']);
        let mut shown: String =
            text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        if self.length > LINE_MAX as u64 {
            shown.push('…');
        }
        shown
    }
}

/// What of the client is not shown now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    Nothing,
    /// An exchange of AUTH is under way.
    Auth,
    /// DATA was said; what follows the 354 is content.
    Awaiting,
    /// Content, of which so many octets came.
    Content(u64),
    /// A chunk of content: how much is to come, and how much it is.
    Chunk(u64, u64),
}

/// What hears a session.
#[derive(Debug)]
pub struct Tap {
    traces: Arc<Traces>,
    about: Arc<About>,
    client: Side,
    server: Side,
    hidden: Hidden,
}

impl Tap {
    fn tell(&self, from: From, text: &str) {
        self.traces.tell(&Line { at: SystemTime::now(), about: self.about.clone(), from, text: text.into() });
    }

    /// The client has said this.
    pub fn client(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if let Hidden::Chunk(left, all) = self.hidden {
                let now = left.min(octets.len() as u64);
                octets = &octets[now as usize..];
                self.hidden = Hidden::Chunk(left - now, all);
                if left == now {
                    self.hidden = Hidden::Nothing;
                    self.tell(From::Client, &format!("({all} octets of content)"));
                }
                continue;
            }
            let (rest, whole) = self.client.take(octets);
            octets = rest;
            if whole {
                self.client_line();
                self.client.clear();
            }
        }
    }

    fn client_line(&mut self) {
        if let Hidden::Content(so_far) = self.hidden {
            if self.client.octets == b".\r\n" {
                self.hidden = Hidden::Nothing;
                self.tell(From::Client, &format!("({so_far} octets of content)"));
                self.tell(From::Client, ".");
            } else {
                self.hidden = Hidden::Content(so_far + self.client.length);
            }
            return;
        }
        if self.hidden == Hidden::Auth {
            self.tell(From::Client, "(hidden: AUTH)");
            return;
        }
        let text = self.client.text();
        let mut words = text.split(' ');
        let verb = words.next().unwrap_or("").to_ascii_uppercase();
        match verb.as_str() {
            "AUTH" => {
                let mechanism = words.next().unwrap_or("").to_owned();
                let more = if words.next().is_some() { " (hidden)" } else { "" };
                self.hidden = Hidden::Auth;
                self.tell(From::Client, &format!("AUTH {mechanism}{more}"));
                return;
            }
            "DATA" => self.hidden = Hidden::Awaiting,
            "BDAT" => {
                let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
                if size > 0 {
                    self.hidden = Hidden::Chunk(size, size);
                }
            }
            // Each of the last three is a part of mail merge.
            "HELO" | "EHLO" | "LHLO" | "MAIL" | "RCPT" | "RSET" | "QUIT" | "NOOP" | "VRFY" | "EXPN"
            | "HELP" | "STARTTLS" | "XCLIENT" | "XFORWARD" | "XACK" | "XMRG" | "XPRT" => {}
            // Anything: a password that came too early among it.
            _ => {
                let length = self.client.length;
                self.tell(From::Client, &format!("({length} octets that are no command)"));
                return;
            }
        }
        self.tell(From::Client, &text);
    }

    /// The server has said this.
    pub fn server(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let (rest, whole) = self.server.take(octets);
            octets = rest;
            if whole {
                self.server_line();
                self.server.clear();
            }
        }
    }

    fn server_line(&mut self) {
        let text = self.server.text();
        let code = text.get(..3).unwrap_or("");
        let last = text.as_bytes().get(3) != Some(&b'-');
        match (self.hidden, code) {
            (Hidden::Auth, "334") => {
                self.tell(From::Server, "334 (hidden)");
                return;
            }
            (Hidden::Auth, _) if last => self.hidden = Hidden::Nothing,
            (Hidden::Awaiting, "354") if last => self.hidden = Hidden::Content(0),
            _ => {}
        }
        self.tell(From::Server, &text);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.tell(From::Session, "ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(session: u64, direction: Direction) -> About {
        About {
            direction,
            session: session.to_string(),
            peer: "192.0.2.7:25".parse().unwrap(),
            host: "MX.x.test".into(),
        }
    }

    fn seen(watch: &mut Watch) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(line) = watch.lines.try_recv() {
            let mark = match line.from {
                From::Session => '-',
                From::Client => 'C',
                From::Server => 'S',
            };
            all.push(format!("{mark} {}", line.text));
        }
        all
    }

    /// `C` and `S` with what they say, and what is seen of it.
    fn check(dialogue: &[(char, &str)], expected: &[&str]) {
        let traces = Arc::<Traces>::default();
        let mut watch = traces.watch(Filter::default()).unwrap();
        let mut tap = traces.begin(|n| about(n, Direction::In)).unwrap();
        for (who, text) in dialogue {
            // However it is cut, it reads the same.
            for octet in text.as_bytes().chunks(3) {
                if *who == 'C' { tap.client(octet) } else { tap.server(octet) }
            }
        }
        drop(tap);
        let seen = seen(&mut watch);
        assert_eq!(seen[1..seen.len() - 1], *expected);
        assert_eq!((seen[0].as_str(), seen[seen.len() - 1].as_str()), ("- begins", "- ends"));
    }

    #[test]
    fn content_is_counted_and_not_shown() {
        check(
            &[
                ('S', "220 x\r\n"),
                ('C', "MAIL FROM:<a@x.test>\r\nDATA\r\n"),
                ('S', "250-one\r\n250 two\r\n354 go\r\n"),
                ('C', "MAIL secret\r\n\r\nsecret\n.\nmore\r\n.\r\nBDAT 7 LAST\r\nRSET\r\nxQUIT\r\n"),
            ],
            &[
                "S 220 x",
                "C MAIL FROM:<a@x.test>",
                "C DATA",
                "S 250-one",
                "S 250 two",
                "S 354 go",
                "C (30 octets of content)",
                "C .",
                "C BDAT 7 LAST",
                "C (7 octets of content)",
                "C QUIT",
            ],
        );
    }

    #[test]
    fn no_credential_is_shown_whenever_it_comes() {
        check(
            &[
                ('C', "EHLO a\r\nAUTH PLAIN c2VjcmV0\r\n"),
                // The reply to EHLO comes while AUTH is under way already.
                ('S', "250 x\r\n"),
                ('C', "c2VjcmV0\r\n"),
                ('S', "235 fine\r\n"),
                ('C', "AUTH LOGIN\r\nc2VjcmV0\r\nQUIT\r\n"),
                ('S', "334 VXNlcm5hbWU6\r\n535 no\r\n"),
                ('C', "c2VjcmV0\r\nQUIT\r\n"),
            ],
            &[
                "C EHLO a",
                "C AUTH PLAIN (hidden)",
                "S 250 x",
                "C (10 octets that are no command)",
                "S 235 fine",
                "C AUTH LOGIN",
                "C (hidden: AUTH)",
                "C (hidden: AUTH)",
                "S 334 (hidden)",
                "S 535 no",
                "C (10 octets that are no command)",
                "C QUIT",
            ],
        );
    }

    #[test]
    fn what_cannot_be_shown_is_marked_and_what_is_long_cut() {
        let long = format!("NOOP {}\r\n", "x".repeat(5_000));
        let cut = format!("C NOOP {}…", "x".repeat(LINE_MAX - 5));
        check(&[('C', "NOOP \x1b[31m\0\u{fc}\r\n"), ('C', &long)], &["C NOOP \u{fffd}[31m\u{fffd}ü", &cut]);
    }

    #[test]
    fn filters_are_asked_and_nobody_is_waited_for() {
        let traces = Arc::<Traces>::default();
        assert!(traces.begin(|_| unreachable!("nobody watches")).is_none());
        let filter = Filter {
            direction: Some(Direction::Out),
            network: Some("192.0.2.0/24".parse().unwrap()),
            host: Some("x.test".into()),
        };
        let mut watch = traces.watch(filter).unwrap();
        assert!(traces.begin(|n| about(n, Direction::In)).is_none());
        let mut tap = traces.begin(|n| about(n, Direction::Out)).unwrap();
        for _ in 0..WAITING_MAX + 9 {
            tap.server(b"250 x\r\n");
        }
        assert_eq!((watch.missed(), watch.missed()), (10, 0));
        assert_eq!(seen(&mut watch).len(), WAITING_MAX);
        let more: Vec<Watch> = (1..WATCHERS_MAX).map(|_| traces.watch(Filter::default()).unwrap()).collect();
        assert!(traces.watch(Filter::default()).is_none());
        drop((watch, more));
        assert!(traces.begin(|_| unreachable!("nobody watches any more")).is_none());
        tap.server(b"250 x\r\n");
    }
}
