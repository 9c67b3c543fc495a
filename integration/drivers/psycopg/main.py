"""psycopg 3 in autocommit, in transactions, in pipeline mode, with text and binary values."""

import datetime
import decimal
import threading
import time

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

SLOW_READ = """SELECT count(*) FROM generate_series(1, 40000) a
               JOIN generate_series(1, 40000) b ON a + b < 0"""


def section(name):
    print(f"# {name}", flush=True)


def fails(what, action):
    try:
        action()
        print(what, "did not fail")
    except psycopg.Error as error:
        diag = error.diag
        print(what, type(error).__name__, diag.sqlstate, diag.severity, diag.message_primary)
        print("  detail", diag.message_detail, diag.constraint_name, diag.column_name,
              diag.statement_position)


def connect(**options):
    return psycopg.connect(autocommit=True, **options)


def prepared(conn):
    section("prepared")
    conn.prepare_threshold = 2
    for i in range(8):
        row = conn.execute("INSERT INTO item (name, price) VALUES (%s, %s) RETURNING id",
                           (f"item {i}", decimal.Decimal(i) / 4)).fetchone()
        print("inserted", row)
    for i in range(8):
        cur = conn.execute("SELECT name, price FROM item WHERE id = %s", (i + 1,))
        print(cur.fetchone(), cur.statusmessage, cur.description[1].type_code)
    for i in range(3):
        cur = conn.execute("UPDATE item SET price = price + %s WHERE id <= %s", (i, 4),
                           prepare=True)
        print(cur.rowcount, cur.statusmessage)
    cur = conn.cursor()
    cur.executemany("INSERT INTO item (name) VALUES (%s) RETURNING id", [("a",), ("b",)],
                    returning=True)
    while True:
        print("many", cur.fetchone())
        if not cur.nextset():
            break
    conn.execute("ALTER TABLE item ADD COLUMN note text DEFAULT 'none'")
    for i in range(4):
        print(conn.execute("SELECT * FROM item WHERE id = %s", (3,)).fetchone())
    conn.execute("ALTER TABLE item DROP COLUMN note")
    fails("changed", lambda: [conn.execute("SELECT * FROM item WHERE id = %s", (3,)).fetchone()
                              for _ in range(3)])
    print(conn.execute("SELECT * FROM item WHERE id = %s", (3,)).fetchone())


def transaction(conn):
    section("transaction")
    with conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM item")
        print("inside", conn.execute("SELECT count(*) FROM item").fetchone())
    print("after", conn.execute("SELECT count(*) FROM item").fetchone())

    def broken():
        with conn.transaction():
            conn.execute("INSERT INTO item (name) VALUES ('lost')")
            conn.execute("SELECT 1/0")

    fails("broken", broken)
    print(conn.info.transaction_status.name,
          conn.execute("SELECT count(*) FROM item WHERE name = 'lost'").fetchone())
    conn.autocommit = False
    conn.execute("INSERT INTO item (name) VALUES ('kept')")
    print(conn.info.transaction_status.name)
    conn.commit()
    conn.execute("SELECT 1")
    fails("in a transaction", lambda: conn.execute("SELECT nothing"))
    fails("failed block", lambda: conn.execute("SELECT 1"))
    print(conn.info.transaction_status.name)
    conn.rollback()
    conn.read_only = True
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    print(conn.execute("SELECT name FROM item WHERE name = 'kept'").fetchall())
    print(conn.execute("SHOW transaction_isolation").fetchone(),
          conn.execute("SHOW transaction_read_only").fetchone())
    fails("read only", lambda: conn.execute("INSERT INTO item (name) VALUES ('no')"))
    conn.rollback()
    conn.read_only = conn.isolation_level = None
    conn.autocommit = True


def savepoint(conn):
    section("savepoint")
    with conn.transaction():
        conn.execute("INSERT INTO item (name) VALUES ('outer')")
        try:
            with conn.transaction("inner"):
                conn.execute("INSERT INTO item (name) VALUES ('inner')")
                conn.execute("INSERT INTO item (id, name) VALUES (1, 'twice')")
        except psycopg.errors.UniqueViolation as error:
            print(error.diag.sqlstate, error.diag.constraint_name)
        print(conn.execute("SELECT name FROM item WHERE name IN ('outer', 'inner')").fetchall())
    print(conn.execute("SELECT name FROM item WHERE name IN ('outer', 'inner')").fetchall())


def copy(conn):
    section("copy")
    cur = conn.cursor()
    with cur.copy("COPY dated FROM STDIN") as stream:
        for i in range(2000):
            stream.write_row((i, f"näme\t{i}", datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)))
    print(cur.rowcount, cur.statusmessage)
    with cur.copy("COPY dated FROM STDIN (FORMAT binary)") as stream:
        stream.set_types(["int4", "text", "timestamptz"])
        for i in range(50):
            stream.write_row((i, "binary", None))
    print(cur.rowcount)
    with cur.copy("COPY (SELECT id, name FROM dated ORDER BY id, name LIMIT 5) TO STDOUT") as out:
        print(list(out.rows()))
    with cur.copy("COPY (SELECT sum(id), count(*) FROM dated) TO STDOUT (FORMAT binary)") as out:
        print(b"".join(bytes(block) for block in out))
    with cur.copy("COPY dated TO STDOUT") as out:
        print(sum(len(block) for block in out))

    def broken():
        with cur.copy("COPY dated FROM STDIN") as stream:
            stream.write(b"1\tgood\t\\N\n")
            stream.write(b"bad\trow\t\\N\n")

    fails("copy", broken)

    class Stopped(Exception):
        pass

    def abandoned():
        with cur.copy("COPY dated FROM STDIN") as stream:
            stream.write(b"1\tgood\t\\N\n")
            raise Stopped("stopped")

    def left_early():
        with cur.copy("COPY (SELECT generate_series(1, 50000000)) TO STDOUT") as out:
            out.read()
            raise Stopped("left early")

    for action in (abandoned, left_early):
        try:
            action()
        except Stopped as error:
            print("own error", error, conn.info.transaction_status.name)
    print(conn.execute("SELECT count(*) FROM dated").fetchone())


def notify(conn):
    section("notify")
    other = connect()
    other.execute("LISTEN psycopg_channel")
    conn.execute("NOTIFY psycopg_channel, 'first'")
    conn.execute("SELECT pg_notify('psycopg_channel', %s)", ("second",))
    with conn.transaction():
        conn.execute("NOTIFY psycopg_channel, 'third'")
        conn.execute("NOTIFY psycopg_channel, 'third'")
    got = []
    for message in other.notifies(timeout=20):
        got.append((message.channel, message.payload, message.pid > 0))
        if message.payload == "third":
            break
    print(got)
    other.add_notify_handler(lambda message: print("handler", message.payload))
    other.execute("NOTIFY psycopg_channel, 'own'")
    other.execute("UNLISTEN *")
    conn.execute("NOTIFY psycopg_channel, 'unheard'")
    print(other.execute("SELECT 1").fetchone())
    other.close()


def cancel(conn):
    section("cancel")
    for text in ("SELECT pg_sleep(30)", SLOW_READ):
        timer = threading.Timer(0.5, conn.cancel)
        timer.start()
        start = time.monotonic()
        fails("cancelled", lambda: conn.execute(text))
        timer.join()
        print("soon", time.monotonic() - start < 20)
        print(conn.execute("SELECT 'usable'").fetchone())


def binary(conn):
    section("binary")
    blob = bytes(range(256)) * 1000
    conn.execute("INSERT INTO blob VALUES (1, %s), (2, %b)", (blob, blob))
    for mode in (False, True):
        rows = conn.execute("SELECT body FROM blob ORDER BY id", binary=mode).fetchall()
        print([bytes(body) == blob for body, in rows])
    with conn.transaction():
        oid, = conn.execute("SELECT lo_from_bytea(0, %s)", (blob,)).fetchone()
        fd, = conn.execute("SELECT lo_open(%s, 393216)", (oid,)).fetchone()
        print(fd, conn.execute("SELECT lo_lseek(%s, 1000, 0)", (fd,)).fetchone())
        print(conn.execute("SELECT loread(%s, 8)", (fd,)).fetchone())
    print(conn.execute("SELECT length(lo_get(%s))", (oid,)).fetchone())
    print(conn.execute("SELECT lo_unlink(%s)", (oid,)).fetchone())


def types(conn):
    section("types")
    at = datetime.datetime(2024, 2, 29, 12, 30, 1, 123456, tzinfo=datetime.UTC)
    values = {
        "int[]": [1, None, 3], "text[]": ["a", 'q"uote', "näme"], "jsonb": Jsonb({"a": [1, 2.5]}),
        "timestamptz": at, "date": at.date(), "interval": datetime.timedelta(days=3, seconds=1),
        "numeric": decimal.Decimal("12345678901234567890.123456789"), "float8": 0.1, "bool": True,
        "int4range": Range(1, 10), "uuid": "6f1d5b4a-1111-4222-8333-444455556666", "text": None,
    }
    for mode in (False, True):
        for name, value in values.items():
            mark = sql.SQL("SELECT %" + ("b" if mode else "t") + "::" + name)
            cur = conn.cursor(binary=mode)
            print(mode, name, cur.execute(mark, (value,)).fetchone(), cur.description[0].type_code)


def error(conn):
    section("error")
    fails("syntax", lambda: conn.execute("SELEC 1"))
    fails("no table", lambda: conn.execute("SELECT * FROM missing"))
    fails("unique", lambda: conn.execute("INSERT INTO item (id, name) VALUES (1, 'x')"))
    fails("not null", lambda: conn.execute("INSERT INTO item (name) VALUES (NULL)"))
    fails("input", lambda: conn.execute("SELECT %s::int", ("x",)))
    fails("division", lambda: conn.execute("SELECT price / 0 FROM item"))
    fails("raised", lambda: conn.execute("DO $$ BEGIN RAISE 'no' USING ERRCODE = 'P0123'; END $$"))
    notices = []
    conn.add_notice_handler(lambda diag: notices.append((diag.sqlstate, diag.message_primary)))
    conn.execute("DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$")
    conn.execute("DROP TABLE IF EXISTS missing")
    print(notices)


def parts(conn):
    section("parts")
    with conn.transaction():
        with conn.cursor(name="server_side") as cur:
            cur.itersize = 100
            cur.execute("SELECT n, repeat('x', n %% 7) FROM number WHERE n > %s ORDER BY n", (0,))
            print(sum(n for n, _ in cur))
        with conn.cursor(name="scrolling", scrollable=True) as cur:
            cur.execute("SELECT n FROM number ORDER BY n")
            cur.scroll(500)
            print(cur.fetchmany(3))
            cur.scroll(-10)
            print(cur.fetchone())
    with conn.cursor(name="held", withhold=True) as cur:
        cur.execute("SELECT n FROM number ORDER BY n")
        print(cur.fetchmany(2), len(cur.fetchall()))
    print(sum(n for n, in conn.cursor().stream("SELECT n FROM number")))
    left = conn.cursor().stream("SELECT n FROM number ORDER BY n")
    print(next(left))
    left.close()
    print(conn.info.transaction_status.name)


def readback(conn):
    section("readback")
    seen = 0
    for i in range(200):
        conn.execute("INSERT INTO own VALUES (%s, %s)", (i, f"v{i}"))
        seen += conn.execute("SELECT v FROM own WHERE id = %s", (i,)).fetchone() == (f"v{i}",)
    print(seen)


def temporary(conn):
    section("temporary")
    conn.execute("CREATE TEMP TABLE scratch (id int)")
    conn.execute("INSERT INTO scratch SELECT generate_series(1, 5)")
    for _ in range(3):
        print(conn.execute("SELECT sum(id) FROM scratch").fetchone())
    other = connect()
    fails("not of another", lambda: other.execute("SELECT * FROM scratch"))
    other.close()
    conn.execute("DROP TABLE scratch")


def settings(conn):
    section("settings")
    conn.execute("SET work_mem = '5MB'")
    conn.execute("SELECT set_config('psycopg.key', %s, false)", ("value",))
    for _ in range(3):
        print(conn.execute("SHOW work_mem").fetchone(),
              conn.execute("SELECT current_setting('psycopg.key')").fetchone(),
              conn.execute("SELECT current_setting('search_path')").fetchone())
    with conn.transaction(force_rollback=True):
        conn.execute("SET work_mem = '6MB'")
    print(conn.execute("SHOW work_mem").fetchone())
    conn.execute("SET TIME ZONE 'Asia/Tokyo'")
    print(conn.info.timezone, conn.execute(
        "SELECT '2024-01-01 00:00:00Z'::timestamptz::text").fetchone())
    conn.execute("RESET TIME ZONE")
    conn.execute("SET client_encoding = 'latin1'")
    print(conn.info.encoding, conn.execute("SELECT 'ä'").fetchone())
    conn.execute("SET client_encoding = 'utf8'")
    conn.execute("RESET work_mem")
    print(conn.execute("SHOW work_mem").fetchone(), conn.info.parameter_status("TimeZone"))
    with connect(options="-c statement_timeout=12345 -c search_path=psycopg",
                 application_name="named") as other:
        for _ in range(3):
            print(other.execute("SHOW statement_timeout").fetchone(),
                  other.execute("SELECT current_setting('application_name')").fetchone(),
                  other.execute("SELECT max(n) FROM number").fetchone())


def locks(conn):
    section("locks")
    other = connect()
    lock = "SELECT pg_try_advisory_lock(4711, 1)"
    print(conn.execute(lock).fetchone(), other.execute(lock).fetchone())
    print(conn.execute("SELECT n FROM number WHERE n = 1").fetchone())
    print(conn.execute("SELECT pg_advisory_unlock(4711, 1)").fetchone())
    print(other.execute(lock).fetchone())
    other.execute("SELECT pg_advisory_unlock_all()")
    print(conn.execute(lock).fetchone(), conn.execute("SELECT pg_advisory_unlock(4711, 1)").fetchone())
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(4711, 1)")
        print(other.execute(lock).fetchone())
    print(other.execute(lock).fetchone())
    other.close()


def pipeline(conn):
    section("pipeline")
    with conn.pipeline() as pipe:
        reads = []
        for i in range(50):
            conn.execute("INSERT INTO piped VALUES (%s, %s)", (i, f"v{i}"))
            reads.append(conn.execute("SELECT v FROM piped WHERE id = %s", (i,)))
        pipe.sync()
        print([cur.fetchone()[0] for cur in reads] == [f"v{i}" for i in range(50)])
        reads = [conn.execute("SELECT n FROM number WHERE n = %s", (i,)) for i in range(1, 101)]
        print(sum(cur.fetchone()[0] for cur in reads))

    def aborted():
        with conn.pipeline():
            conn.execute("INSERT INTO piped VALUES (100, 'undone')")
            conn.execute("SELECT 1/0")
            conn.execute("INSERT INTO piped VALUES (101, 'never')")

    fails("aborted", aborted)
    print(conn.execute("SELECT count(*) FROM piped").fetchone())
    with conn.pipeline() as pipe:
        with conn.transaction():
            conn.execute("INSERT INTO piped VALUES (200, 'kept')")
            cur = conn.execute("SELECT count(*) FROM piped")
        print(cur.fetchone())
    with conn.pipeline() as pipe:
        first = conn.execute("SELECT 1")
        pipe.sync()
        second = conn.execute("INSERT INTO piped VALUES (201, 'x') RETURNING v")
        pipe.sync()
        third = conn.execute("SELECT count(*) FROM piped")
        print(first.fetchone(), second.fetchone(), third.fetchone())
    with conn.pipeline():
        many = conn.cursor()
        many.executemany("INSERT INTO piped VALUES (%s, 'many')", [(i,) for i in range(300, 400)])
        print(many.rowcount)
    print(conn.execute("SELECT count(*) FROM piped").fetchone())


def main():
    for check in (prepared, transaction, savepoint, copy, notify, cancel, readback, binary, types, error,
                  parts, temporary, settings, locks, pipeline):
        with connect(options="-c search_path=psycopg") as own:
            check(own)
    section("end")


main()
