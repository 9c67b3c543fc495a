"""asyncpg: everything is prepared and binary, statements are cached by the driver."""

import asyncio
import datetime
import decimal
import io
import ipaddress
import uuid

import asyncpg

SLOW_READ = """SELECT count(*) FROM generate_series(1, 40000) a
               JOIN generate_series(1, 40000) b ON a + b < 0"""


def section(name):
    print(f"# {name}", flush=True)


async def fails(what, awaitable):
    try:
        await awaitable
        print(what, "did not fail")
    except asyncpg.PostgresError as error:
        print(what, type(error).__name__, error.sqlstate, error.args[0])
        print("  detail", error.detail, error.constraint_name, error.column_name, error.position)


async def connect(**settings):
    return await asyncpg.connect(ssl=False, server_settings={
        "search_path": "asyncpg", **settings})


async def prepared(conn):
    section("prepared")
    insert = await conn.prepare("INSERT INTO item (name, price) VALUES ($1, $2) RETURNING id")
    for i in range(8):
        print("inserted", await insert.fetchval(f"item {i}", decimal.Decimal(i) / 4))
    read = await conn.prepare("SELECT name, price FROM item WHERE id = $1")
    print([(p.name, p.oid) for p in read.get_parameters()],
          [(a.name, a.type.name) for a in read.get_attributes()])
    for i in range(8):
        print(tuple(await read.fetchrow(i + 1)), read.get_statusmsg())
    for i in range(3):
        print(await conn.execute("UPDATE item SET price = price + $1 WHERE id <= $2",
                                 decimal.Decimal(i), 4))
    await conn.executemany("INSERT INTO item (name) VALUES ($1)", [(f"many {i}",) for i in range(9)])
    print(await conn.fetchval("SELECT count(*) FROM item"))
    print([tuple(r) for r in await conn.fetchmany(
        "INSERT INTO item (name) VALUES ($1) RETURNING name", [("x",), ("y",)])])
    await conn.execute("ALTER TABLE item ADD COLUMN note text DEFAULT 'none'")
    for _ in range(3):
        print(tuple(await conn.fetchrow("SELECT * FROM item WHERE id = $1", 3)))
    await conn.execute("ALTER TABLE item DROP COLUMN note")
    for _ in range(3):
        print(tuple(await conn.fetchrow("SELECT * FROM item WHERE id = $1", 3)))
    other = await connect()
    star = await conn.prepare("SELECT * FROM item WHERE id = $1")
    print(tuple(await star.fetchrow(3)))
    await other.close()


async def transaction(conn):
    section("transaction")
    try:
        async with conn.transaction():
            await conn.execute("DELETE FROM item")
            print("inside", await conn.fetchval("SELECT count(*) FROM item"))
            raise KeyError
    except KeyError:
        print("after", await conn.fetchval("SELECT count(*) FROM item"))

    async def broken():
        async with conn.transaction():
            await conn.execute("INSERT INTO item (name) VALUES ('lost')")
            await conn.execute("SELECT 1/0")

    await fails("broken", broken())
    print(conn.is_in_transaction(),
          await conn.fetchval("SELECT count(*) FROM item WHERE name = 'lost'"))
    block = conn.transaction()
    await block.start()
    await fails("in a transaction", conn.execute("SELECT nothing"))
    await fails("failed block", conn.fetchval("SELECT 1"))
    await block.rollback()
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        print(await conn.fetchval("SELECT count(*) FROM item"),
              await conn.fetchval("SHOW transaction_isolation"),
              await conn.fetchval("SELECT current_setting('transaction_read_only')"))
        await fails("read only", conn.execute("INSERT INTO item (name) VALUES ('no')"))
    async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
        print(await conn.fetchval("SELECT count(*) FROM item"))


async def savepoint(conn):
    section("savepoint")

    async def inner():
        async with conn.transaction():
            await conn.execute("INSERT INTO item (name) VALUES ('inner')")
            await conn.execute("INSERT INTO item (id, name) VALUES (1, 'twice')")

    names = "SELECT array_agg(name) FROM item WHERE name IN ('outer', 'inner')"
    async with conn.transaction():
        await conn.execute("INSERT INTO item (name) VALUES ('outer')")
        await fails("inner", inner())
        print(await conn.fetchval(names))
    print(await conn.fetchval(names))


async def copy(conn):
    section("copy")
    at = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    print(await conn.copy_records_to_table(
        "dated", records=[(i, f"näme\t{i}", at) for i in range(2000)]))
    print(await conn.copy_to_table("dated", source=io.BytesIO(b"1,text,2024-01-01\n2,,\n"),
                                   format="csv"))
    out = io.BytesIO()
    print(await conn.copy_from_query(
        "SELECT id, name FROM dated WHERE id < $1 ORDER BY id, name", 4, output=out))
    print(out.getvalue())
    out = io.BytesIO()
    print(await conn.copy_from_table("dated", output=out, format="binary"), len(out.getvalue()))
    await fails("copy", conn.copy_to_table("dated", source=io.BytesIO(b"1\tgood\t\\N\nbad\trow\n")))

    async def stopping():
        yield b"1\tgood\t\\N\n"
        raise KeyError("stopped")

    try:
        await conn.copy_to_table("dated", source=stopping())
    except KeyError as error:
        print("own error", error)

    async def full(_):
        raise KeyError("full")

    try:
        await conn.copy_from_query("SELECT generate_series(1, 100000)", output=full)
    except KeyError as error:
        print("own error", error)
    print(await conn.fetchval("SELECT count(*) FROM dated"))


async def notify(conn):
    section("notify")
    other = await connect()
    queue = asyncio.Queue()
    await other.add_listener("asyncpg_channel", lambda c, pid, channel, payload:
                             queue.put_nowait((channel, payload, pid > 0)))
    await conn.execute("NOTIFY asyncpg_channel, 'first'")
    await conn.execute("SELECT pg_notify('asyncpg_channel', $1)", "second")
    async with conn.transaction():
        await conn.execute("NOTIFY asyncpg_channel, 'third'")
        await conn.execute("NOTIFY asyncpg_channel, 'third'")
    await other.execute("NOTIFY asyncpg_channel, 'own'")
    print([await asyncio.wait_for(queue.get(), 20) for _ in range(4)])
    await other.reset()
    await conn.execute("NOTIFY asyncpg_channel, 'unheard'")
    print(await other.fetchval("SELECT 1"), queue.qsize())
    await other.close()


async def cancel(conn):
    section("cancel")
    for text in ("SELECT pg_sleep(30)", SLOW_READ):
        try:
            await conn.fetchval(text, timeout=0.5)
        except TimeoutError:
            print("timed out")
        task = asyncio.ensure_future(conn.fetchval(text))
        await asyncio.sleep(0.5)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled")
        print(await conn.fetchval("SELECT 'usable'"))
    await conn.execute("SET statement_timeout = '200ms'")
    await fails("timeout", conn.fetchval("SELECT pg_sleep(30)"))
    await fails("timeout of a read", conn.fetchval(SLOW_READ))
    await conn.execute("RESET statement_timeout")


async def binary(conn):
    section("binary")
    blob = bytes(range(256)) * 1000
    await conn.execute("INSERT INTO blob VALUES (1, $1)", blob)
    print(await conn.fetchval("SELECT body FROM blob") == blob)
    async with conn.transaction():
        oid = await conn.fetchval("SELECT lo_from_bytea(0, $1)", blob)
        fd = await conn.fetchval("SELECT lo_open($1, 393216)", oid)
        print(fd, await conn.fetchval("SELECT lo_lseek($1, 1000, 0)", fd))
        print(await conn.fetchval("SELECT loread($1, 8)", fd))
    print(await conn.fetchval("SELECT length(lo_get($1))", oid))
    print(await conn.fetchval("SELECT lo_unlink($1)", oid))


async def types(conn):
    section("types")
    at = datetime.datetime(2024, 2, 29, 12, 30, 1, 123456, tzinfo=datetime.UTC)
    values = {
        "int[]": [1, None, 3], "text[]": ["a", 'q"uote', "näme"], "int[][]": [[1, 2], [3, 4]],
        "jsonb": '{"a": [1, 2.5]}', "json": '{"b":  1}', "timestamptz": at, "date": at.date(),
        "timestamp": at.replace(tzinfo=None), "interval": datetime.timedelta(days=3, seconds=1),
        "numeric": decimal.Decimal("12345678901234567890.123456789"), "float8": 0.1, "bool": True,
        "int4range": asyncpg.Range(1, 10), "uuid": uuid.UUID(int=5), "text": None, "mood": "happy",
        "mood[]": ["sad", None], "pair": (1, "two"), "inet": ipaddress.ip_address("10.0.0.1"),
        "bit(5)": asyncpg.BitString("10101"),
    }
    for name, value in values.items():
        print(name, repr(await conn.fetchval(f"SELECT $1::{name}", value)))
    print(await conn.fetchval("SELECT i FROM (SELECT 1 AS a, 'x' AS b) i"))


async def error(conn):
    section("error")
    await fails("syntax", conn.fetchval("SELEC 1"))
    await fails("no table", conn.fetchval("SELECT * FROM missing"))
    await fails("unique", conn.execute("INSERT INTO item (id, name) VALUES (1, 'x')"))
    await fails("not null", conn.execute("INSERT INTO item (name) VALUES ($1)", None))
    await fails("division", conn.fetchval("SELECT price / 0 FROM item"))
    await fails("batch", conn.execute("INSERT INTO item (name) VALUES ('undone'); SELECT 1/0"))
    await fails("many", conn.executemany("INSERT INTO item (id, name) VALUES ($1, 'undone')",
                                         [(5000,), (1,)]))
    print(await conn.fetchval("SELECT count(*) FROM item WHERE name = 'undone'"))
    notices = []
    conn.add_log_listener(lambda c, message: notices.append((message.sqlstate, message.message)))
    await conn.execute("DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$")
    await conn.execute("DROP TABLE IF EXISTS missing")
    await asyncio.sleep(0)
    print(notices)


async def parts(conn):
    section("parts")
    async with conn.transaction():
        total = 0
        async for row in conn.cursor("SELECT n FROM number WHERE n > $1", 0, prefetch=100):
            total += row["n"]
        print(total)
        cur = await conn.cursor("SELECT n FROM number ORDER BY n")
        await cur.forward(500)
        print([r["n"] for r in await cur.fetch(3)])
    async with conn.transaction(readonly=True):
        cur = await conn.cursor("SELECT n FROM number ORDER BY n")
        print([r["n"] for r in await cur.fetch(3)], len(await cur.fetch(2000)))


async def readback(conn):
    section("readback")
    seen = 0
    for i in range(200):
        await conn.execute("INSERT INTO own VALUES ($1, $2)", i, f"v{i}")
        seen += await conn.fetchval("SELECT v FROM own WHERE id = $1", i) == f"v{i}"
    print(seen)


async def temporary(conn):
    section("temporary")
    await conn.execute("CREATE TEMP TABLE scratch (id int)")
    await conn.execute("INSERT INTO scratch SELECT generate_series(1, 5)")
    for _ in range(3):
        print(await conn.fetchval("SELECT sum(id) FROM scratch"))
    other = await connect()
    await fails("not of another", other.fetchval("SELECT * FROM scratch"))
    await other.close()
    await conn.execute("DROP TABLE scratch")


async def settings(conn):
    section("settings")
    await conn.execute("SET work_mem = '5MB'")
    await conn.execute("SELECT set_config('asyncpg.key', $1, false)", "value")
    for _ in range(3):
        print(await conn.fetchval("SHOW work_mem"),
              await conn.fetchval("SELECT current_setting('asyncpg.key')"),
              await conn.fetchval("SELECT current_setting('search_path')"))
    await conn.execute("SET TIME ZONE 'Asia/Tokyo'")
    print(conn.get_settings().TimeZone, await conn.fetchval(
        "SELECT '2024-01-01 00:00:00Z'::timestamptz::text"))
    await conn.reset()
    print(await conn.fetchval("SHOW work_mem"), conn.get_settings().TimeZone,
          await conn.fetchval("SELECT current_setting('search_path')"),
          await conn.fetchval("SELECT current_setting('asyncpg.key')"))
    other = await connect(statement_timeout="12345", application_name="named")
    for _ in range(3):
        print(await other.fetchval("SHOW statement_timeout"),
              await other.fetchval("SELECT current_setting('application_name')"),
              await other.fetchval("SELECT max(n) FROM number"))
    await other.close()


async def locks(conn):
    section("locks")
    other = await connect()
    lock = "SELECT pg_try_advisory_lock(4711, 2)"
    print(await conn.fetchval(lock), await other.fetchval(lock))
    print(await conn.fetchval("SELECT n FROM number WHERE n = 1"))
    print(await conn.fetchval("SELECT pg_advisory_unlock(4711, 2)"))
    print(await other.fetchval(lock))
    await other.reset()
    print(await conn.fetchval(lock), await conn.fetchval("SELECT pg_advisory_unlock(4711, 2)"))
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(4711, 2)")
        print(await other.fetchval(lock))
    print(await other.fetchval(lock))
    await other.close()


async def pool(conn):
    section("pool")
    async with asyncpg.create_pool(min_size=4, max_size=4, ssl=False,
                                   server_settings={"search_path": "asyncpg"}) as clients:
        async def one(i):
            async with clients.acquire() as client:
                await client.execute("SET work_mem = '7MB'")
                await client.execute("INSERT INTO own VALUES ($1, 'pool')", 1000 + i)
                return await client.fetchval("SELECT count(*) FROM own WHERE id = $1", 1000 + i)

        print(sum(await asyncio.gather(*(one(i) for i in range(100)))))
        async with clients.acquire() as client:
            print(await client.fetchval("SHOW work_mem"))
    print(await conn.fetchval("SELECT count(*) FROM own WHERE v = 'pool'"))


async def main():
    for check in (prepared, transaction, savepoint, copy, notify, cancel, readback, binary, types, error,
                  parts, temporary, settings, locks, pool):
        own = await connect()
        await check(own)
        await own.close()
    section("end")


asyncio.run(main())
