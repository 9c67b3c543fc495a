//! sqlx: every query is prepared, cached by text and binary; a pool that pings its connections.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::postgres::{
    PgConnectOptions, PgConnection, PgListener, PgPoolCopyExt, PgPoolOptions, PgRow,
};
use sqlx::{Column, Connection, Executor, PgPool, Row, TypeInfo};

#[path = "../sqlx/values.rs"]
mod values;

use values::{binary, types};

type Outcome = Result<(), sqlx::Error>;

const SLOW_READ: &str = "SELECT count(*) FROM generate_series(1, 40000) a \
                         JOIN generate_series(1, 40000) b ON a + b < 0";

fn section(name: &str) {
    println!("# {name}");
}

fn show<T>(what: &str, result: Result<T, sqlx::Error>) {
    match result {
        Ok(_) => println!("{what} did not fail"),
        Err(sqlx::Error::Database(error)) => {
            println!(
                "{what} {:?} {} {:?}",
                error.code(),
                error.message(),
                error.constraint()
            );
        }
        Err(error) => println!("{what} {error}"),
    }
}

fn options() -> PgConnectOptions {
    PgConnectOptions::new().options([("search_path", "sqlx")])
}

async fn connect() -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect_with(&options()).await
}

async fn text(conn: &mut PgConnection, sql: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(conn).await
}

async fn number(conn: &mut PgConnection, sql: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(conn).await
}

async fn prepared(conn: &mut PgConnection) -> Outcome {
    section("prepared");
    for i in 0..8 {
        let id: i32 = sqlx::query_scalar(
            "INSERT INTO item (name, price) VALUES ($1, $2::float8) RETURNING id",
        )
        .bind(format!("item {i}"))
        .bind(f64::from(i) / 4.0)
        .fetch_one(&mut *conn)
        .await?;
        println!("inserted {id}");
    }
    for i in 1..=8 {
        let row: PgRow = sqlx::query("SELECT name, price::float8 FROM item WHERE id = $1")
            .bind(i)
            .fetch_one(&mut *conn)
            .await?;
        println!(
            "{} {} {}",
            row.get::<String, _>(0),
            row.get::<f64, _>(1),
            row.column(1).type_info().name()
        );
    }
    for i in 0..3 {
        let done = sqlx::query("UPDATE item SET price = price + $1::int WHERE id <= $2")
            .bind(i)
            .bind(4)
            .execute(&mut *conn)
            .await?;
        println!("{}", done.rows_affected());
    }
    let alone = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM item").persistent(false);
    println!("{}", alone.fetch_one(&mut *conn).await?);
    println!("{}", conn.cached_statements_size());
    conn.clear_cached_statements().await?;
    println!("{}", conn.cached_statements_size());
    for part in sqlx::raw_sql("SELECT 1; INSERT INTO item (name) VALUES ('many'); SELECT 2")
        .fetch_all(&mut *conn)
        .await?
    {
        println!("{}", part.get::<i32, _>(0));
    }
    Ok(())
}

async fn transaction(conn: &mut PgConnection) -> Outcome {
    section("transaction");
    let mut tx = conn.begin().await?;
    sqlx::query("DELETE FROM item").execute(&mut *tx).await?;
    println!("{}", number(&mut tx, "SELECT count(*) FROM item").await?);
    tx.rollback().await?;
    println!("{}", number(conn, "SELECT count(*) FROM item").await?);
    {
        let mut dropped = conn.begin().await?;
        sqlx::query("INSERT INTO item (name) VALUES ('lost')")
            .execute(&mut *dropped)
            .await?;
    }
    println!(
        "{}",
        number(conn, "SELECT count(*) FROM item WHERE name = 'lost'").await?
    );
    let mut tx = conn.begin().await?;
    sqlx::query("INSERT INTO item (name) VALUES ('lost')")
        .execute(&mut *tx)
        .await?;
    show("broken", sqlx::query("SELECT 1/0").execute(&mut *tx).await);
    show(
        "failed block",
        sqlx::query("SELECT 1").execute(&mut *tx).await,
    );
    tx.rollback().await?;
    let mut tx = conn.begin_with("BEGIN READ ONLY").await?;
    println!("{}", number(&mut tx, "SELECT count(*) FROM item").await?);
    show(
        "read only",
        sqlx::query("INSERT INTO item (name) VALUES ('no')")
            .execute(&mut *tx)
            .await,
    );
    tx.rollback().await
}

async fn savepoint(conn: &mut PgConnection) -> Outcome {
    section("savepoint");
    let names = "SELECT string_agg(name, ' ') FROM item WHERE name IN ('outer', 'inner')";
    let mut tx = conn.begin().await?;
    sqlx::query("INSERT INTO item (name) VALUES ('outer')")
        .execute(&mut *tx)
        .await?;
    let mut inner = tx.begin().await?;
    sqlx::query("INSERT INTO item (name) VALUES ('inner')")
        .execute(&mut *inner)
        .await?;
    show(
        "twice",
        sqlx::query("INSERT INTO item (id, name) VALUES (1, 'twice')")
            .execute(&mut *inner)
            .await,
    );
    inner.rollback().await?;
    println!("{}", text(&mut tx, names).await?);
    tx.commit().await?;
    println!("{}", text(conn, names).await?);
    Ok(())
}

async fn copy(conn: &mut PgConnection) -> Outcome {
    section("copy");
    let mut stream = conn.copy_in_raw("COPY copied FROM STDIN").await?;
    for i in 0..2000 {
        stream.send(format!("{i}\tnäme {i}\n").as_bytes()).await?;
    }
    println!("{}", stream.finish().await?);
    for sql in [
        "COPY (SELECT * FROM copied ORDER BY id LIMIT 3) TO STDOUT",
        "COPY copied TO STDOUT (FORMAT binary)",
    ] {
        let out: Vec<_> = conn.copy_out_raw(sql).await?.try_collect().await?;
        let all = out.concat();
        println!("{} {:?}", all.len(), String::from_utf8_lossy(&all[..20]));
    }
    let mut stream = conn.copy_in_raw("COPY copied FROM STDIN").await?;
    stream.send(&b"1\tgood\nbad\trow\n"[..]).await?;
    show("copy", stream.finish().await);
    let mut stream = conn.copy_in_raw("COPY copied FROM STDIN").await?;
    stream.send(&b"1\tgood\n"[..]).await?;
    stream.abort("stopped").await?;
    show(
        "no table",
        conn.copy_in_raw("COPY missing FROM STDIN").await,
    );
    println!("{}", number(conn, "SELECT sum(id) FROM copied").await?);
    Ok(())
}

async fn notify(conn: &mut PgConnection) -> Outcome {
    section("notify");
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("sqlx_channel").await?;
    sqlx::query("NOTIFY sqlx_channel, 'first'")
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind("sqlx_channel")
        .bind("second")
        .execute(&mut *conn)
        .await?;
    conn.execute("BEGIN; NOTIFY sqlx_channel, 'third'; NOTIFY sqlx_channel, 'third'; COMMIT")
        .await?;
    for _ in 0..3 {
        match tokio::time::timeout(Duration::from_secs(20), listener.recv()).await {
            Ok(message) => {
                let message = message?;
                println!(
                    "{} {} {}",
                    message.channel(),
                    message.payload(),
                    message.process_id() > 0
                );
            }
            Err(_) => println!("nothing came"),
        }
    }
    listener.unlisten_all().await
}

async fn cancel(conn: &mut PgConnection) -> Outcome {
    section("cancel");
    // sqlx cannot cancel: a second session does it, or a time limit.
    for sql in ["SELECT pg_sleep(30)::text", SLOW_READ] {
        let mut other = connect().await?;
        other.execute("SET statement_timeout = '300ms'").await?;
        let start = Instant::now();
        show("timeout", sqlx::query(sql).execute(&mut other).await);
        println!("{}", start.elapsed() < Duration::from_secs(20));
        println!("{}", text(&mut other, "SELECT 'usable'").await?);
        let running = sqlx::query(sql).execute(&mut *conn);
        println!(
            "{}",
            tokio::time::timeout(Duration::from_millis(100), running)
                .await
                .is_err()
        );
        conn.close_hard_and_again().await?;
    }
    Ok(())
}

/// What a client does that has given up on a statement.
trait Again {
    async fn close_hard_and_again(&mut self) -> Outcome;
}

impl Again for PgConnection {
    async fn close_hard_and_again(&mut self) -> Outcome {
        std::mem::replace(self, connect().await?).close_hard().await
    }
}

async fn readback(conn: &mut PgConnection) -> Outcome {
    section("readback");
    let mut seen = 0;
    for i in 0..200 {
        sqlx::query("INSERT INTO own VALUES ($1, $2)")
            .bind(i)
            .bind(format!("v{i}"))
            .execute(&mut *conn)
            .await?;
        let v: Option<String> = sqlx::query_scalar("SELECT v FROM own WHERE id = $1")
            .bind(i)
            .fetch_optional(&mut *conn)
            .await?;
        seen += i32::from(v == Some(format!("v{i}")));
    }
    println!("{seen}");
    Ok(())
}

async fn error(conn: &mut PgConnection) -> Outcome {
    section("error");
    for sql in [
        "SELEC 1",
        "SELECT * FROM missing",
        "INSERT INTO item (id, name) VALUES (1, 'x')",
        "INSERT INTO item (id, name) VALUES (900, NULL)",
        "SELECT price / 0 FROM item",
        "SELECT 'x'::int",
    ] {
        show(sql, sqlx::query(sql).execute(&mut *conn).await);
    }
    show(
        "batch",
        conn.execute("INSERT INTO item (name) VALUES ('undone'); SELECT 1/0")
            .await,
    );
    println!(
        "{}",
        number(conn, "SELECT count(*) FROM item WHERE name = 'undone'").await?
    );
    Ok(())
}

async fn parts(conn: &mut PgConnection) -> Outcome {
    section("parts");
    let mut rows =
        sqlx::query_scalar::<_, i32>("SELECT n FROM number ORDER BY n").fetch(&mut *conn);
    println!("{:?} {:?}", rows.try_next().await?, rows.try_next().await?);
    drop(rows);
    println!("{}", number(conn, "SELECT sum(n) FROM number").await?);
    for block in ["BEGIN", "BEGIN READ ONLY"] {
        let mut tx = conn.begin_with(block).await?;
        tx.execute("DECLARE chosen CURSOR FOR SELECT n FROM number ORDER BY n")
            .await?;
        let mut total = 0;
        loop {
            let part: Vec<i32> = sqlx::query_scalar("FETCH 100 FROM chosen")
                .fetch_all(&mut *tx)
                .await?;
            if part.is_empty() {
                break;
            }
            total += part.iter().sum::<i32>();
        }
        println!("{block} {total}");
        tx.commit().await?;
    }
    Ok(())
}

async fn temporary(conn: &mut PgConnection) -> Outcome {
    section("temporary");
    sqlx::query("CREATE TEMP TABLE scratch (id int)")
        .execute(&mut *conn)
        .await?;
    sqlx::query("INSERT INTO scratch SELECT generate_series(1, 5)")
        .execute(&mut *conn)
        .await?;
    for _ in 0..3 {
        println!("{}", number(conn, "SELECT sum(id) FROM scratch").await?);
    }
    let mut other = connect().await?;
    show(
        "not of another",
        sqlx::query("SELECT * FROM scratch")
            .execute(&mut other)
            .await,
    );
    sqlx::query("DROP TABLE scratch")
        .execute(&mut *conn)
        .await?;
    Ok(())
}

async fn settings(conn: &mut PgConnection) -> Outcome {
    section("settings");
    sqlx::query("SET work_mem = '5MB'")
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT set_config('sqlx.key', $1, false)")
        .bind("value")
        .execute(&mut *conn)
        .await?;
    for _ in 0..3 {
        for sql in [
            "SHOW work_mem",
            "SELECT current_setting('sqlx.key')",
            "SHOW search_path",
            "SHOW TimeZone",
        ] {
            println!("{}", text(conn, sql).await?);
        }
    }
    let named = options()
        .application_name("named")
        .options([("statement_timeout", "12345")]);
    let mut other = PgConnection::connect_with(&named).await?;
    for _ in 0..3 {
        println!(
            "{} {}",
            text(&mut other, "SHOW statement_timeout").await?,
            text(&mut other, "SHOW application_name").await?
        );
        println!("{}", number(&mut other, "SELECT sum(n) FROM number").await?);
    }
    Ok(())
}

async fn locks(conn: &mut PgConnection) -> Outcome {
    section("locks");
    let mut other = connect().await?;
    let lock = "SELECT pg_try_advisory_lock(4711, 12)::text";
    println!(
        "{} {}",
        text(conn, lock).await?,
        text(&mut other, lock).await?
    );
    println!(
        "{}",
        number(conn, "SELECT n::int8 FROM number WHERE n = 1").await?
    );
    println!(
        "{}",
        text(conn, "SELECT pg_advisory_unlock(4711, 12)::text").await?
    );
    println!("{}", text(&mut other, lock).await?);
    Ok(())
}

async fn pool() -> Outcome {
    section("pool");
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .connect_with(options())
        .await?;
    let tasks: Vec<_> = (0..100)
        .map(|i| tokio::spawn(one_of_many(pool.clone(), 5000 + i)))
        .collect();
    let mut seen = 0;
    for task in tasks {
        seen += task.await.unwrap()?;
    }
    println!("{seen}");
    let mut stream = pool.copy_in_raw("COPY copied FROM STDIN").await?;
    stream.send(&b"1\tpool\n"[..]).await?;
    println!("{}", stream.finish().await?);
    pool.close().await;
    Ok(())
}

async fn one_of_many(pool: PgPool, id: i32) -> Result<i64, sqlx::Error> {
    sqlx::query("INSERT INTO own VALUES ($1, 'pool')")
        .bind(id)
        .execute(&pool)
        .await?;
    sqlx::query_scalar("SELECT count(*) FROM own WHERE id = $1")
        .bind(id)
        .fetch_one(&pool)
        .await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let mut first = connect().await?;
    let conn = &mut first;
    prepared(conn).await?;
    transaction(conn).await?;
    savepoint(conn).await?;
    copy(conn).await?;
    notify(conn).await?;
    cancel(conn).await?;
    readback(conn).await?;
    binary(conn).await?;
    types(conn).await?;
    error(conn).await?;
    parts(conn).await?;
    temporary(conn).await?;
    settings(&mut connect().await?).await?;
    locks(&mut connect().await?).await?;
    pool().await?;
    section("end");
    Ok(())
}
