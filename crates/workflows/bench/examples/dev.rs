//! The bench from the command line, until and beside `tuma bench` and `tuma sink`. `bench/compare` drives it.
//!
//! ```text
//! dev bench --target 127.0.0.1:2525 --messages 100000 [--json]
//! dev sink --listen 127.0.0.1:2600 [--rule TEXT]…     commands on stdin: stats, json, reset, rule TEXT, quit
//! dev bare-relay --listen 127.0.0.1:2525 --next-hop 127.0.0.1:2600 [--fresh] [--serve]
//! dev ceiling [the loader's options]
//! ```

use std::io::{BufRead, Write};
use std::time::Duration;

use bench::loader::{self, Amount, Credentials, Tls};
use bench::relay::{self, Relay};
use bench::sink::{self, Keep, Rule, Sink};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().ok_or("wanted: bench, sink, bare-relay or ceiling")?;
    let arguments = Arguments(arguments.collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command.as_str() {
        "bench" => {
            let report = runtime.block_on(loader::run(loader_options(&arguments)?));
            if arguments.has("json") { println!("{}", report.to_json()) } else { println!("{report}") }
        }
        "sink" => serve_sink(&arguments)?,
        "bare-relay" => {
            let defaults = relay::Options::default();
            let relay = Relay::start(relay::Options {
                listen: arguments.value("listen", defaults.listen)?,
                next_hop: arguments.value("next-hop", defaults.next_hop)?,
                fresh: arguments.has("fresh"),
                threads: arguments.value("threads", 0)?,
            })?;
            println!("listening on {}", relay.addr());
            if arguments.has("serve") {
                loop {
                    std::thread::park();
                }
            }
            // Until stdin is closed.
            std::io::stdin().lock().lines().for_each(drop);
            println!("{:.3} s of CPU", relay.cpu().as_secs_f64());
        }
        "ceiling" => {
            let ceiling =
                runtime.block_on(bench::ceiling(loader_options(&arguments)?, sink_options(&arguments)?))?;
            if arguments.has("json") { println!("{}", ceiling.to_json()) } else { println!("{ceiling}") }
        }
        other => return Err(format!("unknown command {other}").into()),
    }
    Ok(())
}

fn serve_sink(arguments: &Arguments) -> Result<(), Failure> {
    let sink = Sink::start(sink_options(arguments)?)?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", sink.addr())?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((line.as_str(), "")) {
            ("stats", _) => writeln!(out, "{}", sink.stats())?,
            ("json", _) => writeln!(out, "{}", sink.stats().to_json())?,
            ("reset", _) => {
                sink.reset();
                writeln!(out, "ok")?;
            }
            ("rule", text) => {
                let rules = if text.is_empty() { Vec::new() } else { vec![text.parse::<Rule>()?] };
                sink.set_rules(rules);
                writeln!(out, "ok")?;
            }
            ("quit", _) => break,
            _ => writeln!(out, "unknown")?,
        }
        out.flush()?;
    }
    Ok(())
}

/// `--name value` and `--name`, in any order.
struct Arguments(Vec<String>);

impl Arguments {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word.strip_prefix("--") == Some(name))
    }

    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word.strip_prefix("--") == Some(name))?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn value<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, Failure> {
        self.text(name).map_or(Ok(default), |text| {
            text.parse().map_err(|_| format!("--{name} does not take {text:?}").into())
        })
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .windows(2)
            .filter(move |pair| pair[0].strip_prefix("--") == Some(name))
            .map(|pair| pair[1].as_str())
    }
}

fn loader_options(arguments: &Arguments) -> Result<loader::Options, Failure> {
    let defaults = loader::Options::default();
    let amount = match arguments.text("seconds") {
        Some(_) => Amount::Time(Duration::from_secs_f64(arguments.value("seconds", 10.0)?)),
        None => Amount::Messages(arguments.value("messages", 100_000)?),
    };
    Ok(loader::Options {
        target: arguments.value("target", defaults.target)?,
        amount,
        size: arguments.value("size", defaults.size)?,
        connections: arguments.value("connections", defaults.connections)?,
        messages_per_connection: arguments.value("messages-per-connection", 0)?,
        recipients: arguments.value("recipients", 1)?,
        recipient_domains: arguments.value("domains", 1)?,
        recipient_domain: arguments.value("domain", defaults.recipient_domain)?,
        recipient: arguments.text("to").map(str::to_owned),
        sender: arguments.value("from", defaults.sender)?,
        rate: arguments.text("rate").map(str::parse).transpose()?,
        pipelining: !arguments.has("no-pipelining"),
        overlap: arguments.has("overlap"),
        chunking: arguments.has("bdat"),
        auth: credentials(arguments),
        tls: match (arguments.has("starttls"), arguments.has("tls")) {
            (true, _) => Tls::Starttls,
            (_, true) => Tls::Implicit,
            _ => Tls::Off,
        },
        threads: arguments.value("threads", 0)?,
        timeout: Duration::from_secs_f64(arguments.value("timeout", 120.0)?),
        failures_max: arguments.value("failures-max", defaults.failures_max)?,
        ..defaults
    })
}

fn credentials(arguments: &Arguments) -> Option<Credentials> {
    let (user, password) = arguments.text("auth")?.split_once(':')?;
    Some(Credentials { user: user.into(), password: password.into() })
}

fn sink_options(arguments: &Arguments) -> Result<sink::Options, Failure> {
    let defaults = sink::Options::default();
    Ok(sink::Options {
        listen: arguments.value("listen", defaults.listen)?,
        threads: arguments.value("sink-threads", arguments.value("threads", 0)?)?,
        rules: arguments.all("rule").map(str::parse).collect::<Result<_, _>>()?,
        keep: arguments.text("keep").map_or(Keep::Nothing, |folder| Keep::Folder(folder.into())),
        strict: arguments.has("strict"),
        chunking: arguments.has("chunking"),
        pipelining: !arguments.has("without-pipelining"),
        tls: if arguments.has("starttls") || arguments.has("tls") {
            Some(bench::tls::self_signed(&["sink.test"])?)
        } else {
            None
        },
        implicit_tls: arguments.has("tls"),
        auth: credentials(arguments),
        ..defaults
    })
}
