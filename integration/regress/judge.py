#!/usr/bin/env python3
"""PostgreSQL judges where pgweir sends the reads of its own regression suite.

    integration/regress/judge.py            all of the suite
    integration/regress/judge.py --third    a fixed third of it

Runs the suite directly on a primary, so that what it makes is there, but for implicit casts that call volatile
functions: beside such a cast pgweir lets no read leave the primary (--casts keeps them). Then every statement of its
files that begins as a query and stands in no transaction block runs on the primary and on a standby: what both
answer alike is a pure read, unless it calls what is declared volatile or asks for what belongs to a session or a
node. The same statements run through pgweir. Ends with status 1 if fewer than 98 % of the pure reads are answered by
replicas, if a replica answers what a standby cannot, or if an answer differs from the primary's. The downloads and
the requirements are those of run.py.
"""

import argparse
import os
import re
import shutil
import socket
import struct
import sys
import time

sys.dont_write_bytecode = True
from run import DATABASE, OWNER, ROOT, RegressServers, build, guarded, prepare, say
from split import statements
from suite import groups_of

LEAST = 0.98
# What leaves something in the session that other statements would notice.
LEAVES = re.compile(rb"set_config|advisory|nextval|lastval|setval|setseed|currval", re.IGNORECASE)
CASTS = """
SELECT format('DROP CAST (%s AS %s)', castsource::regtype, casttarget::regtype)
FROM pg_cast JOIN pg_proc ON pg_proc.oid = castfunc
WHERE castcontext = 'i' AND provolatile = 'v' AND pg_cast.oid >= 16384
"""
SECONDS = 5
# A standby may answer such statements alike by chance: code that is declared volatile, and what belongs to one
# session or one node.
NOT_PURE = ("volatile_function", "advisory_lock", "node_local_function", "node_local_relation")
RETRIES = 10
FINE = ("offloaded", "not pure", "no statement of a session of its own", "differs by itself", "primary only")
# Why a read of a session that has just done something else is kept from replicas: a new session is asked.
OF_THE_SESSION = ("pinned", "not_fresh", "transaction", "lagging")


class Session:
    """A connection that runs one statement after the other."""

    def __init__(self, port):
        self.port = port
        self.socket = None
        self.renew()

    def renew(self):
        if self.socket:
            self.socket.close()
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.input = self.socket.makefile("rb")
        body = struct.pack("!I", 196608) + f"user\0{OWNER}\0database\0{DATABASE}\0\0".encode()
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self._answer()
        self.ask(f"SET statement_timeout = '{SECONDS}s'".encode())

    def ask(self, sql):
        """Rows with their description, and the SQLSTATE of the error or None; the connection if it was lost."""
        body = sql + b"\0"
        try:
            self.socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)
            return self._answer()
        except (OSError, EOFError):
            self.renew()
            return [], b"lost"

    def route(self):
        """The role that answered last, and why."""
        rows, _ = self.ask(b"SHOW pgweir.last_route")
        words = dict(word.split("=") for word in rows[-1][6:].decode().split()[0:] if "=" in word)
        return words.get("role", ""), words.get("reason", "")

    def reason(self, sql):
        """What the statement was classified as."""
        rows, _ = self.ask(b"EXPLAIN ROUTE " + sql)
        return next((row[16:].decode() for row in rows if row[6:12] == b"reason"), "?")

    def _answer(self):
        rows, error = [], None
        while True:
            head = self.input.read(5)
            if len(head) < 5:
                raise EOFError
            kind, length = struct.unpack("!cI", head)
            body = self.input.read(length - 4)
            if kind in b"TDd":
                rows.append(body)
            elif kind == b"E":
                fields = {field[:1]: field[1:] for field in body.split(b"\0") if field}
                error = fields.get(b"C", b"")
            elif kind == b"G":
                self.socket.sendall(b"f\0\0\0\x05\0")
            elif kind == b"Z":
                return rows, error


class JudgedServers(RegressServers):
    """pgweir begins when the suite has made what it makes."""

    PREFIX = "pgweir-judge-"

    def _start(self):
        pgweir, self.pgweir = self.pgweir, None
        super()._start()
        self.pgweir = pgweir

    def begin(self, keeps_casts):
        if not keeps_casts:
            for sql in self.psql(self.nodes[0], CASTS, DATABASE).splitlines():
                self.psql(self.nodes[0], sql, DATABASE)
        self.caught_up()
        self._start_pgweir()
        self._until(self._replica_serves, "a replica serves")


def judge(servers, found):
    """Counts by verdict, and the statements behind those that are wrong."""
    counts, wrong = {}, []

    def count(verdict, test, sql, *more):
        counts[verdict] = counts.get(verdict, 0) + 1
        if verdict not in FINE:
            wrong.append((verdict, test, sql.decode("utf-8", "replace"), *more))

    primary, standby = Session(servers.nodes[0]), Session(servers.nodes[1])
    through = Session(servers.ports["pgweir"])
    before = None
    for test, sql in found:
        if test != before or LEAVES.search(sql):
            for session in (primary, standby, through):
                session.renew()
        # Whoever follows begins anew too.
        before = None if LEAVES.search(sql) else test
        truth = primary.ask(sql)
        if truth[1]:
            count("no statement of a session of its own", test, sql)
            continue
        there = standby.ask(sql)
        again = primary.ask(sql)
        if again != truth and not there[1]:
            count("differs by itself", test, sql)
            continue
        if LEAVES.search(sql):
            # What it holds would be missing to whoever comes next.
            for session in (primary, standby):
                session.renew()
        rows = through.ask(sql)
        role, reason = through.route()
        for _ in range(RETRIES):
            if role == "replica" or reason not in OF_THE_SESSION:
                break
            if reason == "pinned":
                through.renew()
            time.sleep(0.02)
            rows = through.ask(sql)
            role, reason = through.route()
        if there == truth:
            if rows != truth:
                count("another answer", test, sql, str(rows[1]), role, reason)
            elif role == "replica":
                count("offloaded", test, sql)
            else:
                why = through.reason(sql)
                count("not pure" if why in NOT_PURE else "not offloaded", test, sql, reason, why)
        elif rows[1] and not again[1]:
            count("an error", test, sql, str(rows[1]), role, reason)
        elif role == "replica":
            count("answered by a replica", test, sql, str(there[1]), reason)
        else:
            count("primary only", test, sql)
    return counts, wrong


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--third", action="store_true", help="only a fixed third of the tests")
    parser.add_argument("--casts", action="store_true", help="keep implicit casts that call volatile functions")
    parser.add_argument("--pgweir", metavar="FILE", help="this program instead of a fresh build")
    parser.add_argument("--source", metavar="DIR", help="a PostgreSQL source tree instead of Debian's source package")
    parser.add_argument("--cache", metavar="DIR", default=os.path.join(ROOT, "target", "regress"), help="for downloads")
    parser.add_argument("--seconds", type=int, default=1800, help="the longest that the suite may take (default 1800)")
    chosen = parser.parse_args()
    chosen.isolation, chosen.only = False, None
    return chosen


def main():
    chosen = arguments()
    output = os.path.join(os.path.abspath(chosen.cache), time.strftime("judge-%Y%m%d-%H%M%S"))
    os.makedirs(output)
    try:
        paths = prepare(chosen, output)
        pgweir = os.path.abspath(chosen.pgweir) if chosen.pgweir else build()
        with JudgedServers(pgweir, "transaction", say) as servers:
            say("the suite, directly on the primary")
            servers.suite("direct", paths, chosen.seconds, os.path.join(output, "direct"))
            servers.begin(chosen.casts)
            tests = [test for group in groups_of(paths["schedule"]) for test in group]
            found = []
            for test in tests:
                with open(os.path.join(paths["sources"], "sql", f"{test}.sql"), "rb") as file:
                    found += [(test, sql) for sql in statements(file.read())]
            say(f"{len(found)} statements that begin as queries")
            counts, wrong = judge(servers, found)
    finally:
        shutil.rmtree(output, ignore_errors=True)
    for entry in wrong:
        print(" | ".join(part.replace("\n", " ")[:300] for part in entry))
    pure = counts.get("offloaded", 0) + counts.get("not offloaded", 0) + counts.get("another answer", 0)
    share = counts.get("offloaded", 0) / max(pure, 1)
    violations = sum(counts.get(verdict, 0) for verdict in ("another answer", "an error", "answered by a replica"))
    print(", ".join(f"{verdict}: {count}" for verdict, count in sorted(counts.items())))
    alike = pure + counts.get("not pure", 0)
    print(f"{alike} statements that both answer alike, {counts.get('offloaded', 0) / max(alike, 1):.2%} offloaded")
    print(f"{pure} pure reads, {share:.2%} offloaded; {violations} violations")
    sys.exit(0 if share >= LEAST and not violations and pure else 1)


if __name__ == "__main__":
    guarded(main)
