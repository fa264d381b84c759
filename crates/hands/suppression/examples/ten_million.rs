//! What ten million entries cost: `cargo run --release -p suppression --example ten_million [FOLDER]`.

use mail::{Mailbox, UnixMillis};
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;
use suppression::{Entry, Reason, Subject, Suppression};

const ENTRIES: usize = 10_000_000;
const LOOKS: usize = 1_000_000;

fn address(n: usize) -> String {
    // Spread, so that neighbours in the list are none in the table.
    let name = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("user.{name:016x}@domain{}.example", n % 5_000)
}

/// Octets of memory this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// Seconds this thread was on a core: what a busy machine leaves of a measurement.
fn on_core() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn open(folder: &Path) -> Suppression {
    Suppression::open(folder, u64::MAX).expect("the list")
}

fn main() {
    let kept = tempfile::tempdir().expect("a folder");
    let folder = std::env::args().nth(1).map_or_else(|| kept.path().to_owned(), Into::into);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let list = open(&folder);
    let began = Instant::now();
    let mut batch = Vec::new();
    for n in list.stats().entries as usize..ENTRIES {
        batch.push(Entry {
            tenant: None,
            subject: Subject::parse(&address(n)).expect("an address"),
            reason: Reason::Bounce,
            note: "".into(),
            since: UnixMillis(1_800_000_000_000),
            until: None,
        });
        if batch.len() == 50_000 {
            runtime.block_on(list.add(std::mem::take(&mut batch))).expect("room");
        }
    }
    runtime.block_on(list.add(batch)).expect("room");
    println!("written in {:.1} s, {} MB", began.elapsed().as_secs_f64(), list.stats().octets / 1_000_000);
    drop(list);
    let before = resident();
    let (began, core) = (Instant::now(), on_core());
    let list = open(&folder);
    let (took, core) = (began.elapsed().as_secs_f64(), on_core() - core);
    println!("loaded {} in {took:.1} s, {core:.1} s of a core", list.stats().entries);
    println!("memory {} MB, before {} MB", resident() / 1_000_000, before / 1_000_000);
    let now = UnixMillis(1_800_000_000_000);
    let boxes = |from: usize| -> Vec<Mailbox> {
        let spread = |n: usize| from + n * 7_919 % ENTRIES;
        (0..LOOKS).map(|n| Mailbox::parse(&address(spread(n))).expect("a mailbox")).collect()
    };
    for (what, from, expected) in [("of a stranger", ENTRIES, false), ("of one on it", 0, true)] {
        let boxes = boxes(from);
        let (began, core) = (Instant::now(), on_core());
        for mailbox in &boxes {
            assert_eq!(black_box(list.holds(Some("acme"), black_box(mailbox), now)), expected);
        }
        let (took, core) = (began.elapsed().as_secs_f64(), on_core() - core);
        let each = 1e6 / LOOKS as f64;
        println!("look-up {what}: {:.2} us, {:.2} us of a core", took * each, core * each);
    }
}
