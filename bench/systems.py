"""The mail servers that are compared: how each is installed, configured and run.

Every one relays what it gets on one loopback port to one next hop on another, and keeps what it must in a
folder of its own. Each takes at least as many connections, and opens as many, as the load asks for. What a
server does by default for durability and logging is left as it is.
"""

import json
import os
import pathlib
import pwd
import re
import shutil
import socket
import subprocess
import textwrap
import time

from measure import Program, require


class Unavailable(Exception):
    """The system cannot be run here; the text says why."""


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stdout.strip()[-500:]}")
    return done.stdout


def need_root(what):
    if os.geteuid():
        raise Unavailable(f"{what} needs root")


def add_user(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        run("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", name)


APT = {"DEBIAN_FRONTEND": "noninteractive", "PATH": os.environ.get("PATH", "")}


class System:
    """One mail server. `settings` are the texts the report prints."""

    name = ""
    # Where the report says something that the figures do not.
    note = ""

    def __init__(self, work, port, next_hop):
        self.home = work / self.name.lower().replace(" ", "-")
        self.port, self.next_hop = port, next_hop
        self.version = ""
        self.settings = {}
        self.program = None

    def install(self):
        """Once, before the first round. Raises Unavailable."""

    def configure(self, scenario):
        """Before each start, in a fresh `data` folder: the command, its environment."""
        raise NotImplementedError

    def start(self, scenario, wrapper=()):
        data = self.home / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        command, env = self.configure(scenario)
        self.program = Program(self.name.lower().replace(" ", "-"), list(wrapper) + command, env=env,
                               cwd=self.home, log=self.home / "output.log")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 2) as probe:
                    probe.settimeout(10)
                    if probe.recv(3) == b"220":
                        probe.sendall(b"QUIT\r\n")
                        return
            except OSError:
                pass
            time.sleep(0.1)
        self.stop()
        raise Unavailable(f"{self.name} does not answer; its last words: {self.last_words()}")

    def last_words(self):
        try:
            return (self.home / "output.log").read_text(errors="replace")[-600:]
        except OSError:
            return ""

    def stop(self):
        if self.program:
            self.program.stop()
            self.program = None

    def write(self, path, text, show=True, mode=0o644):
        path = self.home / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        if show:
            shown = text.replace(str(self.home), "$HOME_OF_" + self.name.upper().replace(" ", "_"))
            self.settings[path.name] = shown


class Tuma(System):
    name = "Tuma"

    def __init__(self, work, port, next_hop, repo, binary):
        super().__init__(work, port, next_hop)
        self.repo, self.binary = repo, binary

    def install(self):
        self.example = self.repo / "examples/relay.toml"
        if not self.example.exists():
            raise Unavailable("there is no examples/relay.toml yet")
        if not self.binary:
            run("cargo", "build", "--release", "--quiet", "-p", "tuma", cwd=self.repo)
            self.binary = self.repo / "target/release/tuma"
        self.home.mkdir(parents=True, exist_ok=True)
        self.version = run(self.binary, "--version").strip()
        self.settings["relay.toml"] = self.example.read_text()

    def configure(self, scenario):
        env = {
            "TUMA_LISTEN": f"127.0.0.1:{self.port}",
            "TUMA_NEXT_HOP": f"127.0.0.1:{self.next_hop}",
            "TUMA_DATA": str(self.home / "data"),
            "TUMA_RETRY": "1s",
        }
        return [self.binary, "serve", "-c", self.example], env


class BareRelay(System):
    name = "Bare relay"
    note = "no spool, no queue, no log: the floor, not a mail server"

    def __init__(self, work, port, next_hop, tool):
        super().__init__(work, port, next_hop)
        self.tool = tool

    def install(self):
        self.home.mkdir(parents=True, exist_ok=True)
        self.version = "of this repository"

    def configure(self, scenario):
        fresh = ["--fresh"] if scenario.messages_per_connection else []
        self.settings["command"] = "bare-relay --listen … --next-hop … [--fresh, with one message a connection]\n"
        return [self.tool, "bare-relay", "--listen", f"127.0.0.1:{self.port}",
                "--next-hop", f"127.0.0.1:{self.next_hop}", "--serve"] + fresh, None


class Postfix(System):
    name = "Postfix"

    MAIN = """\
        compatibility_level = 3.6
        queue_directory = {home}/data/queue
        data_directory = {home}/data/lib
        command_directory = /usr/sbin
        daemon_directory = /usr/lib/postfix/sbin
        maillog_file = {home}/data/mail.log
        maillog_file_prefixes = {home}
        mail_owner = postfix
        setgid_group = postdrop
        myhostname = postfix.test
        mydestination =
        local_recipient_maps =
        alias_maps =
        alias_database =
        inet_interfaces = 127.0.0.1
        inet_protocols = ipv4
        mynetworks = 127.0.0.0/8
        smtpd_relay_restrictions = permit_mynetworks, reject
        relayhost = [127.0.0.1]:{next_hop}
        # No lookups: neither names of clients nor routes.
        disable_dns_lookups = yes
        smtpd_peername_lookup = no
        # Limits raised so that none of them sets the pace.
        default_process_limit = 200
        in_flow_delay = 0
        # More than 20 connections to the next hop, the default, made it slower on two processors, and so did
        # keeping them in the cache when nothing else waits.
        initial_destination_concurrency = 20
        smtp_destination_concurrency_limit = 20
        smtpd_client_connection_count_limit = 0
        smtpd_client_connection_rate_limit = 0
        smtpd_client_message_rate_limit = 0
        qmgr_message_active_limit = 100000
        qmgr_message_recipient_limit = 100000
        max_use = 10000
        smtp_connection_cache_on_demand = yes
        smtp_connection_reuse_count_limit = 0
        message_size_limit = 52428800
        minimal_backoff_time = 5s
        queue_run_delay = 5s
        notify_classes =
        smtp_tls_security_level = none
        smtpd_tls_security_level = none
        """
    MASTER = """\
        127.0.0.1:{port} inet n - n - 200 smtpd
        pickup    unix n - n 60 1 pickup
        cleanup   unix n - n - 0 cleanup
        qmgr      unix n - n 300 1 qmgr
        rewrite   unix - - n - - trivial-rewrite
        bounce    unix - - n - 0 bounce
        defer     unix - - n - 0 bounce
        trace     unix - - n - 0 bounce
        verify    unix - - n - 1 verify
        flush     unix n - n 1000? 0 flush
        proxymap  unix - - n - - proxymap
        proxywrite unix - - n - 1 proxymap
        smtp      unix - - n - 200 smtp
        relay     unix - - n - 200 smtp
        showq     unix n - n - - showq
        error     unix - - n - - error
        retry     unix - - n - - error
        discard   unix - - n - - discard
        anvil     unix - - n - 1 anvil
        scache    unix - - n - 1 scache
        tlsmgr    unix - - n 1000? 1 tlsmgr
        postlog   unix-dgram n - n - 1 postlogd
        """

    def install(self):
        need_root("Postfix")
        if not shutil.which("postconf"):
            plan = run("apt-get", "install", "--simulate", "--no-install-recommends", "postfix", env=APT)
            if "\nRemv " in plan:
                raise Unavailable("installing it would remove another mail server")
            # Keeps the package from starting a service.
            policy = pathlib.Path("/usr/sbin/policy-rc.d")
            is_ours = not policy.exists()
            if is_ours:
                policy.write_text("#!/bin/sh\nexit 101\n")
                policy.chmod(0o755)
            try:
                subprocess.run(["debconf-set-selections"], text=True, check=True,
                               input="postfix postfix/main_mailer_type select No configuration\n")
                run("apt-get", "install", "--yes", "--no-install-recommends", "postfix", env=APT)
            finally:
                if is_ours:
                    policy.unlink()
            # Should it run nevertheless: it did not before.
            subprocess.run(["postfix", "stop"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.home.mkdir(parents=True, exist_ok=True)
        self.version = run("postconf", "-d", "-h", "mail_version").strip()

    def configure(self, scenario):
        etc = self.home / "etc"
        values = {"home": self.home, "port": self.port, "next_hop": self.next_hop}
        self.write("etc/main.cf", textwrap.dedent(self.MAIN).format(**values))
        self.write("etc/master.cf", textwrap.dedent(self.MASTER).format(**values))
        for folder, owner in (("data/queue", "root"), ("data/lib", "postfix")):
            (self.home / folder).mkdir(parents=True)
            shutil.chown(self.home / folder, owner)
        return ["postfix", "-c", etc, "start-fg"], None

    def stop(self):
        if self.program:
            subprocess.run(["postfix", "-c", self.home / "etc", "stop"], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        super().stop()

    def last_words(self):
        log = self.home / "data/mail.log"
        return super().last_words() + (log.read_text(errors="replace")[-600:] if log.exists() else "")


class Exim(System):
    name = "Exim"

    CONFIGURE = """\
        primary_hostname = exim.test
        exim_user = Debian-exim
        exim_group = Debian-exim
        never_users =
        spool_directory = {home}/data/spool
        log_file_path = {home}/data/log/%slog
        pid_file_path = {home}/data/exim.pid
        local_interfaces = 127.0.0.1
        daemon_smtp_ports = {port}
        keep_environment =
        tls_advertise_hosts =
        # No lookups of clients.
        host_lookup =
        rfc1413_hosts =
        # Limits raised or lifted so that none of them sets the pace, and every message is delivered at once.
        smtp_accept_max = 200
        smtp_accept_queue = 0
        smtp_accept_queue_per_connection = 0
        smtp_accept_max_per_connection = 0
        smtp_accept_reserve = 0
        smtp_connect_backlog = 200
        remote_max_parallel = 10
        queue_run_max = 10
        split_spool_directory = true
        message_size_limit = 50M
        # Nothing here is delivered by another user, so nothing needs root.
        deliver_drop_privilege = true
        acl_smtp_rcpt = relay
        acl_smtp_data = accept
        begin acl
        relay:
          accept hosts = 127.0.0.1
        begin routers
        next_hop:
          driver = manualroute
          domains = *
          transport = remote
          route_list = * 127.0.0.1::{next_hop} byname
          self = send
        begin transports
        remote:
          driver = smtp
          allow_localhost
          hosts_avoid_tls = *
          connection_max_messages = 500
        begin retry
        * * F,1h,5s
        """

    def install(self):
        need_root("Exim")
        require("dpkg")
        root = self.home / "root"
        root.mkdir(parents=True, exist_ok=True)
        self.binary = root / "usr/sbin/exim4"
        self._unpack(root, "exim4-daemon-light", "exim4-base", "exim4-config")
        for library in self._missing():
            # A library's package is named after it: libidn.so.12 is in libidn12.
            self._unpack(root, re.sub(r"(-?)\.so\.(\d+).*", r"\1\2", library))
        if self._missing():
            raise Unavailable(f"libraries are missing: {', '.join(self._missing())}")
        add_user("Debian-exim")
        package = next((self.home / "packages").glob("exim4-daemon-light_*.deb"))
        self.version = run("dpkg-deb", "--field", package, "Version").strip()

    def _env(self):
        folders = {str(path.parent) for path in (self.home / "root").rglob("*.so.*")}
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(sorted(folders))}

    def _missing(self):
        found = run("ldd", self.binary, env=self._env())
        return [line.split()[0] for line in found.splitlines() if "not found" in line]

    def _unpack(self, root, *packages):
        folder = self.home / "packages"
        folder.mkdir(exist_ok=True)
        if not all(list(folder.glob(f"{package}_*.deb")) for package in packages):
            run("apt-get", "download", *packages, cwd=folder)
        for package in packages:
            run("dpkg", "-x", next(folder.glob(f"{package}_*.deb")), root)

    def configure(self, scenario):
        text = textwrap.dedent(self.CONFIGURE)
        self.write("exim.conf", text.format(home=self.home, port=self.port, next_hop=self.next_hop))
        for folder in ("data/spool", "data/log"):
            (self.home / folder).mkdir(parents=True)
            shutil.chown(self.home / folder, "Debian-exim", "Debian-exim")
        shutil.chown(self.home / "data", "Debian-exim", "Debian-exim")
        # -bdf: a daemon in the foreground; -q10s: retries.
        self.settings["command"] = "exim4 -bdf -q10s -C exim.conf\n"
        return [self.binary, "-bdf", "-q10s", "-C", self.home / "exim.conf"], self._env()

    def last_words(self):
        logs = [path.read_text(errors="replace")[-400:] for path in (self.home / "data/log").glob("*log")]
        return super().last_words() + "".join(logs)


class Haraka(System):
    name = "Haraka"

    NEXT_HOP = """\
        // Relays for everybody who can connect, which is loopback, to the one next hop.
        exports.register = function () {{
          this.register_hook('connect', 'relay')
          this.register_hook('rcpt', 'accept')
          this.register_hook('get_mx', 'next_hop')
        }}
        exports.relay = function (next, connection) {{
          connection.relaying = true
          next()
        }}
        exports.accept = function (next) {{
          next(OK)
        }}
        exports.next_hop = function (next) {{
          next(OK, {{ priority: 0, exchange: '127.0.0.1', port: {next_hop} }})
        }}
        """

    def install(self):
        npm = require("npm")
        self.home.mkdir(parents=True, exist_ok=True)
        overrides = {}
        for _ in range(12):
            wanted = {"private": True, "dependencies": {"Haraka": "3"}, "overrides": overrides}
            self.write("package.json", json.dumps(wanted), show=False)
            done = subprocess.run([npm, "install", "--no-audit", "--no-fund", "--omit=optional"], cwd=self.home,
                                  stdin=subprocess.DEVNULL, text=True, capture_output=True)
            if done.returncode == 0:
                break
            # A registry that lags behind may lack the newest version of a dependency: take the one before.
            lacks = re.search(r"No matching version found for (\S+?)@[~^>=]*(\d\S*?)\.?\s", done.stderr)
            if not lacks or lacks[1] in overrides:
                raise Unavailable(f"npm install failed: {done.stderr.strip()[-400:]}")
            overrides[lacks[1]] = f"<{lacks[2]}"
        package = self.home / "node_modules/Haraka"
        node = run("node", "--version").strip()
        self.version = f"{json.loads((package / 'package.json').read_text())['version']}, Node {node}"
        # Without a connection.ini of its own it throws on every connection.
        shutil.copytree(package / "config", self.home / "instance/config", dirs_exist_ok=True)

    def configure(self, scenario):
        self.write("instance/config/smtp.ini", f"listen=127.0.0.1:{self.port}\nnodes={os.cpu_count()}\n")
        self.write("instance/config/outbound.ini", "concurrency_max=100\nenable_tls=false\n")
        connection = "[main]\n[haproxy]\n[headers]\nadd_received=true\n[max]\nbytes=52428800\n[message]\n[uuid]\n"
        self.write("instance/config/connection.ini", connection)
        self.write("instance/config/log.ini", "[main]\nlevel=notice\n")
        self.write("instance/config/plugins", "next_hop\n")
        self.write("instance/config/me", "haraka.test\n")
        self.write("instance/config/host_list", "", show=False)
        self.write("instance/plugins/next_hop.js", textwrap.dedent(self.NEXT_HOP).format(next_hop=self.next_hop))
        queue = self.home / "instance/queue"
        shutil.rmtree(queue, ignore_errors=True)
        queue.mkdir()
        return ["node", self.home / "node_modules/Haraka/bin/haraka", "-c", self.home / "instance"], None
