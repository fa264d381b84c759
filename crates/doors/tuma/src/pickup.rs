//! The pickup directory: a program writes a message to a file beside it and renames the file in; it is mail once it is
//! there.
//!
//! A file is first renamed into `taking`, where nobody else puts any, so that neither a second file of its name nor
//! a link put in its place can be what is removed at the end. It is removed when the message is durable: a crash in
//! between sends it again, and loses nothing. What can never be mail goes to `bad`, with the reason beside it.

use crate::server::Server;
use compose::read_people;
use mail::{
    BodyType, Envelope, ForwardPath, Mailbox, Message, Origin, Protocol, Recipient, Reply, ReversePath,
    SpoolId, UnixMillis,
};
use message::{Fields, ReceivedField, add_missing, is_seven_bit, lines_within, take_out_fields};
use nix::fcntl::OFlag;
use reception::{Asked, Submission};
use settings::{Node, Problems, Text};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

/// Files looked at in one pass; the rest wait for the next, which follows at once.
const FILES_MAX: usize = 1_000;
/// Messages on their way to the disk at a time, and their octets, so that they share commits within bounds.
const UNDER_WAY_MAX: usize = 32;
const UNDER_WAY_OCTETS_MAX: u64 = 32 * 1024 * 1024;
/// Characters of a file's name that are kept, of up to four octets each: what is put around it must have room.
const NAME_MAX: usize = 40;
/// Octets of a line at most (RFC 5322 §2.1.1).
const LINE_MAX: usize = 998;
/// The listener that records name.
const LISTENER: &str = "pickup";

settings::table! {
    /// A directory that programs on this machine put messages into, each a file that is renamed in.
    #[check(PickupConfig::check)]
    pub struct PickupConfig {
        /// The directory; left out, there is none. The server's user must be able to write there, since it takes the
        /// files away; others who may write there may send mail.
        pub directory: Option<PathBuf> = None,
        /// How often it is looked at.
        #[in(50ms..=1h)]
        pub look_every: Duration = Duration::from_secs(1),
        /// Whose mail it is.
        pub tenant: Option<Text<routing::TagText>> = None,
        /// The pool that it leaves by.
        pub pool: Option<Text<routing::TagText>> = None,
    }
}

impl PickupConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.directory.as_ref().is_some_and(|directory| !directory.is_absolute()) {
            problems.error(node.at("directory"), "`pickup.directory` must begin with `/`");
        }
    }
}

/// The directory and its two folders, found sound.
#[derive(Clone, Debug)]
struct Place {
    directory: PathBuf,
    taking: PathBuf,
    bad: PathBuf,
}

impl Place {
    /// Looks who may write there, and makes what is missing.
    fn open(directory: &Path) -> Result<Self, String> {
        let shown = directory.display();
        let about = fs::symlink_metadata(directory).map_err(|error| format!("{shown}: {error}"))?;
        if !about.is_dir() {
            return Err(format!("{shown} is no directory, or a symbolic link to one"));
        }
        if about.mode() & 0o002 != 0 {
            return Err(format!(
                "everybody on this machine may write to {shown}, and so send mail: chmod o-w {shown}"
            ));
        }
        let place = Self {
            directory: directory.to_owned(),
            taking: directory.join("taking"),
            bad: directory.join("bad"),
        };
        for folder in [&place.taking, &place.bad] {
            match fs::DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(format!("{}: {error}", folder.display()));
                }
                _ => {}
            }
            let about =
                fs::symlink_metadata(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            if !about.is_dir() || about.uid() != nix::unistd::geteuid().as_raw() || about.mode() & 0o022 != 0
            {
                return Err(format!(
                    "{} must be a directory of this server's user that nobody else may write to",
                    folder.display()
                ));
            }
        }
        Ok(place)
    }

    /// Renames what lies ready into `taking`, and lists what is there, what was left before included.
    fn claim(&self, next_id: impl Fn() -> SpoolId) -> io::Result<Vec<PathBuf>> {
        let listed = |folder: &Path, ready: &dyn Fn(&Path) -> bool| -> io::Result<Vec<PathBuf>> {
            let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
            let ready = |path: &io::Result<PathBuf>| path.as_ref().map_or(true, |path| ready(path));
            entries.filter(ready).take(FILES_MAX).collect()
        };
        let mut claimed = listed(&self.taking, &|_| true)?;
        let mut found = listed(&self.directory, &|path| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            // What is still being written has a name of this kind, as everywhere. A folder stays where it is: ours
            // are among them.
            !name.is_empty()
                && !name.starts_with('.')
                && !name.ends_with(".tmp")
                && !fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
        })?;
        found.sort();
        for path in found.into_iter().take(FILES_MAX.saturating_sub(claimed.len())) {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            let short: String = name.chars().take(NAME_MAX).collect();
            let to = self.taking.join(format!("{}-{short}", next_id()));
            match fs::rename(&path, &to) {
                Ok(()) => claimed.push(to),
                // Somebody took it back.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // In the order of their ids, which is that in which they were found.
        claimed.sort();
        Ok(claimed)
    }

    /// Puts aside what can never be mail.
    fn put_aside(&self, file: &Path, why: &str) {
        let Some(name) = file.file_name() else { return };
        let to = self.bad.join(name);
        warn!(file = %to.display(), why, "a file was picked up that is no mail");
        if let Err(error) = fs::rename(file, &to) {
            error!(file = %file.display(), %error, "a file that is no mail could not be moved to `bad`");
            return;
        }
        let mut beside = to.into_os_string();
        beside.push(".why");
        if let Err(error) = fs::write(&beside, format!("{why}\n")) {
            error!(%error, "why a file is no mail could not be written beside it");
        }
    }
}

/// Why a file gave no message.
#[derive(Debug)]
enum Failure {
    /// It never will.
    Bad(String),
    /// Not now.
    Later(String),
}

/// Reads a file that a stranger may have made: a link, a device, one that is still written to.
fn read(path: &Path, size_max: u64) -> Result<Vec<u8>, Failure> {
    let later = |error: io::Error| Failure::Later(error.to_string());
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file: File = match opened {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            return Err(Failure::Bad("it is a symbolic link".into()));
        }
        // A socket.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENXIO as i32) => {
            return Err(Failure::Bad("it is no ordinary file".into()));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Failure::Bad("the server's user may not read it".into()));
        }
        Err(error) => return Err(later(error)),
    };
    let about = file.metadata().map_err(later)?;
    if !about.is_file() {
        return Err(Failure::Bad("it is no ordinary file".into()));
    }
    // A second name could be that of a file whose content the sender may not read.
    if about.nlink() != 1 {
        return Err(Failure::Bad("it has more than one name (hard links)".into()));
    }
    if about.mode() & 0o002 != 0 {
        return Err(Failure::Bad("everybody on this machine may write to it".into()));
    }
    if about.len() > size_max {
        return Err(Failure::Bad(format!(
            "it has {} octets; `smtp.message_size_max` is {size_max}",
            about.len()
        )));
    }
    let mut octets = Vec::with_capacity(about.len() as usize);
    file.take(size_max + 1).read_to_end(&mut octets).map_err(later)?;
    if octets.len() as u64 != about.len() {
        return Err(Failure::Bad("it was still written to; write it beside, and rename it in".into()));
    }
    Ok(octets)
}

/// What a file asks for.
#[derive(Debug, PartialEq, Eq)]
struct Picked {
    reverse_path: ReversePath,
    recipients: Vec<Mailbox>,
    job: Option<Box<str>>,
    envid: Option<Box<str>>,
    content: Vec<u8>,
}

/// Lines end with CRLF, and no CR or LF is alone.
fn with_line_ends(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 32);
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // A lone CR in a line would be taken for its end by some.
        out.extend(line.iter().map(|octet| if *octet == b'\r' { b' ' } else { *octet }));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The form of a pickup file: `X-Sender:` and `X-Receiver:` lines first, `X-Envid:` and `X-Job:` if wanted, then the
/// message. Without an `X-Receiver` To, Cc and Bcc name the recipients, and without an `X-Sender` From the sender.
fn parse(octets: &[u8], recipients_max: usize) -> Result<Picked, String> {
    if octets.contains(&0) {
        return Err("a message must not hold NUL".into());
    }
    let mut content = with_line_ends(octets);
    let mut sender = None;
    let mut recipients = Vec::new();
    let (mut job, mut envid) = (None, None);
    let mut begins = 0;
    for field in Fields::new(&content) {
        let value = field.unfolded();
        let address = value.trim().trim_start_matches('<').trim_end_matches('>');
        let wrong = |why: &dyn std::fmt::Display| format!("X-Sender or X-Receiver {:?}: {why}", value.trim());
        if field.is("X-Sender") {
            sender = Some(match address {
                "" => ReversePath::Null,
                address => ReversePath::Mailbox(Mailbox::parse(address).map_err(|why| wrong(&why))?),
            });
        } else if field.is("X-Receiver") {
            recipients.push(Mailbox::parse(address).map_err(|why| wrong(&why))?);
        } else if field.is("X-Job") {
            job = Some(mail::tag(&value).map_err(|why| format!("X-Job: {why}"))?);
        } else if field.is("X-Envid") {
            envid = Some(mail::tag(&value).map_err(|why| format!("X-Envid: {why}"))?);
        } else {
            break;
        }
        begins = field.end;
    }
    content.drain(..begins);
    if Fields::new(&content).next().is_none() {
        return Err("a message begins with its header fields, such as `Subject: …`".into());
    }
    let named = |names: &[&str]| -> Result<Vec<Mailbox>, String> {
        let mut all = Vec::new();
        for field in Fields::new(&content).filter(|field| names.iter().any(|name| field.is(name))) {
            let name = String::from_utf8_lossy(field.name).into_owned();
            let people = read_people(&field.unfolded()).map_err(|why| format!("{name}: {why}"))?;
            for person in people {
                all.push(person.mailbox().map_err(|why| format!("{name}: {why}"))?);
            }
        }
        Ok(all)
    };
    if recipients.is_empty() {
        recipients = named(&["To", "Cc", "Bcc"])?;
    }
    let reverse_path = match sender {
        Some(sender) => sender,
        None => ReversePath::Mailbox(
            named(&["From"])?.into_iter().next().ok_or("there is neither X-Sender nor a From field")?,
        ),
    };
    match recipients.len() {
        0 => return Err("nobody is named in X-Receiver, To, Cc or Bcc".into()),
        count if count > recipients_max => {
            return Err(format!("{count} recipients; `smtp.recipients_max` is {recipients_max}"));
        }
        _ => {}
    }
    if !lines_within(&content, LINE_MAX) {
        return Err("a line has at most 998 octets".into());
    }
    let begins = take_out_fields(&mut content, |field| field.is("Bcc") || field.is("Resent-Bcc"));
    content.drain(..begins);
    Ok(Picked { reverse_path, recipients, job, envid, content })
}

/// The message as it is handed in.
fn submission(server: &Server, config: &PickupConfig, picked: Picked, now: UnixMillis) -> Submission {
    let id = server.reception.next_id();
    let host = server.reception.host();
    let Picked { reverse_path, recipients, job, envid, content } = picked;
    let asked = Asked {
        tenant: config.tenant.as_ref().map(|tenant| tenant.as_str().into()),
        pool: config.pool.as_ref().map(|pool| pool.as_str().into()),
        job,
        envid,
        ..Asked::default()
    };
    let origin = Origin { protocol: Protocol::Internal, listener: LISTENER.into(), ..Origin::default() };
    let recipients: Vec<Recipient> = recipients.into_iter().map(Recipient::new).collect();
    let only: Option<ForwardPath> = match &recipients[..] {
        [one] => Some(one.path.clone()),
        _ => None,
    };
    let scan = message::scan(&content);
    let ascii = content[..scan.header_len].is_ascii()
        && reverse_path.as_str().is_ascii()
        && recipients.iter().all(|recipient| recipient.path.as_str().is_ascii());
    let mut envelope = Envelope::new(reverse_path, recipients);
    envelope.body = if is_seven_bit(&content) { BodyType::SevenBit } else { BodyType::EightBitMime };
    envelope.smtputf8 = !ascii;
    let mut prefix = Vec::with_capacity(320);
    let field = ReceivedField {
        origin: &origin,
        smtputf8: envelope.smtputf8,
        id,
        by: &host,
        for_recipient: only.as_ref(),
        at: now,
    };
    field.write(&mut prefix);
    add_missing(&mut prefix, &scan, id, &host, now);
    let content = spool::Content { prefix: prefix.into(), body: content.into() };
    Submission { id, at: now, envelope, origin, asked, extras: None, content }
}

/// Looks at the directory as long as the server lives; the configuration says which, at each look.
pub(crate) fn start(server: &Arc<Server>) {
    let server: Weak<Server> = Arc::downgrade(server);
    tokio::spawn(async move {
        let mut told = None;
        loop {
            let Some(server) = server.upgrade() else { return };
            let config = server.with_root(|root| root.pickup.clone());
            let (size_max, recipients_max) = server
                .with_root(|root| (root.smtp.message_size_max.bytes(), root.smtp.recipients_max as usize));
            let mut again = false;
            if let Some(directory) = config.directory.clone() {
                let look = Look { server: server.clone(), config: config.clone(), size_max, recipients_max };
                match look.pass(directory).await {
                    Ok(full) => (again, told) = (full, None),
                    // Said once, not every second.
                    Err(why) if told.as_ref() == Some(&why) => {}
                    Err(why) => {
                        error!(%why, "the pickup directory cannot be used");
                        told = Some(why);
                    }
                }
            }
            drop(server);
            if !again {
                tokio::time::sleep(config.look_every).await;
            }
        }
    });
}

struct Look {
    server: Arc<Server>,
    config: PickupConfig,
    size_max: u64,
    recipients_max: usize,
}

impl Look {
    /// Takes what is there. True if there may be more, and what was there could be taken.
    async fn pass(self, directory: PathBuf) -> Result<bool, String> {
        if self.server.reception.refusal_now(0).is_some() {
            return Ok(false);
        }
        let names = self.server.clone();
        let claimed = spawn_blocking(move || {
            let place = Place::open(&directory)?;
            let files = place.claim(|| names.reception.next_id()).map_err(|error| error.to_string())?;
            Ok::<_, String>((place, files))
        });
        let (place, files) = claimed.await.map_err(|error| error.to_string())??;
        let many = files.len() >= FILES_MAX;
        let mut files = files.into_iter();
        let mut some = false;
        loop {
            let mut group = Vec::new();
            let mut octets = 0;
            while group.len() < UNDER_WAY_MAX && octets < UNDER_WAY_OCTETS_MAX {
                let Some(file) = files.next() else { break };
                match self.read(&place, file.clone()).await {
                    Some(picked) => {
                        octets += picked.content.len() as u64;
                        group.push((file, picked));
                    }
                    None => continue,
                }
            }
            if group.is_empty() && files.len() == 0 {
                return Ok(many && some);
            }
            some |= !group.is_empty();
            if !self.hand_in(&place, group).await {
                return Ok(false);
            }
        }
    }

    /// A file read and understood; what never will be is put aside.
    async fn read(&self, place: &Place, file: PathBuf) -> Option<Picked> {
        let (place, server) = (place.clone(), self.server.clone());
        let (size_max, recipients_max) = (self.size_max, self.recipients_max);
        let work = move || {
            let picked =
                read(&file, size_max).and_then(|octets| parse(&octets, recipients_max).map_err(Failure::Bad));
            let picked = picked.and_then(|picked| {
                match picked.recipients.iter().find(|to| !server.reception.reaches(to.host())) {
                    Some(to) => Err(Failure::Bad(format!("{to}: relaying to this domain is not allowed"))),
                    None => Ok(picked),
                }
            });
            match picked {
                Ok(picked) => Some(picked),
                Err(Failure::Bad(why)) => {
                    place.put_aside(&file, &why);
                    None
                }
                Err(Failure::Later(why)) => {
                    warn!(file = %file.display(), why, "a file could not be picked up now");
                    None
                }
            }
        };
        spawn_blocking(work).await.ok().flatten()
    }

    /// Hands messages in together and removes the files of those that are durable. False if some must wait.
    async fn hand_in(&self, place: &Place, group: Vec<(PathBuf, Picked)>) -> bool {
        let now = UnixMillis::from(SystemTime::now());
        let mut under_way = Vec::with_capacity(group.len());
        let mut all = true;
        for (file, picked) in group {
            let refusal = self.server.reception.refusal_now(picked.content.len() as u64);
            let reserved = match refusal {
                Some(reply) => Err(reply),
                None => self.server.reception.place().await,
            };
            match reserved {
                Ok(reserved) => {
                    let submission = submission(&self.server, &self.config, picked, now);
                    let reception = self.server.reception.clone();
                    let taken = tokio::spawn(async move { reception.submit(reserved, submission).await });
                    under_way.push((file, taken));
                }
                Err(reply) => {
                    warn!(file = %file.display(), %reply, "a file could not be picked up now");
                    all = false;
                }
            }
        }
        for (file, taken) in under_way {
            let taken: Result<Arc<Message>, Reply> =
                taken.await.unwrap_or_else(|_| Err(Reply::new(451, (4, 3, 0), "internal error")));
            let place = place.clone();
            let settled = spawn_blocking(move || match taken {
                Ok(message) => match fs::remove_file(&file) {
                    Ok(()) => {
                        info!(id = %message.id, file = %file.display(), "picked up");
                        true
                    }
                    Err(error) => {
                        error!(file = %file.display(), %error, "a file was taken and cannot be removed; it would be sent again");
                        false
                    }
                },
                Err(reply) if reply.is_transient() => false,
                Err(reply) => {
                    place.put_aside(&file, &reply.text);
                    true
                }
            });
            all &= settled.await.unwrap_or(false);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(text: &str) -> Result<Picked, String> {
        parse(text.as_bytes(), 3)
    }

    #[test]
    fn receivers_and_sender_stand_before_the_message() {
        let picked = read_of(
            "x-sender: b@acme.test\nX-Receiver: <a@x.test>\r\nx-receiver: c@x.test\nX-Job: j\nx-envid: 7\n\
             From: a@acme.test\nTo: all@x.test\nBcc: secret@x.test\nX-Receiver: z@x.test\n\nlone\rCR",
        )
        .unwrap();
        assert_eq!(picked.reverse_path.as_str(), "b@acme.test");
        assert_eq!(
            picked.recipients.iter().map(Mailbox::as_str).collect::<Vec<_>>(),
            ["a@x.test", "c@x.test"]
        );
        assert_eq!((picked.job.as_deref(), picked.envid.as_deref()), (Some("j"), Some("7")));
        let text = String::from_utf8(picked.content).unwrap();
        assert_eq!(text, "From: a@acme.test\r\nTo: all@x.test\r\nX-Receiver: z@x.test\r\n\r\nlone CR\r\n");
        let picked = read_of("X-Sender:\nX-Receiver: a@x.test\nSubject: x\n\n").unwrap();
        assert_eq!(picked.reverse_path, ReversePath::Null);
    }

    #[test]
    fn the_header_names_them_otherwise() {
        let picked = read_of("From: A <a@acme.test>\nTo: x@x.test\nBcc: y@x.test\n\nhello\n").unwrap();
        assert_eq!(picked.reverse_path.as_str(), "a@acme.test");
        assert_eq!(
            picked.recipients.iter().map(Mailbox::as_str).collect::<Vec<_>>(),
            ["x@x.test", "y@x.test"]
        );
        assert!(!String::from_utf8(picked.content).unwrap().contains("y@x.test"));
    }

    #[test]
    fn what_is_no_mail_says_why() {
        for (text, why) in [
            ("", "header fields"),
            ("just text\n", "header fields"),
            ("X-Receiver: a@x.test\nSubject: x\n\n", "neither X-Sender nor a From"),
            ("From: a@x.test\n\nx", "nobody is named"),
            ("X-Sender: a b@c\nX-Receiver: a@x.test\nSubject: x\n\n", "X-Sender"),
            ("From: a@x.test\nTo: 1@x.test, 2@x.test, 3@x.test, 4@x.test\n\n", "4 recipients"),
            ("From: a@x.test\nTo: a@x.test\n\n\0", "NUL"),
        ] {
            let said = read_of(text).unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
        let long = format!("From: a@x.test\nTo: a@x.test\n\n{}", "x".repeat(999));
        assert!(read_of(&long).unwrap_err().contains("998"));
    }
}
