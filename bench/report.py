"""Turns the rounds into docs/benchmarks.md."""

import datetime
import os
import pathlib
import platform
import statistics

import measure


class Results:
    def __init__(self, options, scenarios):
        self.options, self.scenarios = options, scenarios
        self.rounds = []  # dicts with system, scenario, noisy and the figures
        self.systems = {}
        self.left_out = {}
        self.ceilings = {}
        self.copies = {}
        self.syncs = {}
        self.too_fast = set()
        self.failures = []
        self.thrown_away = 0

    def add(self, system, scenario, figures, noisy):
        self.rounds.append({"system": system, "scenario": scenario, "noisy": noisy, **figures})

    def add_system(self, system):
        self.systems[system.name] = {"version": system.version, "note": system.note, "settings": system.settings}

    def values(self, system, scenario, *path):
        found = []
        for one in self.rounds:
            if one["system"] == system and one["scenario"] == scenario:
                for step in path:
                    one = one[step]
                found.append(one)
        return found

    def median(self, system, scenario, *path):
        values = self.values(system, scenario, *path)
        return statistics.median(values) if values else None

    def markdown(self):
        parts = [self._opening(), self._full_speed(), self._fixed_rates(), self._durability(), self._method(),
                 self._settings()]
        return "\n\n".join(part.strip() for part in parts if part) + "\n"

    def _opening(self):
        noisy = sum(one["noisy"] for one in self.rounds)
        warning = ""
        if noisy:
            warning = (f"\n\n**{noisy} of {len(self.rounds)} rounds were disturbed by other work on the machine and are "
                       "counted all the same. The figures show that the comparison runs, not who is fast.**")
        elif self.options.quick:
            warning = "\n\n**Short rounds: the figures are rough.**"
        return f"""
# Benchmarks

Written by `bench/compare` on {datetime.date.today().isoformat()}. Medians of {self.options.rounds} interleaved rounds of about
{self.options.seconds:g} s each, loader, mail server and sink on one machine: {_machine()}.
{self.thrown_away} rounds during which others took more than {self.options.foreign_max:g} % of the machine were thrown away.{warning}
"""

    def _full_speed(self):
        lines = ["## At full speed", "", "Each connection sends its next message when the last has its 250. A message counts when the next hop",
                 "has it; CPU is that of all the server's processes, children included; memory is the peak PSS of all of them."]
        base = "Postfix" if "Postfix" in self.systems else None
        for scenario in self.scenarios:
            if scenario.rate or not any(one["scenario"] == scenario.name for one in self.rounds):
                continue
            lines += ["", f"### {scenario.title}", "",
                      "| system | messages/s | range | × Postfix | CPU s / 1,000 messages | × bare relay | peak memory | p95 to 250 |",
                      "|---|---:|---:|---:|---:|---:|---:|---:|"]
            for name in self.systems:
                rate = self.median(name, scenario.name, "rate")
                if rate is None:
                    lines.append(f"| {name} | – | | | | | | |")
                    continue
                rates = self.values(name, scenario.name, "rate")
                cpu = self.median(name, scenario.name, "cpu_us")
                other = self.median(base, scenario.name, "rate") if base else None
                floor = self.median("Bare relay", scenario.name, "cpu_us")
                lines.append("| " + " | ".join([
                    name, _number(rate), f"{_number(min(rates))} – {_number(max(rates))}",
                    f"{rate / other:.1f}" if other else "–", f"{cpu / 1000:.3f}",
                    f"{cpu / floor:.1f}" if floor else "–",
                    f"{self.median(name, scenario.name, 'pss') / 2**20:.0f} MiB",
                    _ms(self.median(name, scenario.name, "latency_250", "p95_us")),
                ]) + " |")
        if self.ceilings:
            lines += ["", "Loader and sink connected to each other, nothing between, pass "
                      + "; ".join(f"{_number(rate)} messages/s at {cpu:.1f} µs of CPU a message for both ({title})"
                                  for title, (rate, cpu) in self.ceilings.items()) + "."]
            lines += self._copies()
        return "\n".join(lines)

    def _copies(self):
        """What larger messages cost beside what copying their octets costs."""
        small, large = self.copies.get("many"), self.copies.get("large")
        if not small or not large:
            return []
        four = large["loopback_us"] - small["loopback_us"]
        lines = ["", f"Copying the octets of a message four times, twice into and out of a TCP connection on loopback, costs "
                 f"{small['loopback_us']:.1f} µs of CPU at {small['size']:,} octets and {large['loopback_us']:.1f} at "
                 f"{large['size']:,} ({large['pair_us']:.1f} through a pair of Unix sockets, {large['memory_us']:.1f} "
                 f"in memory). What the larger message costs each system more than the smaller, in µs and in times the "
                 f"difference of {four:.1f}:"]
        for name in self.systems:
            few, much = (self.median(name, scenario, "cpu_us") for scenario in ("many", "large"))
            if few is not None and much is not None:
                lines.append(f"- {name}: {much - few:.0f} µs, {(much - few) / four:.1f} times")
        return [lines[0], lines[1], ""] + lines[2:]

    def _fixed_rates(self):
        rates = [scenario for scenario in self.scenarios if scenario.rate]
        if not rates:
            return ""
        lines = ["## Latency at fixed rates", "",
                 "Messages are offered by the clock, whatever became of the ones before; latency counts from the",
                 "scheduled send to the end of data at the next hop, and to the 250 at the loader."]
        for scenario in rates:
            lines += ["", f"### {scenario.title}", "",
                      "| system | p50 | p95 | p99 | to 250: p50 | p95 | p99 | CPU s / 1,000 messages |",
                      "|---|---:|---:|---:|---:|---:|---:|---:|"]
            for name in self.systems:
                if (name, scenario.name) in self.too_fast and not self.values(name, scenario.name):
                    lines.append(f"| {name} | beyond what it relays | | | | | | |")
                    continue
                if not self.values(name, scenario.name):
                    lines.append(f"| {name} | – | | | | | | |")
                    continue
                cells = [_ms(self.median(name, scenario.name, kind, point))
                         for kind in ("latency", "latency_250") for point in ("p50_us", "p95_us", "p99_us")]
                cpu = self.median(name, scenario.name, "cpu_us")
                lines.append(f"| {name} | " + " | ".join(cells) + f" | {cpu / 1000:.3f} |")
        return "\n".join(lines)

    def _durability(self):
        lines = ["## Durable before the 250?", "",
                 "Counted with strace: calls of fsync and fdatasync a message until its 250, with one message after the",
                 "other on one connection and a next hop that takes connections and says nothing.", "", "| system | syncs a message | durable |", "|---|---:|---|"]
        for name in self.systems:
            syncs = self.syncs.get(name)
            if name == "Bare relay":
                lines.append(f"| {name} | 0 | stores nothing; its 250 is the next hop's |")
            elif syncs is None:
                lines.append(f"| {name} | not counted | |")
            else:
                lines.append(f"| {name} | {syncs:.2g} | {'yes' if syncs >= 1 else 'no'} |")
        wrong = [one for one in self.rounds if one["duplicates"] or one["refused"] or one["failed"]]
        if wrong:
            lines += ["", "Rounds with duplicates, refusals or failed connections:", ""]
            lines += [f"- {one['system']}, {one['scenario']}: {one['duplicates']} duplicates, {one['refused']} refused, "
                      f"{one['failed']} failed of {one['messages']} messages" for one in wrong]
        else:
            lines += ["", "Every message accepted came out exactly once in every round that counts."]
        if self.failures:
            lines += ["", "Rounds that gave no figures:", ""]
            lines += [f"- {system}, {scenario}: {_one_line(reason)}" for system, scenario, reason in self.failures]
        if self.left_out:
            lines += ["", "Left out:", ""]
            lines += [f"- {name}: {_one_line(reason)}" for name, reason in self.left_out.items()]
        return "\n".join(lines)

    def _method(self):
        accounting = ("CPU time is read from a control group that the system's first process was started in, so that every\n"
                      "  process it forks is counted, whether it has ended or not.")
        if not measure.counts_every_process():
            accounting = ("There were no control groups to be had: CPU time is that of the living processes and of the children\n"
                          "  waited for. Exim does not wait for all of its own and is counted too low.")
        return f"""
## Method

- `bench/compare` starts each system afresh for each round, with an empty spool, warms it up with a twentieth of
  the messages, measures, and stops it. Every scenario of every round visits all systems in turn.
- How many messages a round has is found out for each system by a short run, so that rounds last about as long.
- The clock runs from the first message's schedule to the last one's arrival at the sink. What is accepted
  quickly and delivered slowly is counted as slow.
- {accounting}
- Memory is the proportional set size of all processes, looked at twice a second.
- Other work is what the machine was busy with, less the system, the loader, the sink and the comparison
  itself and the kernel's own threads, and what the hypervisor took.
- The loader pipelines MAIL, RCPT and DATA. It and the sink set TCP_NODELAY.
"""

    def _settings(self):
        lines = ["## Settings", "",
                 "The folders of the systems are shortened. What is not named is as its authors ship it."]
        for name, system in self.systems.items():
            note = f" ({system['note']})" if system["note"] else ""
            lines += ["", f"### {name} {system['version']}{note}"]
            for file, text in system["settings"].items():
                lines += ["", f"`{file}`:", "", "```", text.rstrip("\n"), "```"]
        return "\n".join(lines)


def _number(value):
    return f"{value:,.0f}"


def _ms(us):
    return f"{us / 1000:.1f} ms" if us < 100_000 else f"{us / 1e6:.2f} s"


def _one_line(text):
    return " ".join(text.split())[:300]


def _machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
                 platform.machine())
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}, spools on {_filesystem()}"


def _filesystem():
    import tempfile
    folder, best = pathlib.Path(tempfile.gettempdir()).resolve(), ("", "an unknown file system")
    for line in open("/proc/mounts"):
        mount, kind = line.split()[1:3]
        if (str(folder) + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]
