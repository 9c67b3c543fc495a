"""Measures one cell: pgbench's figures, the proxy's CPU time and memory, and who served the reads."""

import os
import re
import socket
import struct
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
# Statements in pgbench's simple-update: BEGIN, UPDATE, SELECT, INSERT, END.
UPDATE_QUERIES = 5
SCRIPTS = {
    "select": ["-b", "select-only"],
    "write": ["-b", "simple-update"],
    "mix": ["-b", "select-only@9", "-b", "simple-update@1"],
}


def cpu_seconds(pid):
    """(user, system) seconds of the whole process so far: fields 14 and 15 of proc(5)'s stat."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))


def metric(http, name, *labels):
    """A counter of pgweir's /metrics, summed up by the values of these labels: {(value, ...): count}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    counts = {}
    for line in text.splitlines():
        if line.startswith(name + "{"):
            key = tuple(re.search(rf'[{{,]{label}="([^"]*)"', line).group(1) for label in labels)
            counts[key] = counts.get(key, 0) + int(float(line.rpartition(" ")[2]))
    return counts


def answered(http):
    """Queries that nodes have answered so far, by the node's role."""
    counts = {role: count for (role,), count in metric(http, "pgweir_queries_total", "role").items()}
    return {"primary": 0, "replica": 0, **counts}


def run_cell(servers, target, cell, seconds):
    """One round of one cell against one target, as a dictionary of figures."""
    pid = servers.pids.get(target)
    routes = answered(servers.http) if target == "pgweir" else None
    before = cpu_seconds(pid) if pid else None
    threads = min(cell.clients, os.cpu_count() or 1, 4)
    report = servers.pgbench(
        servers.ports[target], *SCRIPTS[cell.script], "-M", cell.protocol,
        "-c", str(cell.clients), "-j", str(threads), "-T", str(seconds),
    )
    after = cpu_seconds(pid) if pid else None
    selects, queries = count_queries(report, cell.script)
    result = {
        "tps": number(r"tps = ([\d.]+)", report),
        "latency_us": number(r"latency average = ([\d.]+) ms", report) * 1000,
        "queries": queries,
    }
    if pid:
        user, system = (1e6 * (later - earlier) / queries for earlier, later in zip(before, after))
        result.update(cpu_user_us=user, cpu_system_us=system, cpu_us=user + system)
    if routes:
        now = answered(servers.http)
        result["replica_share"] = min(1.0, (now["replica"] - routes["replica"]) / selects) if selects else None
    return result


def count_queries(report, script):
    """(transactions of one SELECT, statements in all)."""
    total = int(number(r"number of transactions actually processed: (\d+)", report))
    if total == 0:
        raise ValueError(f"pgbench processed nothing: {report}")
    if script == "mix":
        parts = re.findall(r"- (\d+) transactions", report)
        selects, updates = int(parts[0]), int(parts[1])
    else:
        selects, updates = (total, 0) if script == "select" else (0, total)
    return selects, selects + UPDATE_QUERIES * updates


def number(pattern, text):
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"pgbench's report lacks {pattern!r}: {text}")
    return float(found.group(1))


def idle_memory(servers, target, count):
    """KiB of resident memory for each of `count` clients that have run one query and now idle."""
    warm = [Client(servers.ports[target]) for _ in range(20)]
    for client in warm:
        client.query("SELECT 1")
    for client in warm:
        client.close()
    before = resident_kib(servers.pids[target])
    clients = []
    try:
        for _ in range(count):
            client = Client(servers.ports[target])
            clients.append(client)
            client.query("SELECT abalance FROM pgbench_accounts WHERE aid = 1")
        return (resident_kib(servers.pids[target]) - before) / count
    finally:
        for client in clients:
            client.close()


class Client:
    """A connection that speaks just enough of the protocol to log in without a password."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        body = struct.pack("!I", 196608) + b"user\0app\0database\0app\0\0"
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self._until_ready()

    def query(self, sql):
        body = sql.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)
        self._until_ready()

    def close(self):
        self.socket.close()

    def _until_ready(self):
        while True:
            kind, length = struct.unpack("!cI", self._exactly(5))
            body = self._exactly(length - 4)
            if kind == b"E":
                raise ValueError(f"refused: {body!r}")
            if kind == b"Z":
                return

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ValueError("the connection was closed")
            data += more
        return data
