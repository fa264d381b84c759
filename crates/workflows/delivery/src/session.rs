//! The driver of one client session: moves octets between a connection and the machine, and waits.

use mail::Reply;
use net::Stream;
use net::trace::Tap;
use smtp::client::{Client, Event};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

thread_local! {
    /// What is read lands here and is taken by the machine at once, so a connection owns no read buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 16 * 1024].into_boxed_slice());
}

/// Pieces of output in one write: commands, the content of a message, its end with the next commands, and the next
/// content.
const SLICES_MAX: usize = 8;

/// A connection and its machine.
pub(crate) struct Session {
    pub(crate) stream: Stream,
    pub(crate) client: Client,
    timer: Pin<Box<Sleep>>,
    needs_flush: bool,
    /// Who watches, if anybody does.
    pub(crate) tap: Option<Box<Tap>>,
}

/// What ended a wait.
pub(crate) enum Turn<T> {
    /// The machine has something to say.
    Event(Event),
    /// What the caller waits for besides happened.
    Other(T),
    /// The caller's own deadline has come.
    Deadline,
}

impl Session {
    pub(crate) fn new(stream: Stream, client: Client, tap: Option<Box<Tap>>) -> Self {
        Self { stream, client, timer: Box::pin(sleep_until(Instant::now())), needs_flush: false, tap }
    }

    /// Goes on until the machine has an event, `other` is ready, or `deadline` has come. After `Failed` or
    /// `Closed` it must not be called again.
    pub(crate) async fn turn<T>(
        &mut self,
        deadline: Option<Instant>,
        mut other: impl FnMut(&Client, &mut Context<'_>) -> Poll<T>,
    ) -> Turn<T> {
        poll_fn(|cx| {
            loop {
                if let Some(event) = self.client.event() {
                    return Poll::Ready(Turn::Event(event));
                }
                let wrote = self.write(cx);
                if let Poll::Ready(value) = other(&self.client, cx) {
                    return Poll::Ready(Turn::Other(value));
                }
                let read = self.read(cx);
                if wrote || read {
                    continue;
                }
                let wake_at = self.client.wake_at().map(Instant::from_std);
                let Some(at) = [wake_at, deadline].into_iter().flatten().min() else { return Poll::Pending };
                if self.timer.deadline() != at {
                    self.timer.as_mut().reset(at);
                }
                if self.timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Poll::Ready(Turn::Deadline);
                }
                self.client.wake(Instant::now().into_std());
            }
        })
        .await
    }

    /// Writes what it can; true if something went.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while self.client.has_output() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut pieces = 0;
            for (slice, piece) in slices.iter_mut().zip(self.client.output()) {
                *slice = IoSlice::new(piece);
                pieces += 1;
            }
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..pieces]) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    if let Some(tap) = &mut self.tap {
                        let mut left = count;
                        for slice in &slices[..pieces] {
                            let told = left.min(slice.len());
                            tap.client(&slice[..told]);
                            left -= told;
                        }
                    }
                    self.client.sent(Instant::now().into_std(), count);
                    self.needs_flush = true;
                    any = true;
                }
                Poll::Ready(Ok(_)) => {
                    self.lost(&io::ErrorKind::WriteZero.into());
                    return true;
                }
                Poll::Ready(Err(error)) => {
                    // What the peer said before it closed may still be there to read, and says more.
                    while self.read(cx) {}
                    self.lost(&error);
                    return true;
                }
                Poll::Pending => break,
            }
        }
        if self.needs_flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                Poll::Ready(Err(error)) => {
                    self.lost(&error);
                    return true;
                }
                Poll::Pending => {}
            }
        }
        any
    }

    /// Reads what is there; true if something was, the end included.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => false,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    self.client.disconnected(Reply::new(451, (4, 4, 2), "connection closed by the next hop"));
                    true
                }
                Poll::Ready(Ok(())) => {
                    if let Some(tap) = &mut self.tap {
                        tap.server(buffer.filled());
                    }
                    self.client.receive(Instant::now().into_std(), buffer.filled());
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.lost(&error);
                    true
                }
            }
        })
    }

    fn lost(&mut self, error: &io::Error) {
        self.client.disconnected(Reply::new(451, (4, 4, 2), format!("connection lost: {error}")));
    }
}
