// node-postgres: simple and extended queries, named statements, cursors, COPY streams, a pool.
'use strict';

const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const { Client, Pool, types } = require('pg');
const Cursor = require('pg-cursor');
const { from: copyFrom, to: copyTo } = require('pg-copy-streams');

const SLOW_READ = `SELECT count(*) FROM generate_series(1, 40000) a
                   JOIN generate_series(1, 40000) b ON a + b < 0`;
const { builtins } = types;

const print = (...values) => console.log(values.map((v) => JSON.stringify(v)).join(' '));
const section = (name) => console.log(`# ${name}`);

async function fails(what, promise) {
  try {
    await promise;
    print(what, 'did not fail');
  } catch (error) {
    print(what, error.code, error.severity, error.message);
    print('  detail', error.detail, error.constraint, error.column, error.position);
  }
}

async function connect(settings = {}) {
  const client = new Client({ options: '-c search_path=node', ...settings });
  await client.connect();
  return client;
}

async function rows(client, ...query) {
  return (await client.query(...query)).rows.map((row) => Object.values(row));
}

async function prepared(client) {
  section('prepared');
  for (let i = 0; i < 8; i++) {
    print(await rows(client, {
      name: 'insert', text: 'INSERT INTO item (name, price) VALUES ($1, $2) RETURNING id',
      values: [`item ${i}`, i / 4],
    }));
  }
  for (let i = 0; i < 8; i++) {
    const read = { name: 'read', text: 'SELECT name, price FROM item WHERE id = $1' };
    const result = await client.query({ ...read, values: [i + 1] });
    print(result.command, result.rowCount, result.rows, result.fields.map((f) => f.dataTypeID));
  }
  for (let i = 0; i < 3; i++) {
    print((await client.query('UPDATE item SET price = price + $1 WHERE id <= $2', [i, 4])).rowCount);
  }
  const several = await client.query("SELECT 1 AS one; INSERT INTO item (name) VALUES ('many'); SELECT 2 AS two");
  print(several.map((r) => [r.command, r.rowCount, r.rows]));
  const waiting = [];
  for (let i = 0; i < 20; i++) {
    waiting.push(client.query('INSERT INTO own VALUES ($1, $2)', [1000 + i, 'queued']));
    waiting.push(client.query('SELECT v FROM own WHERE id = $1', [1000 + i]));
  }
  print((await Promise.all(waiting)).filter((r) => r.rows.length).length);
}

async function transaction(client) {
  section('transaction');
  await client.query('BEGIN');
  await client.query('DELETE FROM item');
  print(await rows(client, 'SELECT count(*) FROM item'));
  await client.query('ROLLBACK');
  print(await rows(client, 'SELECT count(*) FROM item'));
  await client.query('BEGIN');
  await client.query("INSERT INTO item (name) VALUES ('lost')");
  await fails('broken', client.query('SELECT 1/0'));
  await fails('failed block', client.query('SELECT 1'));
  print((await client.query('COMMIT')).command);
  print(await rows(client, "SELECT count(*) FROM item WHERE name = 'lost'"));
  await client.query('BEGIN READ ONLY');
  print(await rows(client, 'SELECT count(*) FROM item'));
  await fails('read only', client.query("INSERT INTO item (name) VALUES ('no')"));
  await client.query('ROLLBACK');
  await client.query('BEGIN');
  await client.query("INSERT INTO item (name) VALUES ('kept')");
  await client.query('COMMIT AND CHAIN');
  print(await rows(client, "SELECT count(*) FROM item WHERE name = 'kept'"));
  await client.query('COMMIT');
}

async function savepoint(client) {
  section('savepoint');
  await client.query('BEGIN');
  await client.query("INSERT INTO item (name) VALUES ('outer')");
  await client.query('SAVEPOINT inner_one');
  await client.query("INSERT INTO item (name) VALUES ('inner')");
  await fails('twice', client.query("INSERT INTO item (id, name) VALUES (1, 'twice')"));
  await client.query('ROLLBACK TO SAVEPOINT inner_one');
  await client.query('RELEASE SAVEPOINT inner_one');
  print(await rows(client, "SELECT name FROM item WHERE name IN ('outer', 'inner')"));
  await client.query('COMMIT');
  print(await rows(client, "SELECT name FROM item WHERE name IN ('outer', 'inner')"));
}

async function copyIn(client, text, chunks) {
  const stream = client.query(copyFrom(text));
  const done = new Promise((resolve, reject) => stream.on('finish', resolve).on('error', reject));
  for (const chunk of chunks) stream.write(chunk);
  stream.end();
  await done;
  return stream.rowCount;
}

async function copyOut(client, text) {
  const stream = client.query(copyTo(text));
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

async function copy(client) {
  section('copy');
  const lines = Array.from({ length: 2000 }, (_, i) => `${i}\tnäme ${i}\n`);
  print(await copyIn(client, 'COPY copied FROM STDIN', lines));
  print((await copyOut(client, 'COPY (SELECT * FROM copied ORDER BY id LIMIT 5) TO STDOUT')).toString());
  print((await copyOut(client, 'COPY copied TO STDOUT')).length);
  const all = await copyOut(client, 'COPY copied TO STDOUT (FORMAT binary)');
  print(all.length, await copyIn(client, 'COPY copied FROM STDIN (FORMAT binary)', [all]));
  await fails('copy', copyIn(client, 'COPY copied FROM STDIN', ['1\tgood\n', 'bad\trow\n']));
  await fails('no table', copyIn(client, 'COPY missing FROM STDIN', ['1\n']));
  const abandoned = client.query(copyFrom('COPY copied FROM STDIN'));
  abandoned.write('1\tgood\n');
  abandoned.destroy(new Error('stopped'));
  const [error] = await once(abandoned, 'error');
  print(error.message);
  print(await rows(client, 'SELECT count(*), sum(id) FROM copied'));
}

async function notify(client) {
  section('notify');
  const other = await connect();
  const got = [];
  let wake;
  const enough = new Promise((resolve) => { wake = resolve; });
  other.on('notification', (message) => {
    got.push([message.channel, message.payload, message.processId > 0]);
    if (message.payload === 'own') wake();
  });
  await other.query('LISTEN node_channel');
  await client.query("NOTIFY node_channel, 'first'");
  await client.query('SELECT pg_notify($1, $2)', ['node_channel', 'second']);
  await client.query("BEGIN; NOTIFY node_channel, 'third'; NOTIFY node_channel, 'third'; COMMIT");
  await other.query("NOTIFY node_channel, 'own'");
  await Promise.race([enough, sleep(20000, undefined, { ref: false })]);
  print(got);
  await other.query('UNLISTEN node_channel');
  await client.query("NOTIFY node_channel, 'unheard'");
  print(await rows(other, 'SELECT 1'), got.length);
  await other.end();
}

// node-postgres has no public way to cancel, but its connections know how to ask.
async function cancelRunning(client) {
  const { Connection } = require('pg');
  const asking = new Connection();
  asking.connect(client.port, client.host);
  await once(asking, 'connect');
  asking.cancel(client.processID, client.secretKey);
  await once(asking, 'end');
}

async function cancel(client) {
  section('cancel');
  for (const text of ['SELECT pg_sleep(30)', SLOW_READ]) {
    const running = fails('cancelled', client.query(text));
    await sleep(500);
    await cancelRunning(client);
    await running;
    print(await rows(client, "SELECT 'usable'"));
  }
  const other = await connect({ statement_timeout: 200 });
  await fails('timeout', other.query('SELECT pg_sleep(30)'));
  await fails('timeout of a read', other.query(SLOW_READ));
  await other.end();
}

async function binary(client) {
  section('binary');
  const blob = Buffer.alloc(256000, Buffer.from(Array.from({ length: 256 }, (_, i) => i)));
  await client.query('INSERT INTO blob VALUES (1, $1)', [blob]);
  const [[body]] = await rows(client, 'SELECT body FROM blob WHERE id = $1', [1]);
  print(body.equals(blob));
  await client.query('BEGIN');
  const [[oid]] = await rows(client, 'SELECT lo_from_bytea(0, $1)', [blob]);
  const [[descriptor]] = await rows(client, 'SELECT lo_open($1, 393216)', [oid]);
  print(descriptor, await rows(client, 'SELECT lo_lseek($1, 1000, 0)', [descriptor]));
  print(await rows(client, 'SELECT loread($1, 8)', [descriptor]));
  await client.query('COMMIT');
  print(await rows(client, 'SELECT length(lo_get($1))', [oid]));
  print(await rows(client, 'SELECT lo_unlink($1)', [oid]));
}

async function typed(client) {
  section('types');
  const at = new Date(Date.UTC(2024, 1, 29, 12, 30, 1, 123));
  const values = {
    'int[]': [1, null, 3], 'text[]': ['a', 'q"uote', 'näme'], jsonb: { a: [1, 2.5] }, timestamptz: at,
    timestamp: '2024-02-29 12:30:01.123456', interval: '3 days 00:00:01', numeric: '12345678901234567890.123456789',
    float8: 0.1, bool: true, int4range: '[1,10)', text: null, int8: '9007199254740993',
  };
  for (const [name, value] of Object.entries(values)) {
    print(name, await rows(client, `SELECT $1::${name}`, [value]));
  }
  for (const name of ['float8', 'bool', 'text', 'int8', 'timestamptz']) {
    print('binary', name, await rows(client, { text: `SELECT $1::${name}`, values: [values[name]], binary: true }));
  }
  print(builtins.INT8, await rows(client, { text: 'SELECT 1, 2', rowMode: 'array' }));
}

async function errors(client) {
  section('error');
  const notices = [];
  client.on('notice', (notice) => notices.push([notice.code, notice.message]));
  await fails('syntax', client.query('SELEC 1'));
  await fails('no table', client.query('SELECT * FROM missing WHERE id = $1', [1]));
  await fails('unique', client.query('INSERT INTO item (id, name) VALUES ($1, $2)', [1, 'x']));
  await fails('not null', client.query('INSERT INTO item (id, name) VALUES (900, NULL)'));
  await fails('division', client.query('SELECT price / 0 FROM item'));
  await fails('input', client.query('SELECT $1::int', ['x']));
  await fails('batch', client.query("INSERT INTO item (name) VALUES ('undone'); SELECT 1/0"));
  await client.query("DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$");
  await client.query('DROP TABLE IF EXISTS missing');
  print(await rows(client, "SELECT count(*) FROM item WHERE name = 'undone'"), notices);
}

async function parts(client) {
  section('parts');
  for (const block of [null, 'BEGIN', 'BEGIN READ ONLY']) {
    if (block) await client.query(block);
    const cursor = client.query(new Cursor('SELECT n FROM number WHERE n > $1 ORDER BY n', [0]));
    let total = 0;
    let fetched = 0;
    for (let part = await cursor.read(100); part.length; part = await cursor.read(100)) {
      total += part.reduce((sum, row) => sum + row.n, 0);
      fetched += 1;
    }
    await cursor.close();
    print(block, total, fetched);
    const left = client.query(new Cursor('SELECT n FROM number ORDER BY n'));
    print(await left.read(3));
    await left.close();
    if (block) await client.query('COMMIT');
    print(await rows(client, 'SELECT 1'));
  }
}

async function readback(client) {
  section('readback');
  let seen = 0;
  for (let i = 0; i < 200; i++) {
    await client.query('INSERT INTO own VALUES ($1, $2)', [i, `v${i}`]);
    const [row] = await rows(client, 'SELECT v FROM own WHERE id = $1', [i]);
    seen += row?.[0] === `v${i}`;
  }
  print(seen);
}

async function temporary(client) {
  section('temporary');
  await client.query('CREATE TEMP TABLE scratch (id int)');
  await client.query('INSERT INTO scratch SELECT generate_series(1, 5)');
  for (let i = 0; i < 3; i++) print(await rows(client, 'SELECT sum(id) FROM scratch'));
  const other = await connect();
  await fails('not of another', other.query('SELECT * FROM scratch'));
  await other.end();
  await client.query('DROP TABLE scratch');
}

async function settings(client) {
  section('settings');
  await client.query("SET work_mem = '5MB'");
  await client.query("SELECT set_config('node.key', $1, false)", ['value']);
  for (let i = 0; i < 3; i++) {
    print(await rows(client, 'SHOW work_mem'), await rows(client, "SELECT current_setting('node.key')"),
      await rows(client, "SELECT current_setting('search_path')"));
  }
  await client.query("SET TIME ZONE 'Asia/Tokyo'");
  print(await rows(client, "SELECT '2024-01-01 00:00:00Z'::timestamptz::text"));
  await client.query('DISCARD ALL');
  print(await rows(client, 'SHOW work_mem'), await rows(client, 'SHOW TimeZone'), await rows(client, 'SHOW search_path'));
  const other = await connect({ statement_timeout: 12345, application_name: 'named' });
  for (let i = 0; i < 3; i++) {
    print(await rows(other, 'SHOW statement_timeout'), await rows(other, "SELECT current_setting('application_name')"),
      await rows(other, 'SELECT max(n) FROM number'));
  }
  await other.end();
}

async function locks(client) {
  section('locks');
  const other = await connect();
  const lock = 'SELECT pg_try_advisory_lock(4711, 3)';
  print(await rows(client, lock), await rows(other, lock));
  print(await rows(client, 'SELECT n FROM number WHERE n = 1'));
  print(await rows(client, 'SELECT pg_advisory_unlock(4711, 3)'), await rows(other, lock));
  await other.query('SELECT pg_advisory_unlock_all()');
  await client.query('BEGIN; SELECT pg_advisory_xact_lock(4711, 3)');
  print(await rows(other, lock));
  await client.query('COMMIT');
  print(await rows(other, lock));
  await other.end();
}

async function pooled() {
  section('pool');
  const pool = new Pool({ max: 4, options: '-c search_path=node' });
  const seen = await Promise.all(Array.from({ length: 100 }, async (_, i) => {
    const client = await pool.connect();
    await client.query('INSERT INTO own VALUES ($1, $2)', [2000 + i, 'pool']);
    const [[count]] = await rows(client, 'SELECT count(*) FROM own WHERE id = $1', [2000 + i]);
    client.release();
    return Number(count);
  }));
  print(seen.reduce((sum, one) => sum + one));
  await pool.end();
}

async function main() {
  for (const check of [prepared, transaction, savepoint, copy, notify, cancel, readback, binary, typed, errors,
    parts, temporary, settings, locks, pooled]) {
    const client = await connect();
    await check(client);
    await client.end();
  }
  section('end');
}

main();
