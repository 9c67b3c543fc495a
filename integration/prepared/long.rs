//! Statements that are longer than what is held of a client's bytes.

use crate::harness::Proxy;
use crate::harness::parity::{batch, compare, filled, query, until};
use crate::harness::wire::{self, Wire, bind, execute, flush, parse, sync};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn long_messages_behind_an_error_are_skipped() {
    let failed = || until(b'E', &[bind("nope", &[]), flush()]);
    let value = vec![b'x'; 300_000];
    compare(vec![(
        "Bind",
        vec![
            batch(&[parse("s", "SELECT length($1)"), sync()]),
            failed(),
            batch(&[bind("s", &[&value]), execute("", 0), sync()]),
            query("SELECT 1"),
        ],
    )])
    .await;
}

#[tokio::test]
async fn long_messages_behind_an_error_of_the_proxys_own_are_skipped() {
    let proxy = Proxy::start(filled().await, "").await;
    let mut client = Wire::connect(proxy.port());
    client.send(&[parse("", "SHOW pgweir.token; SELECT 1"), flush()].concat());
    client.until(b'E');
    let sql = format!("CREATE TABLE skipped AS SELECT '{}'", "x".repeat(17 * MIB));
    let written = [
        parse("", &sql),
        bind("", &[&vec![b'x'; 300_000]]),
        execute("", 0),
    ];
    client.send(&[wire::query(&sql), written.concat(), sync()].concat());
    let answer = client.until_ready();
    assert_eq!(answer.len(), 1, "{answer:?}");
    assert_eq!(client.value("SELECT to_regclass('skipped') IS NULL"), "t");
}
