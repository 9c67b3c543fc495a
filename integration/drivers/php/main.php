<?php
// PHP PDO: emulated and server-side prepared statements, COPY and large objects, and ext/pgsql's
// asynchronous calls for what PDO has not.
declare(strict_types=1);

const SLOW_READ = 'SELECT count(*) FROM generate_series(1, 40000) a '
    . 'JOIN generate_series(1, 40000) b ON a + b < 0';

function section(string $name): void
{
    echo "# $name\n";
}

function out(mixed ...$values): void
{
    echo implode(' ', array_map(fn ($v) => json_encode($v, JSON_UNESCAPED_UNICODE), $values)), "\n";
}

function fails(string $what, callable $action): void
{
    try {
        $action();
        out($what, 'did not fail');
    } catch (PDOException $error) {
        out($what, $error->errorInfo[0] ?? $error->getCode(), $error->errorInfo[2] ?? $error->getMessage());
    }
}

function connection(array $attributes = [], string $options = '-c search_path=php'): PDO
{
    putenv("PGOPTIONS=$options");
    return new PDO('pgsql:', null, null, $attributes + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
}

function rows(PDO $pdo, string $text, array $values = []): array
{
    $statement = $pdo->prepare($text);
    $statement->execute($values);
    return $statement->fetchAll(PDO::FETCH_NUM);
}

function prepared(PDO $pdo): void
{
    section('prepared');
    $insert = $pdo->prepare('INSERT INTO item (name, price) VALUES (:name, :price) RETURNING id');
    for ($i = 0; $i < 8; $i++) {
        $insert->execute(['name' => "item $i", 'price' => $i / 4]);
        out($insert->fetchAll(PDO::FETCH_NUM), $pdo->lastInsertId('item_id_seq'), $pdo->lastInsertId());
    }
    $read = $pdo->prepare('SELECT name, price FROM item WHERE id = ?');
    for ($i = 1; $i <= 8; $i++) {
        $read->execute([$i]);
        out($read->fetch(PDO::FETCH_ASSOC), $read->rowCount(), $read->getColumnMeta(1)['native_type']);
        $read->closeCursor();
    }
    $update = $pdo->prepare('UPDATE item SET price = price + ? WHERE id <= ?');
    for ($i = 0; $i < 3; $i++) {
        $update->execute([$i, 4]);
        out($update->rowCount());
    }
    out($pdo->exec("INSERT INTO item (name) VALUES ('many'); UPDATE item SET price = 1"));
    foreach ([PDO::ATTR_EMULATE_PREPARES, PDO::PGSQL_ATTR_DISABLE_PREPARES] as $attribute) {
        $other = connection([$attribute => true]);
        for ($i = 0; $i < 3; $i++) {
            out(rows($other, 'SELECT count(*) FROM item WHERE id < ?', [4 + $i]));
        }
    }
    unset($insert, $read, $update);
}

function transaction(PDO $pdo): void
{
    section('transaction');
    $pdo->beginTransaction();
    $pdo->exec('DELETE FROM item');
    out(rows($pdo, 'SELECT count(*) FROM item'));
    $pdo->rollBack();
    out(rows($pdo, 'SELECT count(*) FROM item'));
    $pdo->beginTransaction();
    $pdo->exec("INSERT INTO item (name) VALUES ('lost')");
    fails('broken', fn () => $pdo->query('SELECT 1/0'));
    fails('failed block', fn () => $pdo->query('SELECT 1'));
    out($pdo->inTransaction());
    $pdo->rollBack();
    out(rows($pdo, "SELECT count(*) FROM item WHERE name = 'lost'"), $pdo->inTransaction());
    $pdo->exec('BEGIN READ ONLY');
    out(rows($pdo, 'SELECT count(*) FROM item WHERE id < ?', [5]));
    fails('read only', fn () => $pdo->exec("INSERT INTO item (name) VALUES ('no')"));
    $pdo->exec('ROLLBACK');
    $pdo->beginTransaction();
    rows($pdo, 'INSERT INTO item (name) VALUES (?)', ['kept']);
    rows($pdo, 'SELECT count(*) FROM item WHERE id < ?', [5]);
    $pdo->commit();
    out(rows($pdo, "SELECT count(*) FROM item WHERE name = 'kept'"));
}

function savepoint(PDO $pdo): void
{
    section('savepoint');
    $pdo->beginTransaction();
    $pdo->exec("INSERT INTO item (name) VALUES ('outer')");
    $pdo->exec('SAVEPOINT inner_one');
    $pdo->exec("INSERT INTO item (name) VALUES ('inner')");
    fails('twice', fn () => $pdo->exec("INSERT INTO item (id, name) VALUES (1, 'twice')"));
    $pdo->exec('ROLLBACK TO SAVEPOINT inner_one');
    out(rows($pdo, "SELECT name FROM item WHERE name IN ('outer', 'inner')"));
    $pdo->commit();
    out(rows($pdo, "SELECT name FROM item WHERE name IN ('outer', 'inner')"));
}

function copying(PDO $pdo): void
{
    section('copy');
    out($pdo->pgsqlCopyFromArray('copied', array_map(fn ($i) => "$i\tnäme $i\n", range(0, 1999))));
    $all = $pdo->pgsqlCopyToArray('copied');
    out(count($all), $all[0], strlen(implode('', $all)));
    $file = tempnam(sys_get_temp_dir(), 'copied');
    out($pdo->pgsqlCopyToFile('copied', $file), filesize($file), $pdo->pgsqlCopyFromFile('copied', $file));
    unlink($file);
    fails('copy', fn () => $pdo->pgsqlCopyFromArray('copied', ["1\tgood\n", "bad\trow\n"]));
    fails('no table', fn () => $pdo->pgsqlCopyFromArray('missing', ["1\n"]));
    out(rows($pdo, 'SELECT count(*), sum(id) FROM copied'));
}

function notify(PDO $pdo): void
{
    section('notify');
    $other = connection();
    $other->exec('LISTEN php_channel');
    $pdo->exec("NOTIFY php_channel, 'first'");
    rows($pdo, 'SELECT pg_notify(?, ?)', ['php_channel', 'second']);
    $pdo->exec("BEGIN; NOTIFY php_channel, 'third'; NOTIFY php_channel, 'third'; COMMIT");
    $other->exec("NOTIFY php_channel, 'own'");
    for ($i = 0; $i < 4; $i++) {
        $message = $other->pgsqlGetNotify(PDO::FETCH_ASSOC, 20000);
        out($message['message'] ?? null, $message['payload'] ?? null, ($message['pid'] ?? 0) > 0);
    }
    $other->exec('UNLISTEN *');
    $pdo->exec("NOTIFY php_channel, 'unheard'");
    out(rows($other, 'SELECT 1'), $other->pgsqlGetNotify());
}

function cancel(PDO $pdo): void
{
    section('cancel');
    $connection = pg_connect('', PGSQL_CONNECT_FORCE_NEW);
    foreach (['SELECT pg_sleep(30)', SLOW_READ] as $text) {
        $start = microtime(true);
        pg_send_query($connection, $text);
        usleep(500000);
        out(pg_connection_busy($connection), pg_cancel_query($connection), microtime(true) - $start < 20);
        out(pg_fetch_row(pg_query($connection, "SELECT 'usable'")));
    }
    pg_close($connection);
    $pdo->exec("SET statement_timeout = '200ms'");
    fails('timeout', fn () => $pdo->query('SELECT pg_sleep(30)'));
    fails('timeout of a read', fn () => $pdo->query(SLOW_READ));
}

function binary(PDO $pdo): void
{
    section('binary');
    $body = str_repeat(implode('', array_map('chr', range(0, 255))), 1000);
    $insert = $pdo->prepare('INSERT INTO blob VALUES (1, ?)');
    $insert->bindValue(1, $body, PDO::PARAM_LOB);
    $insert->execute();
    out(stream_get_contents(rows($pdo, 'SELECT body FROM blob')[0][0]) === $body);
    $pdo->beginTransaction();
    $oid = $pdo->pgsqlLOBCreate();
    $object = $pdo->pgsqlLOBOpen($oid, 'w');
    out(fwrite($object, $body));
    fseek($object, 1000);
    out(bin2hex(fread($object, 8)));
    $object = null;
    $pdo->commit();
    out(rows($pdo, 'SELECT length(lo_get(?))', [$oid]));
    $pdo->beginTransaction();
    out($pdo->pgsqlLOBUnlink($oid));
    $pdo->commit();
}

function types(PDO $pdo): void
{
    section('types');
    $values = [
        'int[]' => '{1,NULL,3}', 'text[]' => '{a,"q\"uote",näme}', 'jsonb' => '{"a": [1, 2.5]}', 'bool' => 't',
        'timestamptz' => '2024-02-29 12:30:01.123456+00', 'date' => '2024-02-29', 'interval' => '3 days 00:00:01',
        'numeric' => '12345678901234567890.123456789', 'float8' => 0.1, 'int4range' => '[1,10)', 'text' => null,
        'int8' => PHP_INT_MAX,
    ];
    foreach ($values as $name => $value) {
        out($name, rows($pdo, "SELECT CAST(? AS $name)", [$value]));
    }
    $statement = $pdo->prepare('SELECT CAST(? AS bool), CAST(? AS int)');
    $statement->bindValue(1, false, PDO::PARAM_BOOL);
    $statement->bindValue(2, null, PDO::PARAM_NULL);
    $statement->execute();
    out($statement->fetch(PDO::FETCH_NUM));
    $connection = pg_connect('', PGSQL_CONNECT_FORCE_NEW);
    $result = pg_query_params($connection, 'SELECT $1::int[] AS a, $2::jsonb', ['{1,2}', '{"b": 1}']);
    out(pg_fetch_assoc($result), pg_field_type($result, 0));
}

function errors(PDO $pdo): void
{
    section('error');
    fails('syntax', fn () => $pdo->query('SELEC 1'));
    fails('no table', fn () => rows($pdo, 'SELECT * FROM missing WHERE id = ?', [1]));
    fails('unique', fn () => rows($pdo, "INSERT INTO item (id, name) VALUES (?, 'x')", [1]));
    fails('not null', fn () => $pdo->exec('INSERT INTO item (id, name) VALUES (900, NULL)'));
    fails('division', fn () => $pdo->query('SELECT price / 0 FROM item'));
    fails('input', fn () => rows($pdo, 'SELECT CAST(? AS int)', ['x']));
    fails('batch', fn () => $pdo->exec("INSERT INTO item (name) VALUES ('undone'); SELECT 1/0"));
    out(rows($pdo, "SELECT count(*) FROM item WHERE name = 'undone'"));
    $connection = pg_connect('', PGSQL_CONNECT_FORCE_NEW);
    pg_send_query_params($connection, 'SELECT $1::int', ['x']);
    $result = pg_get_result($connection);
    out(pg_result_error_field($result, PGSQL_DIAG_SQLSTATE), pg_result_error_field($result, PGSQL_DIAG_CONTEXT));
    while (pg_get_result($connection)) {
    }
    pg_query($connection, "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$");
    out(pg_last_notice($connection, PGSQL_NOTICE_ALL));
}

function parts(PDO $pdo): void
{
    section('parts');
    foreach (['BEGIN', 'BEGIN READ ONLY'] as $block) {
        $pdo->exec($block);
        $pdo->exec('DECLARE chosen CURSOR FOR SELECT n FROM number ORDER BY n');
        $total = $fetched = 0;
        while ($part = rows($pdo, 'FETCH 100 FROM chosen')) {
            $total += array_sum(array_column($part, 0));
            $fetched++;
        }
        out($block, $total, $fetched);
        $pdo->exec('COMMIT');
    }
    $pdo->beginTransaction();
    $scrolling = $pdo->prepare('SELECT n FROM number WHERE n > ? ORDER BY n', [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
    $scrolling->execute([0]);
    $total = 0;
    while ($row = $scrolling->fetch(PDO::FETCH_NUM)) {
        $total += $row[0];
    }
    out($total, $scrolling->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 10), $scrolling->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_PRIOR));
    $scrolling = null;
    $pdo->commit();
    $connection = pg_connect('', PGSQL_CONNECT_FORCE_NEW);
    pg_send_query($connection, 'SELECT 1; SELECT 2; SELECT 3');
    while ($result = pg_get_result($connection)) {
        out(pg_fetch_row($result));
    }
}

function readback(PDO $pdo): void
{
    section('readback');
    $insert = $pdo->prepare('INSERT INTO own VALUES (?, ?)');
    $read = $pdo->prepare('SELECT v FROM own WHERE id = ?');
    $seen = 0;
    for ($i = 0; $i < 200; $i++) {
        $insert->execute([$i, "v$i"]);
        $read->execute([$i]);
        $seen += (int) ($read->fetchColumn() === "v$i");
    }
    out($seen);
}

function temporary(PDO $pdo): void
{
    section('temporary');
    $pdo->exec('CREATE TEMP TABLE scratch (id int)');
    $pdo->exec('INSERT INTO scratch SELECT generate_series(1, 5)');
    for ($i = 0; $i < 3; $i++) {
        out(rows($pdo, 'SELECT sum(id) FROM scratch'));
    }
    $other = connection();
    fails('not of another', fn () => rows($other, 'SELECT * FROM scratch'));
    $pdo->exec('DROP TABLE scratch');
}

function settings(PDO $pdo): void
{
    section('settings');
    $pdo->exec("SET work_mem = '5MB'");
    rows($pdo, "SELECT set_config('php.key', ?, false)", ['value']);
    for ($i = 0; $i < 3; $i++) {
        out(rows($pdo, 'SHOW work_mem'), rows($pdo, "SELECT current_setting('php.key')"),
            rows($pdo, "SELECT current_setting('search_path')"));
    }
    $pdo->exec("SET NAMES 'LATIN1'");
    out(bin2hex(rows($pdo, "SELECT chr(228)")[0][0]));
    $pdo->exec("SET NAMES 'UTF8'");
    $pdo->exec('RESET work_mem');
    out(rows($pdo, 'SHOW work_mem'), $pdo->getAttribute(PDO::ATTR_CONNECTION_STATUS));
    $other = connection([], '-c statement_timeout=12345 -c search_path=php -c application_name=named');
    for ($i = 0; $i < 3; $i++) {
        out(rows($other, 'SHOW statement_timeout'), rows($other, "SELECT current_setting('application_name')"),
            rows($other, 'SELECT max(n) FROM number'));
    }
}

function locks(PDO $pdo): void
{
    section('locks');
    $other = connection();
    $lock = 'SELECT pg_try_advisory_lock(4711, 6)';
    out(rows($pdo, $lock), rows($other, $lock));
    out(rows($pdo, 'SELECT n FROM number WHERE n = 1'));
    out(rows($pdo, 'SELECT pg_advisory_unlock(4711, 6)'), rows($other, $lock));
    rows($other, 'SELECT pg_advisory_unlock_all()');
    $pdo->beginTransaction();
    rows($pdo, 'SELECT pg_advisory_xact_lock(4711, 6)');
    out(rows($other, $lock));
    $pdo->commit();
    out(rows($other, $lock));
}

foreach (['prepared', 'transaction', 'savepoint', 'copying', 'notify', 'cancel', 'readback', 'binary', 'types', 'errors',
    'parts', 'temporary', 'settings', 'locks'] as $check) {
    $check(connection());
}
section('end');
