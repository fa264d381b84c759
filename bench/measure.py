"""What a program costs while it works: CPU, memory, and whether others took the machine meanwhile."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROCESSORS = os.cpu_count()


def _cgroup2_folder():
    """A cgroup v2 folder in which we may open groups of our own, or None."""
    try:
        mounts = pathlib.Path("/proc/mounts").read_text().splitlines()
        own = next(line[3:] for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()
                   if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    for mount in (line.split() for line in mounts):
        if mount[2] == "cgroup2":
            folder = pathlib.Path(mount[1] + own)
            if os.access(folder, os.W_OK) and (folder / "cpu.stat").exists():
                return folder
    return None


# Without cgroups the program runs under this: it adopts every orphan of the program and waits for it, so
# that its own times in /proc, children included, and those of the living add up. Children that nobody waits
# for, because their parent ignores SIGCHLD as Exim's do, are then in nobody's books.
_SUBREAPER = """
import ctypes, os, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try: os.wait()
    except ChildProcessError: break
"""


def counts_every_process():
    """Whether `Program.cpu` has the time of children that nobody waited for too."""
    return _cgroup2_folder() is not None


class Program:
    """A program and everything it has started, or its children have, daemons included."""

    def __init__(self, name, command, env=None, cwd=None, log=None):
        parent = _cgroup2_folder()
        self.group = None
        enter = None
        command = [str(word) for word in command]
        if parent:
            self.group = parent / f"tuma-compare-{os.getpid()}-{name}"
            self.group.mkdir()
            members = str(self.group / "cgroup.procs")

            def enter():
                with open(members, "w") as file:
                    file.write("0")
        else:
            command = [sys.executable, "-c", _SUBREAPER] + command
        self.log = open(log or os.devnull, "ab")
        self.process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, cwd=cwd, preexec_fn=enter, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def pids(self):
        if self.group:
            return [int(pid) for pid in (self.group / "cgroup.procs").read_text().split()]
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                stat = _stat(int(entry))
                if stat:
                    parents[int(entry)] = int(stat[1])
        found, new = [], [self.process.pid]
        while new:
            found += new
            new = [pid for pid, parent in parents.items() if parent in new and pid not in found]
        return found

    def cpu(self):
        """Seconds of CPU so far, of the living and the dead."""
        if self.group:
            for line in (self.group / "cpu.stat").read_text().splitlines():
                if line.startswith("usage_usec"):
                    return int(line.split()[1]) / 1e6
        return sum(_cpu(pid) for pid in self.pids())

    def pss(self):
        """Octets of memory, shared pages divided among those who share them."""
        total = 0
        for pid in self.pids():
            try:
                for line in open(f"/proc/{pid}/smaps_rollup"):
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
                        break
            except OSError:
                pass  # it has ended since
        return total

    def is_running(self):
        return any(_stat(pid) and _stat(pid)[0] != "Z" for pid in self.pids())

    def stop(self, patience=20):
        """Asks politely, then not. Only processes of this program are touched."""
        for sign, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5)):
            pids = [pid for pid in self.pids() if pid != self.process.pid or self.group]
            for pid in pids:
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    pass
            until = time.monotonic() + wait
            while self.is_running() and time.monotonic() < until:
                self.process.poll()
                time.sleep(0.05)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()
        if self.group:
            for _ in range(100):
                try:
                    self.group.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


def _stat(pid):
    """Fields of /proc/pid/stat from the state on."""
    try:
        text = open(f"/proc/{pid}/stat").read()
    except OSError:
        return None
    return text[text.rindex(")") + 2:].split()


def _cpu(pid):
    """Seconds of a process and of the children it has waited for."""
    stat = _stat(pid)
    if not stat:
        return 0
    ended = sum(map(int, stat[13:15])) / TICKS_PER_SECOND
    try:
        # Hundredths of a second, as in stat, would lose a second over the hundred processes of a Postfix.
        tasks = [f"/proc/{pid}/task/{task}/schedstat" for task in os.listdir(f"/proc/{pid}/task")]
        exact = sum(int(open(task).read().split()[0]) for task in tasks) / 1e9
    except OSError:
        exact = 0
    # Threads that have ended are only in the coarse account.
    return ended + max(exact, sum(map(int, stat[11:13])) / TICKS_PER_SECOND)


class PeakMemory(threading.Thread):
    """Looks at a program's memory now and then."""

    def __init__(self, program, every=0.5):
        super().__init__(daemon=True)
        self.program, self.every, self.peak, self.ended = program, every, 0, threading.Event()
        self.start()

    def run(self):
        while True:
            self.peak = max(self.peak, self.program.pss())
            if self.ended.wait(self.every):
                return

    def finish(self):
        self.ended.set()
        self.join()
        self.peak = max(self.peak, self.program.pss())
        return self.peak


KERNEL = 2  # the process whose children are the kernel's own threads


def _kernel_threads():
    """CPU of the kernel's own threads: what they do, they do for whoever works."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = _stat(int(entry))
            if stat and int(stat[1]) == KERNEL:
                found[entry] = _cpu(int(entry))
    return found


class Machine:
    """How busy the whole machine was between `start` and `others`, and how much of it was not ours."""

    def __init__(self, programs):
        self.programs = programs
        self.before = self._read()

    def _read(self):
        kernel = _kernel_threads()
        ours = sum(program.cpu() for program in self.programs)
        mine = os.times()
        fields = [int(field) for field in open("/proc/stat").readline().split()[1:9]]
        user, nice, system, idle, iowait, irq, softirq, steal = fields
        return {
            "at": time.monotonic(),
            "busy": (user + nice + system + irq + softirq) / TICKS_PER_SECOND,
            "steal": steal / TICKS_PER_SECOND,
            # The loader has ended before the second look: it is among the children of this program.
            "ours": ours + mine.user + mine.system + mine.children_user + mine.children_system,
            "kernel": kernel,
        }

    def others(self):
        """Shares of the machine that others used: (programs not ours, the hypervisor)."""
        now, before = self._read(), self.before
        capacity = (now["at"] - before["at"]) * PROCESSORS
        kernel = sum(max(0, cpu - before["kernel"].get(thread, 0)) for thread, cpu in now["kernel"].items())
        foreign = (now["busy"] - before["busy"]) - (now["ours"] - before["ours"]) - kernel
        return max(0.0, foreign / capacity), (now["steal"] - before["steal"]) / capacity


def wait_until_quiet(limit, patience):
    """Waits for others to leave the machine alone; the share they used in the last second."""
    until = time.monotonic() + patience
    while True:
        machine = Machine([])
        time.sleep(1)
        share = sum(machine.others())
        if share <= limit or time.monotonic() >= until:
            return share


def require(program):
    path = shutil.which(program)
    if not path:
        raise RuntimeError(f"{program} is not installed")
    return path
