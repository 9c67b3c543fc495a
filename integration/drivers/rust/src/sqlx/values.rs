//! Values in the binary format.

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::postgres::PgConnection;
use sqlx::types::time::{Date, OffsetDateTime, PrimitiveDateTime};
use sqlx::types::{Json, Uuid};

use crate::{Outcome, section};

pub async fn binary(conn: &mut PgConnection) -> Outcome {
    section("binary");
    let body: Vec<u8> = (0..=255_u8).cycle().take(256_000).collect();
    sqlx::query("INSERT INTO blob VALUES (1, $1)")
        .bind(&body)
        .execute(&mut *conn)
        .await?;
    let got: Vec<u8> = sqlx::query_scalar("SELECT body FROM blob")
        .fetch_one(&mut *conn)
        .await?;
    println!("{}", got == body);
    Ok(())
}

pub async fn types(conn: &mut PgConnection) -> Outcome {
    section("types");
    let day = Date::from_ordinal_date(2024, 60).unwrap();
    let local = PrimitiveDateTime::new(
        day,
        sqlx::types::time::Time::from_hms_micro(12, 30, 1, 123_456).unwrap(),
    );
    let row = sqlx::query("SELECT $1::int[], $2::text[], $3::jsonb, $4::timestamptz, $5::timestamp, $6::date, $7::uuid, $8::float8, $9::bool")
        .bind(vec![Some(1), None, Some(3)])
        .bind(vec!["a", "q\"uote", "näme"])
        .bind(Json(json!({"a": [1, 2.5]})))
        .bind(local.assume_utc())
        .bind(local)
        .bind(day)
        .bind(Uuid::from_u128(5))
        .bind(0.1)
        .bind(true)
        .fetch_one(&mut *conn)
        .await?;
    println!(
        "{:?} {:?}",
        row.get::<Vec<Option<i32>>, _>(0),
        row.get::<Vec<String>, _>(1)
    );
    println!(
        "{:?} {}",
        row.get::<Value, _>(2),
        row.get::<OffsetDateTime, _>(3)
    );
    println!(
        "{} {} {}",
        row.get::<PrimitiveDateTime, _>(4),
        row.get::<Date, _>(5),
        row.get::<Uuid, _>(6)
    );
    println!("{} {}", row.get::<f64, _>(7), row.get::<bool, _>(8));
    for row in sqlx::raw_sql("SELECT ARRAY[1, 2], '{\"b\": 1}'::jsonb, 0.5::float8")
        .fetch_all(&mut *conn)
        .await?
    {
        println!(
            "{:?} {:?} {}",
            row.get::<Vec<i32>, _>(0),
            row.get::<Value, _>(1),
            row.get::<f64, _>(2)
        );
    }
    let mood: String = sqlx::query_scalar("SELECT 'happy'::mood::text WHERE $1 > 0")
        .bind(1)
        .fetch_one(&mut *conn)
        .await?;
    println!("{mood}");
    Ok(())
}
