// The program of Go's lib/pq through database/sql: a pool of connections, prepared statements.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
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
	var failure *pq.Error
	if errors.As(err, &failure) {
		fmt.Println(what, failure.Code, failure.Code.Name(), failure.Severity, failure.Message)
		fmt.Println("  detail", failure.Detail, failure.Constraint, failure.Column, failure.Position)
	} else {
		fmt.Println(what, err)
	}
}

// What a connection and a transaction have in common.
type session interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
}

func exec(conn session, text string, values ...any) int64 {
	result, err := conn.ExecContext(background, text, values...)
	must(err)
	count, _ := result.RowsAffected()
	return count
}

func fails(what string, conn session, text string, values ...any) {
	rows, err := conn.QueryContext(background, text, values...)
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
		rows.Close()
	}
	show(what, err)
}

func collect(rows *sql.Rows, err error) string {
	must(err)
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	must(err)
	var all []string
	for rows.Next() {
		values := make([]any, len(columns))
		places := make([]any, len(columns))
		for i := range values {
			places[i] = &values[i]
		}
		must(rows.Scan(places...))
		for i, value := range values {
			if bytes, ok := value.([]byte); ok {
				values[i] = string(bytes)
			}
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
	return collect(conn.QueryContext(background, text, values...))
}

func open(settings string) *sql.DB {
	db, err := sql.Open("postgres", "sslmode=disable search_path=golang_pq "+settings)
	must(err)
	return db
}

func one(db *sql.DB) *sql.Conn {
	conn, err := db.Conn(background)
	must(err)
	return conn
}

func prepared(db *sql.DB, conn *sql.Conn) {
	section("prepared")
	insert, err := conn.PrepareContext(background, "INSERT INTO item (name, price) VALUES ($1, $2) RETURNING id")
	must(err)
	for i := 0; i < 8; i++ {
		fmt.Println("inserted", collect(insert.QueryContext(background, fmt.Sprint("item ", i), float64(i)/4)))
	}
	read, err := conn.PrepareContext(background, "SELECT name, price FROM item WHERE id = $1")
	must(err)
	for i := 1; i <= 8; i++ {
		fmt.Println(collect(read.QueryContext(background, i)))
	}
	for i := 0; i < 3; i++ {
		fmt.Println(exec(conn, "UPDATE item SET price = price + $1 WHERE id <= $2", i, 4))
	}
	must(insert.Close())
	must(read.Close())
	several, err := conn.QueryContext(background, "SELECT 1; INSERT INTO item (name) VALUES ('many'); SELECT count(*) FROM item")
	must(err)
	for again := true; again; again = several.NextResultSet() {
		for several.Next() {
			var n int
			must(several.Scan(&n))
			fmt.Println(n)
		}
	}
	must(several.Close())
	everywhere, err := db.Prepare("SELECT n FROM number WHERE n = $1")
	must(err)
	var waiting sync.WaitGroup
	found := make([]int, 40)
	for i := range found {
		waiting.Add(1)
		go func(i int) {
			defer waiting.Done()
			must(everywhere.QueryRow(i + 1).Scan(&found[i]))
		}(i)
	}
	waiting.Wait()
	fmt.Println(found)
}

func transaction(db *sql.DB, conn *sql.Conn) {
	section("transaction")
	tx, err := db.Begin()
	must(err)
	exec(tx, "DELETE FROM item")
	fmt.Println(rows(tx, "SELECT count(*) FROM item"))
	must(tx.Rollback())
	fmt.Println(rows(db, "SELECT count(*) FROM item"))
	tx, err = db.Begin()
	must(err)
	exec(tx, "INSERT INTO item (name) VALUES ('lost')")
	fails("broken", tx, "SELECT 1/0")
	fails("failed block", tx, "SELECT 1")
	show("commit", tx.Commit())
	fmt.Println(rows(db, "SELECT count(*) FROM item WHERE name = $1", "lost"))
	tx, err = db.BeginTx(background, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	must(err)
	fmt.Println(rows(tx, "SELECT count(*) FROM item WHERE id < $1", 5))
	fails("read only", tx, "INSERT INTO item (name) VALUES ('no')")
	must(tx.Rollback())
	tx, err = db.BeginTx(background, &sql.TxOptions{Isolation: sql.LevelSerializable})
	must(err)
	exec(tx, "INSERT INTO item (name) VALUES ('kept')")
	must(tx.Commit())
	fmt.Println(rows(db, "SELECT count(*) FROM item WHERE name = 'kept'"))
}

func savepoint(db *sql.DB, conn *sql.Conn) {
	section("savepoint")
	tx, err := db.Begin()
	must(err)
	exec(tx, "INSERT INTO item (name) VALUES ('outer')")
	exec(tx, "SAVEPOINT inner_one")
	exec(tx, "INSERT INTO item (name) VALUES ('inner')")
	fails("twice", tx, "INSERT INTO item (id, name) VALUES (1, 'twice')")
	exec(tx, "ROLLBACK TO SAVEPOINT inner_one")
	fmt.Println(rows(tx, "SELECT name FROM item WHERE name IN ('outer', 'inner')"))
	must(tx.Commit())
	fmt.Println(rows(db, "SELECT name FROM item WHERE name IN ('outer', 'inner')"))
}

func copying(db *sql.DB, conn *sql.Conn) {
	section("copy")
	fill := func(lines [][]any) error {
		tx, err := db.Begin()
		must(err)
		defer tx.Rollback()
		stmt, err := tx.Prepare(pq.CopyIn("copied", "id", "name"))
		must(err)
		for _, line := range lines {
			if _, err := stmt.Exec(line...); err != nil {
				return err
			}
		}
		result, err := stmt.Exec()
		if err != nil {
			return err
		}
		count, _ := result.RowsAffected()
		fmt.Println("copied", count)
		must(stmt.Close())
		return tx.Commit()
	}
	var lines [][]any
	for i := 0; i < 2000; i++ {
		lines = append(lines, []any{i, fmt.Sprint("näme\t", i)})
	}
	must(fill(lines))
	show("copy", fill([][]any{{1, "good"}, {"bad", "row"}}))
	fmt.Println(rows(db, "SELECT count(*), sum(id) FROM copied"))
	fmt.Println(rows(db, "SELECT * FROM copied ORDER BY id LIMIT 3"))
}

func notify(db *sql.DB, conn *sql.Conn) {
	section("notify")
	listener := pq.NewListener("sslmode=disable", time.Second, time.Minute, nil)
	must(listener.Listen("golang_pq_channel"))
	must(listener.Ping())
	exec(conn, "NOTIFY golang_pq_channel, 'first'")
	rows(conn, "SELECT pg_notify($1, $2)", "golang_pq_channel", "second")
	exec(conn, "BEGIN; NOTIFY golang_pq_channel, 'third'; NOTIFY golang_pq_channel, 'third'; COMMIT")
	for i := 0; i < 3; i++ {
		select {
		case message := <-listener.Notify:
			fmt.Println(message.Channel, message.Extra, message.BePid > 0)
		case <-time.After(20 * time.Second):
			fmt.Println("nothing came")
		}
	}
	must(listener.Unlisten("golang_pq_channel"))
	exec(conn, "NOTIFY golang_pq_channel, 'unheard'")
	must(listener.Ping())
	fmt.Println(len(listener.Notify))
	must(listener.Close())
}

func cancel(db *sql.DB, conn *sql.Conn) {
	section("cancel")
	for _, text := range []string{"SELECT pg_sleep(30)", slowRead} {
		limited, stop := context.WithTimeout(background, 500*time.Millisecond)
		start := time.Now()
		_, err := db.ExecContext(limited, text)
		show("cancelled", err)
		fmt.Println(time.Since(start) < 20*time.Second)
		stop()
		fmt.Println(rows(db, "SELECT 'usable'"))
		limited, stop = context.WithTimeout(background, 500*time.Millisecond)
		_, err = db.ExecContext(limited, strings.Replace(strings.Replace(text, "30", "$1::int", 1), "< 0", "< $1", 1), 30)
		show("cancelled with parameters", err)
		stop()
		fmt.Println(rows(db, "SELECT 'usable'"))
	}
	exec(conn, "SET statement_timeout = '200ms'")
	fails("timeout", conn, "SELECT pg_sleep(30)")
	fails("timeout of a read", conn, slowRead)
}

func binary(db *sql.DB, conn *sql.Conn) {
	section("binary")
	body := make([]byte, 256000)
	for i := range body {
		body[i] = byte(i)
	}
	exec(conn, "INSERT INTO blob VALUES (1, $1)", body)
	binaries := one(open("binary_parameters=yes"))
	for _, reader := range []*sql.Conn{conn, binaries} {
		var got []byte
		must(reader.QueryRowContext(background, "SELECT body FROM blob WHERE id = $1", 1).Scan(&got))
		fmt.Println(string(got) == string(body))
		fmt.Println(rows(reader, "SELECT length($1::bytea)", body))
	}
	tx, err := db.Begin()
	must(err)
	var oid, descriptor int64
	must(tx.QueryRow("SELECT lo_from_bytea(0, $1)", body).Scan(&oid))
	must(tx.QueryRow("SELECT lo_open($1, 393216)", oid).Scan(&descriptor))
	fmt.Println(descriptor, rows(tx, "SELECT lo_lseek($1, 1000, 0)", descriptor), []byte(rows(tx, "SELECT loread($1, 8)", descriptor)))
	must(tx.Commit())
	fmt.Println(rows(db, "SELECT length(lo_get($1))", oid), rows(db, "SELECT lo_unlink($1)", oid))
}

func types(db *sql.DB, conn *sql.Conn) {
	section("types")
	at := time.Date(2024, 2, 29, 12, 30, 1, 123456000, time.UTC)
	object, err := json.Marshal(map[string]any{"a": []any{1, 2.5}})
	must(err)
	values := []struct {
		name  string
		value any
	}{
		{"int[]", pq.Array([]int64{1, 2, 3})}, {"text[]", pq.Array([]string{"a", "q\"uote", "näme"})}, {"jsonb", object},
		{"timestamptz", at}, {"timestamp", at}, {"date", at}, {"interval", "3 days 00:00:01"}, {"bool", true},
		{"numeric", "12345678901234567890.123456789"}, {"float8", 0.1}, {"int4range", "[1,10)"}, {"text", nil},
		{"int8", int64(9007199254740993)},
	}
	for _, one := range values {
		fmt.Println(one.name, rows(conn, "SELECT $1::"+one.name, one.value))
	}
}

func failures(db *sql.DB, conn *sql.Conn) {
	section("error")
	fails("syntax", conn, "SELEC 1")
	fails("no table", conn, "SELECT * FROM missing WHERE id = $1", 1)
	fails("unique", conn, "INSERT INTO item (id, name) VALUES ($1, 'x')", 1)
	fails("not null", conn, "INSERT INTO item (id, name) VALUES (900, NULL)")
	fails("division", conn, "SELECT price / 0 FROM item")
	fails("input", conn, "SELECT $1::int", "x")
	fails("batch", conn, "INSERT INTO item (name) VALUES ('undone'); SELECT 1/0")
	fmt.Println(rows(conn, "SELECT count(*) FROM item WHERE name = 'undone'"))
	connector, err := pq.NewConnector("sslmode=disable")
	must(err)
	noticed := sql.OpenDB(pq.ConnectorWithNoticeHandler(connector, func(notice *pq.Error) {
		fmt.Println("notice", notice.Code, notice.Severity, notice.Message)
	}))
	exec(noticed, "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$")
}

func parts(db *sql.DB, conn *sql.Conn) {
	section("parts")
	for _, readOnly := range []bool{false, true} {
		tx, err := db.BeginTx(background, &sql.TxOptions{ReadOnly: readOnly})
		must(err)
		exec(tx, "DECLARE chosen CURSOR FOR SELECT n FROM number ORDER BY n")
		total, fetched := 0, 1
		for fetched > 0 {
			fetched = 0
			part, err := tx.Query("FETCH 100 FROM chosen")
			must(err)
			for part.Next() {
				var n int
				must(part.Scan(&n))
				total += n
				fetched++
			}
		}
		fmt.Println(readOnly, total)
		must(tx.Commit())
	}
	some, err := db.Query("SELECT n FROM number WHERE n > $1 ORDER BY n", 0)
	must(err)
	some.Next()
	must(some.Close())
	fmt.Println(rows(db, "SELECT sum(n) FROM number"))
}

func readback(db *sql.DB, conn *sql.Conn) {
	section("readback")
	seen := 0
	for i := 0; i < 200; i++ {
		exec(conn, "INSERT INTO own VALUES ($1, $2)", i, fmt.Sprint("v", i))
		if rows(conn, "SELECT v FROM own WHERE id = $1", i) == fmt.Sprintf("v%d", i) {
			seen++
		}
	}
	fmt.Println(seen)
}

func temporary(db *sql.DB, conn *sql.Conn) {
	section("temporary")
	exec(conn, "CREATE TEMP TABLE scratch (id int)")
	exec(conn, "INSERT INTO scratch SELECT generate_series(1, 5)")
	for i := 0; i < 3; i++ {
		fmt.Println(rows(conn, "SELECT sum(id) FROM scratch"))
	}
	fails("not of another", one(db), "SELECT * FROM scratch")
	exec(conn, "DROP TABLE scratch")
}

func settings(db *sql.DB, conn *sql.Conn) {
	section("settings")
	exec(conn, "SET work_mem = '5MB'")
	rows(conn, "SELECT set_config('golang_pq.key', $1, false)", "value")
	for i := 0; i < 3; i++ {
		fmt.Println(rows(conn, "SHOW work_mem"), rows(conn, "SELECT current_setting('golang_pq.key')"),
			rows(conn, "SELECT current_setting('search_path')"))
	}
	exec(conn, "SET TIME ZONE 'Asia/Tokyo'")
	fmt.Println(rows(conn, "SELECT '2024-01-01 00:00:00Z'::timestamptz::text"))
	exec(conn, "RESET ALL")
	fmt.Println(rows(conn, "SHOW work_mem"), rows(conn, "SHOW TimeZone"), rows(conn, "SHOW search_path"))
	other := one(open("statement_timeout=12345 application_name=named"))
	for i := 0; i < 3; i++ {
		fmt.Println(rows(other, "SHOW statement_timeout"), rows(other, "SELECT current_setting('application_name')"),
			rows(other, "SELECT max(n) FROM number"))
	}
}

func locks(db *sql.DB, conn *sql.Conn) {
	section("locks")
	other := one(db)
	lock := "SELECT pg_try_advisory_lock(4711, 8)"
	fmt.Println(rows(conn, lock), rows(other, lock))
	fmt.Println(rows(conn, "SELECT n FROM number WHERE n = 1"))
	fmt.Println(rows(conn, "SELECT pg_advisory_unlock(4711, 8)"), rows(other, lock))
	exec(other, "SELECT pg_advisory_unlock_all()")
	tx, err := conn.BeginTx(background, nil)
	must(err)
	exec(tx, "SELECT pg_advisory_xact_lock(4711, 8)")
	fmt.Println(rows(other, lock))
	must(tx.Commit())
	fmt.Println(rows(other, lock))
}

func main() {
	for _, check := range []func(*sql.DB, *sql.Conn){prepared, transaction, savepoint, copying, notify, cancel, readback, binary,
		types, failures, parts, temporary, settings, locks} {
		db := open("")
		conn := one(db)
		check(db, conn)
		must(conn.Close())
		must(db.Close())
	}
	section("end")
}
