#!/usr/bin/env python3
"""Benchmark: pgbench straight to the primary, through pgweir and through PgBouncer.

    integration/bench/bench.py            everything, about 12 minutes
    integration/bench/bench.py --quick    about 2 minutes

Builds pgweir, starts a primary with two streaming replicas, pgweir and PgBouncer (if installed),
runs every cell against each of them in turn, several short rounds, prints a table, and removes
everything. pgweir splits reads from writes, gives read-your-writes and uses both replicas, as by
default; PgBouncer pools connections to the primary in transaction mode. Needs Python 3.9, Linux
and PostgreSQL's programs. On a machine that does other work meanwhile, throughput and latency move
with the noise; the CPU time that the proxy spends per query hardly does: compare that.
"""

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

# The source tree stays as it is.
sys.dont_write_bytecode = True

from measure import idle_memory, run_cell
from servers import BenchError, Servers, find_pgbouncer

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGETS = ("direct", "pgweir", "pgbouncer")
PROTOCOLS = ("simple", "extended", "prepared")


class Cell(NamedTuple):
    """One workload."""

    script: str
    protocol: str
    clients: int

    def __str__(self):
        return f"{self.script} {self.protocol} {self.clients}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="rounds of each cell (default 3; quick 1)")
    parser.add_argument("--seconds", type=int, help="seconds of one round (default 5; quick 3)")
    parser.add_argument("--clients", type=numbers, help="comma-separated (default 1,16,64; quick 1,16)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", metavar="WORDS", help="only cells with these words, e.g. 'select simple'")
    parser.add_argument("--idle", type=int, default=1000, help="idle clients for the memory figure (0: none)")
    parser.add_argument("--scale", type=int, default=10, help="pgbench's scale (default 10)")
    parser.add_argument("--workers", type=int, help="pgweir's threads (default: its own default)")
    parser.add_argument("--pgweir", metavar="FILE", help="this program instead of a fresh release build")
    parser.add_argument("--pgbouncer", metavar="FILE", help="this PgBouncer instead of the one in PATH")
    parser.add_argument("--json", metavar="FILE", help="write all figures of all rounds")
    parser.add_argument("--serve", action="store_true", help="start everything, print the ports, and wait")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    chosen.seconds = chosen.seconds or (3 if chosen.quick else 5)
    chosen.clients = chosen.clients or ([1, 16] if chosen.quick else [1, 16, 64])
    return chosen


def numbers(text):
    return [int(part) for part in text.split(",")]


def cells(chosen):
    """select in all protocols; write and mix in the simple one, which all targets can do."""
    every = [Cell("select", protocol, count) for protocol in PROTOCOLS for count in chosen.clients]
    every += [Cell(script, "simple", count) for script in ("write", "mix") for count in chosen.clients]
    words = (chosen.only or "").split()
    return [cell for cell in every if all(word in str(cell).split() for word in words)]


def can(target, cell):
    """PgBouncer before 1.21 knows no prepared statements in transaction mode."""
    return target != "pgbouncer" or cell.protocol == "simple"


def build():
    say("building pgweir (release)")
    command = ["cargo", "build", "--release", "--bin", "pgweir", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in output.splitlines():
        executable = json.loads(line).get("executable")
        if executable:
            return executable
    raise BenchError("cargo built no program")


def measure(servers, chosen):
    """{cell: {target: [figures of each round]}}"""
    targets = [target for target in TARGETS if target in servers.ports]
    results = {}
    for cell in cells(chosen):
        say(f"{cell}")
        rounds = results.setdefault(cell, {})
        for _ in range(chosen.rounds):
            for target in targets:
                if can(target, cell):
                    figures = run_cell(servers, target, cell, chosen.seconds)
                    rounds.setdefault(target, []).append(figures)
    return results


def over(rounds, key, choose):
    values = [figures[key] for figures in rounds if figures.get(key) is not None]
    return choose(values) if values else None


def text(value, form):
    return "" if value is None else format(value, form)


def rows(results):
    """One row for each cell and target: medians, and the best round in the columns that say so."""
    for cell, targets in results.items():
        direct, bouncer = targets["direct"], targets.get("pgbouncer")
        for target, rounds in targets.items():
            tps = over(rounds, "tps", statistics.median)
            ratio = tps / over(direct, "tps", statistics.median)
            to_bouncer = tps / over(bouncer, "tps", statistics.median) if bouncer and target == "pgweir" else None
            alone = cell.clients == 1 and target != "direct"
            added = {
                choose: over(rounds, "latency_us", choose) - over(direct, "latency_us", choose) if alone else None
                for choose in (statistics.median, min)
            }
            yield [
                str(cell), target, text(tps, ".0f"), text(over(rounds, "tps", max), ".0f"), text(ratio, ".2f"),
                text(to_bouncer, ".2f"), text(added[statistics.median], ".0f"), text(added[min], ".0f"),
                text(over(rounds, "cpu_us", statistics.median), ".1f"), text(over(rounds, "cpu_us", min), ".1f"),
                text(over(rounds, "cpu_user_us", statistics.median), ".1f"),
                text(over(rounds, "cpu_system_us", statistics.median), ".1f"),
                text(over(rounds, "replica_share", statistics.median), ".1%"),
            ]


HEAD = [
    "cell", "target", "tps", "best", "/direct", "/pgbnc", "+lat us", "best",
    "CPU us/q", "best", "user", "system", "on replicas",
]


def table(lines):
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    out = []
    for index, line in enumerate(lines):
        padded = [word.ljust(width) if column < 2 else word.rjust(width)
                  for column, (word, width) in enumerate(zip(line, widths))]
        if index > 1 and line[0] != lines[index - 1][0]:
            out.append("")
        out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def report(servers, chosen, results, memory):
    """Everything that the reader needs to judge the figures."""
    versions = [servers.version()]
    if servers.pgbouncer:
        output = subprocess.run([servers.pgbouncer, "--version"], capture_output=True, text=True, check=True).stdout
        versions.append(output.splitlines()[0])
    print(f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}; {'; '.join(versions)}")
    print(f"loopback, scale {chosen.scale} in memory, fsync off, pools of 20; {chosen.rounds} rounds of "
          f"{chosen.seconds} s in turn; medians, and the best round; load average {os.getloadavg()[0]:.1f}\n")
    print(table([HEAD, *rows(results)]))
    print("\nCPU: user + system time of the proxy process per statement. +lat: average latency added to that of the"
          "\ndirect connection, one client. on replicas: share of SELECTs outside blocks that replicas answered.")
    for target, kib in memory.items():
        print(f"memory for each of {chosen.idle} idle clients, {target}: {kib:.1f} KiB")


def write_json(path, chosen, results, memory):
    figures = [
        {"script": cell.script, "protocol": cell.protocol, "clients": cell.clients, "target": target, "rounds": rounds}
        for cell, targets in results.items() for target, rounds in targets.items()
    ]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"scale": chosen.scale, "seconds": chosen.seconds, "idle_kib": memory, "cells": figures}, file, indent=1)
        file.write("\n")


def serve(servers):
    for name, port in servers.ports.items():
        print(f"{name}: postgresql://app@127.0.0.1:{port}/app  pid {servers.pids.get(name, '-')}")
    print(f"replicas: {servers.nodes[1:]}  http://127.0.0.1:{servers.http}/metrics", flush=True)
    signal.pause()


def say(message):
    print(f"bench: {message}", file=sys.stderr, flush=True)


def allow_many_sockets():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))


def main():
    chosen = arguments()
    allow_many_sockets()
    # An end asked for from outside must also remove everything.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    pgweir = os.path.abspath(chosen.pgweir) if chosen.pgweir else build()
    pgbouncer = find_pgbouncer(chosen.pgbouncer)
    if not pgbouncer:
        say("no pgbouncer found: comparing with direct connections only")
    begun = time.monotonic()
    with Servers(pgweir, pgbouncer, chosen.scale, chosen.workers, say) as servers:
        if chosen.serve:
            serve(servers)
        memory = {name: idle_memory(servers, name, chosen.idle) for name in servers.pids if chosen.idle}
        results = measure(servers, chosen)
        report(servers, chosen, results, memory)
    if chosen.json:
        write_json(chosen.json, chosen, results, memory)
    say(f"done after {time.monotonic() - begun:.0f} s")


def run_to_end(program):
    """Runs a benchmark's `main`; what goes wrong is told in a line."""
    try:
        program()
    except KeyboardInterrupt:
        sys.exit(130)
    except BenchError as error:
        say(error)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        say(f"{error}: {error.stderr or ''}")
        sys.exit(1)


if __name__ == "__main__":
    run_to_end(main)
