//! `tuma spool`: looking at a stopped spool, and carrying its messages elsewhere.

use crate::config;
use crate::root::Root;
use anyhow::{Context, Result};
use mail::{Priority, SpoolId, UnixMillis};
use spool::tools::{self, ImportError, Listed, Report};
use spool::{OpenError, PendingRecipient, Stored};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// What `verify` ends with when something is not as it was written; 1 means that it could not look.
const DAMAGED: u8 = 3;
/// Recipients that `ls` names of one message.
const NAMED_MAX: usize = 3;
/// Octets of a header that `show` prints.
const HEADER_MAX: usize = 64 * 1024;
/// Problems that `verify` prints.
const PROBLEMS_MAX: usize = 1_000;

/// Look at a stopped spool, and carry its messages elsewhere. Run it as the user the server runs as.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Spool {
    /// Check every octet; ends with 0 if all is as it was written, with 3 if not. Changes nothing.
    Verify(Place),
    /// List the messages that somebody still waits for.
    Ls {
        #[command(flatten)]
        place: Place,
        /// At most so many.
        #[arg(long, default_value_t = 1_000)]
        max: u64,
    },
    /// Show one message: who waits, and its header.
    Show {
        #[command(flatten)]
        place: Place,
        /// The message's id.
        #[arg(value_parser = |text: &str| SpoolId::parse(text).ok_or("not the id of a message"))]
        id: SpoolId,
        /// Print nothing but the message itself, as it will be sent.
        #[arg(long)]
        content: bool,
    },
    /// Write every message that somebody waits for to a file. Changes nothing in the spool.
    Export {
        #[command(flatten)]
        place: Place,
        /// A file that does not exist yet; `-` is standard output.
        file: PathBuf,
    },
    /// Take in what `export` wrote, under new ids.
    Import {
        #[command(flatten)]
        place: Place,
        /// The file; `-` is standard input.
        file: PathBuf,
    },
}

/// Which spool.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The configuration that names the spool.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The spool's directory, in place of a configuration.
    #[arg(short, long, value_name = "DIR", conflicts_with = "config")]
    directory: Option<PathBuf>,
}

impl Place {
    fn settings(&self) -> Result<spool::Config> {
        if let Some(directory) = &self.directory {
            return Ok(spool::Config { directory: directory.clone(), ..spool::Config::default() });
        }
        let path = super::config_path(&self.config);
        match config::load::<Root>(&path, &config::process_environment) {
            Ok(loaded) => Ok(loaded.value.spool),
            Err(report) => {
                eprint!("{}", report.render(io::stderr().is_terminal()));
                anyhow::bail!("{} is not a configuration; or name the spool by --directory", path.display())
            }
        }
    }
}

impl Spool {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut out = BufWriter::new(io::stdout().lock());
        let result = self.run_to(&mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
        match result {
            // Whoever read has seen enough: `tuma spool ls | head`.
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            result => result.map(ExitCode::from),
        }
    }

    fn run_to(self, out: &mut dyn Write) -> Result<u8> {
        match self {
            Self::Verify(place) => verify(&place.settings()?.directory, out),
            Self::Ls { place, max } => ls(&place.settings()?.directory, max, out).map(|()| 0),
            Self::Show { place, id, content } => show(&place.settings()?.directory, id, content, out),
            Self::Export { place, file } => {
                let count = export(&place.settings()?.directory, &file, out)?;
                eprintln!("{} written", messages(count));
                Ok(0)
            }
            Self::Import { place, file } => {
                let count = import(&place.settings()?, &file)?;
                eprintln!("{} taken in", messages(count));
                Ok(0)
            }
        }
    }
}

/// Why a spool cannot be looked at, in words for whom the server's words would mislead.
fn unopened(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Owner { path, owner, .. } => {
            anyhow::anyhow!(
                "spool directory {} belongs to user {owner}; run this as that user",
                path.display()
            )
        }
        error => error.into(),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |error: &(dyn std::error::Error + 'static)| Some(error.downcast_ref::<io::Error>()?.kind());
    error.chain().any(|error| kind(error) == Some(io::ErrorKind::BrokenPipe))
}

fn messages(count: u64) -> String {
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

fn verify(directory: &Path, out: &mut dyn Write) -> Result<u8> {
    let Report { segments, spares, records, messages, recipients, octets, torn, problems } =
        tools::verify(directory).map_err(unopened)?;
    writeln!(out, "{}: {segments} segments in use, {spares} ready for reuse", directory.display())?;
    writeln!(
        out,
        "{records} records checked; {messages} messages with {recipients} recipients wait, {octets} octets"
    )?;
    if torn > 0 {
        writeln!(out, "{torn} torn by a crash before they were acknowledged: nothing is lost by that")?;
    }
    for problem in problems.iter().take(PROBLEMS_MAX) {
        let id = problem.id.map(|id| format!(", message {id}")).unwrap_or_default();
        let needed = if problem.needed { "" } else { ", which nobody waits for" };
        let (file, offset, octets, reason) = (&problem.file, problem.offset, problem.octets, problem.reason);
        writeln!(out, "{file}: at {offset}, {octets} octets: {reason}{id}{needed}")?;
    }
    if problems.len() > PROBLEMS_MAX {
        writeln!(out, "… and {} more", problems.len() - PROBLEMS_MAX)?;
    }
    if problems.is_empty() {
        writeln!(out, "all is as it was written")?;
        return Ok(0);
    }
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    writeln!(out, "{count} found; the server sets such places aside when it starts, and loads the rest")?;
    Ok(DAMAGED)
}

fn ls(directory: &Path, max: u64, out: &mut dyn Write) -> Result<()> {
    let now = UnixMillis::from(SystemTime::now());
    let (mut count, mut more, mut written) = (0, false, Ok(()));
    tools::list(directory, |listed| {
        more = count == max;
        if !more {
            count += 1;
            written = line(&listed, now, out);
        }
        !more && written.is_ok()
    })
    .map_err(unopened)?;
    written?;
    if more {
        writeln!(out, "… and more; see --max")?;
    }
    Ok(())
}

/// One message in one line.
fn line(listed: &Listed, now: UnixMillis, out: &mut dyn Write) -> io::Result<()> {
    let Listed { message, pending, .. } = listed;
    let all = &message.envelope.recipients;
    let named: Vec<&str> = pending
        .iter()
        .take(NAMED_MAX)
        .filter_map(|p| Some(all.get(usize::from(p.index))?.path.as_str()))
        .collect();
    let more = match pending.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let attempts = pending.iter().map(|p| p.attempts).max().unwrap_or(0);
    let due = pending.iter().filter_map(|p| p.due).min();
    let (id, from, size) = (message.id, &message.envelope.reverse_path, message.size);
    let text = format!(
        "{id}  <{from}> -> {}{more}  {size} octets, {attempts} attempts, {}",
        named.join(", "),
        when(due, now)
    );
    writeln!(out, "{}", shown(&text))
}

fn when(due: Option<UnixMillis>, now: UnixMillis) -> String {
    match due.map(|due| due.0.saturating_sub(now.0) / 1_000) {
        None | Some(0) => "due".into(),
        Some(seconds) => format!("due in {seconds} s"),
    }
}

fn show(directory: &Path, id: SpoolId, content: bool, out: &mut dyn Write) -> Result<u8> {
    let Some((listed, stored)) = tools::find(directory, id).map_err(unopened)? else {
        eprintln!("tuma: nobody waits for a message {id} in {}", directory.display());
        return Ok(1);
    };
    if content {
        out.write_all(&stored.content.prefix)?;
        out.write_all(&stored.content.body)?;
    } else {
        describe(&listed, &stored, UnixMillis::from(SystemTime::now()), out)?;
    }
    Ok(0)
}

fn describe(listed: &Listed, stored: &Stored, now: UnixMillis, out: &mut dyn Write) -> io::Result<()> {
    let message = &listed.message;
    let (envelope, origin) = (&message.envelope, &message.origin);
    let mut date = Vec::new();
    message::write_date(&mut date, message.received_at);
    let mut fact = |name: &str, value: &str| writeln!(out, "{name:<12}{}", shown(value));
    fact("id", &message.id.to_string())?;
    fact("received", &String::from_utf8_lossy(&date))?;
    if let Some(peer) = origin.peer {
        fact("client", &format!("{peer}, {}", origin.helo))?;
    }
    if let Some(user) = &origin.user {
        fact("user", user)?;
    }
    fact("listener", &origin.listener)?;
    fact("size", &format!("{} octets", message.size))?;
    fact("from", &format!("<{}>", envelope.reverse_path))?;
    if let Some(envid) = &envelope.envid {
        fact("envelope id", envid)?;
    }
    let tags = &message.tags;
    let texts = [
        ("tenant", &tags.tenant),
        ("campaign", &tags.campaign),
        ("job", &tags.job),
        ("own id", &tags.envid),
        ("pool", &tags.pool),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            fact(name, text)?;
        }
    }
    if tags.priority != Priority::default() {
        fact("priority", tags.priority.as_str())?;
    }
    fact("recipients", &format!("{}, of whom {} wait:", envelope.recipients.len(), listed.pending.len()))?;
    for pending in &listed.pending {
        let PendingRecipient { index, attempts, due, last_reply, ambiguous } = pending;
        let Some(recipient) = envelope.recipients.get(usize::from(*index)) else { continue };
        fact("", &format!("<{}> {attempts} attempts, {}", recipient.path, when(*due, now)))?;
        if let Some(reply) = last_reply {
            fact("", &format!("  last reply: {reply}"))?;
        }
        if *ambiguous {
            fact("", "  an attempt was lost after the end of data: it may have arrived")?;
        }
    }
    writeln!(out)?;
    let text = &stored.content.to_vec();
    let end = text.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap_or(text.len());
    for line in String::from_utf8_lossy(&text[..end.min(HEADER_MAX)]).lines() {
        writeln!(out, "{}", shown(line))?;
    }
    if end > HEADER_MAX {
        writeln!(out, "… and {} octets more of header; see --content", end - HEADER_MAX)?;
    }
    Ok(())
}

/// What a terminal does not obey.
fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() && c != '\t' { c.escape_default().collect() } else { vec![c] })
        .collect()
}

fn export(directory: &Path, file: &Path, out: &mut dyn Write) -> Result<u64> {
    if file == Path::new("-") {
        return tools::export(directory, out).map_err(unopened);
    }
    let failed = || format!("cannot write {}", file.display());
    // Mail is nobody else's to read, and an export that was made before is not written over.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(failed)?;
    let mut writer = BufWriter::new(made);
    let count = match tools::export(directory, &mut writer) {
        Ok(count) => count,
        Err(error) => {
            drop(writer);
            let _ = std::fs::remove_file(file);
            return Err(unopened(error));
        }
    };
    let made = writer.into_inner().map_err(io::IntoInnerError::into_error).with_context(failed)?;
    made.sync_all().with_context(failed)?;
    Ok(count)
}

fn import(settings: &spool::Config, file: &Path) -> Result<u64> {
    let result = if file == Path::new("-") {
        tools::import(&settings.directory, settings, &mut io::stdin().lock())
    } else {
        let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        tools::import(&settings.directory, settings, &mut BufReader::new(input))
    };
    result.map_err(|error| match error {
        ImportError::Open(error) => unopened(error),
        error => anyhow::Error::new(error).context(
            "what was taken in before this stays; taking the same file in again would send it twice",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{Envelope, Mailbox, Message, Origin, Recipient, ReversePath, Tags};
    use spool::{Content, Draft};

    /// A spool with messages to this many recipients each.
    fn filled(directory: &Path, messages: &[usize]) -> Vec<SpoolId> {
        let settings = settings(directory);
        let (spool, _) = spool::open_directory(directory, &settings).unwrap();
        let ids = messages.iter().map(|recipients| {
            let recipient = |n| Recipient::new(Mailbox::parse(&format!("r{n}@x.test")).unwrap());
            let envelope = Envelope::new(
                ReversePath::Mailbox(Mailbox::parse("s@y.test").unwrap()),
                (0..*recipients).map(recipient).collect(),
            );
            let (id, origin) = (spool.next_id(), Origin { listener: "here".into(), ..Origin::default() });
            let body = b"Subject: \x1b[2Jhi\r\n\r\nbody\r\n".as_slice().into();
            let message = Message {
                id,
                received_at: UnixMillis(0),
                size: 0,
                envelope,
                origin,
                tags: Tags::default(),
                headers: Vec::new(),
                extras: None,
            };
            let content = Content { prefix: b"Received: here\r\n".as_slice().into(), body };
            spool.accept_blocking(Draft { message, content }).unwrap();
            id
        });
        let ids = ids.collect();
        spool.close();
        ids
    }

    fn settings(directory: &Path) -> spool::Config {
        spool::Config {
            directory: directory.into(),
            segment_bytes: settings::Size::kib(64),
            min_free_bytes: settings::Size(0),
            ..spool::Config::default()
        }
    }

    fn run(arguments: &[&str], directory: &Path) -> Result<(u8, String)> {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(subcommand)]
            spool: Spool,
        }
        let directory = directory.to_str().unwrap();
        let line = Line::parse_from([&["spool"], arguments, &["--directory", directory]].concat());
        let mut out = Vec::new();
        let code = line.spool.run_to(&mut out)?;
        Ok((code, String::from_utf8(out)?))
    }

    #[test]
    fn a_spool_is_listed_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        let ids = filled(folder.path(), &[1, 5, 1]);
        let (code, text) = run(&["ls"], folder.path()).unwrap();
        assert_eq!((code, text.lines().count()), (0, 3));
        assert!(text.starts_with(&format!("{}  <s@y.test> -> r0@x.test  ", ids[0])), "{text}");
        assert!(text.contains("r0@x.test, r1@x.test, r2@x.test and 2 more  "), "{text}");
        let (_, text) = run(&["ls", "--max", "2"], folder.path()).unwrap();
        assert_eq!(text.lines().last(), Some("… and more; see --max"));
        assert_eq!(text.lines().count(), 3);
        let (_, text) = run(&["ls", "--max", "3"], folder.path()).unwrap();
        assert_eq!(text.lines().count(), 3);

        let id = ids[1].to_string();
        let (code, text) = run(&["show", &id], folder.path()).unwrap();
        assert_eq!(code, 0);
        assert!(
            text.contains("recipients  5, of whom 5 wait:\n            <r0@x.test> 0 attempts, due\n"),
            "{text}"
        );
        assert!(text.ends_with("\nReceived: here\nSubject: \\u{1b}[2Jhi\n"), "{text}");
        let (_, text) = run(&["show", "--content", &id], folder.path()).unwrap();
        assert_eq!(text, "Received: here\r\nSubject: \x1b[2Jhi\r\n\r\nbody\r\n");
        let other = SpoolId(1).to_string();
        assert_eq!(run(&["show", &other], folder.path()).unwrap(), (1, String::new()));
    }

    #[test]
    fn a_spool_is_carried_elsewhere() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        filled(from.path(), &[1, 2]);
        let file = to.path().join("export");
        let name = file.to_str().unwrap();
        let other = to.path().join("spool");
        assert_eq!(run(&["export", name], from.path()).unwrap().0, 0);
        let error = run(&["export", name], from.path()).unwrap_err();
        assert!(format!("{error:#}").contains("exists"), "an export is not written over: {error:#}");
        assert_eq!(run(&["import", name], &other).unwrap().0, 0);
        assert_eq!(run(&["ls"], &other).unwrap().1.lines().count(), 2);
        let (_, text) = run(&["export", "-"], from.path()).unwrap();
        assert_eq!(text, std::fs::read_to_string(&file).unwrap());

        std::fs::write(&file, &text[..text.len() - 8]).unwrap();
        let error = format!("{:#}", run(&["import", name], &other).unwrap_err());
        assert!(
            error.starts_with("what was taken in before this stays") && error.contains("cut off"),
            "{error}"
        );
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path(), &[1, 1]);
        assert_eq!(run(&["verify"], folder.path()).unwrap().0, 0);
        let segment =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
                path.extension().is_some_and(|extension| extension == "seg")
                    && std::fs::read(path).unwrap().windows(4).any(|octets| octets == b"body")
            });
        let segment = segment.unwrap();
        let mut octets = std::fs::read(&segment).unwrap();
        let at = octets.windows(4).position(|octets| octets == b"body").unwrap();
        octets[at] ^= 1;
        std::fs::write(&segment, octets).unwrap();
        let (code, text) = run(&["verify"], folder.path()).unwrap();
        assert_eq!(code, DAMAGED, "{text}");
        assert!(text.contains("content damaged, message ") && text.contains("1 problem found"), "{text}");
        assert_eq!(run(&["ls"], folder.path()).unwrap().1.lines().count(), 1);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let says =
            |arguments: &[&str], directory: &Path| format!("{:#}", run(arguments, directory).unwrap_err());
        let (_running, _) = spool::open_directory(folder.path(), &settings(folder.path())).unwrap();
        let file = folder.path().join("export");
        for arguments in [&["verify"][..], &["ls"], &["export", file.to_str().unwrap()]] {
            let error = says(arguments, folder.path());
            assert!(error.contains("is in use by process ") && error.contains("stop it first"), "{error}");
        }
        assert!(!file.exists(), "a failed export leaves no file");
        let error = says(&["ls"], &folder.path().join("absent"));
        assert!(error.contains("absent"), "{error}");
    }
}
