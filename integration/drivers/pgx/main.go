// The program of Go's pgx: a cache of prepared statements, binary values, batches in one write.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"bytes"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const slowRead = `SELECT count(*) FROM generate_series(1, 40000) a
	JOIN generate_series(1, 40000) b ON a + b < 0`

var background = context.Background()

func section(name string) { fmt.Println("#", name) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func show(what string, err error) {
	var failure *pgconn.PgError
	if errors.As(err, &failure) {
		fmt.Println(what, failure.Code, failure.Severity, failure.Message)
		fmt.Println("  detail", failure.Detail, failure.ConstraintName, failure.ColumnName, failure.Position)
	} else {
		fmt.Println(what, err)
	}
}

// What a connection, a transaction and a pool have in common.
type session interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
}

func exec(conn session, text string, values ...any) string {
	tag, err := conn.Exec(background, text, values...)
	must(err)
	return tag.String()
}

func fails(what string, conn session, text string, values ...any) {
	rows, err := conn.Query(background, text, values...)
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
	}
	show(what, err)
}

func collect(rows pgx.Rows, err error) string {
	must(err)
	defer rows.Close()
	var all []string
	for rows.Next() {
		values, err := rows.Values()
		must(err)
		for i, value := range values {
			if at, ok := value.(time.Time); ok {
				values[i] = at.UTC().Format(time.RFC3339Nano)
			}
		}
		all = append(all, fmt.Sprint(values...))
	}
	must(rows.Err())
	return strings.Join(all, "; ")
}

func rows(conn session, text string, values ...any) string {
	return collect(conn.Query(background, text, values...))
}

func connect(settings string) *pgx.Conn {
	config, err := pgx.ParseConfig("sslmode=disable search_path=pgx " + settings)
	must(err)
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		if !strings.HasPrefix(notice.Message, "drop cascades") && !strings.HasSuffix(notice.Message, "skipping") {
			fmt.Println("notice", notice.Code, notice.Severity, notice.Message)
		}
	}
	conn, err := pgx.ConnectConfig(background, config)
	must(err)
	return conn
}

func prepared(conn *pgx.Conn) {
	section("prepared")
	for i := 0; i < 8; i++ {
		fmt.Println("inserted", rows(conn, "INSERT INTO item (name, price) VALUES ($1, $2) RETURNING id",
			fmt.Sprint("item ", i), float64(i)/4))
	}
	described, err := conn.Prepare(background, "read", "SELECT name, price FROM item WHERE id = $1")
	must(err)
	fmt.Println(described.ParamOIDs, string(described.Fields[1].Name), described.Fields[1].DataTypeOID)
	for i := 1; i <= 8; i++ {
		var name string
		var price float64
		must(conn.QueryRow(background, "read", i).Scan(&name, &price))
		fmt.Println(name, price)
	}
	must(conn.Deallocate(background, "read"))
	fails("deallocated", conn, "read", 1)
	for i := 0; i < 3; i++ {
		fmt.Println(exec(conn, "UPDATE item SET price = price + $1 WHERE id <= $2", i, 4))
	}
	for i := 0; i < 3; i++ {
		fmt.Println(rows(conn, "SELECT count(*) FROM item WHERE id < $1", pgx.QuerySimpleProtocol(true), 4+i))
		fmt.Println(rows(conn, "SELECT count(*) FROM item WHERE id < $1", pgx.QueryResultFormats{pgx.TextFormatCode}, 4+i))
	}
	batch := &pgx.Batch{}
	for i := 0; i < 50; i++ {
		batch.Queue("INSERT INTO own VALUES ($1, 'batch')", 1000+i)
		batch.Queue("SELECT v FROM own WHERE id = $1", 1000+i)
	}
	results := conn.SendBatch(background, batch)
	seen := 0
	for i := 0; i < 50; i++ {
		_, err := results.Exec()
		must(err)
		var v string
		must(results.QueryRow().Scan(&v))
		seen += len(v)
	}
	must(results.Close())
	fmt.Println(seen)
	batch = &pgx.Batch{}
	batch.Queue("INSERT INTO own VALUES (2000, 'undone')")
	batch.Queue("SELECT 1/0")
	batch.Queue("INSERT INTO own VALUES (2001, 'never')")
	results = conn.SendBatch(background, batch)
	for i := 0; i < 3; i++ {
		_, err := results.Exec()
		show("batch", err)
	}
	show("closed", results.Close())
	fmt.Println(rows(conn, "SELECT count(*) FROM own"))
	batch = &pgx.Batch{}
	for i := 0; i < 100; i++ {
		batch.Queue("SELECT n FROM number WHERE n = $1", 1+i)
	}
	results = conn.SendBatch(background, batch)
	total := 0
	for i := 0; i < 100; i++ {
		var n int
		must(results.QueryRow().Scan(&n))
		total += n
	}
	must(results.Close())
	fmt.Println(total)
}

func transaction(conn *pgx.Conn) {
	section("transaction")
	tx, err := conn.Begin(background)
	must(err)
	exec(tx, "DELETE FROM item")
	fmt.Println(rows(tx, "SELECT count(*) FROM item"))
	must(tx.Rollback(background))
	fmt.Println(rows(conn, "SELECT count(*) FROM item"))
	tx, err = conn.Begin(background)
	must(err)
	exec(tx, "INSERT INTO item (name) VALUES ('lost')")
	fails("broken", tx, "SELECT 1/0")
	fails("failed block", tx, "SELECT 1")
	show("commit", tx.Commit(background))
	fmt.Println(rows(conn, "SELECT count(*) FROM item WHERE name = $1", "lost"))
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		tx, err = conn.BeginTx(background, pgx.TxOptions{IsoLevel: level, AccessMode: pgx.ReadOnly})
		must(err)
		fmt.Println(rows(tx, "SELECT count(*) FROM item WHERE id < $1", 5), rows(tx, "SHOW transaction_isolation"))
		fails("read only", tx, "INSERT INTO item (name) VALUES ('no')")
		must(tx.Rollback(background))
	}
	must(conn.BeginFunc(background, func(tx pgx.Tx) error {
		_, err := tx.Exec(background, "INSERT INTO item (name) VALUES ($1)", "kept")
		return err
	}))
	fmt.Println(rows(conn, "SELECT count(*) FROM item WHERE name = 'kept'"), string(conn.PgConn().TxStatus()))
}

func savepoint(conn *pgx.Conn) {
	section("savepoint")
	names := "SELECT name FROM item WHERE name IN ('outer', 'inner')"
	must(conn.BeginFunc(background, func(tx pgx.Tx) error {
		exec(tx, "INSERT INTO item (name) VALUES ('outer')")
		show("twice", tx.BeginFunc(background, func(inner pgx.Tx) error {
			exec(inner, "INSERT INTO item (name) VALUES ('inner')")
			_, err := inner.Exec(background, "INSERT INTO item (id, name) VALUES (1, 'twice')")
			return err
		}))
		fmt.Println(rows(tx, names))
		return nil
	}))
	fmt.Println(rows(conn, names))
}

func copying(conn *pgx.Conn) {
	section("copy")
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	var lines [][]any
	for i := 0; i < 2000; i++ {
		lines = append(lines, []any{int32(i), fmt.Sprint("näme\t", i), at})
	}
	columns := []string{"id", "name", "at"}
	fmt.Println(conn.CopyFrom(background, pgx.Identifier{"dated"}, columns, pgx.CopyFromRows(lines)))
	raw := conn.PgConn()
	tag, err := raw.CopyFrom(background, strings.NewReader("1\ttext\n2\t\\N\n"), "COPY dated (id, name) FROM STDIN")
	must(err)
	fmt.Println(tag)
	var out bytes.Buffer
	tag, err = raw.CopyTo(background, &out, "COPY (SELECT id, name FROM dated ORDER BY id, name LIMIT 4) TO STDOUT")
	must(err)
	fmt.Println(tag, out.String())
	out.Reset()
	tag, err = raw.CopyTo(background, &out, "COPY dated TO STDOUT (FORMAT binary)")
	must(err)
	fmt.Println(tag, out.Len())
	_, err = raw.CopyFrom(background, strings.NewReader("1\tgood\nbad\trow\n"), "COPY dated (id, name) FROM STDIN")
	show("copy", err)
	reader, writer := io.Pipe()
	go func() {
		writer.Write([]byte("1\tgood\n"))
		writer.CloseWithError(errors.New("stopped"))
	}()
	_, err = raw.CopyFrom(background, reader, "COPY dated (id, name) FROM STDIN")
	show("own error", err)
	_, err = conn.CopyFrom(background, pgx.Identifier{"missing"}, columns, pgx.CopyFromRows(lines))
	show("no table", err)
	fmt.Println(rows(conn, "SELECT count(*), sum(id) FROM dated"))
}

func notify(conn *pgx.Conn) {
	section("notify")
	other := connect("")
	exec(other, "LISTEN pgx_channel")
	exec(conn, "NOTIFY pgx_channel, 'first'")
	rows(conn, "SELECT pg_notify($1, $2)", "pgx_channel", "second")
	exec(conn, "BEGIN; NOTIFY pgx_channel, 'third'; NOTIFY pgx_channel, 'third'; COMMIT")
	exec(other, "NOTIFY pgx_channel, 'own'")
	for i := 0; i < 4; i++ {
		limited, stop := context.WithTimeout(background, 20*time.Second)
		message, err := other.WaitForNotification(limited)
		must(err)
		stop()
		fmt.Println(message.Channel, message.Payload, message.PID > 0)
	}
	exec(other, "UNLISTEN *")
	exec(conn, "NOTIFY pgx_channel, 'unheard'")
	fmt.Println(rows(other, "SELECT 1"))
	must(other.Close(background))
}

func cancel(conn *pgx.Conn) {
	section("cancel")
	for _, text := range []string{"SELECT pg_sleep(30)", slowRead} {
		start := time.Now()
		time.AfterFunc(500*time.Millisecond, func() { must(conn.PgConn().CancelRequest(background)) })
		fails("cancelled", conn, text)
		fmt.Println(time.Since(start) < 20*time.Second, rows(conn, "SELECT 'usable'"))
		other := connect("")
		limited, stop := context.WithTimeout(background, 500*time.Millisecond)
		_, err := other.Exec(limited, text)
		fmt.Println("gave up", pgconn.Timeout(err), other.IsClosed())
		stop()
	}
	exec(conn, "SET statement_timeout = '200ms'")
	fails("timeout", conn, "SELECT pg_sleep(30)")
	fails("timeout of a read", conn, slowRead)
}

func binary(conn *pgx.Conn) {
	section("binary")
	body := make([]byte, 256000)
	for i := range body {
		body[i] = byte(i)
	}
	exec(conn, "INSERT INTO blob VALUES (1, $1)", body)
	for _, format := range []int16{pgx.TextFormatCode, pgx.BinaryFormatCode} {
		var got []byte
		must(conn.QueryRow(background, "SELECT body FROM blob WHERE id = $1", pgx.QueryResultFormats{format}, 1).Scan(&got))
		fmt.Println(bytes.Equal(got, body))
	}
	var oid uint32
	must(conn.BeginFunc(background, func(tx pgx.Tx) error {
		objects := tx.LargeObjects()
		var err error
		oid, err = objects.Create(background, 0)
		must(err)
		object, err := objects.Open(background, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
		must(err)
		fmt.Println(object.Write(body))
		fmt.Println(object.Seek(1000, io.SeekStart))
		piece := make([]byte, 8)
		fmt.Println(object.Read(piece))
		fmt.Println(piece)
		return object.Close()
	}))
	fmt.Println(rows(conn, "SELECT length(lo_get($1))", oid), rows(conn, "SELECT lo_unlink($1)", oid))
}

func types(conn *pgx.Conn) {
	section("types")
	at := time.Date(2024, 2, 29, 12, 30, 1, 123456000, time.UTC)
	var number pgtype.Numeric
	must(number.Set("12345678901234567890.123456789"))
	values := []struct {
		name  string
		value any
	}{
		{"int[]", []int32{1, 2, 3}}, {"text[]", []string{"a", "q\"uote", "näme"}}, {"jsonb", map[string]any{"a": []any{1, 2.5}}},
		{"timestamptz", at}, {"timestamp", at}, {"date", at}, {"interval", 3*24*time.Hour + time.Second}, {"bool", true},
		{"numeric", number}, {"float8", 0.1}, {"int4range", "[1,10)"}, {"text", nil}, {"int8", int64(9007199254740993)},
		{"uuid", "6f1d5b4a-1111-4222-8333-444455556666"},
	}
	for _, one := range values {
		for _, format := range []int16{pgx.TextFormatCode, pgx.BinaryFormatCode} {
			if one.name == "jsonb" && format == pgx.BinaryFormatCode {
				continue
			}
			result, err := conn.Query(background, "SELECT $1::"+one.name, pgx.QueryResultFormats{format}, one.value)
			must(err)
			for result.Next() {
				fmt.Println(one.name, format, result.RawValues())
			}
			must(result.Err())
		}
		fmt.Println(one.name, rows(conn, "SELECT $1::"+one.name, one.value))
	}
}

func failures(conn *pgx.Conn) {
	section("error")
	fails("syntax", conn, "SELEC 1")
	fails("no table", conn, "SELECT * FROM missing WHERE id = $1", 1)
	fails("unique", conn, "INSERT INTO item (id, name) VALUES ($1, 'x')", 1)
	fails("not null", conn, "INSERT INTO item (id, name) VALUES (900, NULL)")
	fails("division", conn, "SELECT price / 0 FROM item")
	fails("input", conn, "SELECT $1::text::int", "x")
	_, err := conn.Exec(background, "INSERT INTO item (name) VALUES ('undone'); SELECT 1/0")
	show("batch", err)
	fmt.Println(rows(conn, "SELECT count(*) FROM item WHERE name = 'undone'"))
	exec(conn, "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$")
}

func parts(conn *pgx.Conn) {
	section("parts")
	for _, mode := range []pgx.TxAccessMode{pgx.ReadWrite, pgx.ReadOnly} {
		tx, err := conn.BeginTx(background, pgx.TxOptions{AccessMode: mode})
		must(err)
		exec(tx, "DECLARE chosen CURSOR FOR SELECT n FROM number ORDER BY n")
		total, fetched := 0, 1
		for fetched > 0 {
			fetched = 0
			part, err := tx.Query(background, "FETCH 100 FROM chosen")
			must(err)
			for part.Next() {
				var n int
				must(part.Scan(&n))
				total += n
				fetched++
			}
		}
		fmt.Println(mode, total)
		must(tx.Commit(background))
	}
	some, err := conn.Query(background, "SELECT n FROM number WHERE n > $1 ORDER BY n", 0)
	must(err)
	some.Next()
	some.Close()
	fmt.Println(rows(conn, "SELECT sum(n) FROM number"))
}

func readback(conn *pgx.Conn) {
	section("readback")
	seen := 0
	for i := 0; i < 200; i++ {
		exec(conn, "INSERT INTO own VALUES ($1, $2)", i, fmt.Sprint("v", i))
		var v string
		must(conn.QueryRow(background, "SELECT v FROM own WHERE id = $1", i).Scan(&v))
		if v == fmt.Sprint("v", i) {
			seen++
		}
	}
	fmt.Println(seen)
}

func temporary(conn *pgx.Conn) {
	section("temporary")
	exec(conn, "CREATE TEMP TABLE scratch (id int)")
	exec(conn, "INSERT INTO scratch SELECT generate_series(1, 5)")
	for i := 0; i < 3; i++ {
		fmt.Println(rows(conn, "SELECT sum(id) FROM scratch"))
	}
	other := connect("")
	fails("not of another", other, "SELECT * FROM scratch")
	must(other.Close(background))
	exec(conn, "DROP TABLE scratch")
}

func settings(conn *pgx.Conn) {
	section("settings")
	exec(conn, "SET work_mem = '5MB'")
	rows(conn, "SELECT set_config('pgx.key', $1, false)", "value")
	for i := 0; i < 3; i++ {
		fmt.Println(rows(conn, "SHOW work_mem"), rows(conn, "SELECT current_setting('pgx.key')"),
			rows(conn, "SELECT current_setting('search_path')"))
	}
	exec(conn, "SET TIME ZONE 'Asia/Tokyo'")
	fmt.Println(conn.PgConn().ParameterStatus("TimeZone"), rows(conn, "SELECT '2024-01-01 00:00:00Z'::timestamptz::text"))
	exec(conn, "RESET ALL")
	fmt.Println(rows(conn, "SHOW work_mem"), conn.PgConn().ParameterStatus("TimeZone"), rows(conn, "SHOW search_path"))
	other := connect("statement_timeout=12345 application_name=named")
	for i := 0; i < 3; i++ {
		fmt.Println(rows(other, "SHOW statement_timeout"), rows(other, "SELECT current_setting('application_name')"),
			rows(other, "SELECT max(n) FROM number"))
	}
	must(other.Close(background))
}

func locks(conn *pgx.Conn) {
	section("locks")
	other := connect("")
	lock := "SELECT pg_try_advisory_lock(4711, 9)"
	fmt.Println(rows(conn, lock), rows(other, lock))
	fmt.Println(rows(conn, "SELECT n FROM number WHERE n = 1"))
	fmt.Println(rows(conn, "SELECT pg_advisory_unlock(4711, 9)"), rows(other, lock))
	exec(other, "SELECT pg_advisory_unlock_all()")
	tx, err := conn.Begin(background)
	must(err)
	exec(tx, "SELECT pg_advisory_xact_lock(4711, 9)")
	fmt.Println(rows(other, lock))
	must(tx.Commit(background))
	fmt.Println(rows(other, lock))
	must(other.Close(background))
}

func pool(conn *pgx.Conn) {
	section("pool")
	clients, err := pgxpool.Connect(background, "sslmode=disable search_path=pgx pool_max_conns=4")
	must(err)
	var waiting sync.WaitGroup
	counts := make([]int, 100)
	for i := range counts {
		waiting.Add(1)
		go func(i int) {
			defer waiting.Done()
			client, err := clients.Acquire(background)
			must(err)
			defer client.Release()
			exec(client, "INSERT INTO own VALUES ($1, 'pool')", 5000+i)
			must(client.QueryRow(background, "SELECT count(*) FROM own WHERE id = $1", 5000+i).Scan(&counts[i]))
		}(i)
	}
	waiting.Wait()
	total := 0
	for _, count := range counts {
		total += count
	}
	fmt.Println(total)
	clients.Close()
}

func main() {
	for _, check := range []func(*pgx.Conn){prepared, transaction, savepoint, copying, notify, cancel, readback, binary, types,
		failures, parts, temporary, settings, locks, pool} {
		conn := connect("")
		check(conn)
		must(conn.Close(background))
	}
	section("end")
}
