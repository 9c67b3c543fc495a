//! `pg_basebackup`, `pg_receivewal`, `pg_recvlogical`.

use super::{Bench, Running, files, finish, printed, tool, value};
use crate::harness::eventually;

#[tokio::test]
async fn base_backups_are_whole() {
    let bench = Bench::start(1, "").await;
    let rows = "CREATE TABLE big AS SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i";
    bench.cluster.sql(0, rows).await.unwrap();
    for (name, method) in [
        ("fetch", "--wal-method=fetch"),
        ("stream", "--wal-method=stream"),
    ] {
        let directory = bench.directory(name).join("data");
        let target = format!("--pgdata={}", directory.display());
        let arguments = [&target, method, "--checkpoint=fast", "--progress"];
        let backup = tool("pg_basebackup", bench.proxy.port(), "repl", &arguments);
        printed(backup).await;
        let verify = || {
            let path = directory.display().to_string();
            finish(tool("pg_verifybackup", 1, "nobody", &[&path]))
        };
        let verified = verify().await;
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success(), "{method}: {said}");
        // One byte is enough for the verification to fail.
        let control = directory.join("global/pg_control");
        let mut bytes = std::fs::read(&control).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&control, bytes).unwrap();
        assert!(!verify().await.status.success());
    }
    let pins = bench.proxy.metrics().await;
    let counted = pins.sum("pgweir_pins_total", &[("reason", "replication")]);
    // The second backup has a connection for the WAL beside its own.
    assert!((counted - 3.0).abs() < 0.1, "{counted}");
}

#[tokio::test]
async fn received_wal_is_that_of_the_primary() {
    let bench = Bench::start(0, "").await;
    for (name, port) in bench.both() {
        let create = ["--create-slot", &format!("--slot={name}_made")];
        printed(tool("pg_receivewal", port, "repl", &create)).await;
        // Such a slot keeps no WAL until it is used; this one does.
        let keep =
            format!("SELECT slot_name FROM pg_create_physical_replication_slot('{name}', true)");
        value(&bench.cluster, &keep).await;
    }
    let write = "CREATE TABLE w AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i";
    bench.cluster.sql(0, write).await.unwrap();
    value(&bench.cluster, "SELECT pg_switch_wal()").await;
    bench
        .cluster
        .sql(0, "INSERT INTO w VALUES (0)")
        .await
        .unwrap();
    let end = value(&bench.cluster, "SELECT pg_current_wal_lsn()").await;
    let mut received = Vec::new();
    for (name, port) in bench.both() {
        let directory = bench.directory(name);
        let arguments = [
            format!("--directory={}", directory.display()),
            format!("--slot={name}"),
            format!("--endpos={end}"),
            "--no-loop".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        printed(tool("pg_receivewal", port, "repl", &arguments)).await;
        let mut segments = files(&directory);
        segments.retain(|(name, _)| !name.ends_with(".partial"));
        received.push(segments);
    }
    assert!(!received[0].is_empty());
    assert!(received[0] == received[1], "the segments differ");
}

#[tokio::test]
async fn decoded_changes_are_those_of_the_primary() {
    let bench = Bench::start(1, "").await;
    let table = "CREATE TABLE d (id int PRIMARY KEY, v text)";
    bench.cluster.sql(0, table).await.unwrap();
    for (name, port) in bench.both() {
        let slot = format!("--slot={name}");
        let create = [
            &slot,
            "--create-slot",
            "--plugin=test_decoding",
            "--dbname=app",
        ];
        printed(tool("pg_recvlogical", port, "repl", &create)).await;
    }
    let changes = "INSERT INTO d SELECT i, repeat('v', 1000) FROM generate_series(1, 3000) i; \
                   UPDATE d SET v = 'é' WHERE id = 7; DELETE FROM d WHERE id > 2990";
    bench.cluster.sql(0, changes).await.unwrap();
    let end = value(&bench.cluster, "SELECT pg_current_wal_lsn()").await;
    let mut decoded = Vec::new();
    for (name, port) in bench.both() {
        let (slot, end) = (format!("--slot={name}"), format!("--endpos={end}"));
        let arguments = [
            &slot,
            "--start",
            "--file=-",
            "--dbname=app",
            "--no-loop",
            &end,
        ];
        decoded.push(printed(tool("pg_recvlogical", port, "repl", &arguments)).await);
    }
    let lines = decoded[0]
        .lines()
        .filter(|line| line.starts_with("table"))
        .count();
    assert_eq!(lines, 3_011);
    assert!(decoded[0] == decoded[1], "the changes differ");
}

#[tokio::test]
async fn changes_arrive_while_the_stream_is_open() {
    let bench = Bench::start(1, "").await;
    bench
        .cluster
        .sql(0, "CREATE TABLE d (id int)")
        .await
        .unwrap();
    let port = bench.proxy.port();
    let create = [
        "--slot=live",
        "--create-slot",
        "--plugin=test_decoding",
        "--dbname=app",
    ];
    printed(tool("pg_recvlogical", port, "repl", &create)).await;
    let file = bench.directory("live").join("changes");
    let to = format!("--file={}", file.display());
    let arguments = [
        "--slot=live",
        "--start",
        &to,
        "--dbname=app",
        "--fsync-interval=0",
    ];
    let _running = Running::spawn(tool("pg_recvlogical", port, "repl", &arguments));
    for id in 1..=3 {
        let insert = format!("INSERT INTO d VALUES ({id})");
        bench.cluster.sql(0, &insert).await.unwrap();
        let change = format!("table public.d: INSERT: id[integer]:{id}");
        eventually("the change has arrived", || async {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.contains(&change)
        })
        .await;
    }
}
