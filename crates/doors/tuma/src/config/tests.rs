//! Configurations as operators write them, right and wrong, and what is printed about them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use settings::{Cidr, Size, Text, mistakes};

use super::*;

settings::words! {
    /// When a connection is encrypted.
    enum Tls {
        /// Never.
        Never,
        /// When the other side offers it.
        WhenOffered,
    }
}

settings::table! {
    /// A port that clients connect to.
    struct Listener {
        /// Where to listen.
        bind: SocketAddr,
        /// When a connection is encrypted.
        tls: Tls = Tls::WhenOffered,
    }
}

settings::table! {
    /// What a session may use.
    #[check(Limits::check)]
    struct Limits {
        /// How long a client may say nothing.
        ///
        /// RFC 5321 §4.5.3.2 asks for five minutes.
        #[in(1s..=1h)]
        idle_timeout: Duration = Duration::from_secs(300),
        /// Longest message, \| or `{` in it or not.
        #[in(64KiB..)]
        message_max: Size = Size::mib(50),
        /// Most recipients.
        #[in(1..=100_000)]
        recipients_max: u32 = 1000,
        /// Longest line.
        line_max: u32 = 1000,
    }
}

impl Limits {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if u64::from(self.line_max) > self.message_max.bytes() {
            problems
                .error(node.at("line_max"), "`line_max` must not exceed `message_max`")
                .also(node.at("message_max"), "this is the longest message");
        }
        if self.recipients_max < 100 {
            problems
                .warning(node.at("recipients_max"), "RFC 5321 §4.5.3.1.8 asks for at least 100 recipients");
        }
    }
}

settings::table! {
    /// Where mail goes.
    struct Route {
        /// Host and port.
        to: String,
        /// Shown to the next hop.
        #[secret]
        password: Option<String> = None,
    }
}

settings::table! {
    /// The whole configuration.
    struct Root {
        /// The name this server greets with.
        hostname: Text<mail::Domain>,
        /// Where the spool is.
        data: PathBuf = "/var/lib/tuma".into(),
        /// How much of the machine's memory to use.
        #[in(0.1..=0.9)]
        memory_share: f64 = 0.5,
        /// Says more.
        verbose: bool = false,
        /// Who may relay.
        relay_from: Vec<Cidr> = vec![],
        /// Listeners.
        listener: Vec<Listener> = vec![],
        /// Session limits.
        limits: Limits = Limits::default(),
        /// Routes.
        route: BTreeMap<String, Route> = BTreeMap::new(),
    }
}

fn env(name: &str) -> Option<String> {
    let set = [
        ("PORT", "2525"),
        ("HOST", "mx.b.test"),
        ("EMPTY", ""),
        ("ON", "true"),
        ("PW", "hunter2"),
        ("BAD", "x"),
    ];
    set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
}

fn good(text: &str) -> Loaded<Root> {
    match load_text("tuma.toml", text, &env) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{report}"),
    }
}

fn bad(text: &str) -> String {
    match load_text::<Root>("tuma.toml", text, &env) {
        Ok(loaded) => panic!("{:?}", loaded.value),
        Err(report) => report.to_string(),
    }
}

#[test]
fn the_tables_are_sound() {
    assert_eq!(mistakes(&Root::schema()), [""; 0]);
}

#[test]
fn bad_configurations_and_what_is_said_of_them() {
    // One table: what is written, and exactly what is printed.
    let cases = [
        (
            "",
            "\
tuma.toml: error: the key `hostname` is missing
help: it is a domain
",
        ),
        (
            "hostname = \"mx.b.test\"\nlisten = 5\n[limit]\nx = 1\n",
            "\
tuma.toml:2:1: error: unknown key `listen`
 2 | listen = 5
   | ^^^^^^
help: did you mean `listener`?
tuma.toml:3:2: error: unknown key `limit`
 3 | [limit]
   |  ^^^^^
help: did you mean `limits`?
",
        ),
        (
            "hostname = \"mx..test\"\n[limits]\nidle_timeout = \"2h\"\nmessage_max = 10\nrecipients_max = \"5\"\nidle_timout = 1\n",
            "\
tuma.toml:1:12: error: `hostname` must be a domain, not the text `mx..test`
 1 | hostname = \"mx..test\"
   |            ^^^^^^^^^^
help: domain has an empty label
tuma.toml:3:16: error: `limits.idle_timeout` must be at most 1h, not 2h
 3 | idle_timeout = \"2h\"
   |                ^^^^
help: allowed is 1s to 1h
tuma.toml:4:15: error: `limits.message_max` must be at least 64KiB, not 10B
 4 | message_max = 10
   |               ^^
tuma.toml:5:18: error: `limits.recipients_max` must be a whole number, not the text `5`
 5 | recipients_max = \"5\"
   |                  ^^^
help: write it without quotes
tuma.toml:6:1: error: unknown key `idle_timout` in [limits]
 6 | idle_timout = 1
   | ^^^^^^^^^^^
help: did you mean `idle_timeout`?
",
        ),
        (
            "hostname = \"b.test\"\n[listener]\nbind = \"[::]:25\"\n",
            "\
tuma.toml:2:1: error: `listener` must be a list, not a table
 2 | [listener]
   | ^^^^^^^^^^
help: write its header with two brackets: `[[…]]`
",
        ),
        (
            "hostname = \"b.test\"\n[[listener]]\ntls = \"allways\"\n[[listener]]\nbind = \"localhost\"\ntls = \"nevr\"\n",
            "\
tuma.toml:2:1: error: the key `bind` is missing in [listener[0]]
 2 | [[listener]]
   | ^^^^^^^^^^^^
help: it is an address with port such as \"192.0.2.1:25\"
tuma.toml:3:7: error: `listener[0].tls` must be `never` or `when_offered`, not the text `allways`
 3 | tls = \"allways\"
   |       ^^^^^^^^^
tuma.toml:5:8: error: `listener[1].bind` must be an address with port such as \"192.0.2.1:25\", not the text `localhost`
 5 | bind = \"localhost\"
   |        ^^^^^^^^^^^
help: invalid socket address syntax
tuma.toml:6:7: error: `listener[1].tls` must be `never` or `when_offered`, not the text `nevr`
 6 | tls = \"nevr\"
   |       ^^^^^^
help: did you mean \"never\"?
",
        ),
        (
            // A check of two fields, and a warning beside an error.
            "hostname = \"b.test\"\nlimits = { message_max = \"64KiB\", line_max = 70000, recipients_max = 1 }\n",
            "\
tuma.toml:2:46: error: `line_max` must not exceed `message_max`
 2 | limits = { message_max = \"64KiB\", line_max = 70000, recipients_max = 1 }
   |                                              ^^^^^
tuma.toml:2:26: note: this is the longest message
 2 | limits = { message_max = \"64KiB\", line_max = 70000, recipients_max = 1 }
   |                          ^^^^^^^
tuma.toml:2:70: warning: RFC 5321 §4.5.3.1.8 asks for at least 100 recipients
 2 | limits = { message_max = \"64KiB\", line_max = 70000, recipients_max = 1 }
   |                                                                      ^
",
        ),
        (
            // Syntax errors, all of them; the rest is read all the same, but a missing key is not reported.
            "hostname = mx.b.test\nverbose = \nmemory_share = 2\ndata = \"/x\"\ndata = \"/y\"\n",
            "\
tuma.toml:1:12: error: string values must be quoted, expected literal string
 1 | hostname = mx.b.test
   |            ^^^^^^^^^
tuma.toml:2:11: error: string values must be quoted, expected literal string
 2 | verbose = 
   |           ^
tuma.toml:3:16: error: `memory_share` must be at most 0.9, not 2
 3 | memory_share = 2
   |                ^
help: allowed is 0.1 to 0.9
tuma.toml:5:1: error: the key `data` is written twice
 5 | data = \"/y\"
   | ^^^^
",
        ),
        (
            // Variables: unset, misnamed, unclosed, not a number; each at its own place.
            "hostname = \"${NOPE}.${HOST}\"\ndata = \"$${x}/${1A}/${\"\nverbose = \"${BAD}\"\n[limits]\nline_max = \"${A:-${B}}\"\n",
            "\
tuma.toml:1:13: error: the environment variable `NOPE` is not set
 1 | hostname = \"${NOPE}.${HOST}\"
   |             ^^^^^^^
help: set it, or give a fallback: `${NOPE:-…}`
tuma.toml:2:15: error: the braces hold no name of an environment variable
 2 | data = \"$${x}/${1A}/${\"
   |               ^^^^^
help: write `${NAME}` or `${NAME:-fallback}`; a `${` that stands for itself is `$${`
tuma.toml:2:21: error: the `${` has no closing brace
 2 | data = \"$${x}/${1A}/${\"
   |                     ^^
help: a `${` that stands for itself is written `$${`
tuma.toml:3:11: error: `verbose` must be true or false, not the text `x`
 3 | verbose = \"${BAD}\"
   |           ^^^^^^^^
tuma.toml:5:13: error: the fallback of `A` has a variable of its own
 5 | line_max = \"${A:-${B}}\"
   |             ^^^^^^^^^
help: a fallback is a plain text
",
        ),
        (
            // Secrets stay out of messages and of the lines that are shown.
            "hostname = \"b.test\"\n[route.a]\nto = 5\npasword = \"hunter2\"\n[route]\nb = { to = 5, password = \"hunter2\" }\nc = { to = \"\", password = 1234 }\n",
            "\
tuma.toml:3:6: error: `route.a.to` must be a text, not the number 5
 3 | to = 5
   |      ^
help: put it in quotes
tuma.toml:4:1: error: unknown key `pasword` in [route.a]
 4 | pasword = *********
   | ^^^^^^^
help: did you mean `password`?
tuma.toml:6:12: error: `route.b.to` must be a text, not the number 5
 6 | b = { to = 5, password = ********* }
   |            ^
help: put it in quotes
tuma.toml:7:27: error: `route.c.password` must be a text, not a number
 7 | c = { to = \"\", password = **** }
   |                           ^^^^
help: put it in quotes
",
        ),
        (
            // The same where the parser or a variable stumbles, before anyone knows what is a secret.
            "hostname = \"b.test\"\n[route.a]\nto = \"\"\npassword = hunter2\n[route.b]\nto = \"\"\n'password' = \"hunter2${\"\n[route.c]\nto = \"\"\npassword = \"hunter2\"\npassword = \"hunter3\"\n",
            "\
tuma.toml:4:12: error: string values must be quoted, expected literal string
 4 | password = *******
   |            ^^^^^^^
tuma.toml:7:22: error: the `${` has no closing brace
 7 | 'password' = ***********
   |                      ^^
help: a `${` that stands for itself is written `$${`
tuma.toml:11:1: error: the key `password` is written twice
 11 | password = *********
    | ^^^^^^^^
",
        ),
        (
            "hostname = \"b.test\"\ninclude = [\"x.toml\"]\n[limits]\nline_max = 99999999999999999999999999999999999999999\nrecipients_max = 1979-05-27\n",
            "\
tuma.toml:2:11: error: only a file can include files
 2 | include = [\"x.toml\"]
   |           ^^^^^^^^^^
tuma.toml:4:12: error: the number has too many digits
 4 | line_max = 99999999999999999999999999999999999999999
   |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
tuma.toml:5:18: error: `limits.recipients_max` must be a whole number, not the date `1979-05-27`
 5 | recipients_max = 1979-05-27
   |                  ^^^^^^^^^^
",
        ),
    ];
    for (text, expected) in cases {
        let printed = bad(text);
        assert_eq!(printed, expected, "\n--- of ---\n{text}\n--- was ---\n{printed}");
    }
}

const WHOLE: &str = r#"hostname = "${HOST}"
memory_share = "${SHARE:-0.25}"
verbose = "${ON}"
relay_from = ["10.0.0.0/8", "${NET:-192.0.2.0/24}"]
data = "$${HOST}/${PORT}${PORT}"

[[listener]]
bind = "127.0.0.1:${PORT}"
[[listener]]
bind = "[::1]:25"
tls = "never"

[limits]
idle_timeout = "${IDLE:-90s}"
recipients_max = "${EMPTY:-50}"

[route."a b"]
to = "c\td"
password = "${PW}"
[route.e]
to = ""
password = "${EMPTY:-}"
"#;

#[test]
fn shown_with_where_each_value_came_from() {
    let loaded = good(WHOLE);
    assert_eq!(loaded.value.listener[0].bind, "127.0.0.1:2525".parse().unwrap());
    assert_eq!(loaded.value.route["a b"].password.as_deref(), Some("hunter2"));
    assert_eq!(loaded.value.route["e"].password, None);
    assert_eq!(loaded.warnings.problems.count(), (0, 1));
    assert_eq!(loaded.summary(), "ok: tuma.toml, 14 settings written, 1 warning");
    let shown = loaded.show();
    let expected = r#"hostname = "mx.b.test"                           # environment HOST at tuma.toml:1
data = "${HOST}/25252525"                        # environment PORT at tuma.toml:5
memory_share = 0.25                              # tuma.toml:2
verbose = true                                   # environment ON at tuma.toml:3
relay_from = ["10.0.0.0/8", "192.0.2.0/24"]      # tuma.toml:4

[[listener]]
bind = "127.0.0.1:2525"                          # environment PORT at tuma.toml:8
tls = "when_offered"                             # default

[[listener]]
bind = "[::1]:25"                                # tuma.toml:10
tls = "never"                                    # tuma.toml:11

[limits]
idle_timeout = "1m30s"                           # tuma.toml:14
message_max = "50MiB"                            # default
recipients_max = 50                              # tuma.toml:15
line_max = 1000                                  # default

[route."a b"]
to = "c\td"                                      # tuma.toml:18
password = "(set)"                               # environment PW at tuma.toml:19

[route.e]
to = ""                                          # tuma.toml:21
# password is not set                            # tuma.toml:22
"#;
    let expected = expected.replace("[route.\"a b\"]", "[route]\n\n[route.\"a b\"]");
    assert_eq!(shown, expected, "\n{shown}");
}

#[test]
fn what_is_shown_reads_back_the_same() {
    let text = WHOLE.replace("password = \"${PW}\"", "").replace("$${HOST}", "x");
    let loaded = good(&text);
    assert_eq!(good(&loaded.show()).value, loaded.value);
}

/// A folder with files, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("tuma-config-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("conf.d")).unwrap();
        for (name, text) in files {
            fs::write(path.join(name), text).unwrap();
        }
        Self(path)
    }

    fn load(&self) -> Result<Loaded<Root>, Box<Report>> {
        load(&self.0.join("tuma.toml"), &env)
    }

    /// What is printed, with the folder's own path left out.
    fn bad(&self) -> String {
        let text = self.load().unwrap_err().to_string();
        text.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn included_files_become_one() {
    let folder = Folder::new(
        "merge",
        &[
            (
                "tuma.toml",
                "include = [\"conf.d/*.toml\", \"${NONE:-other}.toml\"]\nhostname = \"a.test\"\n[limits]\nline_max = 5\n",
            ),
            ("conf.d/20.toml", "[[listener]]\nbind = \"127.0.0.1:2\"\n"),
            (
                "conf.d/10.toml",
                "include = [\"../deep.toml\"]\n[[listener]]\nbind = \"127.0.0.1:1\"\n[limits]\nrecipients_max = 500\n",
            ),
            ("conf.d/.hidden.toml", "no = toml at all"),
            ("conf.d/30.toml~", "no = toml at all"),
            ("deep.toml", "\u{feff}verbose = true\n"),
            ("other.toml", "[route.x]\nto = \"y\"\n"),
        ],
    );
    let loaded = folder.load().unwrap_or_else(|report| panic!("{report}"));
    let ports: Vec<u16> = loaded.value.listener.iter().map(|listener| listener.bind.port()).collect();
    assert_eq!(ports, [1, 2]);
    assert_eq!((loaded.value.limits.line_max, loaded.value.limits.recipients_max), (5, 500));
    assert!(loaded.value.verbose);
    assert_eq!(loaded.value.route["x"].to, "y");
    assert!(
        loaded.summary().ends_with("tuma.toml and 4 included files, 7 settings written"),
        "{}",
        loaded.summary()
    );
    assert!(loaded.show().contains("conf.d/10.toml:5\n"), "{}", loaded.show());
}

#[test]
fn mistakes_of_inclusion() {
    let folder = Folder::new(
        "mistakes",
        &[
            (
                "tuma.toml",
                "include = [\"none.toml\", \"a.toml\", \"a.toml\", \"tuma.toml\", \"*/x.toml\", \"\", \"no/*.toml\", \"conf.d\"]\nhostname = \"a.test\"\nverbose = true\n[limits]\nline_max = 5\n",
            ),
            ("a.toml", "include = [\"b.toml\"]\nverbose = false\nrelay_from = []\n"),
            ("b.toml", "include = [\"a.toml\"]\nrelay_from = []\n[limits]\nline_max = 6\nlisten = 1\n"),
        ],
    );
    let line = " 1 | include = [\"none.toml\", \"a.toml\", \"a.toml\", \"tuma.toml\", \"*/x.toml\", \"\", \"no/*.toml\", \"conf.d\"]\n";
    let at =
        |column: usize, width: usize| format!("{line}   | {}{}\n", " ".repeat(column - 1), "^".repeat(width));
    let expected = [
        "tuma.toml:1:12: error: `none.toml` cannot be read: No such file or directory (os error 2)\n",
        &at(12, 11),
        "tuma.toml:1:35: error: `a.toml` is included twice\n",
        &at(35, 8),
        "tuma.toml:1:25: note: first included here\n",
        &at(25, 8),
        "tuma.toml:1:45: error: the file includes itself\n",
        &at(45, 11),
        "tuma.toml:1:58: error: `*/x.toml` names no files\n",
        &at(58, 10),
        "help: a `*` may stand in the last part of a path, as in \"conf.d/*.toml\"\n",
        "tuma.toml:1:70: error: `` names no files\n",
        &at(70, 2),
        "help: a `*` may stand in the last part of a path, as in \"conf.d/*.toml\"\n",
        "tuma.toml:1:74: error: `no` cannot be listed: No such file or directory (os error 2)\n",
        &at(74, 11),
        "tuma.toml:1:87: error: `conf.d` cannot be read: Is a directory (os error 21)\n",
        &at(87, 8),
        "a.toml:2:1: error: `verbose` is set in two files\n 2 | verbose = false\n   | ^^^^^^^\n",
        "tuma.toml:3:1: note: first set here\n 3 | verbose = true\n   | ^^^^^^^\n",
        "b.toml:1:12: error: `a.toml` includes this file, in a circle\n 1 | include = [\"a.toml\"]\n   |            ^^^^^^^^\n",
        "b.toml:2:1: error: `relay_from` is set in two files\n 2 | relay_from = []\n   | ^^^^^^^^^^\n",
        "a.toml:3:1: note: first set here\n 3 | relay_from = []\n   | ^^^^^^^^^^\n",
        "b.toml:4:1: error: `limits.line_max` is set in two files\n 4 | line_max = 6\n   | ^^^^^^^^\n",
        "tuma.toml:5:1: note: first set here\n 5 | line_max = 5\n   | ^^^^^^^^\n",
        "b.toml:5:1: error: unknown key `listen` in [limits]\n 5 | listen = 1\n   | ^^^^^^\n",
        "help: here it may be `idle_timeout`, `message_max`, `recipients_max` or `line_max`\n",
    ]
    .concat();
    let printed = folder.bad();
    assert_eq!(printed, expected, "\n{printed}");
}

#[test]
fn a_secret_set_in_two_files_is_not_printed() {
    let folder = Folder::new(
        "secret",
        &[
            (
                "tuma.toml",
                "include = [\"a.toml\"]\nhostname = \"a.test\"\n[route]\nx = { to = \"\", password = \"hunter2\" }\n",
            ),
            ("a.toml", "[route.x]\npassword = \"hunter3\"\n"),
        ],
    );
    let printed = folder.bad();
    assert!(
        printed.contains("`route.x.password` is set in two files") && !printed.contains("hunter"),
        "{printed}"
    );
}

#[test]
fn a_large_file_of_mistakes_is_read_in_time() {
    let text = "x = = 5 \n".repeat(100_000);
    assert!(bad(&text).ends_with("more\n"));
    let text = format!("a = {}", "\"x\", = ".repeat(100_000));
    assert!(bad(&text).len() < 10_000);
}

#[test]
fn files_that_are_none() {
    let folder = Folder::new("none", &[]);
    assert_eq!(folder.bad(), "tuma.toml: error: cannot be read: No such file or directory (os error 2)\n");
    fs::write(folder.0.join("tuma.toml"), b"a = 1\n\xff").unwrap();
    assert_eq!(folder.bad(), "tuma.toml: error: is not UTF-8, from line 2 on\n");
    fs::write(folder.0.join("tuma.toml"), vec![b'#'; FILE_MAX as usize + 1]).unwrap();
    assert_eq!(folder.bad(), "tuma.toml: error: is larger than 4MiB\n");
}

#[test]
fn depth_and_number_of_files_are_bounded() {
    let names: Vec<String> = (0..=INCLUDE_DEPTH_MAX + 2).map(|n| format!("{n}.toml")).collect();
    let chain: Vec<String> = (0..names.len()).map(|n| format!("include = [\"{}.toml\"]", n + 1)).collect();
    let mut files: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(chain.iter().map(String::as_str)).collect();
    files.push(("tuma.toml", "include = [\"0.toml\"]\nhostname = \"a.test\""));
    let folder = Folder::new("deep", &files);
    assert!(folder.bad().starts_with("7.toml:1:12: error: too many files"), "{}", folder.bad());

    let names: Vec<String> = (0..FILES_MAX).map(|n| format!("conf.d/{n}.toml")).collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    files.push(("tuma.toml", "include = [\"conf.d/*.toml\"]\nhostname = \"a.test\""));
    let folder = Folder::new("many", &files);
    assert!(folder.bad().starts_with("tuma.toml:1:12: error: too many files"), "{}", folder.bad());
}

#[test]
fn check_prints_and_answers() {
    let folder =
        Folder::new("check", &[("tuma.toml", "hostname = \"a.test\"\n[limits]\nrecipients_max = 5\n")]);
    let path = folder.0.join("tuma.toml");
    let run = |path: &Path| {
        let mut out = Vec::new();
        let code = check::<Root>(path, &env, false, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap().replace(&format!("{}/", folder.0.display()), ""))
    };
    let (code, text) = run(&path);
    assert_eq!(code, 0);
    assert!(text.starts_with("tuma.toml:3:18: warning: RFC 5321"), "{text}");
    assert!(text.ends_with("ok: tuma.toml, 2 settings written, 1 warning\n"), "{text}");
    fs::write(&path, "hostname = 5").unwrap();
    let (code, text) = run(&path);
    assert_eq!(code, 1);
    assert!(text.ends_with("help: put it in quotes\n1 error\n"), "{text}");
}

#[test]
fn the_schema_is_json_and_says_what_the_tables_say() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema::<Root>()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], serde_json::json!(["hostname"]));
    assert_eq!(schema["additionalProperties"], false);
    let limits = &schema["properties"]["limits"];
    assert_eq!(limits["additionalProperties"], false);
    let recipients = &limits["properties"]["recipients_max"];
    assert_eq!(
        *recipients,
        serde_json::json!({
            "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 100_000 }, { "$ref": "#/$defs/variable" }],
            "description": "Most recipients.",
            "default": 1000,
        })
    );
    let idle = &limits["properties"]["idle_timeout"];
    assert_eq!(idle["default"], "5m");
    assert!(idle["description"].as_str().unwrap().ends_with("Allowed: `1s..=1h`."), "{idle}");
    assert_eq!(schema["properties"]["listener"]["items"]["required"], serde_json::json!(["bind"]));
    let password = &schema["properties"]["route"]["additionalProperties"]["properties"]["password"];
    assert_eq!(password["writeOnly"], true);
    assert_eq!(
        schema["properties"]["listener"]["items"]["properties"]["tls"]["anyOf"][1]["const"],
        "when_offered"
    );
}

#[test]
fn the_reference_page() {
    let page = reference::<Root>();
    let tables = page.split_once("is a mistake.\n\n").unwrap().1;
    let expected = r#"| key | what | default | meaning |
|---|---|---|---|
| `hostname` | domain | *required* | The name this server greets with. |
| `data` | path | `"/var/lib/tuma"` | Where the spool is. |
| `memory_share` | number, `0.1..=0.9` | `0.5` | How much of the machine's memory to use. |
| `verbose` | `true` or `false` | `false` | Says more. |
| `relay_from` | list: network, as `"192.0.2.0/24"` | `[]` | Who may relay. |

## `listener`

Listeners.

A port that clients connect to.

Any number of them, each under `[[listener]]`.

| key | what | default | meaning |
|---|---|---|---|
| `bind` | address with port, as `"192.0.2.1:25"` | *required* | Where to listen. |
| `tls` | one word | `"when_offered"` | When a connection is encrypted.<br>`never`: Never.<br>`when_offered`: When the other side offers it. |

## `limits`

Session limits.

What a session may use.

| key | what | default | meaning |
|---|---|---|---|
| `idle_timeout` | duration, `1s..=1h` | `"5m"` | How long a client may say nothing.<br>RFC 5321 §4.5.3.2 asks for five minutes. |
| `message_max` | size, `64KiB..` | `"50MiB"` | Longest message, \\| or `{` in it or not. |
| `recipients_max` | whole number, `1..=100_000` | `1000` | Most recipients. |
| `line_max` | whole number | `1000` | Longest line. |

## `route.<name>`

Routes.

Where mail goes.

Any number of them, under names of your choice.

| key | what | default | meaning |
|---|---|---|---|
| `to` | text | *required* | Host and port. |
| `password` | text | not set | Shown to the next hop. Never printed. |
"#;
    assert_eq!(tables, expected, "\n{tables}");
}

#[test]
fn a_stale_page_is_told() {
    let folder = Folder::new("stale", &[("page.md", "old")]);
    let path = folder.0.join("page.md");
    assert_eq!(stale(&path, "old"), None);
    assert!(
        stale(&path, "new")
            .is_some_and(|complaint| complaint.ends_with("page.md is stale; run `cargo xtask docs`"))
    );
    assert!(stale(&folder.0.join("none.md"), "new").is_some());
}

/// A small generator with a fixed seed, so that a failure replays.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

#[test]
fn no_text_makes_it_panic() {
    const SEED: &str = "include = [\"x\"]\ntime = \"5m\"\nsize = [\"64KiB\", 5]\nnumber = \"${HOME:-7}\"\nfraction = 0.5\n\
                        flag = true\nnetwork = [\"${HOME}\", \"::/0\"]\nsecret = \"s\"\n[named]\na = \"[::1]:25\"\n\
                        [[a.\"b\"]]\nc = { d = 1979-05-27T07:32:00Z, e = 0xff }\n'f' = '''x'''\n";
    const PIECES: [&str; 24] = [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        "\"",
        "'",
        "\"\"\"",
        "\n",
        "\r\n",
        "\\",
        "${",
        "$${",
        ":-",
        "}",
        "é",
        "\0",
        "\u{202e}",
        "99999999999999999999",
        "time",
        "a.b.c",
        ",",
    ];
    let mut dice = Dice(0x5eed);
    for _ in 0..4000 {
        let mut chars: Vec<char> = SEED.chars().collect();
        for _ in 0..=dice.roll(6) {
            let at = dice.roll(chars.len() + 1);
            match dice.roll(4) {
                0 => {
                    let end = (at + dice.roll(8)).min(chars.len());
                    chars.drain(at..end);
                }
                1 => {
                    let end = (at + dice.roll(40)).min(chars.len());
                    let copy: Vec<char> = chars[at..end].to_vec();
                    let to = dice.roll(chars.len() + 1);
                    chars.splice(to..to, copy);
                }
                _ => {
                    let piece = PIECES[dice.roll(PIECES.len())];
                    chars.splice(at..at, piece.chars());
                }
            }
        }
        fuzz(&chars.into_iter().collect::<String>());
    }
    fuzz(&"[".repeat(100_000));
    fuzz(&"a.".repeat(100_000));
    fuzz(&format!("a = {}", "{a=".repeat(50_000)));
}
