//! `tuma init` and `tuma doctor`: from nothing to a server that the world takes mail from.

use crate::harness::dns::NameServer;
use crate::harness::{Process, fixed_address, keeping, output_of, sink, wait_until};
use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

fn tuma(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

/// What `tuma init` wrote and said.
fn init(folder: &Path, listen: SocketAddr, http: SocketAddr) -> Value {
    let (listen, http) = (listen.to_string(), http.to_string());
    let arguments =
        ["init", "--domain", "acme.test", "--address", "192.0.2.25", "--directory", "etc", "--data", "data"];
    let more = ["--type", "ed25519", "--listen", &listen, "--http", &http, "--json"];
    let said = output_of(&mut tuma(folder, &[&arguments[..], &more[..]].concat()));
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn what_init_writes_is_right_and_serves() {
    let folder = tempfile::tempdir().unwrap();
    let http = fixed_address();
    let said = init(folder.path(), fixed_address(), http);
    let checked = output_of(&mut tuma(folder.path(), &["config", "check", "etc/tuma.toml"]));
    assert!(checked.starts_with("ok: ") && !checked.contains("warning"), "{checked}");
    // It overwrites nothing.
    let again =
        tuma(folder.path(), &["init", "--domain", "acme.test", "--directory", "etc", "--data", "data"])
            .output();
    assert!(!again.unwrap().status.success());
    // Programs read what it prints, and the record is that of the key.
    let printed = output_of(&mut tuma(folder.path(), &["dkim", "dns", "-c", "etc/tuma.toml", "--json"]));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let records = said["records"].as_array().unwrap();
    let dkim = records.iter().find(|record| record["name"] == "s1._domainkey.acme.test").unwrap();
    assert_eq!(dkim["data"], printed[0]["record"]);

    let server =
        tuma(folder.path(), &["serve", "-c", "etc/tuma.toml"]).stderr(Stdio::null()).spawn().unwrap();
    let _server = Process(server);
    let answers = || tuma(folder.path(), &["status"]).env("TUMA_HTTP", http.to_string()).output().unwrap();
    wait_until("the server answers", || answers().status.success());
}

/// A time server whose clock is off by so many seconds.
fn time_server(off_seconds: u64) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 48];
        while let Ok((48, peer)) = socket.recv_from(&mut question) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let mut answer = [0; 48];
            (answer[0], answer[1]) = (0x24, 2);
            let seconds = (now.as_secs() + off_seconds + 2_208_988_800) as u32;
            let fraction = ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000) as u32;
            for at in [32, 40] {
                answer[at..at + 4].copy_from_slice(&seconds.to_be_bytes());
                answer[at + 4..at + 8].copy_from_slice(&fraction.to_be_bytes());
            }
            let _ = socket.send_to(&answer, peer);
        }
    });
    at
}

/// What the doctor says: state, text and fix by check and whom it is about.
struct Told(Vec<Value>);

impl Told {
    fn state(&self, check: &str, about: &str) -> &str {
        let found =
            self.0.iter().find(|one| one["check"] == check && one["about"].as_str().unwrap().contains(about));
        found.unwrap_or_else(|| panic!("no {check} of {about}: {:#?}", self.0))["state"].as_str().unwrap()
    }

    fn fix(&self, check: &str) -> String {
        let fixes = self.0.iter().filter(|one| one["check"] == check).filter_map(|one| one["fix"].as_str());
        fixes.collect::<Vec<_>>().join("\n")
    }
}

fn doctor(folder: &Path, dns: &NameServer, more: &[&str]) -> (bool, Told) {
    let server = dns.at.to_string();
    let arguments = ["doctor", "-c", "etc/tuma.toml", "--json", "--nameserver", &server];
    let output = tuma(folder, &[&arguments[..], more].concat()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.success(), Told(said))
}

#[test]
fn the_doctor_says_what_is_missing_until_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let said = init(folder.path(), fixed_address(), fixed_address());
    let dns = NameServer::start();
    let sink = sink(keeping());
    let (sink, right, wrong) =
        (sink.addr().to_string(), time_server(0).to_string(), time_server(300).to_string());
    let listing = ["--listing", "bl.test"];
    let (fine, told) = doctor(
        folder.path(),
        &dns,
        &[&["--address", "192.0.2.25", "--reach", "127.0.0.1:1", "--time-server", &wrong], &listing[..]]
            .concat(),
    );
    assert!(!fine);
    for (check, about, state) in [
        ("config", "", "ok"),
        ("certificate", "", "ok"),
        ("ptr", "192.0.2.25", "fail"),
        ("spf", "acme.test", "fail"),
        ("dkim", "s1._domainkey.acme.test", "fail"),
        ("dmarc", "_dmarc.acme.test", "fail"),
        ("mx", "acme.test", "fail"),
        ("mta-sts", "acme.test", "warn"),
        ("listing", "bl.test", "unknown"),
        ("port-25", "", "fail"),
        ("clock", "", "fail"),
    ] {
        assert_eq!(told.state(check, about), state, "{check} {about}: {:#?}", told.0);
    }
    assert!(told.fix("spf").contains("v=spf1 ip4:192.0.2.25 -all"), "{}", told.fix("spf"));
    assert!(told.fix("ptr").contains("mail.acme.test"), "{}", told.fix("ptr"));

    // What init said is published, and whoever gave the address names it.
    for record in said["records"].as_array().unwrap() {
        let (name, data) = (record["name"].as_str().unwrap(), record["data"].as_str().unwrap());
        match record["type"].as_str().unwrap() {
            "TXT" => dns.txt(name, data),
            "MX" => dns.mx(name, &[(10, data.split(' ').nth(1).unwrap().trim_end_matches('.'))]),
            _ => dns.a(name, [192, 0, 2, 25]),
        }
    }
    dns.ptr([192, 0, 2, 25], "mail.acme.test");
    dns.a("2.0.0.127.bl.test", [127, 0, 0, 2]);
    let (fine, told) =
        doctor(folder.path(), &dns, &[&["--reach", &sink, "--time-server", &right], &listing[..]].concat());
    assert!(fine, "{:#?}", told.0);
    for check in ["ptr", "spf", "dkim", "mx", "listing", "port-25", "clock"] {
        assert_eq!(told.state(check, ""), "ok", "{check}");
    }
    assert_eq!(told.state("dmarc", ""), "warn", "p=none only watches");

    dns.a("25.2.0.192.bl.test", [127, 0, 0, 4]);
    dns.txt("25.2.0.192.bl.test", "sent to a trap");
    dns.only_txt("acme.test", "v=spf1 ip4:198.51.100.1 -all");
    let (fine, told) =
        doctor(folder.path(), &dns, &[&["--reach", "none", "--time-server", "none"], &listing[..]].concat());
    assert!(!fine);
    assert_eq!((told.state("listing", ""), told.state("spf", "")), ("fail", "fail"));

    // Without a network it says so, and that is no failure.
    let output = tuma(folder.path(), &["doctor", "-c", "etc/tuma.toml", "--offline"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("nothing was asked"), "{text}");
    // A configuration that is wrong is the first thing to mend.
    std::fs::write(folder.path().join("etc/tuma.toml"), "hostnam = \"x.test\"\n").unwrap();
    let (fine, told) = doctor(folder.path(), &dns, &[]);
    assert!(!fine && told.state("config", "") == "fail");
}
