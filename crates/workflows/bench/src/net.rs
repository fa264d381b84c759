//! Threads that share one port: each has a runtime and a listening socket of its own, and the system spreads
//! connections over them. Nothing is handed from thread to thread, which is what makes the sink cheap.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::usage;

/// Connections the system holds for us until we accept them.
const BACKLOG: u32 = 4096;

/// Listening threads; dropping them closes everything they hold.
pub struct Workers {
    addr: SocketAddr,
    threads: Vec<(oneshot::Sender<()>, JoinHandle<()>, Option<u64>)>,
}

impl Workers {
    /// Listens on `addr` with `threads` threads (0: one per processor) and spawns `serve` for each
    /// connection on the thread that accepted it.
    pub fn start<F>(
        name: &str,
        addr: SocketAddr,
        threads: usize,
        serve: impl Fn(TcpStream, SocketAddr) -> F + Clone + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if addr.port() != 0 {
            // Several of our sockets share one port, and the system would let another program's share it too.
            drop(socket(addr, false)?);
        }
        let mut workers = Self { addr, threads: Vec::new() };
        for number in 0..thread_count(threads) {
            let (ready, is_ready) = mpsc::sync_channel(1);
            let (stop, stopped) = oneshot::channel();
            let (serve, addr) = (serve.clone(), workers.addr);
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || worker(addr, &serve, &ready, stopped))?;
            let started = is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")));
            let (addr, id) = started?;
            workers.addr = addr;
            workers.threads.push((stop, thread, id));
        }
        Ok(workers)
    }

    /// Where they listen.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// CPU time the threads have used so far.
    pub fn cpu(&self) -> Duration {
        self.threads.iter().filter_map(|(.., id)| *id).map(usage::task_cpu).sum()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let (stops, threads): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.threads).into_iter().map(|(stop, thread, _)| (stop, thread)).unzip();
        drop(stops);
        for thread in threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// 0 stands for one per processor.
pub fn thread_count(wanted: usize) -> usize {
    if wanted > 0 { wanted } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// A mutex whose holders do not panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

fn socket(addr: SocketAddr, shares_port: bool) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(shares_port)?;
    socket.bind(addr)?;
    Ok(socket)
}

type Started = io::Result<(SocketAddr, Option<u64>)>;

fn worker<F>(
    addr: SocketAddr,
    serve: &impl Fn(TcpStream, SocketAddr) -> F,
    ready: &mpsc::SyncSender<Started>,
    stopped: oneshot::Receiver<()>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can start");
    runtime.block_on(async {
        let listening = socket(addr, true).and_then(|socket| {
            let listener = socket.listen(BACKLOG)?;
            let addr = listener.local_addr()?;
            Ok((listener, addr))
        });
        // Nobody hears us only when `start` has already failed.
        let listener = match listening {
            Ok((listener, addr)) => {
                let _ = ready.send(Ok((addr, usage::thread_id())));
                listener
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        tokio::select! {
            () = accept(&listener, serve) => {}
            _ = stopped => {}
        }
    });
}

async fn accept<F>(listener: &TcpListener, serve: &impl Fn(TcpStream, SocketAddr) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if stream.set_nodelay(true).is_ok() {
                    tokio::spawn(serve(stream, peer));
                }
            }
            // Out of descriptors, most likely: others will close.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
