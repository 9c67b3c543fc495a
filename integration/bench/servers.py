"""Starts what is measured: a primary with two streaming replicas, pgweir and PgBouncer.

Everything listens on 127.0.0.1, lives below one temporary directory and is gone when `Servers`
is closed. Run as root, the servers and PgBouncer drop to an unprivileged account.
"""

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

START_SECONDS = 60
POOL_SIZE = 20
MAX_CLIENTS = 2000

POSTGRES_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 600MB
fsync = off
autovacuum = off
max_wal_size = 8GB
checkpoint_timeout = 1h
max_wal_senders = 8
log_min_messages = warning
"""


class BenchError(Exception):
    """What went wrong, for the user."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_directory():
    """The directory with initdb, postgres, pg_basebackup and pgbench."""
    found = [os.environ.get("PGWEIR_PG_BIN", "")]
    in_path = shutil.which("initdb")
    found += [os.path.dirname(os.path.realpath(in_path))] if in_path else []
    versions = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/opt/homebrew/opt/postgresql@*/bin")
    found += sorted(versions, reverse=True)
    for directory in found:
        programs = ("initdb", "postgres", "pg_basebackup", "psql", "pgbench")
        if directory and all(os.access(os.path.join(directory, name), os.X_OK) for name in programs):
            return directory
    raise BenchError("no PostgreSQL with pgbench found; set PGWEIR_PG_BIN to its bin directory")


def unprivileged():
    """Arguments for subprocess that drop root, and the (uid, gid) to give files to, or None."""
    if os.geteuid() != 0:
        return {}, None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        return account, (entry.pw_uid, entry.pw_gid)
    raise BenchError("run as root, but there is no account `postgres` or `nobody` to drop to")


def find_pgbouncer(wanted):
    found = wanted or shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return found if found and os.access(found, os.X_OK) else None


class Servers:
    """All processes of one run. A context manager: leaving it ends and removes everything.

    The class attributes are what another kind of run may replace.
    """

    PREFIX = "pgweir-bench-"
    SUPERUSER = "bench"
    SETTINGS = POSTGRES_SETTINGS
    SETUP = (
        "CREATE ROLE app LOGIN",
        "CREATE ROLE pgweir LOGIN IN ROLE pg_monitor",
        "CREATE DATABASE app OWNER app",
    )
    # Who logs in through the proxies, and to which database.
    CLIENT = ("app", "app")

    def __init__(self, pgweir, pgbouncer, scale, workers, say):
        self.pgweir, self.pgbouncer, self.scale, self.workers, self.say = pgweir, pgbouncer, scale, workers, say
        self.programs = postgres_directory()
        self.account, self.owner = unprivileged()
        self.directory = tempfile.mkdtemp(prefix=self.PREFIX)
        os.chmod(self.directory, 0o755)
        self.processes = []
        self.nodes = []
        self.ports = {}
        self.pids = {}
        self.http = 0

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends what was started, the youngest first, and removes the files."""
        for process, ending in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(ending)
        for process, _ in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def psql(self, port, sql, database="postgres", user=None):
        """The first column of the result, unaligned."""
        user = user or self.SUPERUSER
        return self._run("psql", "-h", "127.0.0.1", "-p", str(port), "-U", user, "-d", database, "-XAtqc", sql).strip()

    def program(self, name):
        return os.path.join(self.programs, name)

    def pgbench(self, port, *arguments):
        """pgbench's report."""
        # Debian's wrapper for pgbench is slower to start and picks a version by itself.
        return self._run("pgbench", "-n", "-h", "127.0.0.1", "-p", str(port), "-U", "app", *arguments, "app")

    def version(self):
        return self._run("postgres", "--version").strip()

    def _start(self):
        self.say(f"starting a primary and two replicas with {self.programs}")
        self._primary()
        self._replicas()
        self.say(f"filling pgbench's tables, scale {self.scale}")
        self.pgbench(self.nodes[0], "-i", "-q", "-s", str(self.scale))
        self.psql(self.nodes[0], "VACUUM ANALYZE", "app")
        self.caught_up()
        for port in self.nodes:
            self.psql(port, "SELECT count(*), sum(abalance) FROM pgbench_accounts", "app")
            self.psql(port, "SET enable_seqscan=off; SELECT count(*) FROM pgbench_accounts WHERE aid > 0", "app")
        self._proxies()

    def _primary(self):
        data = self._own_directory("node0")
        self._run("initdb", "-D", data, "-U", self.SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", drop=True)
        with open(os.path.join(data, "postgresql.conf"), "a", encoding="ascii") as file:
            file.write(self.SETTINGS)
        self._node(data)
        for sql in self.SETUP:
            self.psql(self.nodes[0], sql)

    def _replicas(self):
        for index in (1, 2):
            data = self._own_directory(f"node{index}")
            self._run(
                "pg_basebackup", "-h", "127.0.0.1", "-p", str(self.nodes[0]), "-U", self.SUPERUSER,
                "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync", drop=True,
            )
            self._node(data)

    def caught_up(self):
        """Waits until both replicas have replayed what the primary has written."""
        target = self.psql(self.nodes[0], "SELECT pg_current_wal_insert_lsn()")
        for port in self.nodes[1:]:
            sql = f"SELECT pg_last_wal_replay_lsn() >= '{target}'"
            self._until(lambda: self.psql(port, sql) == "t", "a replica has caught up")

    def _proxies(self):
        self.ports["direct"] = self.nodes[0]
        self._start_pgweir()
        if self.pgbouncer:
            self._start_pgbouncer()

    def _start_pgweir(self):
        self.say(f"starting {self.pgweir}")
        port, self.http = free_port(), free_port()
        nodes = "".join(
            f"      - {{ name: node{index}, host: 127.0.0.1, port: {node} }}\n"
            for index, node in enumerate(self.nodes)
        )
        workers = f"workers: {self.workers}\n" if self.workers else ""
        config = self._file("pgweir.yaml", (
            f"listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:{self.http}\n{workers}"
            f"clusters:\n  main:\n    nodes:\n{nodes}"
            "    monitor: { user: pgweir, password: none, database: postgres }\n"
            f"    pool: {self._pool()}\n    consistency: {self._consistency()}\n"
            f"users:\n  - {{ name: {self.CLIENT[0]}, password: none }}\nauth: {{ method: trust }}\n"
        ))
        self._proxy("pgweir", port, [self.pgweir, "run", "--config", config], {})

    def _pool(self):
        """pgweir's `pool` setting."""
        return f"{{ size: {POOL_SIZE} }}"

    def _consistency(self):
        """pgweir's `consistency` setting."""
        return "{}"

    def _start_pgbouncer(self):
        self.say(f"starting {self.pgbouncer}")
        port = free_port()
        # With `auth_type = any` all clients become one role, which must be named.
        config = self._file("pgbouncer.ini", (
            f"[databases]\napp = host=127.0.0.1 port={self.nodes[0]} dbname=app user=app\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\n"
            f"max_client_conn = {MAX_CLIENTS}\nlog_connections = 0\nlog_disconnections = 0\n"
            "ignore_startup_parameters = extra_float_digits\n"
        ))
        self._proxy("pgbouncer", port, [self.pgbouncer, config], self.account)

    def _proxy(self, name, port, command, account):
        log = open(os.path.join(self.directory, f"{name}.log"), "wb")
        process = self._spawn(command, log, account, signal.SIGKILL)
        self.ports[name], self.pids[name] = port, process.pid

        def answers():
            self._alive(process, name)
            return self.psql(port, "SELECT 1", self.CLIENT[1], self.CLIENT[0]) == "1"

        self._until(answers, f"{name} answers")

    def _node(self, data):
        port = free_port()
        log = open(data + ".log", "wb")
        command = [self.program("postgres"), "-D", data, "-p", str(port)]
        process = self._spawn(command, log, self.account, signal.SIGINT)

        def answers():
            self._alive(process, os.path.basename(data))
            return self.psql(port, "SELECT 1") == "1"

        self._until(answers, "a server answers")
        self.nodes.append(port)

    def _spawn(self, command, log, account, ending):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=self.directory, start_new_session=True, **account,
        )
        log.close()
        self.processes.append((process, ending))
        return process

    def _alive(self, process, name):
        if process.poll() is not None:
            path = os.path.join(self.directory, f"{name}.log")
            with open(path, encoding="utf-8", errors="replace") as file:
                raise BenchError(f"{name} ended: {file.read()[-1500:]}")

    def _until(self, done, what):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if done():
                    return
                cause = "not yet"
            except subprocess.CalledProcessError as error:
                cause = (error.stderr or "").strip()
            if time.monotonic() > deadline:
                raise BenchError(f"waited {START_SECONDS} s until {what}: {cause}")
            time.sleep(0.05)

    def _run(self, name, *arguments, drop=False):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        finished = subprocess.run(
            [self.program(name), *arguments], check=True, text=True, stdin=subprocess.DEVNULL,
            capture_output=True, env=environment, cwd=self.directory, **(self.account if drop else {}),
        )
        return finished.stdout

    def _own_directory(self, name):
        path = os.path.join(self.directory, name)
        os.mkdir(path, 0o700)
        if self.owner:
            os.chown(path, *self.owner)
        return path

    def _file(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o644)
        return path
