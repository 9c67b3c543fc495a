//! Several statements in one write.

use crate::harness::parity::{batch, batches, compare, query, until};
use crate::harness::wire::{self, bind, describe, execute, flush, parse, sync};
use crate::{BY_ID, once, run};

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of scripts")]
async fn pipelines_get_the_answers_of_the_primary() {
    let read = || [parse("", BY_ID), bind("", &[b"1"]), execute("", 0)].concat();
    let write = || {
        [
            parse("", "INSERT INTO w VALUES (1)"),
            bind("", &[]),
            execute("", 0),
        ]
        .concat()
    };
    let bad = || [parse("", "SELECT 1/0"), bind("", &[]), execute("", 0)].concat();
    let use_s = || [bind("s", &[b"4"]), execute("", 0), sync()].concat();
    let two_hundred: Vec<Vec<u8>> = (0..200)
        .map(|i| {
            if i % 7 == 3 {
                [write(), sync()].concat()
            } else {
                [read(), sync()].concat()
            }
        })
        .collect();
    let one_batch: Vec<Vec<u8>> = (0..200).map(|_| read()).chain([sync()]).collect();
    compare(vec![
        (
            "an error skips to the Sync",
            vec![
                batch(&[
                    parse("s", BY_ID),
                    write(),
                    bad(),
                    write(),
                    parse("q", "SELECT 1"),
                    sync(),
                ]),
                query("SELECT count(*) FROM w"),
                batch(&[bind("q", &[]), sync()]),
                batch(&[use_s()]),
            ],
        ),
        (
            "a failed Parse leaves no unnamed statement",
            vec![
                batch(&[parse("", "SELEC"), sync()]),
                batch(&[bind("", &[]), execute("", 0), sync()]),
            ],
        ),
        (
            "a skipped Parse leaves nothing",
            vec![
                batch(&[
                    bind("nope", &[]),
                    parse("", "SELECT 5"),
                    parse("s", "SELECT 6"),
                    sync(),
                ]),
                batch(&[bind("", &[]), execute("", 0), sync()]),
                batch(&[bind("s", &[]), execute("", 0), sync()]),
            ],
        ),
        (
            "several commands",
            vec![run("SELECT 1; SELECT 2"), run("SELECT 1")],
        ),
        (
            "several Syncs",
            vec![batches(
                &[
                    read(),
                    sync(),
                    write(),
                    sync(),
                    read(),
                    sync(),
                    bad(),
                    sync(),
                    sync(),
                    once("SELECT count(*) FROM w"),
                ],
                6,
            )],
        ),
        (
            "200 batches",
            vec![batches(&two_hundred, 200), query("SELECT count(*) FROM w")],
        ),
        ("200 statements in a batch", vec![batch(&one_batch)]),
        (
            "flush first",
            vec![
                until(b'T', &[parse("", BY_ID), describe(b'S', ""), flush()]),
                batch(&[bind("", &[b"2"]), execute("", 0), sync()]),
            ],
        ),
        (
            "flush a named one",
            vec![
                until(b'T', &[parse("s", BY_ID), describe(b'S', "s"), flush()]),
                batch(&[use_s()]),
                query("SELECT 1"),
                batch(&[use_s()]),
            ],
        ),
        (
            "flush everything",
            vec![
                until(b'C', &[write(), flush()]),
                until(b'C', &[write(), flush()]),
                batch(&[sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "flush, then an error",
            vec![
                until(b'C', &[write(), flush()]),
                until(b'E', &[bad(), flush()]),
                batch(&[write(), sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "a Query is skipped too",
            vec![
                until(b'E', &[parse("", "SELEC"), flush()]),
                batch(&[
                    wire::query("INSERT INTO w VALUES (9)"),
                    flush(),
                    read(),
                    sync(),
                ]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "a Query behind an open batch",
            vec![
                batch(&[write(), wire::query("SELECT count(*) FROM w")]),
                batch(&[sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "a Query behind a failed batch",
            vec![
                batch(&[write(), bad(), wire::query("SELECT 1"), sync()]),
                query("SELECT count(*) FROM w"),
            ],
        ),
        (
            "set in an open batch",
            vec![
                until(
                    b'C',
                    &[
                        parse("", "SET work_mem TO '8MB'"),
                        bind("", &[]),
                        execute("", 0),
                        flush(),
                    ],
                ),
                until(b'E', &[bad(), flush()]),
                batch(&[sync()]),
                query("SHOW work_mem"),
                query("SELECT current_setting('work_mem') FROM t LIMIT 1"),
            ],
        ),
        (
            "Sync alone",
            vec![
                batch(&[sync()]),
                batches(&[sync(), sync(), flush(), sync()], 3),
            ],
        ),
        (
            "wrong number of parameters",
            vec![
                batch(&[parse("", BY_ID), bind("", &[]), execute("", 0), sync()]),
                batch(&[bind("", &[b"x"]), execute("", 0), sync()]),
            ],
        ),
    ])
    .await;
}
