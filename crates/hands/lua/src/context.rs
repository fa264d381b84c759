//! One Lua machine with the script loaded.

use crate::bounded;
use crate::call::{self, Failure, Limits};
use crate::config::LuaConfig;
use crate::meter::Meter;
use crate::surroundings::Surroundings;
use mlua::{
    Error, Function, Lua, LuaOptions, LuaString, Result, StdLib, Table, UserData, UserDataMethods, Value,
};
use policy::{Phase, Phases};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Octets of a script, or of a module of it.
const SCRIPT_MAX_OCTETS: u64 = 4 << 20;
/// Functions that one script may register.
const HOOKS_MAX: usize = 1_000;
/// Coroutines kept for the next call.
const POOL: usize = 64;

/// One Lua machine.
pub(crate) struct Context {
    pub(crate) lua: Lua,
    pub(crate) meter: Arc<Meter>,
    /// Held while a call runs a slice.
    pub(crate) gate: Mutex<()>,
    hooks: [Vec<Function>; Phase::ALL.len()],
    /// Tests that the script brings, by name.
    pub(crate) tests: Vec<(String, Function)>,
}

/// What a script registers while it is loaded; afterwards it is closed.
#[derive(Default)]
struct Registry {
    hooks: Vec<(Phase, Function)>,
    tests: Vec<(String, Function)>,
    closed: bool,
}

/// Limits on the script's own body: it may read modules and build tables.
const LOADING: Limits = Limits {
    time_max: Duration::from_secs(5),
    instructions_max: 500_000_000,
    timeout: Duration::from_secs(10),
    memory_max: u64::MAX >> 1,
};

impl Context {
    /// Loads a script into a machine of its own.
    pub(crate) async fn load(
        config: &LuaConfig,
        surroundings: &Surroundings,
    ) -> std::result::Result<Arc<Self>, Failure> {
        let (file, memory_max) = (config.file.as_path(), config.context_memory_max.bytes());
        let source = read(file).map_err(|text| Failure::Script(Error::runtime(text)))?;
        let (context, registry, chunk) =
            Self::prepare(file, &source, memory_max, surroundings).map_err(Failure::Script)?;
        let context = Arc::new(context);
        call::call(&context, &chunk, (), &LOADING).await?;
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.closed = true;
        let (hooks, tests) = (std::mem::take(&mut registry.hooks), std::mem::take(&mut registry.tests));
        drop((registry, chunk));
        let still_running = || Failure::Script(Error::runtime("the script's body goes on after its end"));
        let mut context = Arc::into_inner(context).ok_or_else(still_running)?;
        for (phase, function) in hooks {
            context.hooks[phase as usize].push(function);
        }
        context.tests = tests;
        Ok(Arc::new(context))
    }

    fn prepare(
        file: &Path,
        source: &str,
        memory_max: u64,
        surroundings: &Surroundings,
    ) -> Result<(Self, Arc<Mutex<Registry>>, Function)> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::UTF8 | StdLib::MATH | StdLib::OS;
        // Lua's own `pcall`, which this keeps, lets what it calls step aside; mlua's does not.
        let options = LuaOptions::new().catch_rust_panics(true).thread_pool_size(POOL);
        let lua = Lua::new_with(libraries, options)?;
        let meter = Arc::new(Meter::default());
        bounded::install(&lua, &meter)?;
        let registry = Arc::new(Mutex::new(Registry::default()));
        let tuma = lua.create_table()?;
        register(&lua, &tuma, &registry)?;
        crate::answer::install(&lua, &tuma, &meter)?;
        logging(&lua, &tuma)?;
        helpers(&lua, &tuma)?;
        crate::surroundings::install(&lua, &tuma, surroundings)?;
        let globals = lua.globals();
        globals.set("tuma", tuma)?;
        globals.set("require", require(&lua, file, &registry)?)?;
        keep_time_only(&lua)?;
        bounded::forbid(&lua)?;
        lua.set_memory_limit(usize::try_from(memory_max).unwrap_or(usize::MAX))?;
        meter.watch(&lua)?;
        let name = format!("@{}", file.display());
        let chunk = lua.load(source).set_name(name).set_mode(mlua::chunk::ChunkMode::Text).into_function()?;
        let context = Self {
            lua,
            meter,
            gate: Mutex::new(()),
            hooks: std::array::from_fn(|_| Vec::new()),
            tests: Vec::new(),
        };
        Ok((context, registry, chunk))
    }

    /// The functions registered for a phase, in their order.
    pub(crate) fn hooks(&self, phase: Phase) -> &[Function] {
        &self.hooks[phase as usize]
    }

    /// The phases with functions.
    pub(crate) fn phases(&self) -> Phases {
        Phase::ALL.into_iter().filter(|phase| !self.hooks(*phase).is_empty()).collect()
    }
}

/// Reads a script or a module.
fn read(file: &Path) -> std::result::Result<String, String> {
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    let len = std::fs::metadata(file).map_err(told)?.len();
    if len > SCRIPT_MAX_OCTETS {
        return Err(format!("{}: a script has at most {SCRIPT_MAX_OCTETS} octets", file.display()));
    }
    std::fs::read_to_string(file).map_err(told)
}

/// `tuma.on(phase, function)` and `tuma.test(name, function)`.
fn register(lua: &Lua, tuma: &Table, registry: &Arc<Mutex<Registry>>) -> Result<()> {
    let own = registry.clone();
    let on = lua.create_function(move |_, (word, function): (String, Function)| {
        let Some(phase) = Phase::of_word(&word) else {
            let near = settings::nearest(&word, Phase::ALL.iter().map(|phase| phase.word()));
            let hint = near.map_or_else(
                || format!("there are {}", Phase::ALL.map(Phase::word).join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            return Err(Error::runtime(format!("tuma.on: there is no phase `{word}`; {hint}")));
        };
        let mut registry = own.lock().unwrap_or_else(PoisonError::into_inner);
        if registry.closed {
            return Err(Error::runtime("tuma.on: hooks are registered while the script is loaded"));
        }
        if registry.hooks.len() >= HOOKS_MAX {
            return Err(Error::runtime("tuma.on: too many hooks"));
        }
        registry.hooks.push((phase, function));
        Ok(())
    })?;
    tuma.set("on", on)?;
    let own = registry.clone();
    let test = lua.create_function(move |_, (name, function): (String, Function)| {
        let mut registry = own.lock().unwrap_or_else(PoisonError::into_inner);
        if registry.tests.len() < HOOKS_MAX && !registry.closed {
            registry.tests.push((name, function));
        }
        Ok(())
    })?;
    tuma.set("test", test)
}

/// `tuma.info(text)` and its like, and `print`.
fn logging(lua: &Lua, tuma: &Table) -> Result<()> {
    // One line, printable: what a client said may be in it.
    let clean = |text: &LuaString| {
        let text = text.to_string_lossy();
        text.chars().take(2_000).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
    };
    tuma.set(
        "debug",
        lua.create_function(move |_, text: LuaString| {
            debug!(script = "lua", "{}", clean(&text));
            Ok(())
        })?,
    )?;
    tuma.set(
        "info",
        lua.create_function(move |_, text: LuaString| {
            info!(script = "lua", "{}", clean(&text));
            Ok(())
        })?,
    )?;
    tuma.set(
        "warn",
        lua.create_function(move |_, text: LuaString| {
            warn!(script = "lua", "{}", clean(&text));
            Ok(())
        })?,
    )?;
    tuma.set(
        "error",
        lua.create_function(move |_, text: LuaString| {
            error!(script = "lua", "{}", clean(&text));
            Ok(())
        })?,
    )?;
    let print: Function = tuma.get("debug")?;
    let print = lua.load("local debug = ... return function(...) local t = {...} for i = 1, select('#', ...) do t[i] = tostring(t[i]) end debug(table.concat(t, '\\t')) end").set_name("=print").call::<Function>(print)?;
    lua.globals().set("print", print)
}

/// A regular expression: its time is linear in the text.
struct Regex(regex::bytes::Regex);

impl UserData for Regex {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("is_match", |_, this, text: LuaString| Ok(this.0.is_match(&text.as_bytes())));
        // The whole match and its groups, from 0; a group that took no part is nil.
        methods.add_method("find", |lua, this, text: LuaString| {
            let text = text.as_bytes();
            let Some(groups) = this.0.captures(&text) else { return Ok(None) };
            let table = lua.create_table()?;
            for (n, group) in groups.iter().enumerate() {
                if let Some(group) = group {
                    table.raw_set(n, lua.create_string(group.as_bytes())?)?;
                }
            }
            for name in this.0.capture_names().flatten() {
                if let Some(group) = groups.name(name) {
                    table.raw_set(name, lua.create_string(group.as_bytes())?)?;
                }
            }
            Ok(Some(table))
        });
        methods.add_method("replace", |lua, this, (text, with): (LuaString, LuaString)| {
            lua.create_string(this.0.replace_all(&text.as_bytes(), &*with.as_bytes()))
        });
        crate::session::strict(methods, "a regex");
    }
}

/// Octets that a compiled regular expression may take.
const REGEX_MAX_OCTETS: usize = 1 << 20;

/// What `tuma` offers besides.
fn helpers(lua: &Lua, tuma: &Table) -> Result<()> {
    let regex = lua.create_function(|_, pattern: String| {
        let built = regex::bytes::RegexBuilder::new(&pattern).size_limit(REGEX_MAX_OCTETS).build();
        built.map(Regex).map_err(Error::runtime)
    })?;
    tuma.set("regex", regex)?;
    let time = lua.create_function(|_, ()| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(since.unwrap_or_default().as_secs_f64())
    })?;
    tuma.set("time", time)?;
    let sleep = lua.create_async_function(|_, seconds: f64| async move {
        let seconds = Duration::try_from_secs_f64(seconds)
            .map_err(|_| Error::runtime("tuma.sleep: seconds from 0 on"))?;
        tokio::time::sleep(seconds).await;
        Ok(())
    })?;
    tuma.set("sleep", sleep)
}

/// `require("name")`: a module in the script's folder or below, read once.
fn require(lua: &Lua, file: &Path, registry: &Arc<Mutex<Registry>>) -> Result<Function> {
    let folder: PathBuf = file.parent().unwrap_or(Path::new(".")).into();
    let loaded: Mutex<HashMap<String, Value>> = Mutex::default();
    let registry = registry.clone();
    lua.create_function(move |lua, name: String| {
        let known = loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(value) = known {
            return Ok(value);
        }
        if registry.lock().unwrap_or_else(PoisonError::into_inner).closed {
            return Err(Error::runtime("require: modules are loaded while the script is"));
        }
        let sound = !name.is_empty()
            && name.split(['.', '/']).all(|part| {
                !part.is_empty()
                    && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
            });
        if !sound {
            return Err(Error::runtime(format!("require: `{}` is no name of a module", name.escape_debug())));
        }
        let path = folder.join(format!("{}.lua", name.replace('.', "/")));
        let source = read(&path).map_err(Error::runtime)?;
        let chunk =
            lua.load(source).set_name(format!("@{}", path.display())).set_mode(mlua::chunk::ChunkMode::Text);
        let value = match chunk.call::<Value>(name.as_str())? {
            Value::Nil => Value::Boolean(true),
            value => value,
        };
        loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value.clone());
        Ok(value)
    })
}

/// Of `os`, what tells the time.
fn keep_time_only(lua: &Lua) -> Result<()> {
    let all: Table = lua.globals().get("os")?;
    let kept = lua.create_table()?;
    for name in ["time", "date", "difftime", "clock"] {
        kept.set(name, all.get::<Value>(name)?)?;
    }
    lua.globals().set("os", kept)
}
