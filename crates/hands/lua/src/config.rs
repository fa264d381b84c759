//! What an operator may set about scripts in Lua.

use policy::OnError;
use settings::Size;
use std::path::PathBuf;
use std::time::Duration;

settings::table! {
    /// A script in Lua that is asked at the phases it registers for. It is read again at a reload; a script with a
    /// mistake is not taken, and the old one stays.
    #[derive(Eq)]
    pub struct LuaConfig {
        /// The script. What it loads with `require` lies in its folder or below.
        pub file: PathBuf,
        /// The processor time that one call of a hook may take.
        #[in(1ms..=10s)]
        pub time_max: Duration = Duration::from_millis(50),
        /// Instructions of the Lua machine that one call of a hook may take.
        #[in(10_000..=1_000_000_000)]
        pub instructions_max: u64 = 5_000_000,
        /// The longest that one call of a hook may take, with all it waits for.
        #[in(10ms..=10m)]
        pub timeout: Duration = Duration::from_secs(30),
        /// Octets that one call of a hook may add to what its context holds.
        #[in(64KiB..=1GiB)]
        pub memory_max: Size = Size::mib(16),
        /// Octets that the whole of one context may hold.
        #[in(1MiB..=16GiB)]
        pub context_memory_max: Size = Size::mib(64),
        /// Contexts; 0 is one for each thread that serves sessions.
        #[in(0..=256)]
        pub contexts: usize = 0,
        /// What the client is told when the script fails: by an error, a limit, or an answer that is none.
        pub on_error: OnError = OnError::Defer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&<LuaConfig as settings::Setting>::schema()), Vec::<String>::new());
    }
}
