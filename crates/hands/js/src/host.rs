//! What the machine can ask of the world around it: a table of native functions, `__host`, that only the prelude sees.

use crate::context::{Context, Failure, cut, read, within};
use crate::program::Program;
use crate::{answer, message};
use policy::{Kind, MailObject, STORE_TEXT_MAX_OCTETS, Surroundings};
use rquickjs::function::Opt;
use rquickjs::{Ctx, Exception, Function, Object, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::AbortHandle;

/// Operations that one context may have under way.
const OPERATIONS_MAX: usize = 10_000;
/// Patterns that a script may make.
const PATTERNS_MAX: usize = 1_000;
/// Octets that a compiled pattern may take.
const PATTERN_MAX_OCTETS: usize = 1 << 20;
/// The longest that a timer runs.
const TIMER_MAX: Duration = Duration::from_secs(86_400);

/// What the native functions of one context share.
pub(crate) struct Host {
    /// The program's word in logs.
    pub(crate) program: &'static str,
    /// Folders that hold all it may read; the first is its own.
    pub(crate) folders: Vec<PathBuf>,
    /// A folder in which it may write.
    pub(crate) writable: Option<PathBuf>,
    pub(crate) is_haraka: bool,
    pub(crate) place: String,
    pub(crate) sockets: crate::haraka::Sockets,
    surroundings: Surroundings,
    client: Option<Arc<tokio::sync::Mutex<crate::testing::Client>>>,
    context: OnceLock<Weak<Context>>,
    /// What is under way, so that it ends with the context.
    operations: Mutex<HashMap<u64, AbortHandle>>,
    /// Messages in the hands of hooks, by session.
    pub(crate) messages: Mutex<HashMap<u64, MailObject>>,
    /// Sessions that are over, of which the machine has not heard yet.
    pub(crate) gone: Mutex<Vec<u64>>,
    patterns: Mutex<Vec<regex::Regex>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    pub(crate) fn new(
        program: &Program,
        surroundings: Surroundings,
        client: Option<Arc<tokio::sync::Mutex<crate::testing::Client>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            program: program.name,
            folders: program.folders.clone(),
            writable: program.writable.clone(),
            is_haraka: program.is_haraka,
            place: program.place.clone(),
            sockets: crate::haraka::Sockets::default(),
            surroundings,
            client,
            context: OnceLock::new(),
            operations: Mutex::default(),
            messages: Mutex::default(),
            gone: Mutex::default(),
            patterns: Mutex::default(),
        })
    }

    pub(crate) fn set_context(&self, context: &Arc<Context>) {
        // It is set once, by whoever made both.
        let _ = self.context.set(Arc::downgrade(context));
    }

    pub(crate) fn abort_all(&self) {
        for (_, handle) in lock(&self.operations).drain() {
            handle.abort();
        }
    }

    /// Begins an operation that ends some time by `__complete`.
    fn start(self: &Arc<Self>, number: u64, kind: String, argument: String) -> Result<(), String> {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return Err("there is nobody to wait".into());
        };
        let mut operations = lock(&self.operations);
        if operations.len() >= OPERATIONS_MAX {
            return Err("the script waits for too many things at once".into());
        }
        let host = self.clone();
        let task = runtime.spawn(async move {
            let came = host.operate(&kind, &argument).await;
            lock(&host.operations).remove(&number);
            if let Some(context) = host.context.get().and_then(Weak::upgrade) {
                context.complete(number, came).await;
            }
        });
        // The lock is held until here, so that the task cannot have taken its entry out before it was put in.
        operations.insert(number, task.abort_handle());
        Ok(())
    }

    async fn operate(&self, kind: &str, argument: &str) -> Result<String, String> {
        match kind {
            "timer" => {
                let milliseconds: f64 = argument.parse().map_err(|_| "this is no time".to_owned())?;
                let time = Duration::try_from_secs_f64(milliseconds / 1_000.0).unwrap_or(TIMER_MAX);
                tokio::time::sleep(time.min(TIMER_MAX)).await;
                Ok(String::new())
            }
            kind if kind.starts_with("socket") => self.sockets.operate(kind, argument).await,
            "client" => {
                let client = self.client.as_ref().ok_or("there is no client")?;
                client.lock().await.operate(argument).await
            }
            kind => {
                let kind = match kind {
                    "a" => Kind::A,
                    "aaaa" => Kind::Aaaa,
                    "mx" => Kind::Mx,
                    "txt" => Kind::Txt,
                    "ptr" => Kind::Ptr,
                    other => return Err(format!("there is no `{other}`")),
                };
                let names = self.surroundings.names.as_ref().ok_or("there is nobody to ask")?;
                let records = names.records(kind, argument).await?;
                serde_json::to_string(&records).map_err(|error| error.to_string())
            }
        }
    }

    /// Node's way from what a module asks for to a file, within the folder alone.
    fn resolve(&self, from: &str, asked: &str) -> Option<PathBuf> {
        let from = Path::new(from);
        if asked.starts_with("./")
            || asked.starts_with("../")
            || asked.starts_with('/')
            || asked == "."
            || asked == ".."
        {
            return self.file_or_folder(&from.join(asked));
        }
        let mut folder = Some(from);
        while let Some(place) =
            folder.filter(|place| self.folders.iter().any(|folder| place.starts_with(folder)))
        {
            // The folder of packages itself has none below its own name.
            let is_modules = place.file_name().is_some_and(|name| name == "node_modules");
            let modules = if is_modules { place.to_owned() } else { place.join("node_modules") };
            if let Some(found) =
                self.exported(&modules, asked).or_else(|| self.file_or_folder(&modules.join(asked)))
            {
                return Some(found);
            }
            folder = place.parent();
        }
        // As a script's own modules are named without a path by habit.
        if self.is_haraka { None } else { self.file_or_folder(&from.join(asked)) }
    }

    /// What a package exports below its own name, `package/part`.
    fn exported(&self, modules: &Path, asked: &str) -> Option<PathBuf> {
        let named = if asked.starts_with('@') {
            asked.match_indices('/').nth(1)
        } else {
            asked.match_indices('/').next()
        };
        let at = named?.0;
        let folder = within(&self.folders, &modules.join(&asked[..at]))?;
        let about: serde_json::Value =
            serde_json::from_str(&read(&folder.join("package.json")).ok()?).ok()?;
        let part = about.get("exports")?.get(format!(".{}", &asked[at..]))?;
        within(&self.folders, &folder.join(entry(part, 0)?)).filter(|path| path.is_file())
    }

    fn file_or_folder(&self, path: &Path) -> Option<PathBuf> {
        let file = |path: &Path| within(&self.folders, path).filter(|path| path.is_file());
        let ended = |path: &Path| {
            [".js", ".cjs", ".json"].iter().find_map(|ending| {
                let mut name = path.as_os_str().to_owned();
                name.push(ending);
                file(Path::new(&name))
            })
        };
        if let Some(found) = file(path).or_else(|| ended(path)) {
            return Some(found);
        }
        let folder = within(&self.folders, path)?;
        let main = read(&folder.join("package.json")).ok().and_then(|text| {
            let about: serde_json::Value = serde_json::from_str(&text).ok()?;
            let exported = about.get("exports").and_then(|exports| entry(exports, 0));
            exported.or_else(|| about.get("main").and_then(|main| main.as_str().map(str::to_owned)))
        });
        if let Some(main) = main {
            let main = folder.join(main);
            let found = file(&main).or_else(|| ended(&main)).or_else(|| ended(&main.join("index")));
            if found.is_some() {
                return found;
            }
        }
        ended(&folder.join("index"))
    }
}

/// The entry that a package exports to who requires it by its name.
fn entry(exports: &serde_json::Value, depth: u8) -> Option<String> {
    // Conditions within conditions are few; a package that nests them deeper is not taken at its word.
    const DEPTH_MAX: u8 = 8;
    match exports {
        serde_json::Value::String(path) => Some(path.clone()),
        serde_json::Value::Object(table) if depth < DEPTH_MAX => [".", "node", "require", "default"]
            .iter()
            .find_map(|key| table.get(*key).and_then(|inner| entry(inner, depth + 1))),
        _ => None,
    }
}

/// An exception of the script's own kind.
pub(crate) fn throw(ctx: &Ctx<'_>, text: &str) -> rquickjs::Error {
    Exception::throw_message(ctx, text)
}

fn fit(ctx: &Ctx<'_>, text: String) -> rquickjs::Result<String> {
    if text.len() > STORE_TEXT_MAX_OCTETS {
        Err(throw(ctx, "tuma.store: the text is too long"))
    } else {
        Ok(text)
    }
}

fn life(ctx: &Ctx<'_>, seconds: f64) -> rquickjs::Result<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|life| *life <= Duration::from_secs(31 * 86_400))
        .ok_or_else(|| throw(ctx, "tuma.store: an entry lives for up to 31 days, in seconds"))
}

/// Gives the machine its `__host`. The prelude takes it away from the script.
pub(crate) fn install(ctx: &Ctx<'_>, host: &Arc<Host>) -> rquickjs::Result<()> {
    let table = Object::new(ctx.clone())?;
    let own = host.clone();
    table.set(
        "start",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>, number: u64, kind: String, argument: String| {
            own.start(number, kind, argument).map_err(|why| throw(&ctx, &why))
        })?,
    )?;
    let own = host.clone();
    table.set(
        "cancel",
        Function::new(ctx.clone(), move |number: u64| {
            if let Some(handle) = lock(&own.operations).remove(&number) {
                handle.abort();
            }
        })?,
    )?;
    let own = host.clone();
    table.set(
        "resolve",
        Function::new(ctx.clone(), move |from: String, asked: String| {
            own.resolve(&from, &asked).map(|path| path.to_string_lossy().into_owned())
        })?,
    )?;
    let own = host.clone();
    table.set(
        "source",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>, path: String| {
            let path = within(&own.folders, Path::new(&path)).ok_or_else(|| throw(&ctx, "no such file"))?;
            read(&path).map_err(|why| throw(&ctx, &why))
        })?,
    )?;
    table.set("compile", Function::new(ctx.clone(), compile)?)?;
    let script = host.program;
    table.set(
        "log",
        Function::new(ctx.clone(), move |level: String, text: String| {
            let text = cut(text);
            match level.as_str() {
                "debug" => tracing::debug!(script, "{text}"),
                "info" => tracing::info!(script, "{text}"),
                "warn" => tracing::warn!(script, "{text}"),
                _ => tracing::error!(script, "{text}"),
            }
        })?,
    )?;
    table.set(
        "time",
        Function::new(ctx.clone(), || {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
        })?,
    )?;
    outcomes(ctx, host, &table)?;
    store(ctx, host, &table)?;
    patterns(ctx, host, &table)?;
    message::install(ctx, host, &table)?;
    if host.is_haraka {
        crate::haraka::install(ctx, host, &table)?;
    }
    ctx.globals().set("__host", table)
}

/// The body of a module as a function, `given` before its source. It begins on one line with its source, so that lines keep their numbers.
pub(crate) fn wrapped<'js>(
    ctx: &Ctx<'js>,
    source: &str,
    name: &str,
    given: &str,
) -> rquickjs::Result<Function<'js>> {
    let comment = if source.starts_with("#!") { "//" } else { "" };
    let wrapped = format!(
        "(function (exports, require, module, __filename, __dirname) {{{given}{comment}{source}\n}})"
    );
    ctx.eval_with_options(wrapped, crate::context::options(name))
}

/// A module as a function, strict: a field that cannot be set is a mistake there.
fn compile<'js>(ctx: Ctx<'js>, source: String, name: String) -> rquickjs::Result<Function<'js>> {
    wrapped(&ctx, &source, &name, "'use strict';")
}

/// `done` and `failed`: the end of a call that waited.
fn outcomes<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> rquickjs::Result<()> {
    let tell = |host: &Host, call: u64, outcome| {
        let context = host.context.get().and_then(Weak::upgrade);
        if let Some(waiting) = context.and_then(|context| context.waiting().remove(&call)) {
            // Who left does not hear of it.
            let _ = waiting.send(outcome);
        }
    };
    let own = host.clone();
    table.set(
        "done",
        Function::new(ctx.clone(), move |call: u64, value: Opt<Value<'_>>| {
            tell(&own, call, value.0.as_ref().map_or(Ok(policy::Answer::Continue), answer::of));
        })?,
    )?;
    let own = host.clone();
    table.set(
        "failed",
        Function::new(ctx.clone(), move |call: u64, text: String| {
            tell(&own, call, Err(Failure::Script(cut(text))));
        })?,
    )
}

fn store<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> rquickjs::Result<()> {
    let own = host.surroundings.store.clone();
    let get = Function::new(ctx.clone(), move |ctx: Ctx<'_>, key: String| {
        Ok::<_, rquickjs::Error>(own.value(&fit(&ctx, key)?, Instant::now()).map(String::from))
    })?;
    table.set("store_get", get)?;
    let own = host.surroundings.store.clone();
    let set = Function::new(ctx.clone(), move |ctx: Ctx<'_>, key: String, value: String, seconds: f64| {
        let now = Instant::now();
        let until = now + life(&ctx, seconds)?;
        Ok::<_, rquickjs::Error>(own.set(&fit(&ctx, key)?, &fit(&ctx, value)?, until, now))
    })?;
    table.set("store_set", set)?;
    let own = host.surroundings.store.clone();
    let add = Function::new(ctx.clone(), move |ctx: Ctx<'_>, key: String, by: i64, seconds: f64| {
        let life = life(&ctx, seconds)?;
        Ok::<_, rquickjs::Error>(own.add(&fit(&ctx, key)?, by, life, Instant::now()))
    })?;
    table.set("store_add", add)
}

/// Patterns whose time is linear in the text.
fn patterns<'js>(ctx: &Ctx<'js>, host: &Arc<Host>, table: &Object<'js>) -> rquickjs::Result<()> {
    let own = host.clone();
    let make = Function::new(ctx.clone(), move |ctx: Ctx<'_>, pattern: String| {
        let made = regex::RegexBuilder::new(&pattern).size_limit(PATTERN_MAX_OCTETS).build();
        let made = made.map_err(|error| throw(&ctx, &error.to_string()))?;
        let mut patterns = lock(&own.patterns);
        if patterns.len() >= PATTERNS_MAX {
            return Err(throw(&ctx, "too many patterns: make them when the script is loaded"));
        }
        patterns.push(made);
        Ok(patterns.len() - 1)
    })?;
    table.set("regex", make)?;
    let of = |host: &Host, n: usize| lock(&host.patterns).get(n).cloned();
    let own = host.clone();
    let is_match = Function::new(ctx.clone(), move |n: usize, text: String| {
        of(&own, n).is_some_and(|pattern| pattern.is_match(&text))
    })?;
    table.set("regex_is_match", is_match)?;
    let own = host.clone();
    let find = Function::new(ctx.clone(), move |n: usize, text: String| {
        let pattern = of(&own, n)?;
        let found = pattern.captures(&text)?;
        Some(found.iter().map(|group| group.map(|group| group.as_str().to_owned())).collect::<Vec<_>>())
    })?;
    table.set("regex_find", find)?;
    let own = host.clone();
    let replace = Function::new(ctx.clone(), move |n: usize, text: String, by: String| match of(&own, n) {
        Some(pattern) => pattern.replace_all(&text, by.as_str()).into_owned(),
        None => text,
    })?;
    table.set("regex_replace", replace)
}
