//! What an idle connection costs: `cargo run -p net --example idle_memory [connections]`.
//!
//! This process listens and holds the connections as a session would, each in a task that waits until its
//! stream is readable, after it has carried 64 KB; a child process is the clients. Prints resident memory a connection, plain and TLS.

use net::tls::{Acceptor, AcceptorConfig, Certificates, Connector, ConnectorConfig, Policy};
use net::{Bound, Descriptors, Dialer, EgressSource, Limits, LimitsConfig, ListenerConfig, TcpDialer};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

/// Octets that each connection carries before it is idle.
const CARRIED: usize = 64 * 1024;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clients", address, count, tls] => clients(address.parse()?, count.parse()?, tls == "tls").await,
        [count] => both(count.parse()?).await,
        _ => both(2_000).await,
    }
}

async fn both(count: usize) -> Result<()> {
    let limits = Limits::new(LimitsConfig::default(), Descriptors::raise());
    for tls in [false, true] {
        let certificates = Certificates::self_signed(&["localhost"]).map_err(|e| e.to_string())?;
        let acceptor = Acceptor::new(certificates, &AcceptorConfig::default()).map_err(|e| e.to_string())?;
        let bound = Bound::bind("127.0.0.1:0".parse()?, &ListenerConfig::default())?;
        let listener = bound.start(limits.clone())?;
        let mut children: Vec<Child> = Vec::new();
        let mut before = 0;
        let mut tasks = Vec::new();
        // A few first, so that what is allocated once is not counted.
        for batch in [50, count] {
            before = resident_octets()?;
            children.push(spawn_clients(listener.local_addr(), batch, tls)?);
            for _ in 0..batch {
                let accepted = listener.accept().await;
                let slot = accepted.admission.map_err(|refusal| refusal.why().to_string())?;
                let mut stream = accepted.stream;
                if tls {
                    stream = acceptor.accept(stream).await.map_err(|e| e.to_string())?;
                }
                tasks.push(tokio::spawn(async move {
                    let _slot = slot;
                    let mut buffer = vec![0; CARRIED];
                    let _ = stream.read_exact(&mut buffer).await;
                    drop(buffer);
                    let _ = stream.write_all(b"220 idle\r\n").await;
                    let _ = stream.readable().await;
                }));
            }
            sleep(Duration::from_secs(1)).await;
        }
        let grown = resident_octets()?.saturating_sub(before) as f64;
        let kind = if tls { "TLS" } else { "plain" };
        println!("{kind}: {count} connections, {:.1} KB each", grown / count as f64 / 1024.0);
        for mut child in children {
            child.kill()?;
            child.wait()?;
        }
        for task in tasks {
            task.await?;
        }
    }
    Ok(())
}

fn spawn_clients(address: SocketAddr, count: usize, tls: bool) -> Result<Child> {
    let arguments = ["clients", &address.to_string(), &count.to_string(), if tls { "tls" } else { "plain" }]
        .map(str::to_owned);
    Ok(Command::new(std::env::current_exe()?).args(arguments).stdin(Stdio::null()).spawn()?)
}

async fn clients(address: SocketAddr, count: usize, tls: bool) -> Result<()> {
    Descriptors::raise();
    let connector = Connector::new(&ConnectorConfig::default()).map_err(|e| e.to_string())?;
    let name = mail::Host::parse("localhost").map_err(|e| e.to_string())?;
    let mut held = Vec::new();
    for _ in 0..count {
        let deadline = Instant::now() + Duration::from_secs(10);
        let source = EgressSource::default();
        let mut stream = TcpDialer.dial(&source, address, deadline).await?;
        if tls {
            let policy = Policy::Opportunistic;
            stream = connector.connect(stream, &name, &policy, deadline).await.map_err(|e| e.to_string())?;
        }
        stream.write_all(&[b'x'; CARRIED]).await?;
        stream.flush().await?;
        held.push(stream);
    }
    std::future::pending().await
}

/// Resident memory of this process.
fn resident_octets() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}
