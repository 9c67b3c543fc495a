"""The README's listener for SQLAlchemy: a pool of two connections, used in turn."""

import os
import time

from sqlalchemy import create_engine, text

engine = create_engine("postgresql+psycopg://", pool_size=2, max_overflow=0)

# README
from contextvars import ContextVar
from urllib.parse import quote

from sqlalchemy import event

causal_key = ContextVar("causal_key", default=None)  # set it where a request begins


@event.listens_for(engine, "before_cursor_execute", retval=True)
def name_key(connection, cursor, statement, parameters, context, executemany):
    if key := causal_key.get():
        encoded = quote(key, safe="").replace("%", "%%")  # psycopg reads %% as %
        statement += f" /*pgweir_key='{encoded}'*/"
    return statement, parameters
# README

if os.environ.get("CAUSAL_KEY") != "off":
    causal_key.set("user:42")
rounds, stale = 25, 0
with engine.connect(), engine.connect():
    pass
for wanted in range(1, rounds + 1):
    with engine.begin() as connection:
        connection.execute(text("UPDATE family SET v = :v WHERE id = 1"), {"v": wanted})
    with engine.begin() as connection:
        found = connection.execute(text("SELECT v FROM family WHERE id = :id"), {"id": 1}).scalar()
    stale += found < wanted
    time.sleep(0.12)
print(f"stale {stale} of {rounds}")
