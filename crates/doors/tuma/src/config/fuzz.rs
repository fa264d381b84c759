//! Any text as a configuration, for the fuzz target and for a test with a fixed seed.

use super::load_text;

settings::table! {
    /// What the fuzz target reads: one of each kind of setting.
    struct Specimen {
        /// A time.
        #[in(1s..=1h)]
        time: Option<std::time::Duration> = None,
        /// A size.
        size: Vec<settings::Size> = Vec::new(),
        /// A number.
        #[in(1..=100)]
        number: u16 = 1,
        /// A fraction.
        fraction: f64 = 0.5,
        /// On or off.
        flag: bool = false,
        /// Where.
        network: Vec<settings::Cidr> = Vec::new(),
        /// A secret.
        #[secret]
        secret: Option<String> = None,
        /// By name.
        named: std::collections::BTreeMap<String, std::net::SocketAddr> = Default::default(),
    }
}

/// For the fuzz target: whatever the text, loading ends, and so does printing what came of it.
pub fn fuzz(text: &str) {
    let env = |name: &str| (name == "HOME").then(|| "10.0.0.0/8".to_string());
    match load_text::<Specimen>("fuzz.toml", text, &env) {
        Ok(loaded) => {
            let shown = loaded.show();
            let again = load_text::<Specimen>("shown.toml", &shown, &|_| None);
            assert!(
                loaded.value.secret.is_some() || again.is_ok_and(|again| again.value == loaded.value),
                "{shown}"
            );
            loaded.summary();
        }
        Err(report) => {
            assert!(report.problems.has_errors());
            report.render(true);
        }
    }
}
