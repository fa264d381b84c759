//! What an operator may set about scripts in JavaScript.

use policy::OnError;
use settings::Size;
use std::path::PathBuf;
use std::time::Duration;

settings::table! {
    /// A script in JavaScript that is asked at the phases it registers for. It is read again at a reload; a script with a
    /// mistake is not taken, and the old one stays.
    #[derive(Eq)]
    pub struct JsConfig {
        /// The script. What it loads with `require` lies in its folder or below.
        pub file: PathBuf,
        /// The longest that a hook may run until it ends or waits. Others of its context wait as long.
        #[in(1ms..=10s)]
        pub time_max: Duration = Duration::from_millis(50),
        /// The longest that one question may take, with all its hooks wait for.
        #[in(10ms..=10m)]
        pub timeout: Duration = Duration::from_secs(30),
        /// Octets that one context may hold.
        #[in(1MiB..=16GiB)]
        pub memory_max: Size = Size::mib(64),
        /// Octets of stack that a hook may take.
        #[in(32KiB..=768KiB)]
        pub stack_max: Size = Size::kib(256),
        /// Contexts; 0 is one for each thread that serves sessions.
        #[in(0..=256)]
        pub contexts: usize = 0,
        /// What the client is told when the script fails: by an error, a limit, or an answer that is none.
        pub on_error: OnError = OnError::Defer,
    }
}

impl JsConfig {
    /// The defaults, for a script.
    pub fn of(file: PathBuf) -> Self {
        Self {
            file,
            time_max: Duration::from_millis(50),
            timeout: Duration::from_secs(30),
            memory_max: Size::mib(64),
            stack_max: Size::kib(256),
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
        assert_eq!(settings::mistakes(&<JsConfig as settings::Setting>::schema()), Vec::<String>::new());
    }
}
