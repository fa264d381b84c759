//! `tuma sendmail`: takes a message from standard input as the program of that name has for forty years, and hands
//! it to a listener on this machine.
//!
//! It is also what runs if this program is started by a link called `sendmail`.

use anyhow::{Context, Result, bail};
use compose::read_people;
use mail::UnixMillis;
use message::{Fields, take_out_fields, write_date};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Octets of a message at most.
const MESSAGE_MAX: u64 = 256 * 1024 * 1024;
/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(300);

// What callers know from <sysexits.h>.
const EX_USAGE: u8 = 64;
const EX_DATAERR: u8 = 65;
const EX_NOUSER: u8 = 67;
const EX_TEMPFAIL: u8 = 75;

/// Send a message from standard input, with the options of sendmail.
#[derive(Debug, clap::Args)]
#[command(after_help = "Options of sendmail that are known:
  -t          recipients stand in To, Cc and Bcc of the message; Bcc is taken out
  -i, -oi     a line with a dot alone does not end the message
  -f SENDER   the reverse-path, and From if the message has none; -r SENDER is the same
  -F NAME     the name in From if the message has none
Others are taken without effect, but for -bs, -bp and -q, which are refused.

The listener is 127.0.0.1:2525 unless TUMA_LISTEN says otherwise.
Exit codes are those of sysexits.h: 75 asks to try again later.

Example:
  printf 'To: ann@example.com\\nSubject: hello\\n\\nHello.\\n' | tuma sendmail -t -i -f me@acme.example")]
pub(super) struct Sendmail {
    /// The listener to hand the message to.
    #[arg(long, default_value = "127.0.0.1:2525", value_name = "ADDRESS:PORT", env = "TUMA_LISTEN")]
    target: SocketAddr,
    /// Options of sendmail, and recipients.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    from_header: bool,
    dots_are_text: bool,
    sender: Option<String>,
    name: Option<String>,
    recipients: Vec<String>,
}

impl Asked {
    fn read(arguments: &[String]) -> Result<Self> {
        let mut asked = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(option) = argument.strip_prefix('-').filter(|option| !option.is_empty()) else {
                asked.recipients.push(argument.clone());
                continue;
            };
            if option == "-" {
                asked.recipients.extend(rest.by_ref().cloned());
                break;
            }
            let (letter, value) = option.split_at(1);
            let mut text = |what: &str| -> Result<String> {
                match value {
                    "" => rest.next().cloned().with_context(|| format!("-{letter} takes {what}")),
                    value => Ok(value.to_owned()),
                }
            };
            match letter {
                "t" => asked.from_header = true,
                "i" => asked.dots_are_text = true,
                "o" if value == "i" => asked.dots_are_text = true,
                "f" | "r" => asked.sender = Some(text("an address")?),
                "F" => asked.name = Some(text("a name")?),
                "b" if matches!(value, "s" | "p" | "d" | "D") => {
                    bail!("-b{value} is not known here; the queue is shown by `tuma queue ls`")
                }
                "q" => bail!("-q is not known here; the queue is flushed by `tuma queue flush`"),
                // Options with a value of their own, without a meaning here.
                "B" | "C" | "h" | "L" | "N" | "O" | "p" | "R" | "V" | "X" | "o" => drop(text("a value")),
                _ => {}
            }
        }
        Ok(asked)
    }
}

impl Sendmail {
    /// For a link called `sendmail`.
    pub(super) fn by_name(arguments: Vec<String>) -> Self {
        let target = std::env::var("TUMA_LISTEN").ok().and_then(|text| text.parse().ok());
        Self { target: target.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 2525))), arguments }
    }

    pub(super) fn run(self) -> Result<ExitCode> {
        let asked = match Asked::read(&self.arguments) {
            Ok(asked) => asked,
            Err(error) => return Ok(failed(EX_USAGE, &error.to_string())),
        };
        let mut input = Vec::new();
        std::io::stdin().lock().take(MESSAGE_MAX + 1).read_to_end(&mut input)?;
        if input.len() as u64 > MESSAGE_MAX {
            return Ok(failed(EX_DATAERR, "the message is too large"));
        }
        let mut content = lines(&input, asked.dots_are_text);
        let mut recipients = asked.recipients.clone();
        if asked.from_header {
            match named(&content) {
                Ok(named) => recipients.extend(named),
                Err(error) => return Ok(failed(EX_DATAERR, &error)),
            }
        }
        if recipients.is_empty() {
            return Ok(failed(EX_USAGE, "no recipient is given, neither here nor, with -t, in the message"));
        }
        let begins = take_out_fields(&mut content, |field| field.is("Bcc") || field.is("Resent-Bcc"));
        content.drain(..begins);
        let sender = asked.sender.clone().unwrap_or_else(own_address);
        let content = completed(content, &asked, &sender);
        match hand_over(self.target, sender.trim_matches(['<', '>']), &recipients, &content) {
            Ok(refused) if refused.is_empty() => Ok(ExitCode::SUCCESS),
            Ok(refused) => {
                let permanent = refused.iter().all(|(_, reply)| reply.starts_with('5'));
                for (recipient, reply) in &refused {
                    eprintln!("sendmail: {recipient}: {reply}");
                }
                Ok(ExitCode::from(if permanent { EX_NOUSER } else { EX_TEMPFAIL }))
            }
            Err(error) => Ok(failed(EX_TEMPFAIL, &format!("{error:#}"))),
        }
    }
}

fn failed(code: u8, why: &str) -> ExitCode {
    eprintln!("sendmail: {why}");
    ExitCode::from(code)
}

fn own_address() -> String {
    let user =
        std::env::var("LOGNAME").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "postmaster".into());
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{user}@{}", host.unwrap_or_else(|| "localhost".into()))
}

/// The input with line ends as mail has them, up to a line with a dot alone unless that is text.
fn lines(input: &[u8], dots_are_text: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len() + input.len() / 32);
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"." && !dots_are_text {
            break;
        }
        // A lone CR in a line would be taken for its end by some.
        out.extend(line.iter().map(|byte| if *byte == b'\r' { b' ' } else { *byte }));
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The recipients that a header names.
fn named(content: &[u8]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for field in Fields::new(content).filter(|field| ["To", "Cc", "Bcc"].iter().any(|name| field.is(name))) {
        let people = read_people(&field.unfolded())
            .map_err(|error| format!("{}: {error}", String::from_utf8_lossy(field.name)))?;
        all.extend(people.into_iter().map(|person| person.email));
    }
    Ok(all)
}

/// The message with the fields that every message has.
fn completed(content: Vec<u8>, asked: &Asked, sender: &str) -> Vec<u8> {
    let scan = message::scan(&content);
    let now = UnixMillis::from(SystemTime::now());
    let mut out = Vec::with_capacity(content.len() + 300);
    if scan.from_fields == 0 {
        let clean = |text: &str| {
            text.chars().filter(|c| !c.is_control() && !"\"\\<>".contains(*c)).collect::<String>()
        };
        let shown = asked.name.as_deref().map(|name| format!("\"{}\" ", clean(name))).unwrap_or_default();
        out.extend_from_slice(format!("From: {shown}<{}>\r\n", clean(sender)).as_bytes());
    }
    if !scan.has_date {
        out.extend_from_slice(b"Date: ");
        write_date(&mut out, now);
        out.extend_from_slice(b"\r\n");
    }
    if !scan.has_message_id {
        let host = sender.rsplit('@').next().filter(|host| !host.is_empty()).unwrap_or("localhost");
        let host: String = host.chars().filter(|c| c.is_ascii_graphic() && !"<>".contains(*c)).collect();
        out.extend_from_slice(
            format!("Message-ID: <{}.{}@{host}>\r\n", now.0, std::process::id()).as_bytes(),
        );
    }
    if scan.needs_separator() {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(&content);
    out
}

/// Speaks SMTP with the listener; who was refused, and how.
fn hand_over(
    target: SocketAddr,
    sender: &str,
    recipients: &[String],
    content: &[u8],
) -> Result<Vec<(String, String)>> {
    let stream = TcpStream::connect_timeout(&target, Duration::from_secs(10))
        .with_context(|| format!("no listener answers at {target}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut client = Client { reader: BufReader::new(stream.try_clone()?), stream };
    client.expect(None, '2')?;
    let offered = client.expect(Some("EHLO localhost"), '2')?;
    let body = if !content.is_ascii() && offered.contains("8BITMIME") { " BODY=8BITMIME" } else { "" };
    let clean = |text: &str| text.bytes().all(|b| b > b' ' && b != 0x7f && !b"<>".contains(&b));
    if !clean(sender) {
        bail!("`{sender}` is no address to send from");
    }
    client.expect(Some(&format!("MAIL FROM:<{sender}>{body}")), '2')?;
    let mut refused = Vec::new();
    for recipient in recipients {
        let address = recipient.trim_matches(['<', '>']);
        let reply = match clean(address) {
            true => client.say(Some(&format!("RCPT TO:<{address}>")))?,
            false => "553 5.1.3 this is no address".to_owned(),
        };
        if !reply.starts_with('2') {
            refused.push((recipient.clone(), reply.trim_end().to_owned()));
        }
    }
    if refused.len() == recipients.len() {
        let _ = client.say(Some("QUIT"));
        return Ok(refused);
    }
    client.expect(Some("DATA"), '3')?;
    let mut stuffed = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend_from_slice(line);
    }
    client.stream.write_all(&stuffed)?;
    client.expect(Some("."), '2')?;
    let _ = client.say(Some("QUIT"));
    Ok(refused)
}

struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Says a line, if there is one, and takes the reply.
    fn say(&mut self, line: Option<&str>) -> Result<String> {
        if let Some(line) = line {
            self.stream.write_all(format!("{line}\r\n").as_bytes())?;
        }
        let mut reply = String::new();
        loop {
            let from = reply.len();
            if self.reader.by_ref().take(4_096).read_line(&mut reply)? == 0 {
                bail!("the listener closed the connection");
            }
            if reply.len() > 64 * 1024 || reply.as_bytes().get(from + 3) != Some(&b'-') {
                return Ok(reply);
            }
        }
    }

    fn expect(&mut self, line: Option<&str>, class: char) -> Result<String> {
        let reply = self.say(line)?;
        if !reply.starts_with(class) {
            bail!("{}", reply.trim_end());
        }
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Asked {
        Asked::read(&arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn options_as_callers_write_them() {
        let expected = Asked {
            from_header: true,
            dots_are_text: true,
            sender: Some("a@b.test".into()),
            name: Some("Ann Lee".into()),
            recipients: vec!["c@d.test".into(), "-odd@d.test".into()],
        };
        for arguments in [
            &["-t", "-i", "-f", "a@b.test", "-F", "Ann Lee", "c@d.test", "--", "-odd@d.test"][..],
            &[
                "-t",
                "-oi",
                "-fa@b.test",
                "-FAnn Lee",
                "-odb",
                "-oem",
                "-B8BITMIME",
                "-N",
                "never",
                "c@d.test",
                "--",
                "-odd@d.test",
            ],
            &[
                "-t",
                "-i",
                "-ra@b.test",
                "-F",
                "Ann Lee",
                "-v",
                "-U",
                "-O",
                "x=y",
                "c@d.test",
                "--",
                "-odd@d.test",
            ],
        ] {
            assert_eq!(read(arguments), expected, "{arguments:?}");
        }
        for refused in ["-bs", "-bp", "-q", "-f"] {
            assert!(Asked::read(&[refused.to_owned()]).is_err(), "{refused}");
        }
    }

    #[test]
    fn lines_and_fields() {
        assert_eq!(lines(b"a\n.\nb", false), b"a\r\n");
        assert_eq!(lines(b"a\r\n.\nb\rc", true), b"a\r\n.\r\nb c\r\n");
        let content = b"To: Ann <a@b.test>,\r\n c@d.test\r\nBcc: e@f.test\r\n\r\nTo: no@body.test\r\n";
        assert_eq!(named(content).unwrap(), ["a@b.test", "c@d.test", "e@f.test"]);
        let asked = Asked { name: Some("A\r\nBcc: x".into()), ..Asked::default() };
        let whole = String::from_utf8(completed(b"just text\r\n".to_vec(), &asked, "me@b.test")).unwrap();
        assert!(whole.starts_with("From: \"ABcc: x\" <me@b.test>\r\nDate: "), "{whole}");
        assert!(whole.ends_with("\r\n\r\njust text\r\n"), "{whole}");
    }
}
