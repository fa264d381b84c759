//! Where a value was set, carried along with it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The file and line a value was written at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file, or `default` for what nobody wrote.
    pub file: Arc<str>,
    /// The line, from 1; 0 for a file as a whole.
    pub line: u32,
}

impl Origin {
    /// What nobody wrote.
    pub fn built_in() -> Self {
        Self { file: "default".into(), line: 0 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        Ok(())
    }
}

/// A setting that decided: its key, its value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SettingAt {
    /// The key, as `shaping.provider.gmail.connections`.
    pub name: Arc<str>,
    /// The value, as the file would say it.
    pub value: Arc<str>,
    /// Where it was written.
    pub origin: Origin,
}

impl fmt::Display for SettingAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.name, self.value, self.origin)
    }
}

/// A value in force and the setting that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced<T> {
    /// The value.
    pub value: T,
    /// The setting.
    pub at: Arc<SettingAt>,
}

impl<T> Deref for Traced<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
