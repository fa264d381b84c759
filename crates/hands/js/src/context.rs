//! One JavaScript machine with the script loaded.

use crate::host::{self, Host};
use crate::program::Program;
use policy::{Answer, Phase, Phases, Surroundings};
use rquickjs::{CatchResultExt, CaughtError, Ctx, Function, Runtime};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Octets of a script, or of a module of it.
const SCRIPT_MAX_OCTETS: u64 = 4 << 20;
/// Octets that a machine allocates before it looks for cycles that nobody holds.
const COLLECT_AFTER_OCTETS: usize = 4 << 20;
/// The script's own body may read modules and build tables.
const LOADING: Duration = Duration::from_secs(5);
/// Octets of the text of a failure that are kept.
const REASON_MAX_OCTETS: usize = 2_000;

/// Why a script did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It threw or rejected, or its answer is none: message and place.
    Script(String),
    /// It ran for longer than `time_max`.
    Time,
    /// What it waited for did not come within `timeout`.
    Timeout,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(text) => f.write_str(text),
            Self::Time => f.write_str("it ran for longer than time_max"),
            Self::Timeout => f.write_str("what it waited for did not come within timeout"),
        }
    }
}

/// Until when the machine may run, read at every interrupt.
#[derive(Debug)]
struct Watch {
    began: Instant,
    /// Nanoseconds since `began`.
    until: AtomicU64,
    spent: AtomicBool,
}

impl Watch {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_late(&self) -> bool {
        let late = self.now() > self.until.load(Relaxed);
        if late {
            self.spent.store(true, Relaxed);
        }
        late
    }

    fn begin(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.until.store(self.now().saturating_add(time), Relaxed);
        self.spent.store(false, Relaxed);
    }
}

/// Who waits for the answer to a call.
type Waiting = HashMap<u64, oneshot::Sender<Result<Answer, Failure>>>;

/// One machine.
pub(crate) struct Context {
    context: rquickjs::Context,
    watch: Arc<Watch>,
    /// Held by whoever runs the machine. Others wait for it without holding their thread.
    gate: tokio::sync::Mutex<()>,
    pub(crate) host: Arc<Host>,
    pub(crate) waiting: Mutex<Waiting>,
    pub(crate) time_max: Duration,
    phases: OnceLock<Phases>,
    next: AtomicU64,
}

impl Drop for Context {
    fn drop(&mut self) {
        self.host.abort_all();
    }
}

impl Context {
    /// Loads a program into a machine of its own.
    pub(crate) async fn load(
        program: &Program,
        surroundings: &Surroundings,
        client: Option<Arc<tokio::sync::Mutex<crate::testing::Client>>>,
    ) -> Result<Arc<Self>, Failure> {
        let script = |error: rquickjs::Error| Failure::Script(error.to_string());
        let runtime = Runtime::new().map_err(script)?;
        let bytes = |size: settings::Size| usize::try_from(size.bytes()).unwrap_or(usize::MAX);
        runtime.set_memory_limit(bytes(program.memory_max));
        runtime.set_max_stack_size(bytes(program.stack_max));
        runtime.set_gc_threshold(COLLECT_AFTER_OCTETS.min(bytes(program.memory_max) / 4));
        let watch = Arc::new(Watch {
            began: Instant::now(),
            until: AtomicU64::new(u64::MAX),
            spent: AtomicBool::new(false),
        });
        let watching = watch.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || watching.is_late())));
        let machine = rquickjs::Context::full(&runtime).map_err(script)?;
        let host = Host::new(program, surroundings.clone(), client);
        let context = Arc::new(Self {
            context: machine,
            watch,
            gate: tokio::sync::Mutex::new(()),
            host: host.clone(),
            waiting: Mutex::default(),
            time_max: program.time_max,
            phases: OnceLock::new(),
            next: AtomicU64::new(1),
        });
        // What the script begins while it is loaded may end before it is.
        host.set_context(&context);
        let held = context.gate.lock().await;
        let words = context.run(LOADING, |ctx| {
            host::install(&ctx, &host)?;
            for (name, source) in program.preludes {
                ctx.eval_with_options::<(), _>(*source, options(name))?;
            }
            ctx.globals().get::<_, Function>("__load")?.call::<_, Vec<String>>((program.entries.clone(),))
        })?;
        let phases = words.iter().filter_map(|word| Phase::of_word(word)).collect();
        // Nobody else sets them.
        let _ = context.phases.set(phases);
        drop(held);
        Ok(context)
    }

    /// When somebody wants to be asked.
    pub(crate) fn phases(&self) -> Phases {
        self.phases.get().copied().unwrap_or(Phases::NONE)
    }

    /// A number for a session or a call.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    pub(crate) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the machine: `work`, and then whatever became ready by it.
    pub(crate) async fn enter<R>(
        &self,
        work: impl FnOnce(Ctx<'_>) -> rquickjs::Result<R>,
    ) -> Result<R, Failure> {
        let _held = self.gate.lock().await;
        self.run(self.time_max, work)
    }

    fn run<R>(
        &self,
        time: Duration,
        work: impl FnOnce(Ctx<'_>) -> rquickjs::Result<R>,
    ) -> Result<R, Failure> {
        self.watch.begin(time);
        let outcome = self.context.with(|ctx| {
            let outcome = work(ctx.clone()).catch(&ctx).map_err(|error| Failure::Script(told(&error)));
            // Jobs that run on after the limit are interrupted one by one; twice the limit ends all.
            let began = self.watch.now();
            let most = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(2);
            while ctx.execute_pending_job() {
                if self.watch.now().saturating_sub(began) > most {
                    break;
                }
            }
            outcome
        });
        if self.watch.spent.load(Relaxed) {
            // Who was waiting may have been within what was ended: each hears of it by its own time-out at the latest.
            return Err(Failure::Time);
        }
        outcome
    }

    /// What an operation came to, mostly JSON, goes back into the machine.
    pub(crate) async fn complete(&self, operation: u64, came: Result<String, String>) {
        let outcome = self
            .enter(|ctx| {
                let complete: Function = ctx.globals().get("__complete")?;
                match came {
                    Ok(text) => complete.call::<_, ()>((operation, (), text)),
                    Err(why) => complete.call((operation, why)),
                }
            })
            .await;
        if let Err(failure) = outcome {
            let script = self.host.program;
            tracing::error!(script, reason = %failure, "a script failed in what it did after waiting");
        }
    }
}

/// A script of this name, evaluated in the sloppy mode that CommonJS modules expect.
pub(crate) fn options(name: &str) -> rquickjs::context::EvalOptions {
    let mut options = rquickjs::context::EvalOptions::default();
    options.global = true;
    options.strict = false;
    options.filename = Some(name.to_owned());
    options
}

/// An exception in one text: its message, and where it was thrown.
fn told(error: &CaughtError<'_>) -> String {
    let text = match error {
        CaughtError::Exception(exception) => {
            let message = exception.message().unwrap_or_else(|| exception.to_string());
            match exception.stack().as_deref().map(str::trim) {
                None | Some("") => message,
                Some(stack) => format!("{message}\n{stack}"),
            }
        }
        CaughtError::Value(value) => match value.as_string().and_then(|text| text.to_string().ok()) {
            Some(text) => format!("it threw {text:?}"),
            None => "it threw what is no Error".to_owned(),
        },
        CaughtError::Error(error) => error.to_string(),
    };
    cut(text)
}

/// A reason, cut to its bound.
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON_MAX_OCTETS));
    text
}

/// Reads a file of a script.
pub(crate) fn read(file: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    let about = std::fs::metadata(file).map_err(told)?;
    if !about.is_file() || about.len() > SCRIPT_MAX_OCTETS {
        return Err(format!("{}: this is no file of at most {SCRIPT_MAX_OCTETS} octets", file.display()));
    }
    std::fs::read_to_string(file).map_err(told)
}

/// A path within one of some folders, links followed; `None` if it leads out of them or is not there.
pub(crate) fn within(folders: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let path = folders.first()?.join(path).canonicalize().ok()?;
    folders.iter().any(|folder| path.starts_with(folder)).then_some(path)
}
