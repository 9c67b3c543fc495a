"""The README's middleware for Django: two threads serve a user's requests, each on its own connection."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "CONN_MAX_AGE": None}},
)
django.setup()

# README
from django.db import connection


class CausalKey:
    """Behind AuthenticationMiddleware in MIDDLEWARE."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        def name_key(execute, sql, params, many, context):
            return execute(f"{sql} /*pgweir_key='user-{int(request.user.pk)}'*/", params, many, context)

        with connection.execute_wrapper(name_key):
            return self.get_response(request)
# README

def view(request):
    with connection.cursor() as cursor:
        if request.wanted is not None:
            cursor.execute("UPDATE family SET v = %s WHERE id = 1", [request.wanted])
            return None
        cursor.execute("SELECT v FROM family WHERE id = 1")
        return cursor.fetchone()[0]


serve = view if os.environ.get("CAUSAL_KEY") == "off" else CausalKey(view)
request = lambda wanted: SimpleNamespace(user=SimpleNamespace(pk=42), wanted=wanted)
first, second = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
rounds, stale = 25, 0
for wanted in range(1, rounds + 1):
    first.submit(serve, request(wanted)).result()
    stale += second.submit(serve, request(None)).result() < wanted
    time.sleep(0.12)
print(f"stale {stale} of {rounds}")
