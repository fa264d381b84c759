//! How much memory there is, and how much of it is ours.

use ipnet::IpNet;
use settings::Cidr;

/// The budget in octets: as configured, or half of what the cgroup or the machine has.
pub fn budget(configured: u64) -> u64 {
    if configured > 0 {
        return configured;
    }
    let machine = machine().unwrap_or(1 << 30);
    cgroup().map_or(machine, |limit| limit.min(machine)) / 2
}

fn machine() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The limit of our own cgroup, version 2 or 1; `None` without one.
fn cgroup() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let v2 = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let files = [
        format!("/sys/fs/cgroup{v2}/memory.max"),
        "/sys/fs/cgroup/memory.max".into(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".into(),
    ];
    files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// A network in the form another room wants.
pub fn ip_net(cidr: &Cidr) -> IpNet {
    IpNet::new_assert(cidr.address(), cidr.prefix())
}
