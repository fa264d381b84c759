//! Octets in and out, and the time that passes meanwhile.

use super::{Session, Waited, now};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

thread_local! {
    /// What is read lands here and is taken by the machine at once, so that an idle session owns no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into_boxed_slice());
}

impl Session {
    /// Sends what is left to say, with little patience, and closes.
    pub(super) async fn close(&mut self) {
        let limit = std::time::Duration::from_secs(5);
        let _ = tokio::time::timeout(limit, async {
            if self.flush().await
                && let Some(stream) = &mut self.stream
            {
                let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
            }
        })
        .await;
    }

    /// Sends all output. False if the connection is gone or the client does not read.
    pub(super) async fn flush(&mut self) -> bool {
        let limit = std::time::Duration::from_secs(30);
        let work = poll_fn(|cx| {
            while !self.server.output().is_empty() {
                match self.write(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.stream.as_mut().map(|stream| Pin::new(stream).poll_flush(cx)) {
                Some(Poll::Ready(Ok(()))) => Poll::Ready(true),
                Some(Poll::Pending) => Poll::Pending,
                _ => Poll::Ready(false),
            }
        });
        tokio::time::timeout(limit, work).await.unwrap_or(false)
    }

    /// Writes output once.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(std::io::ErrorKind::NotConnected.into()));
        };
        let output = self.server.output();
        let wrote = Pin::new(stream).poll_write(cx, output);
        if let (Some(tap), Poll::Ready(Ok(count))) = (&mut self.tap, &wrote) {
            tap.server(&output[..*count]);
        }
        match wrote {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) if count == output.len() => {
                output.clear();
                self.needs_flush = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(count)) => {
                output.drain(..count);
                self.needs_flush = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits for octets, for the client to take some, or for time to pass.
    pub(super) async fn wait(&mut self, drain: &mut crate::context::Drain) -> Waited {
        poll_fn(|cx| {
            let mut progress = false;
            while !self.server.output().is_empty() {
                match self.write(cx) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(Waited::Gone),
                    Poll::Pending => break,
                }
            }
            if self.needs_flush {
                match self.stream.as_mut().map(|stream| Pin::new(stream).poll_flush(cx)) {
                    Some(Poll::Ready(Ok(()))) => self.needs_flush = false,
                    Some(Poll::Pending) => {}
                    _ => return Poll::Ready(Waited::Gone),
                }
            }
            if progress && !self.left.is_empty() {
                return Poll::Ready(Waited::Progress);
            }
            if !self.draining && drain.poll(cx) {
                self.draining = true;
                self.server.shut_down();
                return Poll::Ready(Waited::Progress);
            }
            // What was read before goes first; and content is not read while memory is spent. Commands are: who
            // holds nothing takes nothing, and gets its 452.
            if self.left.is_empty() && !self.is_short() {
                match self.read(cx) {
                    Poll::Ready(true) => return Poll::Ready(Waited::Progress),
                    Poll::Ready(false) => return Poll::Ready(Waited::Gone),
                    Poll::Pending => {}
                }
            }
            self.server.release();
            self.poll_timer(cx)
        })
        .await
    }

    /// Reads once and gives it to the machine. `false` is the end of the connection.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(false) };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(stream).poll_read(cx, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let octets = buffer.filled();
                    if self.permit.is_some() {
                        self.taken.add(octets.len() as u64);
                    }
                    if let Some(tap) = &mut self.tap {
                        tap.client(octets);
                    }
                    let taken = self.server.receive(now(), octets);
                    self.left.extend_from_slice(&octets[taken..]);
                    Poll::Ready(true)
                }
                Poll::Ready(_) => Poll::Ready(false),
            }
        })
    }

    /// True if this session holds content and there is no memory for more.
    fn is_short(&self) -> bool {
        self.taken.octets() > 0 && self.taken.budget().is_spent()
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Waited> {
        let Some(at) = self.server.wake_at().map(Instant::from_std) else { return Poll::Pending };
        // While memory is short, look again soon: nobody else tells when there is some. It may be that nobody ever
        // would: when partial messages hold all of it, somebody's has to be given up.
        let at = if self.is_short() {
            let now = Instant::now();
            let since = *self.short_since.get_or_insert(now);
            if now.duration_since(since) > self.context.rules.load().reception.intake_wait {
                return Poll::Ready(Waited::Short);
            }
            at.min(now + std::time::Duration::from_millis(50))
        } else {
            self.short_since = None;
            at
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // A later deadline need not move the timer: it rings early, and is set anew then.
        if timer.is_elapsed() || at < timer.deadline() {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.server.wake(now());
        Poll::Ready(Waited::Progress)
    }
}
