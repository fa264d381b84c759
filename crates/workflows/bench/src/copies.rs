//! What the machine asks for moving a message's octets: the measure for what a server makes of them.
//!
//! A relay cannot do with less than four copies: from the client's socket, into its own memory, to the disk, to
//! the next hop's socket. What four copies cost depends on where they go, so they are measured three ways, in CPU of
//! the one thread that makes them.

use crate::json;
use crate::usage::thread_cpu;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Octets written before they are read: no more than a fresh TCP connection takes at once.
const CHUNK: usize = 60 * 1024;
/// Memory that copies go to in turn, in octets: more than the nearest caches hold, as a server's messages are.
const ARENA: usize = 8 << 20;

/// CPU for copying a message of one size four times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Octets of the message.
    pub size: usize,
    /// From memory to memory.
    pub memory: Duration,
    /// Twice into and out of a pair of Unix sockets.
    pub pair: Duration,
    /// Twice into and out of a TCP connection on loopback: the two ends of a relay, with the protocol's work.
    pub loopback: Duration,
}

impl Copies {
    /// Measures over so many messages.
    pub fn measure(size: usize, messages: u32) -> io::Result<Self> {
        let (mut one, mut other) = UnixStream::pair()?;
        let pair = through(&mut one, &mut other, size, messages)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        let loopback = through(&mut client, &mut server, size, messages)?;
        Ok(Self { size, memory: in_memory(size, messages), pair, loopback })
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let us = |cpu: Duration| format!("{:.2}", cpu.as_secs_f64() * 1e6);
        json::Object::default()
            .raw("size", self.size)
            .raw("memory_us", us(self.memory))
            .raw("pair_us", us(self.pair))
            .raw("loopback_us", us(self.loopback))
            .end()
    }
}

impl std::fmt::Display for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = |cpu: Duration| cpu.as_secs_f64() * 1e6;
        write!(
            f,
            "copying {} octets four times: {:.1} µs in memory, {:.1} µs through a pair of sockets, {:.1} µs through TCP on loopback",
            self.size,
            us(self.memory),
            us(self.pair),
            us(self.loopback),
        )
    }
}

fn in_memory(size: usize, messages: u32) -> Duration {
    let mut arena = vec![7u8; ARENA.max(size * 8)];
    let places = arena.len() / size.max(1);
    let began = thread_cpu();
    for n in 0..messages as usize * 4 {
        let (from, to) = (n % places * size, (n + places / 2) % places * size);
        arena.copy_within(from..from + size, to);
        black_box(&mut arena);
    }
    (thread_cpu() - began) / messages.max(1)
}

fn through(into: &mut impl Write, out: &mut impl Read, size: usize, messages: u32) -> io::Result<Duration> {
    let arena = ARENA.max(size * 8);
    let (from, mut to) = (vec![7u8; arena], vec![0u8; arena]);
    let places = arena / size.max(1);
    let mut n = 0;
    let mut pass = || -> io::Result<()> {
        let place = n % places * size..(n % places + 1) * size;
        n += 1;
        for (from, to) in from[place.clone()].chunks(CHUNK).zip(to[place].chunks_mut(CHUNK)) {
            into.write_all(from)?;
            out.read_exact(to)?;
        }
        Ok(())
    };
    // The connection grows its windows first.
    (0..20).try_for_each(|_| pass())?;
    let began = thread_cpu();
    (0..messages.saturating_mul(2)).try_for_each(|_| pass())?;
    let cpu = thread_cpu() - began;
    let filled = ..n.min(places) * size;
    if to[filled] != from[filled] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(cpu / messages.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_carries_messages_of_all_sizes() {
        for size in [1, 4096, CHUNK, CHUNK + 1, 300_000] {
            // What comes out is compared with what went in; how long it took is no matter for a test.
            assert_eq!(Copies::measure(size, 20).unwrap().size, size);
        }
    }
}
