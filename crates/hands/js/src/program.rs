//! What is loaded into a machine: an operator's script, or Haraka's plugins.

use crate::config::JsConfig;
use crate::context::{Failure, read};
use policy::OnError;
use settings::Size;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A program and its limits.
pub(crate) struct Program {
    /// Its word in logs.
    pub(crate) name: &'static str,
    /// Folders that hold all it may read, links followed; the first is its own.
    pub(crate) folders: Vec<PathBuf>,
    /// A folder in which it may write.
    pub(crate) writable: Option<PathBuf>,
    /// What runs before it: name and source, in their order.
    pub(crate) preludes: &'static [(&'static str, &'static str)],
    /// What `__load` is called with.
    pub(crate) entries: Vec<String>,
    /// What `__host.place` tells, as JSON.
    pub(crate) place: String,
    /// It has modules of Node, and begins with `__begin`.
    pub(crate) is_haraka: bool,
    pub(crate) time_max: Duration,
    pub(crate) timeout: Duration,
    pub(crate) memory_max: Size,
    pub(crate) stack_max: Size,
    pub(crate) contexts: usize,
    pub(crate) on_error: OnError,
}

impl Program {
    /// An operator's script.
    pub(crate) fn script(config: &JsConfig) -> Result<Self, Failure> {
        let folder = config.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        let folder =
            folder.map_err(|error| Failure::Script(format!("{}: {error}", config.file.display())))?;
        let name = config.file.file_name().map(|name| folder.join(name)).unwrap_or_default();
        read(&name).map_err(Failure::Script)?;
        Ok(Self {
            name: "js",
            folders: vec![folder],
            writable: None,
            preludes: &[("tuma:prelude", include_str!("prelude.js"))],
            entries: vec![name.to_string_lossy().into_owned()],
            place: String::new(),
            is_haraka: false,
            time_max: config.time_max,
            timeout: config.timeout,
            memory_max: config.memory_max,
            stack_max: config.stack_max,
            contexts: config.contexts,
            on_error: config.on_error,
        })
    }
}
