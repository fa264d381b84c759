//! Floods, slowness and want of room (attack rows 37 to 43, 77, 80): bounded, the others served, nothing lost.

use crate::harness::{PATIENCE, Session, Setup, Tuma, keeping, load, nobody, run, sink, wait_until};
use bench::sink::Options;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

fn works(tuma: &Tuma) {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let reply = session.message("a@b.test", &["c@d.test"], "Subject: x\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
}

#[test]
fn connections_over_a_limit_get_421_and_there_is_room_again_later() {
    let limits = ["connections_max = 3\n", "connections_per_network_max = 3\nnetworks_unlimited = []\n"];
    for limit in limits {
        let folder = tempfile::tempdir().unwrap();
        let sink = sink(Options::default());
        let tuma = Setup::relay_with(folder.path(), sink.addr(), &format!("[reception]\n{limit}")).start();
        let held: Vec<Session> = (0..3).map(|_| tuma.session()).collect();
        let mut over = Session::open(tuma.smtp());
        let reply = over.reply();
        assert!(reply.starts_with("421 too many connections"), "{limit}: {reply}");
        assert_eq!(over.reply(), "", "and is closed");
        drop(held);
        wait_until("there is room again", || Session::open(tuma.smtp()).reply().starts_with("220"));
        wait_until("all are gone", || tuma.metric("tuma_connections_in") == 0.0);
        works(&tuma);
        tuma.wait_until_settled();
    }
}

#[test]
fn connections_that_come_and_go_leave_no_descriptor_behind() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    works(&tuma);
    tuma.wait_until_settled();
    wait_until("the session is over", || tuma.metric("tuma_sessions") == 0.0);
    let before = tuma.metric("tuma_descriptors");
    for n in 0..500 {
        let stream = TcpStream::connect(tuma.smtp()).unwrap();
        if n % 2 == 0 {
            // Closed by a reset.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    wait_until("all were taken", || tuma.metric("tuma_connections_accepted_total") >= 501.0);
    wait_until("all are forgotten", || {
        tuma.metric("tuma_connections_in") == 0.0 && tuma.metric("tuma_sessions") == 0.0
    });
    wait_until("no descriptor is left", || tuma.metric("tuma_descriptors") <= before + 2.0);
    works(&tuma);
}

#[test]
fn with_few_descriptors_accepting_pauses_and_mail_flows_again() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let setup = Setup::relay(folder.path(), sink.addr());
    let own = setup.command();
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -n 256 && exec \"$0\" \"$@\"").arg(own.get_program()).args(own.get_args());
    command.current_dir(folder.path()).envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let tuma = setup.start_as(command);
    assert_eq!(tuma.metric("tuma_descriptors_max"), 256.0);
    // One that was there before is served throughout.
    let mut early = tuma.session();
    early.say("EHLO client.test", "250");
    let flood: Vec<TcpStream> = (0..400).map(|_| TcpStream::connect(tuma.smtp()).unwrap()).collect();
    wait_until("accepting pauses", || tuma.metric("tuma_accept_pauses_total") >= 1.0);
    for _ in 0..20 {
        assert!(early.message("a@b.test", &["c@d.test"], "Subject: x\r\n\r\nx").starts_with("250"));
    }
    tuma.wait_until_settled();
    assert_eq!(tuma.figure("/recipients/delivered"), 20);
    assert!(tuma.metric("tuma_descriptors") < 256.0);
    drop(flood);
    works(&tuma);
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().duplicates()), (21, 0));
}

#[test]
fn slow_clients_are_cut_off_and_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let more = "[smtp]\ncommand_timeout = \"1s\"\ndata_timeout = \"1s\"\ndata_rate_min = 1000\ndata_rate_grace = \"1s\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let into_data = || {
        let mut session = tuma.session();
        session.say("EHLO client.test", "250");
        session.say("MAIL FROM:<a@b.test>", "250");
        session.say("RCPT TO:<c@d.test>", "250");
        session.say("DATA", "354");
        session
    };
    let mut silent = tuma.session();
    let mut silent_in_data = into_data();
    let mut slow = into_data();
    let mut slow_command = tuma.session();
    // Octet by octet: never silent, never done.
    let began = Instant::now();
    let (mut data_open, mut command_open) = (true, true);
    while data_open || command_open {
        assert!(began.elapsed() < PATIENCE, "not cut off: data {data_open}, command {command_open}");
        data_open = data_open && slow.try_send(b"x");
        command_open = command_open && slow_command.try_send(b"x");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(silent.reply().starts_with("421"));
    assert!(silent_in_data.reply().starts_with("421"));
    let report = run(load(tuma.smtp(), 50));
    assert_eq!(report.accepted, 50);
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 50);
}

#[test]
fn a_client_that_never_reads_does_not_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let more = "[smtp]\nidle_commands_max = 100000000\noutput_max = \"4KiB\"\ncommand_timeout = \"1s\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let stream = TcpStream::connect(tuma.smtp()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let noops = b"NOOP\r\n".repeat(10_000);
    let began = Instant::now();
    // Until nothing more is taken: the buffers of both ends are full, or the connection is gone.
    while std::io::Write::write_all(&mut &stream, &noops).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it takes for ever");
    }
    wait_until("the session is over", || tuma.metric("tuma_sessions") == 0.0);
    works(&tuma);
}

#[test]
fn memory_held_by_unfinished_messages_is_given_back_and_others_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let more = "[reception]\nmessages_in_memory_max = \"1MiB\"\nintake_wait = \"500ms\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let mut early = tuma.session();
    early.say("EHLO client.test", "250");
    let mut held: Vec<Session> = (0..4)
        .map(|_| {
            let mut session = tuma.session();
            session.say("EHLO client.test", "250");
            session.say("MAIL FROM:<a@b.test>", "250");
            session.say("RCPT TO:<c@d.test>", "250");
            session.say("DATA", "354");
            session
        })
        .collect();
    let lines = b"0123456789012345678901234567890123456789012345678901234567890\r\n".repeat(6_000);
    for session in &mut held {
        assert!(session.try_send(&lines));
    }
    // Somebody has to go; commands are answered all the while.
    early.say("NOOP", "250");
    wait_until("some of it is given back", || tuma.log().contains("for want of memory"));
    wait_until("mail is taken", || {
        early.send(b"MAIL FROM:<a@b.test>\r\n");
        let taken = early.reply().starts_with("250");
        early.say("RSET", "250");
        taken
    });
    drop(held);
    works(&tuma);
    tuma.wait_until_settled();
    wait_until("nothing is held", || tuma.metric("tuma_receiving_bytes") == 0.0);
}

#[test]
fn with_the_disk_full_intake_stops_and_delivery_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let address = nobody();
    let tuma = Setup::relay(folder.path(), address).start();
    for _ in 0..20 {
        works(&tuma);
    }
    tuma.stop();
    // More than any disk has.
    let tuma =
        Setup::relay_with(folder.path(), address, "[spool]\nmin_free_bytes = \"4000000GiB\"\n").start();
    wait_until("the spool is read", || tuma.figure("/recipients/queued") == 20);
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<a@b.test>", "452 4.3.1");
    // However often it comes back, it is told why; and one that does nothing but that fills no records.
    for _ in 0..150 {
        session.say("RSET", "250");
        session.say("MAIL FROM:<a@b.test>", "452 4.3.1");
    }
    assert_eq!(tuma.http("GET", "/health", "").0, 503);
    let sink = sink(Options { listen: address, ..keeping() });
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, tuma.figure("/recipients/delivered")), (20, 20));
    session.say("MAIL FROM:<a@b.test>", "452 4.3.1");
    tuma.stop();
    let tuma = Setup::relay(folder.path(), address).start();
    works(&tuma);
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().duplicates()), (21, 0));
}

#[test]
fn with_the_disk_of_the_records_full_mail_flows_and_what_is_left_out_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let more = "[accounting.file.full]\npath = \"/dev/full\"\nqueue_max = 16\nflush_interval = \"0s\"\nretry_interval = \"100ms\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let report = run(load(tuma.smtp(), 500));
    assert_eq!(report.accepted, 500);
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 500);
    wait_until("it is counted", || tuma.metric("tuma_accounting_dropped_total") > 0.0);
    // The other file has its records.
    let records = folder.path().join("records.jsonl.zst");
    wait_until("the records are there", || std::fs::metadata(&records).is_ok_and(|meta| meta.len() > 0));
}

/// A small disk of its own, gone with the test.
struct Disk(std::path::PathBuf);

impl Disk {
    /// None where this process may not mount.
    fn of(mebibytes: u32, at: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=700"), "none"]).arg(&at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: a disk cannot be mounted here");
        }
        mounted.then_some(Self(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_really_full_refuses_mail_until_delivery_has_made_room() {
    for min_free in ["0", "2MiB"] {
        let folder = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::of(16, folder.path().join("disk")) else { return };
        let address = nobody();
        let more = format!(
            "[spool]\ndirectory = \"{}/spool\"\nsegment_bytes = \"1MiB\"\nspare_segments = 1\nmin_free_bytes = \"{min_free}\"\n[smtp]\nidle_commands_max = 10000\n",
            disk.0.display()
        );
        let setup = Setup::relay_with(folder.path(), address, &more);
        let tuma = setup.start();
        let too_much = bench::loader::Options { size: 32 * 1024, connections: 4, ..load(tuma.smtp(), 800) };
        let report = run(too_much);
        assert!(report.accepted > 200 && report.refused > 0 && report.failed == 0, "{report}");
        // RCPT and DATA follow a refused MAIL in the same segment: 503.
        assert!(
            report.codes.keys().all(|code| matches!(code, 200..=399 | 421 | 451 | 452 | 503)),
            "{report}"
        );
        // The full disk outlives the process.
        tuma.kill();
        let tuma = setup.start();
        wait_until("the spool is read", || tuma.figure("/recipients/queued") == report.accepted as i64);
        let sink = sink(Options { listen: address, ..Options::default() });
        tuma.wait_until_settled();
        assert_eq!(report.acknowledged.without(&sink.received(report.run), 10), [], "acknowledged and lost");
        assert_eq!(sink.stats().duplicates(), 0);
        // There is room for as much again.
        wait_until("mail is taken", || tuma.http("GET", "/health", "").0 == 200);
        let again = run(bench::loader::Options { size: 32 * 1024, ..load(tuma.smtp(), 50) });
        assert!(again.accepted > 0 && again.failed == 0, "{again}");
        tuma.wait_until_settled();
        assert!(again.acknowledged.without(&sink.received(again.run), 10).is_empty());
    }
}
