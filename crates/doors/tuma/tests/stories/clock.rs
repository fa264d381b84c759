//! The clock of the machine is set, by days and by years: attack 81.

use crate::harness::{Setup, Tuma, has_program, keeping, output_of, rules, send, sink, wait_until};
use bench::sink::Options;
use std::path::Path;
use std::process::Command;

/// A library that sets the clock for one process: seconds in a file are added to the time of day, and to nothing else,
/// as when a person or NTP sets the clock.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) {
        char text[32] = {0};
        int file = open(getenv("CLOCK_SHIFT_FILE"), O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atoll(text);
            close(file);
        }
    }
    return result;
}
"#;

fn set_clock(folder: &Path, seconds: i64) {
    // Replaced whole, so that nobody reads half a number.
    std::fs::write(folder.join("shift.new"), seconds.to_string()).expect("write");
    std::fs::rename(folder.join("shift.new"), folder.join("shift")).expect("rename");
}

fn start(setup: &Setup, folder: &Path) -> Tuma {
    let mut command = setup.command();
    command.env("LD_PRELOAD", folder.join("shim.so")).env("CLOCK_SHIFT_FILE", folder.join("shift"));
    setup.start_as(command)
}

#[test]
fn a_clock_that_jumps_neither_expires_mail_nor_hurries_nor_holds_it() {
    const DAY: i64 = 86_400;
    if !has_program("cc", Command::new("cc").arg("--version")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
    std::fs::write(&source, SHIM).expect("write the shim");
    output_of(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl"));
    set_clock(folder.path(), 0);

    let sink = sink(Options { rules: rules(&["rcpt:domain=late.test:451 4.7.1 later"]), ..keeping() });
    let more = "[retry]\nwaits = [\"1h\"]\nexpire_after = \"6h\"\n\
                [shaping.default]\nmessage_rates = [\"1000/h\"]\n[shaping.default.backoff]\nleave_after = \"1h\"\n";
    let setup = Setup::relay_with(folder.path(), sink.addr(), more);
    let tuma = start(&setup, folder.path());
    send(&tuma, "x@late.test", 10);
    wait_until("all are deferred", || tuma.figure("/recipients/deferred") == 10);
    let mut delivered = 0;
    for jump in [DAY, -DAY, 3_650 * DAY, 0, 1] {
        set_clock(folder.path(), jump);
        // Mail goes on, so everything that looks at the clock has looked.
        send(&tuma, "x@now.test", 3);
        delivered += 3;
        wait_until("mail goes on", || tuma.figure("/recipients/delivered") == delivered);
        let figures =
            ["queued", "deferred", "expired", "bounced"].map(|f| tuma.figure(&format!("/recipients/{f}")));
        assert_eq!(figures, [10, 10, 0, 0], "after a jump of {jump} s");
    }
    // What the server wrote is of the time that the clock showed.
    set_clock(folder.path(), 3_650 * DAY);
    send(&tuma, "x@now.test", 1);
    delivered += 1;
    wait_until("it is delivered", || tuma.figure("/recipients/delivered") == delivered);
    let year = |text: &str| text.split(' ').nth(3).and_then(|year| year.parse::<i64>().ok());
    let received = sink.messages().last().and_then(|m| m.field("Received")).expect("a Received field");
    let stamp = received.rsplit(';').next().expect("a date").trim().to_owned();
    let first = sink.messages()[0].field("Received").expect("a Received field");
    let began = first.rsplit(';').next().expect("a date").trim().to_owned();
    assert!(year(&stamp) > year(&began).map(|year| year + 8), "{stamp} is not years after {began}");

    // A start in another decade: everything seems to be past its time, and still is tried once more.
    sink.set_rules(Vec::new());
    tuma.stop();
    let tuma = start(&setup, folder.path());
    tuma.wait_until_settled();
    assert_eq!(tuma.figure("/recipients/expired"), 0);
    assert_eq!(sink.stats().messages as i64, delivered + 10);

    // And back: what was written down in the future holds nothing for years.
    send(&tuma, "x@late.test", 1);
    sink.set_rules(rules(&["rcpt:domain=late.test,first=5:451 4.7.1 later"]));
    send(&tuma, "x@late.test", 5);
    wait_until("some are deferred", || tuma.figure("/recipients/deferred") >= 4);
    tuma.stop();
    set_clock(folder.path(), 0);
    let tuma = start(&setup, folder.path());
    wait_until("the queue is whole again", || tuma.figure("/recipients/queued") >= 4);
    let listed = String::from_utf8_lossy(&tuma.ask(&["queue", "ls"]).stdout).into_owned();
    let waits = listed
        .lines()
        .filter_map(|line| line.split("due in ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let waits: Vec<f64> = waits.collect();
    assert!(!waits.is_empty() && waits.iter().all(|wait| *wait <= 3_600.0), "{listed}");
}
