"""The statements of a psql script that begin as queries, and stand in no transaction block."""

import re

TOKEN = re.compile(
    rb"--[^\n]*|/\*|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    rb"|\$([A-Za-z_][A-Za-z_0-9]*)?\$|;|\(|\)|\\[^\n]*|[A-Za-z_][A-Za-z_0-9$]*|.",
    re.DOTALL,
)
QUERIES = (b"select", b"with", b"values", b"table")
BEGINS = (b"begin", b"start")
ENDS = (b"commit", b"end", b"rollback", b"abort")


def statements(script):
    """Bytes each, without the semicolon."""
    in_block = False
    for sql, plain in _split(script):
        words = re.findall(rb"[a-z_]+", re.sub(rb"--[^\n]*|/\*.*?\*/", b" ", sql, flags=re.DOTALL).lower()[:80])
        first = words[0] if words else b""
        if first in BEGINS:
            in_block = True
        elif first in ENDS and b"prepared" not in words[:2] and words[1:2] != [b"to"]:
            in_block = b"chain" in words and b"no" not in words
        elif first in QUERIES and plain and not in_block:
            yield sql


def _split(script):
    """Each statement, and whether psql would send it as it stands."""
    at = start = depth = 0
    plain = True
    while at < len(script):
        token = TOKEN.match(script, at)
        text = token.group()
        at = token.end()
        if text == b"/*":
            at = _comment_end(script, at)
        elif text.startswith(b"$") and text.endswith(b"$") and len(text) > 1:
            end = script.find(text, at)
            at = len(script) if end < 0 else end + len(text)
        elif text.startswith(b"\\"):
            # What stands before a command of psql's is sent by it, or thrown away.
            if script[start:token.start()].strip():
                yield script[start:token.start()].strip(), False
            start, depth, plain = at, 0, True
        elif text == b"(":
            depth += 1
        elif text == b")":
            depth -= 1
        elif text == b";" and depth <= 0:
            sql = script[start:token.start()].strip()
            if sql:
                yield sql, plain and not re.search(rb"(?<![:\w]):['\"]?[A-Za-z_]", sql)
            start, depth, plain = at, 0, True
            if re.match(rb"copy\b.*\bfrom\s+stdin", sql, re.IGNORECASE | re.DOTALL):
                end = script.find(b"\n\\.", at)
                at = start = len(script) if end < 0 else script.find(b"\n", end + 3)


def _comment_end(script, at):
    depth = 1
    for found in re.finditer(rb"/\*|\*/", script[at:]):
        depth += 1 if found.group() == b"/*" else -1
        if not depth:
            return at + found.end()
    return len(script)
