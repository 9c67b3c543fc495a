"""SQLAlchemy: units of work, each in a transaction, over psycopg; a pool that resets connections."""

import datetime
import decimal
import threading

from sqlalchemy import (
    JSON, Computed, Date, DateTime, ForeignKey, LargeBinary, Numeric, Text, create_engine, func, inspect,
    select, text, update,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT4RANGE, JSONB, UUID, Range, insert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.types import Integer

SLOW_READ = """SELECT count(*) FROM generate_series(1, 40000) a
               JOIN generate_series(1, 40000) b ON a + b < 0"""
URL = "postgresql+psycopg://"


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    price: Mapped[decimal.Decimal | None] = mapped_column(Numeric)
    twice: Mapped[decimal.Decimal | None] = mapped_column(Numeric, Computed("price * 2"))
    parts: Mapped[list["Part"]] = relationship(back_populates="item", order_by="Part.id")


class Part(Base):
    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    label: Mapped[str]
    item: Mapped[Item] = relationship(back_populates="parts")


class Kinds(Base):
    __tablename__ = "kinds"
    id: Mapped[int] = mapped_column(primary_key=True)
    numbers = mapped_column(ARRAY(Integer))
    words = mapped_column(ARRAY(Text))
    binary = mapped_column(LargeBinary)
    document = mapped_column(JSONB)
    plain = mapped_column(JSON)
    at = mapped_column(DateTime(timezone=True))
    day = mapped_column(Date)
    span = mapped_column(INT4RANGE)
    key = mapped_column(UUID(as_uuid=False))


class Own(Base):
    __tablename__ = "own"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    v: Mapped[str]


def section(name):
    print(f"# {name}", flush=True)


def fails(what, action):
    try:
        action()
        print(what, "did not fail")
    except DBAPIError as error:
        print(what, type(error).__name__, error.orig.sqlstate, str(error.orig).splitlines()[0])


def prepared(engine):
    section("prepared")
    with Session(engine) as session:
        for i in range(8):
            session.add(Item(name=f"item {i}", price=decimal.Decimal(i) / 4, parts=[Part(label=f"part {i}")]))
        session.commit()
        print(session.scalars(select(Item.twice).order_by(Item.id)).all())
    for i in range(1, 9):
        with Session(engine) as session:
            item = session.get(Item, i)
            print(item.name, item.price, [part.label for part in item.parts])
    with Session(engine) as session, session.begin():
        print(session.execute(update(Item).where(Item.id <= 4).values(price=Item.price + 1)).rowcount)
        session.get(Item, 1).name = "renamed"
    with Session(engine) as session:
        print([(item.name, len(item.parts)) for item in session.scalars(
            select(Item).options(selectinload(Item.parts)).order_by(Item.id))])
    with engine.begin() as conn:
        upsert = insert(Item).values([{"name": f"item {i}", "price": 9} for i in range(4, 12)])
        upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"price": upsert.excluded.price})
        print(conn.execute(upsert.returning(Item.name, Item.twice)).all())
        print(len(conn.execute(insert(Own).returning(Own.id), [{"id": 1000 + i, "v": "many"} for i in range(2500)])
                  .all()))
    print(sorted(inspect(engine).get_table_names()), inspect(engine).get_pk_constraint("item"))


def transaction(engine):
    section("transaction")
    with engine.connect() as conn:
        conn.execute(text("DELETE FROM part"))
        print(conn.execute(select(func.count()).select_from(Part)).scalar())
        conn.rollback()
        print(conn.execute(select(func.count()).select_from(Part)).scalar())
    with Session(engine) as session:
        session.add(Item(name="item 3"))
        fails("flush", session.flush)
        session.rollback()
        print(session.scalar(select(func.count()).select_from(Item)))
    with engine.connect() as conn:
        fails("broken", lambda: conn.execute(text("SELECT 1/0")))
        fails("failed block", lambda: conn.execute(text("SELECT 1")))
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        reading = engine.execution_options(isolation_level=level, postgresql_readonly=True)
        with Session(reading) as session:
            print(level, session.scalar(text("SHOW transaction_isolation")),
                  session.scalar(select(func.count()).select_from(Item)))
            session.add(Item(name="not allowed"))
            fails("read only", session.flush)


def savepoint(engine):
    section("savepoint")
    with Session(engine) as session, session.begin():
        session.add(Own(id=1, v="outer"))
        session.flush()
        try:
            with session.begin_nested():
                session.add(Own(id=2, v="inner"))
                session.execute(insert(Own).values(id=1, v="twice"))
        except IntegrityError as error:
            print(error.orig.sqlstate)
        print(session.scalars(select(Own.v).where(Own.id < 10)).all())
    with Session(engine) as session:
        print(session.scalars(select(Own.v).where(Own.id < 10)).all())


def copy(engine):
    section("copy")
    raw = engine.raw_connection()
    with raw.cursor() as cur:
        with cur.copy("COPY own FROM STDIN") as stream:
            for i in range(2000):
                stream.write_row((i + 10000, "copied"))
        with cur.copy("COPY (SELECT * FROM own WHERE v = 'copied' ORDER BY id LIMIT 3) TO STDOUT") as out:
            print(list(out.rows()))
    raw.commit()
    raw.close()
    with engine.connect() as conn:
        print(conn.execute(text("SELECT count(*), sum(id) FROM own WHERE v = 'copied'")).one())


def notify(engine):
    section("notify")
    listening = engine.raw_connection()
    listening.driver_connection.autocommit = True
    listening.driver_connection.execute("LISTEN sqlalchemy_channel")
    with engine.begin() as conn:
        conn.execute(func.pg_notify("sqlalchemy_channel", "first").select())
        conn.execute(text("NOTIFY sqlalchemy_channel, 'second'"))
    got = []
    for message in listening.driver_connection.notifies(timeout=20, stop_after=2):
        got.append(message.payload)
    print(got)
    listening.invalidate()


def cancel(engine):
    section("cancel")
    for statement in ("SELECT pg_sleep(30)", SLOW_READ):
        with engine.connect() as conn:
            timer = threading.Timer(0.5, conn.connection.driver_connection.cancel)
            timer.start()
            fails("cancelled", lambda: conn.execute(text(statement)))
            timer.join()
            conn.rollback()
            print(conn.scalar(text("SELECT 'usable'")))


def types(engine):
    section("binary")
    kinds = Kinds(
        numbers=[1, None, 3], words=["a", 'q"uote', "näme"], binary=bytes(range(256)) * 1000,
        document={"a": [1, 2.5]}, plain=[None], at=datetime.datetime(2024, 2, 29, 12, 30, 1, 5, datetime.UTC),
        day=datetime.date(2024, 2, 29), span=Range(1, 10), key="6f1d5b4a-1111-4222-8333-444455556666")
    with Session(engine) as session:
        session.add(kinds)
        session.commit()
    with Session(engine) as session:
        got = session.scalars(select(Kinds)).one()
        print(got.binary == bytes(range(256)) * 1000)
        section("types")
        print(got.numbers, got.words, got.document, got.plain, got.at, got.day, got.span, got.key)
        print(session.scalars(select(Kinds.id).where(Kinds.document["a"][0].as_integer() == 1,
                                                     Kinds.words.contains(["a"]))).all())


def error(engine):
    section("error")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        for name, statement in {
            "syntax": "SELEC 1", "no table": "SELECT * FROM missing", "unique": "INSERT INTO own VALUES (1, 'x')",
            "not null": "INSERT INTO item (id) VALUES (900)", "division": "SELECT price / 0 FROM item",
        }.items():
            fails(name, lambda: conn.execute(text(statement)))
        print(conn.scalar(text("SELECT count(*) FROM own WHERE v = 'x'")))


def parts(engine):
    section("parts")
    for readonly in (False, True):
        with engine.connect().execution_options(postgresql_readonly=readonly, stream_results=True,
                                                max_row_buffer=100) as conn:
            rows = conn.execute(select(Own.id).where(Own.v == "copied").limit(1000).order_by(Own.id))
            print(sum(len(part) for part in rows.partitions(100)))
            left = conn.execution_options(yield_per=50).execute(select(Own.id).order_by(Own.id))
            print(left.fetchmany(3))
            left.close()
    with Session(engine) as session:
        print(sum(1 for _ in session.scalars(select(Own).limit(1000), execution_options={"yield_per": 100})))


def readback(engine):
    section("readback")
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    seen = 0
    with alone.connect() as conn:
        for i in range(200):
            conn.execute(insert(Own).values(id=20000 + i, v=f"v{i}"))
            seen += conn.scalar(select(Own.v).where(Own.id == 20000 + i)) == f"v{i}"
    print(seen)
    seen = 0
    with Session(engine) as session, Session(engine.execution_options(postgresql_readonly=True)) as reading:
        for i in range(100):
            session.add(Own(id=30000 + i, v="unit of work"))
            session.commit()
            reading.rollback()
            reading.scalar(select(Own.v).where(Own.id == 1))
            seen += session.get(Own, 30000 + i) is not None
    print(seen)


def temporary(engine):
    section("temporary")
    with engine.connect() as conn:
        conn.execute(text("CREATE TEMP TABLE scratch (id int) ON COMMIT PRESERVE ROWS"))
        conn.execute(text("INSERT INTO scratch SELECT generate_series(1, 5)"))
        conn.commit()
        for _ in range(3):
            print(conn.scalar(text("SELECT sum(id) FROM scratch")))
            conn.commit()
        with engine.connect() as other:
            fails("not of another", lambda: other.execute(text("SELECT * FROM scratch")))
        conn.execute(text("DROP TABLE scratch"))
        conn.commit()


def settings(engine):
    section("settings")
    with engine.connect() as conn:
        conn.execute(text("SET work_mem = '5MB'"))
        conn.execute(text("SET LOCAL statement_timeout = 9000"))
        print(conn.scalar(text("SHOW work_mem")), conn.scalar(text("SHOW statement_timeout")))
        conn.commit()
        for _ in range(3):
            print(conn.scalar(text("SHOW work_mem")), conn.scalar(text("SHOW statement_timeout")),
                  conn.scalar(text("SHOW search_path")))
            conn.commit()
        conn.execute(text("SET work_mem = '6MB'"))
        conn.rollback()
        print(conn.scalar(text("SHOW work_mem")))
    with engine.connect() as conn:
        print(conn.scalar(text("SHOW work_mem")))


def locks(engine):
    section("locks")
    lock = text("SELECT pg_try_advisory_lock(4711, 10)")
    with engine.connect() as conn, engine.connect() as other:
        print(conn.scalar(lock), other.scalar(lock))
        conn.commit()
        print(other.scalar(lock), conn.scalar(text("SELECT pg_advisory_unlock(4711, 10)")), other.scalar(lock))
        other.execute(text("SELECT pg_advisory_unlock_all()"))
        conn.execute(text("SELECT pg_advisory_xact_lock(4711, 10)"))
        print(other.scalar(lock))
        conn.commit()
        print(other.scalar(lock))
        other.execute(text("SELECT pg_advisory_unlock_all()"))


def main():
    options = {"connect_args": {"options": "-c search_path=sqlalchemy"}, "pool_size": 3, "pool_pre_ping": True}
    engine = create_engine(URL, **options)
    with engine.begin() as conn:
        conn.execute(text("DROP SCHEMA IF EXISTS sqlalchemy CASCADE"))
        conn.execute(text("CREATE SCHEMA sqlalchemy"))
        Base.metadata.create_all(conn)
    for check in (prepared, transaction, savepoint, copy, notify, cancel, readback, types, error, parts, temporary,
                  settings, locks):
        check(engine)
    with engine.begin() as conn:
        conn.execute(text("DROP SCHEMA sqlalchemy CASCADE"))
    engine.dispose()
    section("end")


main()
