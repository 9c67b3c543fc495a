#!/usr/bin/env python3
"""What the guarantee costs: two pgweirs on one cluster, one with it (the default, mode `session`) and
one without (`consistency.default: eventual`), the same load on each in turn.

    integration/bench/guarantee.py            everything, about 11 minutes
    integration/bench/guarantee.py --quick    about 2 minutes

Nine single reads to one single write of one row each. First as fast as it goes, without added lag:
throughput, median latency of reads, CPU time of the proxy per statement, and positions asked of the
primary per second. Then the same at fixed rates, where nobody waits for a processor. Then at fixed rates
with both replicas 50 ms behind: how many reads replicas still serve, and the 99th percentile of reads
against that without the guarantee. Needs what bench.py needs.
"""

import argparse
import glob
import os
import signal
import statistics
import sys

sys.dont_write_bytecode = True

from bench import allow_many_sockets, build, run_to_end, say, table
from measure import answered, cpu_seconds, metric, number
from servers import POOL_SIZE, BenchError, Servers, free_port

READ = "\\set aid random(1, 1000000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
WRITE = "\\set aid random(1, 1000000)\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"
POLICIES = {"guarded": "", "unguarded": "consistency: { default: eventual }\n"}
LAG = "50ms"


class Pair(Servers):
    """The cluster with one proxy for each policy."""

    PREFIX = "pgweir-guarantee-"

    def _proxies(self):
        self.https = {}
        for name, policy in POLICIES.items():
            self._start_with(name, policy)
        self.scripts = [f"{self._file('read.sql', READ)}@9", f"{self._file('write.sql', WRITE)}@1"]

    def _start_with(self, name, policy):
        port, self.https[name] = free_port(), free_port()
        nodes = ", ".join(f"{{ name: node{index}, host: 127.0.0.1, port: {node} }}" for index, node in enumerate(self.nodes))
        config = self._file(f"{name}.yaml", (
            f"listen: 127.0.0.1:{port}\nhttp: 127.0.0.1:{self.https[name]}\n{policy}"
            f"clusters:\n  main:\n    nodes: [{nodes}]\n"
            "    monitor: { user: pgweir, password: none, database: postgres }\n"
            f"    pool: {{ size: {POOL_SIZE} }}\n"
            "users: [{ name: app, password: none }]\nauth: { method: trust }\n"
        ))
        self._proxy(name, port, [self.pgweir, "run", "--config", config], {})

    def delay_replicas(self, delay):
        for port in self.nodes[1:]:
            self.psql(port, f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
            self.psql(port, "SELECT pg_reload_conf()")


def round_of(servers, name, clients, seconds, rate=None):
    """Figures of one round of one proxy."""
    prefix = os.path.join(servers.directory, f"log-{name}")
    http, pid = servers.https[name], servers.pids[name]
    before = cpu_seconds(pid), answered(http), samples(http)
    throttle = ["-R", str(rate)] if rate else []
    files = [word for script in servers.scripts for word in ("-f", script)]
    report = servers.pgbench(
        servers.ports[name], *files, "-c", str(clients), "-j", str(min(clients, 2)),
        "-T", str(seconds), "-l", f"--log-prefix={prefix}", *throttle,
    )
    after = cpu_seconds(pid), answered(http), samples(http)
    count = number(r"number of transactions actually processed: (\d+)", report)
    reads = latencies(prefix)
    on_replicas = after[1]["replica"] - before[1]["replica"]
    return {
        "tps": number(r"tps = ([\d.]+)", report),
        "p50": reads[len(reads) // 2],
        "p99": reads[len(reads) * 99 // 100],
        "cpu": 1e6 * sum(late - early for early, late in zip(before[0], after[0])) / count,
        "replicas": min(1.0, on_replicas / len(reads)),
        "samples": (after[2] - before[2]) / seconds,
    }


def samples(http):
    """Positions asked of the first node, the primary."""
    return metric(http, "pgweir_position_samples_total", "node").get(("node0",), 0)


def latencies(prefix):
    """Microseconds of every read from its actual start, sorted; the logs are removed."""
    found = []
    for path in glob.glob(f"{prefix}.*"):
        with open(path, encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[3] == "0" and fields[2].isdigit():
                    lag = int(fields[6]) if len(fields) > 6 else 0
                    found.append(int(fields[2]) - lag)
        os.remove(path)
    if not found:
        raise BenchError("pgbench has logged no read")
    return sorted(found)


def compare(servers, clients, chosen, rate=None):
    """{name: [figures of each round]}, in turn, each policy as often first as second."""
    rounds = {name: [] for name in POLICIES}
    for turn in range(chosen.rounds):
        names = list(POLICIES) if turn % 2 == 0 else list(reversed(POLICIES))
        for name in names:
            rounds[name].append(round_of(servers, name, clients, chosen.seconds, rate))
    return rounds


def rows(label, rounds):
    middle = {
        name: {key: statistics.median(figures[key] for figures in found) for key in found[0]}
        for name, found in rounds.items()
    }
    off = middle["unguarded"]
    for name, figures in middle.items():
        yield [
            label, name, f"{figures['tps']:.0f}", f"{100 * (figures['tps'] / off['tps'] - 1):+.1f} %",
            f"{figures['p50']:.0f}", f"{figures['p50'] - off['p50']:+.0f}", f"{figures['p99'] / 1000:.1f}",
            f"{(figures['p99'] - off['p99']) / 1000:+.1f}", f"{figures['cpu']:.1f}",
            f"{100 * figures['replicas']:.0f} %", f"{figures['samples']:.0f}",
        ]


HEAD = [
    "load", "guarantee", "tps", "to without", "p50 us", "more", "p99 ms", "more",
    "CPU us/q", "on replicas", "positions/s",
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, help="rounds of each load (default 6; quick 2)")
    parser.add_argument("--seconds", type=int, help="seconds of one round (default 5; quick 3)")
    parser.add_argument("--clients", default="1,16,64,256", help="comma-separated; without added lag")
    parser.add_argument("--calm", default="500,1500", help="statements a second of 16 clients, without added lag")
    parser.add_argument("--rates", default="1600,3200,6400", help="statements a second of 64 clients, replicas 50 ms behind")
    parser.add_argument("--pgweir", metavar="FILE", help="this program instead of a fresh release build")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (2 if chosen.quick else 6)
    chosen.seconds = chosen.seconds or (3 if chosen.quick else 5)
    return chosen


def main():
    chosen = arguments()
    allow_many_sockets()
    # An end asked for from outside must also remove everything.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    pgweir = os.path.abspath(chosen.pgweir) if chosen.pgweir else build()
    lines = [HEAD]
    with Pair(pgweir, None, 10, None, say) as servers:
        for clients in filter(None, chosen.clients.split(",")):
            say(f"{clients} clients")
            lines += rows(f"{clients} clients", compare(servers, int(clients), chosen))
        for rate in filter(None, chosen.calm.split(",")):
            say(f"16 clients, {rate} statements a second")
            lines += rows(f"16 at {rate}/s", compare(servers, 16, chosen, int(rate)))
        servers.delay_replicas(LAG)
        for rate in filter(None, chosen.rates.split(",")):
            say(f"64 clients, {rate} statements a second, replicas {LAG} behind")
            lines += rows(f"64 at {rate}/s, {LAG} behind", compare(servers, 64, chosen, int(rate)))
        print(f"{os.cpu_count()} cores; {servers.version()}; nine reads to a write; medians of {chosen.rounds} rounds of "
              f"{chosen.seconds} s in turn; load average {os.getloadavg()[0]:.1f}\n")
    print(table(lines))


if __name__ == "__main__":
    run_to_end(main)
