"""Django's ORM: autocommit outside atomic blocks, savepoints inside, server-side cursors in iterator()."""

import datetime
import decimal
import os
import threading

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"],
        "OPTIONS": {"options": "-c search_path=django"}, "CONN_HEALTH_CHECKS": True, "CONN_MAX_AGE": None,
    }},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"], USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.contrib.postgres.fields import ArrayField, IntegerRangeField  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DatabaseError, connection, models, transaction  # noqa: E402

SLOW_READ = """SELECT count(*) FROM generate_series(1, 40000) a
               JOIN generate_series(1, 40000) b ON a + b < 0"""


class Item(models.Model):
    name = models.TextField(unique=True)
    price = models.DecimalField(max_digits=40, decimal_places=9, null=True)
    numbers = ArrayField(models.IntegerField(null=True), null=True)
    span = IntegerRangeField(null=True)
    document = models.JSONField(null=True)
    binary = models.BinaryField(null=True)
    at = models.DateTimeField(null=True)
    key = models.UUIDField(null=True)

    class Meta:
        app_label = "shop"


class Part(models.Model):
    item = models.ForeignKey(Item, models.CASCADE, related_name="parts")
    label = models.TextField()

    class Meta:
        app_label = "shop"


def section(name):
    print(f"# {name}", flush=True)


def fails(what, action):
    try:
        action()
        print(what, "did not fail")
    except DatabaseError as error:
        print(what, type(error).__name__, error.__cause__.sqlstate, str(error).splitlines()[0])


def value(text, *values):
    with connection.cursor() as cur:
        cur.execute(text, values)
        return cur.fetchone()


def execute(text, *values):
    with connection.cursor() as cur:
        cur.execute(text, values)


def prepared():
    section("prepared")
    for i in range(8):
        item = Item.objects.create(name=f"item {i}", price=decimal.Decimal(i) / 4)
        Part.objects.create(item=item, label=f"part {i}")
    for i in range(8):
        item = Item.objects.get(name=f"item {i}")
        print(item.pk, item.price, [part.label for part in item.parts.all()])
    print(Item.objects.filter(pk__lte=4).update(price=models.F("price") + 1))
    print(Item.objects.get_or_create(name="item 3")[1], Item.objects.update_or_create(
        name="item 3", defaults={"price": 7})[0].price)
    Item.objects.bulk_create([Item(name=f"bulk {i}") for i in range(500)], batch_size=100)
    print(Item.objects.filter(name__startswith="bulk").count(), Item.objects.filter(name="bulk 7").exists())
    print(list(Item.objects.prefetch_related("parts").filter(pk__lte=3)
               .order_by("pk").values_list("name", flat=True)))
    user = User.objects.create_user("somebody", password=None)
    user.groups.add(Group.objects.create(name="people"))
    print(list(user.groups.values_list("name", flat=True)), sorted(connection.introspection.table_names())[:4])
    print(Item.objects.filter(name__startswith="bulk").delete())


def transactions():
    section("transaction")

    class Stop(Exception):
        pass

    try:
        with transaction.atomic():
            Item.objects.filter(name="item 0").update(name="lost")
            print(Item.objects.filter(name="lost").count())
            raise Stop
    except Stop:
        print(Item.objects.filter(name="lost").count())
    with transaction.atomic():
        locked = Item.objects.select_for_update().get(name="item 1")
        locked.price = 100
        locked.save()
        transaction.on_commit(lambda: print("committed", Item.objects.get(name="item 1").price))

    def failed():
        with transaction.atomic():
            fails("broken", lambda: execute("SELECT 1/0"))
            execute("SELECT 1")

    fails("failed block", failed)
    for level in ("READ COMMITTED", "REPEATABLE READ"):
        with transaction.atomic():
            execute(f"SET TRANSACTION ISOLATION LEVEL {level} READ ONLY")
            print(level, Item.objects.count(), value("SHOW transaction_isolation"))


def savepoint():
    section("savepoint")
    with transaction.atomic():
        Item.objects.create(name="outer")
        try:
            with transaction.atomic():
                Item.objects.create(name="inner")
                Item.objects.create(name="item 1")
        except DatabaseError as error:
            print(error.__cause__.sqlstate)
        print(list(Item.objects.filter(name__in=["outer", "inner"]).values_list("name", flat=True)))
    print(list(Item.objects.filter(name__in=["outer", "inner"]).values_list("name", flat=True)))


def copy():
    section("copy")
    with connection.cursor() as cur:
        with cur.copy("COPY shop_item (name) FROM STDIN") as stream:
            for i in range(2000):
                stream.write_row((f"copied {i:04}",))
        with cur.copy("COPY (SELECT name FROM shop_item WHERE name LIKE 'copied%' ORDER BY name LIMIT 3) TO STDOUT") as out:
            print(list(out.rows()))
    print(Item.objects.filter(name__startswith="copied").count())


def notify():
    section("notify")
    other = connection.copy()
    with other.cursor() as cur:
        cur.execute("LISTEN django_channel")
    execute("NOTIFY django_channel, 'first'")
    execute("SELECT pg_notify('django_channel', %s)", "second")
    print([message.payload for message in other.connection.notifies(timeout=20, stop_after=2)])
    other.close()


def cancel():
    section("cancel")
    for statement in ("SELECT pg_sleep(30)", SLOW_READ):
        timer = threading.Timer(0.5, connection.connection.cancel)
        timer.start()
        fails("cancelled", lambda: execute(statement))
        timer.join()
        print(value("SELECT 'usable'"))


def readback():
    section("readback")
    seen = 0
    for i in range(200):
        made = Item.objects.create(name=f"own {i}")
        seen += Item.objects.filter(pk=made.pk, name=f"own {i}").exists()
    print(seen)
    seen = 0
    for i in range(100):
        with transaction.atomic():
            made = Item.objects.create(name=f"unit {i}")
        seen += Item.objects.get(pk=made.pk).name == f"unit {i}"
    print(seen)


def types():
    section("binary")
    body = bytes(range(256)) * 1000
    at = datetime.datetime(2024, 2, 29, 12, 30, 1, 5, datetime.UTC)
    Item.objects.create(name="types", numbers=[1, None, 3], span=(1, 10), document={"a": [1, 2.5], "näme": None},
                        binary=body, at=at, key="6f1d5b4a-1111-4222-8333-444455556666",
                        price=decimal.Decimal("12345678901234567890.123456789"))
    got = Item.objects.get(name="types")
    print(bytes(got.binary) == body)
    section("types")
    print(got.numbers, got.span, got.document, got.at, got.key, got.price)
    print(Item.objects.filter(document__a__0=1, numbers__contains=[1], span__contains=5, at__year=2024).count(),
          list(Item.objects.filter(name="types").dates("at", "month")))


def error():
    section("error")
    for name, statement in {
        "syntax": "SELEC 1", "no table": "SELECT * FROM missing", "not null": "INSERT INTO shop_item (id) VALUES (-1)",
        "division": "SELECT price / 0 FROM shop_item WHERE price > 0",
    }.items():
        fails(name, lambda: execute(statement))
    fails("unique", lambda: Item.objects.create(name="item 1"))
    fails("foreign key", lambda: Part.objects.create(item_id=-5, label="x"))


def parts():
    section("parts")
    print(sum(1 for _ in Item.objects.filter(name__startswith="copied")[:1000].iterator(chunk_size=100)))
    with transaction.atomic():
        print(sum(1 for _ in Item.objects.filter(name__startswith="copied").iterator(chunk_size=100)))
        left = Item.objects.order_by("name").iterator(chunk_size=10)
        print(next(left).name)
        left.close()
    with transaction.atomic():
        execute("SET TRANSACTION READ ONLY")
        print(sum(1 for _ in Item.objects.filter(name__startswith="copied").iterator(chunk_size=100)))


def temporary():
    section("temporary")
    execute("CREATE TEMP TABLE scratch (id int)")
    execute("INSERT INTO scratch SELECT generate_series(1, 5)")
    for _ in range(3):
        print(value("SELECT sum(id) FROM scratch"))
    other = connection.copy()
    with other.cursor() as cur:
        fails("not of another", lambda: cur.execute("SELECT * FROM scratch"))
    other.close()
    execute("DROP TABLE scratch")


def session_settings():
    section("settings")
    connection.close()
    execute("SET work_mem = '5MB'")
    execute("SELECT set_config('django.key', %s, false)", "value")
    for _ in range(3):
        print(value("SHOW work_mem"), value("SELECT current_setting('django.key')"), value("SHOW search_path"),
              value("SHOW TimeZone"))
    with transaction.atomic():
        execute("SET LOCAL statement_timeout = 9000")
        print(value("SHOW statement_timeout"))
    print(value("SHOW statement_timeout"))
    connection.close()
    print(value("SHOW work_mem"))


def locks():
    section("locks")
    lock = "SELECT pg_try_advisory_lock(4711, 11)"
    other = connection.copy()
    with other.cursor() as cur:
        def theirs():
            cur.execute(lock)
            return cur.fetchone()

        print(value(lock), theirs(), Item.objects.filter(name="item 1").count())
        print(value("SELECT pg_advisory_unlock(4711, 11)"), theirs())
        cur.execute("SELECT pg_advisory_unlock_all()")
        with transaction.atomic():
            execute("SELECT pg_advisory_xact_lock(4711, 11)")
            print(theirs())
        print(theirs())
    other.close()


def main():
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Item)
        editor.create_model(Part)
    for check in (prepared, transactions, savepoint, copy, notify, cancel, readback, types, error, parts, temporary,
                  session_settings, locks):
        check()
    connection.close()
    section("end")


main()
