//! What an operator may set about Haraka's plugins.

use policy::OnError;
use settings::Size;
use std::path::PathBuf;
use std::time::Duration;

settings::table! {
    /// Haraka's plugins, unmodified, from a folder of Haraka. They are read again at a reload; if one of them cannot be
    /// loaded, none is taken, and the old ones stay. docs/haraka.md tells what is the same and what differs.
    #[derive(Eq)]
    pub struct HarakaConfig {
        /// The folder that `haraka -c` takes: in it lie `config/plugins` and the other files of `config/`, and, where there
        /// are any, `plugins/` and `node_modules/`. Plugins can read nothing outside of it but `core`.
        pub directory: PathBuf,
        /// Where Haraka itself is installed, for the plugins that come with it; `node_modules/Haraka` of the folder unless
        /// set, if it is there.
        pub core: Option<PathBuf> = None,
        /// A folder in which plugins may write, such as those that put mail into quarantine. Unset, they write nowhere.
        pub writable: Option<PathBuf> = None,
        /// A recipient of a client that may not relay is refused unless a plugin says OK, as Haraka has it, provided that
        /// any plugin is asked about recipients. Off, whom `[relay]` allows is fine unless a plugin objects.
        pub rcpt_needs_ok: bool = true,
        /// The longest that plugins may run until they end or wait. Others of their context wait as long.
        #[in(1ms..=10s)]
        pub time_max: Duration = Duration::from_millis(200),
        /// The longest that one question may take, with all that plugins wait for. Each of them has its own limit besides, in
        /// `config/plugin_timeout`.
        #[in(10ms..=10m)]
        pub timeout: Duration = Duration::from_secs(120),
        /// Octets that one context may hold.
        #[in(1MiB..=16GiB)]
        pub memory_max: Size = Size::mib(128),
        /// Octets of stack that plugins may take.
        #[in(32KiB..=768KiB)]
        pub stack_max: Size = Size::kib(512),
        /// Contexts; 0 is one for each thread that serves sessions.
        #[in(0..=256)]
        pub contexts: usize = 0,
        /// What the client is told when a plugin fails: by an error, a limit, or no answer in time.
        pub on_error: OnError = OnError::Defer,
    }
}

impl HarakaConfig {
    /// The defaults, for a folder.
    pub fn of(directory: PathBuf) -> Self {
        Self {
            directory,
            core: None,
            writable: None,
            rcpt_needs_ok: true,
            time_max: Duration::from_millis(200),
            timeout: Duration::from_secs(120),
            memory_max: Size::mib(128),
            stack_max: Size::kib(512),
            contexts: 0,
            on_error: OnError::Defer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&<HarakaConfig as settings::Setting>::schema()), Vec::<String>::new());
    }
}
