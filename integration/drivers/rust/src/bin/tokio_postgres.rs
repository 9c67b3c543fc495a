//! tokio-postgres: pipelined by polling several queries at once, binary values, portals in parts.

use std::env;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{poll_fn, try_join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, SimpleQueryMessage};

#[path = "../tokio_postgres/values.rs"]
mod values;

use values::{binary, types};

type Outcome = Result<(), Error>;

const SLOW_READ: &str = "SELECT count(*) FROM generate_series(1, 40000) a \
                         JOIN generate_series(1, 40000) b ON a + b < 0";

fn section(name: &str) {
    println!("# {name}");
}

fn show<T>(what: &str, result: Result<T, Error>) {
    match result {
        Ok(_) => println!("{what} did not fail"),
        Err(error) => match error.as_db_error() {
            Some(e) => println!(
                "{what} {} {} {} {:?} {:?} {:?}",
                e.code().code(),
                e.severity(),
                e.message(),
                e.detail(),
                e.constraint(),
                e.position()
            ),
            None => println!("{what} {error}"),
        },
    }
}

async fn connect(options: &str) -> Result<(Client, UnboundedReceiver<AsyncMessage>), Error> {
    let variable = |name| env::var(name).unwrap();
    let mut config = Config::new();
    config
        .host(variable("PGHOST"))
        .port(variable("PGPORT").parse().unwrap())
        .user(variable("PGUSER"))
        .password(variable("PGPASSWORD"))
        .dbname(variable("PGDATABASE"))
        .options(format!("-c search_path=tokio_postgres {options}"));
    let (client, mut connection) = config.connect(NoTls).await?;
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            drop(sender.send(message));
        }
    });
    Ok((client, receiver))
}

async fn simple(client: &Client, sql: &str) -> Outcome {
    let mut all = Vec::new();
    for message in client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::Row(row) => all.push(format!("{:?}", row.get(0))),
            SimpleQueryMessage::CommandComplete(count) => all.push(format!("({count})")),
            _ => {}
        }
    }
    println!("{}", all.join(" "));
    Ok(())
}

async fn prepared(client: &mut Client) -> Outcome {
    let client: &Client = client;
    section("prepared");
    let insert = client
        .prepare("INSERT INTO item (name, price) VALUES ($1, $2::float8) RETURNING id")
        .await?;
    println!(
        "{:?} {:?}",
        insert.params(),
        insert
            .columns()
            .iter()
            .map(|c| c.type_())
            .collect::<Vec<_>>()
    );
    for i in 0..8 {
        let row = client
            .query_one(&insert, &[&format!("item {i}"), &(f64::from(i) / 4.0)])
            .await?;
        println!("inserted {}", row.get::<_, i32>(0));
    }
    let read = client
        .prepare_typed(
            "SELECT name, price::float8 FROM item WHERE id = $1",
            &[Type::INT4],
        )
        .await?;
    for i in 1..=8 {
        let row = client.query_one(&read, &[&i]).await?;
        println!("{} {}", row.get::<_, &str>(0), row.get::<_, f64>(1));
    }
    drop((insert, read));
    let numbers: Vec<i32> = (1..=100).collect();
    let reading = numbers.iter().map(|n| async move {
        Ok::<_, Error>(
            client
                .query_one("SELECT n FROM number WHERE n = $1", &[n])
                .await?
                .get::<_, i32>(0),
        )
    });
    println!("{}", try_join_all(reading).await?.iter().sum::<i32>());
    let keys: Vec<i32> = (1000..1050).collect();
    let insert = &client
        .prepare("INSERT INTO own VALUES ($1, 'piped')")
        .await?;
    let read = &client.prepare("SELECT v FROM own WHERE id = $1").await?;
    let both = keys.iter().map(|key| async move {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [key];
        let (written, got) = tokio::try_join!(
            client.execute(insert, &parameters),
            client.query(read, &parameters)
        )?;
        Ok::<_, Error>(u64::try_from(got.len()).unwrap() + written)
    });
    println!("{}", try_join_all(both).await?.iter().sum::<u64>());
    for i in 0..3_i32 {
        println!(
            "{}",
            client
                .execute(
                    "UPDATE item SET price = price + $1::int WHERE id <= 4",
                    &[&i]
                )
                .await?
        );
    }
    let typed = client
        .query_typed("SELECT $1 + 1", &[(&41_i32, Type::INT4)])
        .await?;
    println!("{}", typed[0].get::<_, i32>(0));
    simple(
        client,
        "SELECT 1; INSERT INTO item (name) VALUES ('many'); SELECT count(*) FROM item",
    )
    .await
}

async fn transaction(client: &mut Client) -> Outcome {
    section("transaction");
    let tx = client.transaction().await?;
    tx.execute("DELETE FROM item", &[]).await?;
    println!(
        "{}",
        tx.query_one("SELECT count(*) FROM item", &[])
            .await?
            .get::<_, i64>(0)
    );
    tx.rollback().await?;
    simple(client, "SELECT count(*) FROM item").await?;
    let tx = client.transaction().await?;
    tx.execute("INSERT INTO item (name) VALUES ('lost')", &[])
        .await?;
    show("broken", tx.execute("SELECT 1/0", &[]).await);
    show("failed block", tx.execute("SELECT 1", &[]).await);
    drop(tx);
    simple(client, "SELECT count(*) FROM item WHERE name = 'lost'").await?;
    let tx = client.build_transaction().read_only(true).start().await?;
    println!(
        "{}",
        tx.query_one("SELECT count(*) FROM item WHERE id < $1", &[&5])
            .await?
            .get::<_, i64>(0)
    );
    show(
        "read only",
        tx.execute("INSERT INTO item (name) VALUES ('no')", &[])
            .await,
    );
    tx.rollback().await
}

async fn savepoint(client: &mut Client) -> Outcome {
    section("savepoint");
    let names = "SELECT string_agg(name, ' ') FROM item WHERE name IN ('outer', 'inner')";
    let mut tx = client.transaction().await?;
    tx.execute("INSERT INTO item (name) VALUES ('outer')", &[])
        .await?;
    let inner = tx.savepoint("inner_one").await?;
    inner
        .execute("INSERT INTO item (name) VALUES ('inner')", &[])
        .await?;
    show(
        "twice",
        inner
            .execute("INSERT INTO item (id, name) VALUES (1, 'twice')", &[])
            .await,
    );
    inner.rollback().await?;
    println!(
        "{:?}",
        tx.query_one(names, &[]).await?.get::<_, Option<String>>(0)
    );
    tx.commit().await?;
    simple(client, names).await
}

async fn copy(client: &mut Client) -> Outcome {
    section("copy");
    {
        let mut sink = pin!(client.copy_in("COPY copied FROM STDIN").await?);
        for i in 0..2000 {
            sink.send(std::io::Cursor::new(
                format!("{i}\tnäme {i}\n").into_bytes(),
            ))
            .await?;
        }
        println!("{}", sink.finish().await?);
    }
    let out: Vec<_> = client
        .copy_out("COPY (SELECT * FROM copied ORDER BY id LIMIT 3) TO STDOUT")
        .await?
        .try_collect()
        .await?;
    println!(
        "{:?}",
        out.iter()
            .map(|part| part.to_vec())
            .collect::<Vec<_>>()
            .concat()
    );
    let types = [Type::INT4, Type::TEXT];
    let mut writer = pin!(BinaryCopyInWriter::new(
        client.copy_in("COPY copied FROM STDIN BINARY").await?,
        &types
    ));
    for i in 0..50_i32 {
        writer.as_mut().write(&[&i, &"binary"]).await?;
    }
    println!("{}", writer.finish().await?);
    let stream = client
        .copy_out("COPY (SELECT id, name FROM copied ORDER BY id, name LIMIT 4) TO STDOUT BINARY")
        .await?;
    for row in BinaryCopyOutStream::new(stream, &types)
        .try_collect::<Vec<_>>()
        .await?
    {
        println!("{} {}", row.get::<i32>(0), row.get::<String>(1));
    }
    let mut sink = pin!(client.copy_in("COPY copied FROM STDIN").await?);
    sink.send(&b"1\tgood\nbad\trow\n"[..]).await?;
    show("copy", sink.finish().await);
    {
        let mut abandoned = pin!(client.copy_in("COPY copied FROM STDIN").await?);
        abandoned.send(&b"1\tgood\n"[..]).await?;
    }
    {
        let mut left = pin!(client.copy_out("COPY copied TO STDOUT").await?);
        println!("{}", left.next().await.is_some());
    }
    simple(client, "SELECT sum(id) FROM copied").await
}

async fn notify(client: &mut Client) -> Outcome {
    section("notify");
    let (other, mut messages) = connect("").await?;
    other.batch_execute("LISTEN tokio_postgres_channel").await?;
    client
        .batch_execute("NOTIFY tokio_postgres_channel, 'first'")
        .await?;
    client
        .query(
            "SELECT pg_notify($1, $2)",
            &[&"tokio_postgres_channel", &"second"],
        )
        .await?;
    other
        .batch_execute("NOTIFY tokio_postgres_channel, 'own'")
        .await?;
    for _ in 0..3 {
        match tokio::time::timeout(Duration::from_secs(20), messages.recv()).await {
            Ok(Some(AsyncMessage::Notification(m))) => {
                println!("{} {} {}", m.channel(), m.payload(), m.process_id() > 0)
            }
            other => println!("{:?}", other.is_ok()),
        }
    }
    other.batch_execute("UNLISTEN *").await?;
    simple(&other, "SELECT 1").await
}

async fn cancel(client: &mut Client) -> Outcome {
    section("cancel");
    for sql in ["SELECT pg_sleep(30)", SLOW_READ] {
        let token = client.cancel_token();
        let asking = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            token.cancel_query(NoTls).await
        };
        let (outcome, asked) = tokio::join!(client.query(sql, &[]), asking);
        show("cancelled", outcome);
        println!("{}", asked.is_ok());
        simple(client, "SELECT 'usable'").await?;
    }
    Ok(())
}

async fn readback(client: &mut Client) -> Outcome {
    section("readback");
    let mut seen = 0;
    for i in 0..200_i32 {
        let v = format!("v{i}");
        client
            .execute("INSERT INTO own VALUES ($1, $2)", &[&i, &v])
            .await?;
        let got = client
            .query_opt("SELECT v FROM own WHERE id = $1", &[&i])
            .await?;
        seen += i32::from(got.is_some_and(|row| row.get::<_, String>(0) == v));
    }
    println!("{seen}");
    Ok(())
}

async fn error(client: &mut Client) -> Outcome {
    section("error");
    for sql in [
        "SELEC 1",
        "SELECT * FROM missing",
        "INSERT INTO item (id, name) VALUES (1, 'x')",
        "INSERT INTO item (id, name) VALUES (900, NULL)",
        "SELECT price / 0 FROM item",
        "SELECT 'x'::int",
    ] {
        show("extended", client.query(sql, &[]).await);
        show("simple", client.simple_query(sql).await);
    }
    show(
        "batch",
        client
            .batch_execute("INSERT INTO item (name) VALUES ('undone'); SELECT 1/0")
            .await,
    );
    simple(client, "SELECT count(*) FROM item WHERE name = 'undone'").await
}

async fn parts(client: &mut Client) -> Outcome {
    section("parts");
    for read_only in [false, true] {
        let tx = client
            .build_transaction()
            .read_only(read_only)
            .start()
            .await?;
        let portal = tx
            .bind("SELECT n FROM number WHERE n > $1 ORDER BY n", &[&0])
            .await?;
        let other = tx.bind("SELECT n FROM number ORDER BY n DESC", &[]).await?;
        let (mut total, mut fetched) = (0, 0);
        loop {
            let part = tx.query_portal(&portal, 100).await?;
            if part.is_empty() {
                break;
            }
            total += part.iter().map(|row| row.get::<_, i32>(0)).sum::<i32>();
            fetched += tx.query_portal(&other, 7).await?.len();
        }
        println!("{total} {fetched}");
        drop((portal, other));
        tx.commit().await?;
    }
    let mut left = pin!(
        client
            .query_raw("SELECT n FROM number ORDER BY n", Vec::<i32>::new())
            .await?
    );
    println!(
        "{:?}",
        left.try_next().await?.map(|row| row.get::<_, i32>(0))
    );
    simple(client, "SELECT sum(n) FROM number").await
}

async fn temporary(client: &mut Client) -> Outcome {
    section("temporary");
    client
        .batch_execute(
            "CREATE TEMP TABLE scratch (id int); INSERT INTO scratch SELECT generate_series(1, 5)",
        )
        .await?;
    for _ in 0..3 {
        simple(client, "SELECT sum(id) FROM scratch").await?;
    }
    let (other, _messages) = connect("").await?;
    show(
        "not of another",
        other.query("SELECT * FROM scratch", &[]).await,
    );
    client.batch_execute("DROP TABLE scratch").await
}

async fn settings(client: &mut Client) -> Outcome {
    section("settings");
    client
        .batch_execute("SET work_mem = '5MB'; SET TIME ZONE 'Asia/Tokyo'")
        .await?;
    client
        .query("SELECT set_config('tokio.key', $1, false)", &[&"value"])
        .await?;
    for _ in 0..3 {
        for sql in [
            "SHOW work_mem",
            "SELECT current_setting('tokio.key')",
            "SHOW search_path",
            "SHOW TimeZone",
        ] {
            simple(client, sql).await?;
        }
    }
    client.batch_execute("DISCARD ALL").await?;
    simple(client, "SHOW work_mem").await?;
    let (other, _messages) =
        connect("-c statement_timeout=12345 -c application_name=named").await?;
    for _ in 0..3 {
        simple(&other, "SHOW statement_timeout").await?;
        simple(&other, "SELECT current_setting('application_name')").await?;
        simple(&other, "SELECT max(n) FROM number").await?;
    }
    Ok(())
}

async fn locks(client: &mut Client) -> Outcome {
    section("locks");
    let (other, _messages) = connect("").await?;
    let lock = "SELECT pg_try_advisory_lock(4711, 13)";
    simple(client, lock).await?;
    simple(&other, lock).await?;
    simple(client, "SELECT n FROM number WHERE n = 1").await?;
    simple(client, "SELECT pg_advisory_unlock(4711, 13)").await?;
    simple(&other, lock).await
}

macro_rules! each {
    ($($check:ident)*) => { $({
        let (mut client, _messages) = connect("").await?;
        $check(&mut client).await?;
    })* };
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    each!(prepared transaction savepoint copy notify cancel readback binary types error parts temporary settings locks);
    section("end");
    Ok(())
}
