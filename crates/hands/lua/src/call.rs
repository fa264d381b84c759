//! One call of a hook: a coroutine that is resumed slice by slice until it is done, or a limit is.

use crate::context::Context;
use crate::meter::Reading;
use mlua::{Function, IntoLuaMulti, Value};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

/// The limits of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) time_max: Duration,
    pub(crate) instructions_max: u64,
    pub(crate) timeout: Duration,
    pub(crate) memory_max: u64,
}

/// Why a call gave no value.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The script raised an error, or there was no memory left.
    Script(mlua::Error),
    /// A limit of one call; where the script was then, if that is known.
    Spent(&'static str, Option<String>),
    /// It waited too long.
    TimedOut,
    /// It is done, and its answer is none.
    Answer(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(error) => f.write_str(&told(&error.to_string())),
            Self::Spent(what, Some(place)) => write!(f, "{place}: {what} is spent"),
            Self::Spent(what, None) => write!(f, "{what} is spent"),
            Self::TimedOut => f.write_str("`timeout` is over"),
            Self::Answer(text) => f.write_str(text),
        }
    }
}

/// An error in one line with the place it came from: what is raised by a function of ours has none of its own, but the
/// traceback below it has.
fn told(error: &str) -> String {
    let (text, traceback) = error.split_once("\nstack traceback:").unwrap_or((error, ""));
    let text = text.trim_start_matches("runtime error: ").trim_start_matches("syntax error: ");
    if text.contains(".lua:") {
        return text.to_owned();
    }
    let place = traceback.lines().map(str::trim).find(|line| line.contains(".lua:"));
    match place.and_then(|line| line.split_once(": in")) {
        Some((place, _)) => format!("{place}: {text}"),
        None => text.to_owned(),
    }
}

/// What a call gave.
pub(crate) struct Returned {
    pub(crate) value: Value,
    /// Answers that were made within it.
    pub(crate) answers_made: u32,
}

/// Calls a function of a context within limits.
pub(crate) async fn call(
    context: &Arc<Context>,
    function: &Function,
    arguments: impl IntoLuaMulti,
    limits: &Limits,
) -> Result<Returned, Failure> {
    let work = Work {
        context,
        limits,
        // Nothing runs before the first poll, so that all of it is metered.
        future: Box::pin(function.call_async::<Value>(arguments)),
        reading: Reading { instructions_left: limits.instructions_max, answers_made: 0 },
        time_used: Duration::ZERO,
        memory: 0,
        timer: None,
    };
    work.await
}

struct Work<'a, F> {
    context: &'a Arc<Context>,
    limits: &'a Limits,
    future: Pin<Box<F>>,
    reading: Reading,
    /// Processor time of the slices so far.
    time_used: Duration,
    /// What the call added to the memory of its context so far; a collection in between may make it less than nothing.
    memory: i64,
    /// Made when the call first waits: most never do.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<F: Future<Output = mlua::Result<Value>>> Future for Work<'_, F> {
    type Output = Result<Returned, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let lua = &this.context.lua;
        // One call of a context runs at a time; the meter is its own while it does. A slice is short.
        let gate = this.context.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, held) = (Instant::now(), lua.used_memory());
        let time_left = this.limits.time_max.saturating_sub(this.time_used);
        this.context.meter.resume(this.reading, began, time_left);
        let polled = this.future.as_mut().poll(cx);
        this.time_used += began.elapsed();
        this.memory += lua.used_memory() as i64 - held as i64;
        let reading = this.context.meter.pause();
        let spent_at = this.context.meter.spent_at();
        drop(gate);
        // A script that got to its end and back has answered, unless it got there over a limit.
        match (polled, reading) {
            (Poll::Ready(Ok(value)), Some(reading)) => {
                return Poll::Ready(Ok(Returned { value, answers_made: reading.answers_made }));
            }
            (Poll::Ready(Err(error)), Some(_)) => return Poll::Ready(Err(Failure::Script(error))),
            (_, None) if this.time_used >= this.limits.time_max => {
                return Poll::Ready(Err(Failure::Spent("`time_max`", spent_at)));
            }
            (_, None) => return Poll::Ready(Err(Failure::Spent("`instructions_max`", spent_at))),
            (Poll::Pending, Some(reading)) => this.reading = reading,
        }
        if this.memory > this.limits.memory_max as i64 {
            return Poll::Ready(Err(Failure::Spent("`memory_max`", None)));
        }
        if this.time_used >= this.limits.time_max {
            return Poll::Ready(Err(Failure::Spent("`time_max`", None)));
        }
        let timeout = this.limits.timeout;
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        timer.as_mut().poll(cx).map(|()| Err(Failure::TimedOut))
    }
}
