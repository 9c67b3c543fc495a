//! Values in the binary format.

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_postgres::Client;

use crate::{Outcome, section, show, simple};

pub async fn binary(client: &mut Client) -> Outcome {
    section("binary");
    let body: Vec<u8> = (0..=255_u8).cycle().take(256_000).collect();
    client
        .execute("INSERT INTO blob VALUES (1, $1)", &[&body])
        .await?;
    println!(
        "{}",
        client
            .query_one("SELECT body FROM blob", &[])
            .await?
            .get::<_, Vec<u8>>(0)
            == body
    );
    Ok(())
}

pub async fn types(client: &mut Client) -> Outcome {
    section("types");
    let at = OffsetDateTime::from_unix_timestamp(1_709_209_801).unwrap();
    let sql = "SELECT $1::int[], $2::text[], $3::jsonb, $4::timestamptz, $5::bool, $6::mood::text, $7::text";
    let row = client
        .query_one(
            sql,
            &[
                &vec![Some(1), None, Some(3)],
                &vec!["a", "q\"uote", "näme"],
                &json!({"a": [1, 2.5]}),
                &at,
                &true,
                &None::<&str>,
                &None::<&str>,
            ],
        )
        .await;
    show("enum as text", row.map(|_| ()));
    let sql = sql.replace("$6::mood::text", "$6::text::mood::text");
    let row = client
        .query_one(
            &sql,
            &[
                &vec![Some(1), None, Some(3)],
                &vec!["a", "q\"uote", "näme"],
                &json!({"a": [1, 2.5]}),
                &at,
                &true,
                &"happy",
                &None::<&str>,
            ],
        )
        .await?;
    println!(
        "{:?} {:?}",
        row.get::<_, Vec<Option<i32>>>(0),
        row.get::<_, Vec<String>>(1)
    );
    println!(
        "{} {} {}",
        row.get::<_, Value>(2),
        row.get::<_, OffsetDateTime>(3),
        row.get::<_, bool>(4)
    );
    println!(
        "{:?} {:?}",
        row.get::<_, String>(5),
        row.get::<_, Option<String>>(6)
    );
    let mood = client
        .prepare("SELECT 'sad'::mood, ARRAY['happy']::mood[], ROW(1, 'x')::pair")
        .await?;
    for column in mood.columns() {
        println!("{} {}", column.type_().schema(), column.type_().name());
    }
    simple(client, "SELECT '{1,2}'::int[]").await
}
