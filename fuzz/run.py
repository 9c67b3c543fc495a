#!/usr/bin/env python3
"""Runs the fuzz targets: run.py [TARGET|all] [SECONDS]   (default: all, 60 seconds each)

Builds the targets, writes seeds to corpus/TARGET, and runs one target after the other, each in one
process at low priority. Stops at 512 MB of memory and at 5 s for one input. What fails is kept in
artifacts/TARGET; `run.py TARGET FILE` repeats it. Prints one line a target; status 1 if any failed.
"""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TARGETS = {
    # Name: the longest input in bytes.
    "startup": 4096,
    "segment": 4096,
    "messages": 4096,
    "replies": 4096,
    "backend": 4096,
    "residue": 4096,
    "login": 1024,
    "scram": 1024,
    "lexer": 8192,
    "classify": 8192,
    "source": 8192,
    "hint": 1024,
    "configuration": 8192,
    "values": 256,
}
MEMORY_MB = 512
INPUT_SECONDS = 5


def build():
    wrapper = str(HERE / "instrument.sh")
    environment = {**os.environ, "RUSTC_WRAPPER": wrapper}
    command = ["cargo", "build", "--locked"]
    subprocess.run(command, cwd=HERE, env=environment, check=True)


def message(tag, body=b""):
    return tag + struct.pack(">i", len(body) + 4) + body


def texts():
    """SQL from the classification cases and the wire scripts."""
    found = []
    for path in sorted((ROOT / "src/core/classify/cases").glob("*.txt")):
        for line in path.read_text().splitlines():
            if " | " in line and not line.startswith("#"):
                found.append(line.rsplit(" | ", 1)[-1] if path.stem == "batches" else line.split(" | ", 1)[1])
    for path in sorted((ROOT / "integration/wire/scripts").glob("*.wire")):
        found += [text for text in re.findall(r'"([^"\n]{6,400})"', path.read_text()) if " " in text]
    return [text.encode() for text in found]


def startup_seeds():
    pairs = [
        [b"user", b"app", b"database", b"shop", b"application_name", b"psql", b"client_encoding", b"UTF8"],
        [b"user", b"app", b"options", b"-c pgweir.consistency=latest -c search_path=a\\ b --work_mem=1MB"],
        [b"user", b"app", b"_pq_.x", b"1", b"pgweir.consistency", b"latest", b"replication", b"false"],
    ]
    bodies = [struct.pack(">I", code) + rest for code, rest in (
        (0x04D2162F, b""), (0x04D21630, b""), (0x04D2162E, b"\0\0\0\7key!"), (0x04D2162E, b"\0\0\0\7" + b"k" * 32),
    )]
    for version in (0x30000, 0x30002, 0x30005):
        bodies += [struct.pack(">I", version) + b"\0".join(one) + b"\0\0" for one in pairs]
    return [struct.pack(">I", len(body) + 4) + body for body in bodies]


def client_streams():
    streams = []
    sync, flush = message(b"S"), message(b"H")
    for at, sql in enumerate(texts()):
        name = b"" if at % 2 else b"s%d" % at
        parse = message(b"P", name + b"\0" + sql + b"\0\0\1\0\0\0\x17")
        bind = message(b"B", b"\0" + name + b"\0\0\0\0\1\0\0\0\1x\0\0")
        rest = message(b"D", b"S" + name + b"\0") + bind + message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0")
        close = message(b"C", b"S" + name + b"\0")
        streams += [message(b"Q", sql + b"\0"), parse + rest + (flush if at % 3 else close + sync)]
    streams += [
        message(b"F", b"\0\0\4\xd2\0\0\0\0\0\0") + message(b"X"),
        message(b"d", b"1\t2\n") + message(b"c") + message(b"f", b"no\0"),
    ]
    return streams


def reply_streams():
    error = message(b"E", b"SERROR\0VERROR\0C25006\0Mcannot execute it during recovery\0\0")
    fatal = message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0")
    row = message(b"D", b"\0\1\0\0\0\1x")
    status = message(b"S", b"TimeZone\0UTC\0")
    done, ready = message(b"C", b"SELECT 1\0"), message(b"Z", b"I")
    parts = message(b"1") + message(b"2") + message(b"t", b"\0\0") + message(b"T", b"\0\0")
    copy = message(b"G", b"\0\0\0") + message(b"C", b"COPY 1\0")
    streams = [
        (bytes([0, 3, 6, 7, 9]), parts + row + done + ready + done + ready),
        (bytes([2, 5, 0, 3, 6, 7, 8]), parts + row + row + status + done + ready),
        (bytes([0, 1, 9]), error + ready), (bytes([4, 2, 0, 8]), error + ready), (bytes([2, 1, 9]), fatal),
        (bytes([2, 2, 11, 9]), row + row + done + ready + status + row + done + message(b"Z", b"T")),
        (bytes([2, 4, 12, 13, 14, 15]), message(b"1") + message(b"2") + done),
        (bytes([2, 4, 7, 8, 3, 7]), copy + ready), (bytes([2, 3, 7, 8, 8]), message(b"G", b"\0\0\0") + error + ready * 2 + message(b"3") + ready),
        (bytes([8, 2, 9, 9]), done + ready + message(b"N", b"SNOTICE\0\0") + message(b"A", b"\0\0\0\1c\0p\0") + done + ready),
        (bytes([1, 2, 10, 9]), message(b"H", b"\0\0\0") + message(b"d", b"x") + message(b"c") + done + ready),
        (bytes([18, 1, 9]), message(b"I") + message(b"s") + message(b"n") + message(b"V", b"\0\0\0\0") + ready),
    ]
    return [start + bytes([3]) + rest for start, rest in streams]


def configurations():
    smallest = (
        "listen: [127.0.0.1:6432, /tmp]\nhttp: 127.0.0.1:9187\nworkers: 2\nclusters:\n  main: &m\n    databases: ['*']\n"
        "    nodes:\n      - { name: a, host: 127.0.0.1, port: 6001, zone: z, weight: 2 }\n      - { host: b, port: 1 }\n"
        "    monitor: { user: m, password: '${SET}', database: postgres }\n"
        "    pool: { size: 20, mode: transaction, idle_timeout: 10m, max_lifetime: 1h, checkout_timeout: 5s }\n"
        "    zone: z\n    server_tls: { mode: prefer }\nusers: [{ name: app, password: $${x} }]\n"
        "auth: { method: md5 }\nclient_tls: { mode: disable }\nrouting: { max_staleness: 10s, max_lag: 64MiB, "
        "balance: random, read_functions: [f], write_functions: [a.f], primary_tables: [t] }\nconsistency: { default: session, "
        "read_after_write: window, window: 15s, max_staleness: none, wait: 10ms, max_wait: 1s, on_no_replica: stale }\n"
        "limits: { max_clients: 10, startup_timeout: 15s, max_message: 1GiB }\nlog: { format: json, level: debug }\n"
    )
    found = [smallest, "a: &a [1]\nb: &b [*a,*a]\nc: [*b,*b]\n", "<<: {a: 1}\n", "!t x\n", "- 1\n", "clusters: [\n"]
    found += [path.read_text() for path in sorted((ROOT / "config").glob("*.y*ml"))]
    return [text.encode() for text in found]


def seeds(target):
    sql = texts()
    if target in ("lexer", "classify"):
        return sql
    if target == "source":
        return [b"BEGIN PERFORM set_config('a.b', x, true); SET LOCAL c.d = 1; EXECUTE 'set e.f to 1'; END"] + sql[:40]
    if target == "startup":
        return startup_seeds()
    if target == "segment":
        return [b"\3\40" + stream for stream in client_streams()]
    if target == "messages":
        return client_streams()
    if target == "replies":
        return reply_streams()
    if target == "backend":
        return [
            b"SERROR\0VERROR\0C25006\0Mcannot execute\0Fx.c\0\0", b"TimeZone\0UTC\0", b"INSERT 0 1\0", b"I", b"T", b"E",
        ]
    if target == "residue":
        rows = [(b"set:search_path", b'"My ""S", public'), (b"set:work_mem", b"4MB"), (b"bound", b"listen"),
                (b"wear", b"x"), (b"set:a.b", b"it's \\ here"), (b"set:temp_tablespaces", b"")]
        row = b"".join(
            bytes([len(k) + len(v) + 10]) + struct.pack(">hi", 2, len(k)) + k + struct.pack(">i", len(v)) + v for k, v in rows
        )
        return [row, b"\x0c" + struct.pack(">hi", 2, 4) + b"wear" + struct.pack(">i", -1)]
    if target == "login":
        first = b"R\x0aSCRAM-SHA-256\0\0\nR\x0br=~abc,s=c2FsdHNhbHQ=,i=4096\nR\x0cv=AAAA\nR\0\n"
        return [b"\1" + first, b"\1R\5salt\nR\0", b"\1R\3\nR\0", b"\1N\0x\0\nv\0\3\0\0\0\0\0\0\nR\0", b"\0" + message(b"R", b"\0\0\0\0") * 2,
                b"\1E\0SFATAL\0C28P01\0Mno\0\0"]
    if target == "scram":
        initial = b"SCRAM-SHA-256\0"
        first = b"n,,n=,r=abc"
        return [bytes([mode]) + initial + struct.pack(">i", len(first)) + first + b"\nc=biws,r=~,p=" + b"A" * 43 + b"="
                for mode in (0, 3, 4)] + [b"\1md5aa\0", b"\2secret\0", b"\5md5\0"]
    if target == "hint":
        return [b"consistency='latest'", b"max_staleness='1s',a='b'", b"route='primary'", b"max_staleness='none'", b"key='user%3A42'"]
    if target == "configuration":
        return configurations()
    return [b"16/B374D848", b"0/0", b"250ms", b"none", b"latest", b"max_staleness=1s", b"consistency=primary", b"1d", b"10 min"]


WORDS = """select from where with as materialized insert into update set delete merge using when matched then values returning
for share update nowait create table temp view function begin atomic end commit rollback savepoint prepare transaction
execute deallocate declare cursor hold fetch copy stdin stdout program do $$ $a$ /* */ -- ' " E' U&' U&" B' X' :: := .. ;
( ) [ ] union all intersect except limit offset fetch first lateral join on natural cross group by rollup order
window over partition filter within set_config( current_setting( nextval( session local reset all discard show explain analyze
users orders carts touch lower random pg_temp. pgweir. pgweir_ pgweir_route='primary' pgweir_consistency=' listen lock
case else array row exists any some between like is null collate interval extract( overlay( xmlparse( json_table( grant""".split()


def dictionary(target):
    path = HERE / "corpus" / "sql.dict"
    if target not in ("lexer", "classify", "source", "messages"):
        return []
    quoted = [word.replace("\\", "\\\\").replace('"', '\\"') for word in WORDS]
    path.write_text("".join(f'"{word}"\n"{word} "\n' for word in sorted(set(quoted))))
    return [f"-dict={path}"]


def prepare(target):
    corpus, artifacts = HERE / "corpus" / target, HERE / "artifacts" / target
    corpus.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    for at, seed in enumerate(seeds(target)):
        (corpus / f"seed-{at:04}").write_bytes(seed[: TARGETS[target]])
    return corpus, artifacts


def run(target, seconds, one=None):
    corpus, artifacts = prepare(target)
    command = [
        "nice", "-n", "15", str(HERE / "target/debug/pgweir-fuzz"),
        f"-max_len={TARGETS[target]}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={INPUT_SECONDS}",
        f"-artifact_prefix={artifacts}/", "-print_final_stats=1", *dictionary(target),
    ]
    command += [str(one)] if one else [f"-max_total_time={seconds}", str(corpus)]
    # Printing a backtrace may take longer than an input may.
    environment = {**os.environ, "PGWEIR_FUZZ_TARGET": target, "RUST_BACKTRACE": "0"}
    with open(HERE / "artifacts" / f"{target}.log", "w+", encoding="utf-8", errors="replace") as log:
        status = subprocess.run(command, env=environment, stdout=log, stderr=log, cwd=HERE).returncode
        log.seek(0)
        text = log.read()
    edges = re.findall(r"cov: (\d+)", text)
    count = re.findall(r"number_of_executed_units: (\d+)", text)
    memory = re.findall(r"peak_rss_mb:\s+(\d+)", text)
    verdict = "clean" if status == 0 else f"FAILED, see {log.name}"
    last = lambda found: found[-1] if found else "?"
    print(f"{target:14} {last(count):>10} runs  {seconds:>4} s  {last(edges):>6} edges  {last(memory):>4} MB  {verdict}", flush=True)
    return status == 0


def main():
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    chosen = arguments[0] if arguments else "all"
    if chosen != "all" and chosen not in TARGETS:
        print(f"no such target: {chosen}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    names = list(TARGETS) if chosen == "all" else [chosen]
    build()
    if len(arguments) > 1 and not arguments[1].isdigit():
        return 0 if run(chosen, 0, Path(arguments[1]).resolve()) else 1
    seconds = int(arguments[1]) if len(arguments) > 1 else 60
    (HERE / "corpus").mkdir(exist_ok=True)
    return 0 if all([run(name, seconds) for name in names]) else 1


if __name__ == "__main__":
    sys.exit(main())
