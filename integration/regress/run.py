#!/usr/bin/env python3
"""PostgreSQL's own regression suites, through pgweir and straight to the primary.

    integration/regress/run.py                    the whole regression suite
    integration/regress/run.py --third            a fixed third of it
    integration/regress/run.py --only 'json guc'  these tests and what they need
    integration/regress/run.py --isolation        the isolation suite: several sessions at once

Downloads the suite (Debian's source package), builds its C library, and runs it with pg_regress or
pg_isolation_regress: directly, and through pgweir with splitting, read-your-writes and two replicas. Every run has a new
primary with two streaming replicas. The results are compared byte by byte. If some differ, a second
direct run shows which of them differ by themselves from run to run; those are named and do not count.
Ends with status 1 if one counts. Needs Python 3.9, Linux, PostgreSQL's programs and a C compiler.
"""

import argparse
import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

# The source tree stays as it is.
sys.dont_write_bytecode = True

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))

from measure import answered, metric
from servers import BenchError, Servers, postgres_directory
from suite import ISOLATION, REGRESS, THIRD, Suite, SuiteError, groups_of, reduced

DATABASE = "regression"
QUERIES = "pgweir_queries_total"
# The counters of the report, with their labels.
COUNTERS = {
    QUERIES: ("role", "reason"),
    "pgweir_pins_total": ("reason",),
    "pgweir_misrouted_total": ("sqlstate",),
    "pgweir_retries_total": ("cause",),
}
OWNER = "postgres"
# What pg_regress itself sets for a database that it makes.
DATABASE_SETTINGS = (
    "lc_messages = 'C'", "lc_monetary = 'C'", "lc_numeric = 'C'", "lc_time = 'C'",
    "bytea_output = 'hex'", "timezone_abbreviations = 'Default'",
)


class RegressServers(Servers):
    """A primary with two streaming replicas, and pgweir if asked for."""

    PREFIX = "pgweir-regress-"
    SUPERUSER = OWNER
    CLIENT = (OWNER, DATABASE)
    # Autovacuum would change plans and statistics at moments of its own.
    SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 150
max_prepared_transactions = 2
shared_buffers = 128MB
fsync = off
autovacuum = off
max_wal_senders = 8
wal_keep_size = 2GB
checkpoint_timeout = 1h
max_wal_size = 4GB
"""
    SETUP = (
        "CREATE ROLE pgweir LOGIN IN ROLE pg_monitor",
        f"CREATE DATABASE {DATABASE} TEMPLATE template0",
        *(f"ALTER DATABASE {DATABASE} SET {setting}" for setting in DATABASE_SETTINGS),
    )

    def __init__(self, pgweir, mode, say):
        super().__init__(pgweir, None, 0, None, say)
        self.mode = mode

    def _start(self):
        self._primary()
        self._replicas()
        self.caught_up()
        self.ports["direct"] = self.nodes[0]
        if self.pgweir:
            self._start_pgweir()
            self._until(self._replica_serves, "a replica serves")

    def _replica_serves(self):
        self.psql(self.ports["pgweir"], "SELECT 1", DATABASE)
        return answered(self.http)["replica"] > 0

    def _pool(self):
        return f"{{ mode: {self.mode} }}"

    def _consistency(self):
        # Twenty sessions and three servers share the machine: replication takes longer than usual.
        return "{ wait: 100ms }"

    def suite(self, name, paths, seconds, keep):
        """Runs the suite; the results are in `keep` afterwards. False if it took too long."""
        work = self._own_directory("suite")
        inputs = os.path.join(work, "input")
        shutil.copytree(paths["sources"], inputs)
        shutil.copy(paths["schedule"], os.path.join(inputs, "schedule"))
        libraries = os.path.join(work, "libraries")
        if paths["libraries"]:
            shutil.copytree(paths["libraries"], libraries)
        else:
            os.mkdir(libraries)
        output = os.path.join(work, "output")
        os.mkdir(output)
        psql = os.path.join(work, "bin")
        os.mkdir(psql)
        shutil.copy(os.path.join(paths["psql"], "psql"), psql)
        for path in (inputs, output, libraries):
            self._give(path)
        command = [
            paths["runner"], f"--bindir={psql}", f"--dlpath={libraries}", f"--inputdir={inputs}",
            f"--outputdir={output}", f"--schedule={inputs}/schedule", "--use-existing", f"--dbname={DATABASE}",
            "--host=127.0.0.1", f"--port={self.ports[name]}", f"--user={OWNER}", "--max-concurrent-tests=20",
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
        os.makedirs(keep)
        with open(os.path.join(keep, "pg_regress.txt"), "wb") as report:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=report, stderr=report, cwd=work, env=environment,
                start_new_session=True, **self.account,
            )
            try:
                process.wait(seconds)
                in_time = True
            except subprocess.TimeoutExpired:
                in_time = False
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        shutil.move(os.path.join(output, "results"), os.path.join(keep, "results"))
        for log in [entry for entry in os.listdir(self.directory) if entry.endswith(".log")]:
            shutil.copy(os.path.join(self.directory, log), keep)
        return in_time

    def _give(self, path):
        if not self.owner:
            return
        for directory, _, files in os.walk(path):
            for entry in [directory, *(os.path.join(directory, file) for file in files)]:
                os.chown(entry, *self.owner)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", metavar="TESTS", help="only these tests and what they need")
    chosen.add_argument("--third", action="store_true", help="only a fixed third of the tests")
    parser.add_argument("--isolation", action="store_true", help="the isolation suite instead of the regression suite")
    parser.add_argument("--pgweir", metavar="FILE", help="this program instead of a fresh build")
    parser.add_argument("--mode", choices=("transaction", "session"), default="transaction", help="pgweir's pool.mode")
    parser.add_argument("--source", metavar="DIR", help="a PostgreSQL source tree instead of Debian's source package")
    parser.add_argument("--cache", metavar="DIR", default=os.path.join(ROOT, "target", "regress"), help="for downloads")
    parser.add_argument("--output", metavar="DIR", help="for the results (default: a new one in the cache directory)")
    parser.add_argument("--direct", metavar="DIR", help="take the direct runs from an earlier --output")
    parser.add_argument("--seconds", type=int, default=1200, help="the longest that one run may take (default 1200)")
    parser.add_argument("--least", type=int, default=0, metavar="N", help="fail unless replicas answered N queries")
    parser.add_argument("--keep", action="store_true", help="keep the results though nothing differs")
    given = parser.parse_args()
    if given.isolation and given.third:
        parser.error("--third is a part of the regression suite")
    return given


def build():
    say("building pgweir")
    command = ["cargo", "build", "--bin", "pgweir", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in output.splitlines():
        executable = json.loads(line).get("executable")
        if executable:
            return executable
    raise SuiteError("cargo built no program")


def prepare(chosen, output):
    """The files that a run needs, by what they are."""
    part = ISOLATION if chosen.isolation else REGRESS
    suite = Suite(part, postgres_directory(), os.path.abspath(chosen.cache), say)
    sources = suite.sources(chosen.source)
    schedule = os.path.join(sources, suite.schedule)
    wanted = THIRD.split() if chosen.third else (chosen.only or "").replace(",", " ").split()
    if wanted:
        text = reduced(schedule, wanted, suite.needs)
        schedule = os.path.join(output, "schedule")
        with open(schedule, "w", encoding="utf-8") as file:
            file.write(text)
    say(f"PostgreSQL {suite.version}, the suite in {sources}")
    return {
        "sources": sources, "schedule": schedule, "runner": suite.runner(),
        "libraries": suite.libraries(sources), "psql": suite.psql_directory(sources),
    }


def one_run(name, chosen, paths, output, pgweir=None):
    """One run of the suite; what pgweir counted in it, by metric, if through pgweir."""
    say(f"{name}: starting a primary and two replicas")
    begun = time.monotonic()
    with RegressServers(pgweir, chosen.mode, say) as servers:
        target = "pgweir" if pgweir else "direct"
        in_time = servers.suite(target, paths, chosen.seconds, os.path.join(output, name))
        counts = None
        if pgweir:
            try:
                counts = {name: metric(servers.http, name, *labels) for name, labels in COUNTERS.items()}
            except OSError as error:
                say(f"pgweir's metrics cannot be read: {error}")
    say(f"{name}: {'done' if in_time else 'ended by force'} after {time.monotonic() - begun:.0f} s")
    return counts


def content(output, name, test):
    try:
        with open(os.path.join(output, name, "results", f"{test}.out"), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def compare(output, direct, tests):
    """{test: "different" or "unstable"} of those that are not equal; differences are saved as files."""
    saved = os.path.join(output, "differences")
    shutil.rmtree(saved, ignore_errors=True)
    os.makedirs(saved)
    found = {}
    for test in tests:
        first, second = (content(direct, name, test) for name in ("direct1", "direct2"))
        proxied = content(output, "pgweir", test)
        if proxied is not None and proxied in (first, second):
            continue
        unstable = proxied is not None and second is not None and first != second
        found[test] = "unstable" if unstable else "different"
        texts = [(text or b"").decode("utf-8", "surrogateescape") for text in (first, proxied)]
        lines = [text.splitlines(keepends=True) for text in texts]
        with open(os.path.join(saved, f"{test}.diff"), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(difflib.unified_diff(*lines, "direct", "pgweir", n=5))
    return found


def verdicts(output, name):
    """pg_regress's own word on each test: it compares with the expected files."""
    if not os.path.exists(os.path.join(output, name)):
        return {}
    with open(os.path.join(output, name, "pg_regress.txt"), encoding="utf-8", errors="replace") as file:
        return dict(re.findall(r"^(?:test|    ) *(\S+) +\.\.\. (ok|FAILED|failed)", file.read(), re.MULTILINE))


def changed_lines(output, test):
    with open(os.path.join(output, "differences", f"{test}.diff"), encoding="utf-8", errors="surrogateescape") as file:
        lines = [line for line in file if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    return sum(line[0] == "-" for line in lines), sum(line[0] == "+" for line in lines)


def report(output, direct, tests, found, counts):
    names = {"direct1": direct, "direct2": direct, "pgweir": output}
    words = {name: verdicts(directory, name) for name, directory in names.items()}
    if found:
        print(f"{'file':28} {'result':10} {'-':>6} {'+':>6}  as expected: direct, direct, pgweir")
    for test, result in sorted(found.items(), key=lambda entry: (entry[1], entry[0])):
        less, more = changed_lines(output, test)
        print(f"{test:28} {result:10} {less:6} {more:6}  {', '.join(words[name].get(test, '-') for name in names)}")
    different = sum(result == "different" for result in found.values())
    print(f"{len(tests)} files: {len(tests) - len(found)} equal, {different} different, "
          f"{len(found) - different} that the direct runs do not agree on either")
    if counts:
        on_replicas, total = on_role(counts, "replica"), sum(counts[QUERIES].values())
        print(f"through pgweir: {total} queries, {on_replicas} on replicas ({on_replicas / max(total, 1):.0%})")
        for name, values in counts.items():
            ordered = sorted(values.items(), key=lambda entry: -entry[1])
            print(f"{name}: " + ", ".join(f"{' '.join(key)} {count}" for key, count in ordered))
    return different


def on_role(counts, wanted):
    """Queries that nodes with this role answered."""
    return sum(count for (role, _), count in (counts or {}).get(QUERIES, {}).items() if role == wanted)


def say(message):
    print(f"regress: {message}", file=sys.stderr, flush=True)


def guarded(work):
    """Runs `work`, and ends the process with one line about what it could not do."""
    # An end asked for from outside must also remove everything.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(130)
    except (BenchError, SuiteError) as error:
        say(error)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        say(f"{error}: {error.stderr or ''}")
        sys.exit(1)


def main():
    chosen = arguments()
    output = os.path.abspath(chosen.output or os.path.join(chosen.cache, time.strftime("results-%Y%m%d-%H%M%S")))
    os.makedirs(output)
    paths = prepare(chosen, output)
    pgweir = os.path.abspath(chosen.pgweir) if chosen.pgweir else build()
    direct = os.path.abspath(chosen.direct) if chosen.direct else output
    if not chosen.direct:
        one_run("direct1", chosen, paths, output)
    counts = one_run("pgweir", chosen, paths, output, pgweir)
    tests = [test for group in groups_of(paths["schedule"]) for test in group]
    found = compare(output, direct, tests)
    if found and not chosen.direct:
        one_run("direct2", chosen, paths, output)
        found = compare(output, direct, tests)
    different = report(output, direct, tests, found, counts)
    too_few = on_role(counts, "replica") < chosen.least
    if too_few:
        say(f"fewer than {chosen.least} queries ran on replicas")
    if found or too_few or chosen.keep or chosen.output:
        say(f"results and differences are in {output}")
    else:
        shutil.rmtree(output)
    sys.exit(1 if different or too_few else 0)


if __name__ == "__main__":
    guarded(main)
