//! What work costs: CPU time and memory of threads, processes and their children, from `/proc`.
//!
//! Everything reads as zero where `/proc` does not exist.

use std::time::Duration;

/// Linux reports process times in hundredths of a second to every program (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    schedstat("/proc/thread-self/schedstat".as_ref()).unwrap_or_default()
}

/// The calling thread's id, for [`task_cpu`].
pub fn thread_id() -> Option<u64> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

/// CPU time so far of a thread of this process; zero once it has ended.
pub fn task_cpu(thread: u64) -> Duration {
    schedstat(format!("/proc/self/task/{thread}/schedstat").as_ref()).unwrap_or_default()
}

/// What a process and all its living descendants use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processes counted.
    pub processes: u64,
    /// User and system time, with that of children already ended and waited for. Children that ended
    /// without being waited for are in nobody's books: a control group counts them, this does not.
    pub cpu: Duration,
    /// Proportional set size: memory, with shared pages divided among those who share them.
    pub pss_octets: u64,
}

/// Adds up `root` and everything below it.
pub fn tree(root: u32) -> Usage {
    let mut parents: Vec<(u32, u32, Duration)> = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some((parent, cpu)) = stat(pid) {
            parents.push((pid, parent, cpu));
        }
    }
    let mut members = vec![root];
    let mut usage = Usage::default();
    let mut next = 0;
    while let Some(member) = members.get(next).copied() {
        next += 1;
        members
            .extend(parents.iter().filter(|(pid, parent, _)| *parent == member && *pid != root).map(|p| p.0));
        if let Some((_, _, cpu)) = parents.iter().find(|(pid, ..)| *pid == member) {
            usage.processes += 1;
            usage.cpu += *cpu;
            usage.pss_octets += pss_octets(member);
        }
    }
    usage
}

/// Parent and CPU time, own and of children waited for (proc(5), `/proc/pid/stat`).
fn stat(pid: u32) -> Option<(u32, Duration)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold blanks and parentheses.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let mut ticks = fields.skip(9).map(|field| field.parse::<u64>().unwrap_or(0));
    let in_ticks = |ticks: u64| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    let mut both = || in_ticks(ticks.next().unwrap_or(0) + ticks.next().unwrap_or(0));
    let (own, children) = (both(), both());
    // A hundredth of a second is coarse where a hundred processes share the work; but only the coarse account
    // has the threads that have ended.
    Some((parent, exact_cpu(pid).unwrap_or(own).max(own) + children))
}

/// CPU time of a process's own living threads, to the nanosecond.
fn exact_cpu(pid: u32) -> Option<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    tasks.map(|task| schedstat(&task.path().join("schedstat"))).sum()
}

fn schedstat(path: &std::path::Path) -> Option<Duration> {
    let text = std::fs::read_to_string(path).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Proportional set size of one process; zero when it may not be read.
pub fn pss_octets(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_counted_with_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("20").spawn().expect("sleep exists");
        let usage = tree(std::process::id());
        child.kill().expect("the child lives");
        child.wait().expect("the child is ours");
        assert!(usage.processes >= 2, "{usage:?}");
        assert!(usage.pss_octets > 100_000, "{usage:?}");
    }

    #[test]
    fn a_busy_thread_uses_cpu() {
        let before = thread_cpu();
        let mut random = crate::wire::Random(1);
        while !random.next_u64().is_multiple_of(50_000_000) {}
        assert!(thread_cpu() > before);
        assert!(task_cpu(thread_id().expect("Linux has thread ids")) >= thread_cpu() / 2);
    }
}
