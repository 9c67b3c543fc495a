//! Which writes reach code that leaves something in the session, by the catalog of a real server.

use pgweir::control::catalog::load;
use pgweir::core::classify::{analyse, judge};
use pgweir::core::statement::{PinReason, SessionEffect};

use super::{harness, routing};

/// Every table and view is named for what is expected of it.
const SCHEMA: &str = r#"
CREATE FUNCTION sets() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET search_path = x; RETURN 1; END $$;
CREATE FUNCTION is_set(int) RETURNS bool LANGUAGE sql AS 'SELECT sets() = $1';
CREATE FUNCTION body() RETURNS int BEGIN ATOMIC SELECT sets(); END;
CREATE FUNCTION hides(int) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT length(set_config('a.b', 'c', false)) $$;
CREATE FUNCTION "left"() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LISTEN news; RETURN 1; END $$;
CREATE FUNCTION local() RETURNS int LANGUAGE sql AS $$ SELECT length(set_config('a.b', 'c', true)) $$;
CREATE PROCEDURE proceeds() LANGUAGE plpgsql AS $$ BEGIN PERFORM sets(); END $$;
CREATE FUNCTION calls() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN CALL proceeds(); RETURN NEW; END $$;
CREATE FUNCTION trims() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a = length("left" ()::text); RETURN NEW; END $$;
CREATE FUNCTION joins() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.a = (SELECT count(*) FROM quiet_a p LEFT JOIN quiet_a q USING (a)); RETURN NEW; END $$;
CREATE FUNCTION writes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO Loud_Default DEFAULT VALUES; RETURN NEW; END $$;
CREATE FUNCTION writes_odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM "loud-odd Name"; RETURN NEW; END $$;
CREATE FUNCTION asks() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.a = (SELECT count(*) FROM quiet_a); RETURN NEW; END $$;
CREATE FUNCTION matches(int, text) RETURNS bool LANGUAGE sql AS 'SELECT is_set($1)';
CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = text, FUNCTION = matches);
CREATE DOMAIN checked AS int CHECK (is_set(VALUE));
CREATE DOMAIN defaulted AS int DEFAULT sets();
CREATE TYPE pair AS (a checked, b int);
CREATE TYPE mood AS ENUM ('happy');
CREATE FUNCTION to_mood(int) RETURNS mood LANGUAGE sql AS $$ SELECT 'happy'::mood FROM sets() $$;
CREATE CAST (int AS mood) WITH FUNCTION to_mood(int) AS ASSIGNMENT;

CREATE TABLE loud_default (a int DEFAULT sets());
CREATE TABLE loud_body (a int DEFAULT body());
CREATE TABLE loud_direct (a bool DEFAULT pg_try_advisory_lock(1));
CREATE TABLE loud_check (a int, CHECK (is_set(a)));
CREATE TABLE loud_direct_check (a int, CHECK (set_config('a.b', a::text, false) <> ''));
CREATE TABLE loud_generated (a int, b int GENERATED ALWAYS AS (hides(a)) STORED);
CREATE TABLE loud_index (a int); CREATE INDEX ON loud_index (hides(a));
CREATE TABLE loud_exclusion (a int, EXCLUDE (hides(a) WITH =));
CREATE TABLE loud_partial (a int); CREATE UNIQUE INDEX ON loud_partial (a) WHERE hides(a) > 0;
CREATE TABLE loud_operator (a int CHECK (a <+> 'x'));
CREATE TABLE loud_domain (a checked);
CREATE TABLE loud_domain_default (a defaulted);
CREATE TABLE loud_array (a checked[]);
CREATE TABLE loud_composite (a pair);
CREATE TABLE loud_cast (a mood);
CREATE TABLE loud_policy (a int); CREATE POLICY p ON loud_policy WITH CHECK (is_set(a));
CREATE TABLE loud_direct_policy (a int); ALTER TABLE loud_direct_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON loud_direct_policy USING (pg_try_advisory_lock(a));
CREATE TABLE loud_rule (a int); CREATE RULE r AS ON INSERT TO loud_rule DO ALSO SELECT sets();
CREATE TABLE loud_rule_to (a int); CREATE RULE r AS ON UPDATE TO loud_rule_to DO INSTEAD INSERT INTO loud_default DEFAULT VALUES;
CREATE TABLE loud_direct_rule (a int); CREATE RULE r AS ON DELETE TO loud_direct_rule DO ALSO SELECT set_config('a.b', 'c', false);
CREATE TABLE loud_trigger (a int); CREATE TRIGGER t BEFORE INSERT ON loud_trigger FOR EACH ROW EXECUTE FUNCTION calls();
CREATE TABLE loud_when (a int); CREATE TRIGGER t BEFORE INSERT ON loud_when FOR EACH ROW WHEN (is_set(NEW.a)) EXECUTE FUNCTION asks();
CREATE TABLE loud_disabled (a int); CREATE TRIGGER t BEFORE INSERT ON loud_disabled FOR EACH ROW EXECUTE FUNCTION calls();
ALTER TABLE loud_disabled DISABLE TRIGGER t;
CREATE TABLE loud_key_word (a int); CREATE TRIGGER t BEFORE INSERT ON loud_key_word FOR EACH ROW EXECUTE FUNCTION trims();
CREATE TABLE loud_writes (a int); CREATE TRIGGER t AFTER INSERT ON loud_writes FOR EACH ROW EXECUTE FUNCTION writes();
CREATE TABLE "loud-odd Name" (a int DEFAULT sets());
CREATE TABLE loud_to_odd (a int); CREATE TRIGGER t AFTER INSERT ON loud_to_odd FOR EACH ROW EXECUTE FUNCTION writes_odd();
CREATE TABLE loud_referenced (a int PRIMARY KEY);
CREATE TABLE loud_referring (a int REFERENCES loud_referenced ON DELETE SET NULL, b int DEFAULT sets());
CREATE TABLE loud_parent (a int) PARTITION BY LIST (a);
CREATE TABLE loud_child PARTITION OF loud_parent FOR VALUES IN (1);
CREATE TRIGGER t BEFORE INSERT ON loud_child FOR EACH ROW EXECUTE FUNCTION calls();
CREATE VIEW loud_view AS SELECT a FROM loud_default;
CREATE VIEW loud_view_of_view AS SELECT a FROM loud_view;
CREATE VIEW loud_calling AS SELECT sets() AS a;
CREATE VIEW loud_calling_server AS SELECT set_config('a.b', 'c', false) AS a;
CREATE VIEW loud_instead AS SELECT 1 AS a; CREATE TRIGGER t INSTEAD OF INSERT ON loud_instead FOR EACH ROW EXECUTE FUNCTION calls();

CREATE TABLE quiet_a (a int);
CREATE TABLE quiet_local (a int DEFAULT local());
CREATE TABLE quiet_serial (a serial PRIMARY KEY, b uuid DEFAULT gen_random_uuid(), c timestamptz DEFAULT now());
CREATE TABLE quiet_key (a int REFERENCES loud_referenced);
CREATE TABLE quiet_referenced (a int PRIMARY KEY);
CREATE TABLE loud_restricted (a int REFERENCES quiet_referenced, b int DEFAULT sets());
CREATE TABLE quiet_join (a int); CREATE TRIGGER t BEFORE INSERT ON quiet_join FOR EACH ROW EXECUTE FUNCTION joins();
CREATE TABLE quiet_asking (a int); CREATE TRIGGER t BEFORE INSERT ON quiet_asking FOR EACH ROW EXECUTE FUNCTION asks();
CREATE VIEW quiet_view AS SELECT a FROM quiet_a;
"#;

#[tokio::test]
async fn writes_that_reach_code_which_leaves_something_are_told_from_others_by_an_ordinary_role() {
    let cluster = harness::cluster(0).await;
    cluster.superuser_sql(0, SCHEMA).await.unwrap();
    let client = cluster.connect(0).await.unwrap();
    let catalog = load(&client).await.unwrap();
    let relations = "SELECT quote_ident(relname) FROM pg_class \
        WHERE relname ~ '^(loud|quiet)' AND relkind IN ('r', 'p', 'v')";
    let rows = cluster.superuser_sql(0, relations).await.unwrap();
    assert!(rows.len() > 40, "{}", rows.len());
    let pins = SessionEffect::Pins(PinReason::CodeBehindWrite);
    let mut wrong = Vec::new();
    for row in rows {
        let name = row[0].clone().unwrap();
        let sql = format!("INSERT INTO {name} VALUES (1)");
        let found = judge(&analyse(sql.as_bytes()), Some(&catalog), &routing());
        let is_loud = found.statements[0].session == pins;
        if is_loud != name.contains("loud") {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    for (sql, expected) in [
        ("UPDATE quiet_a SET a = 1 WHERE a <+> 'x'", true),
        ("UPDATE quiet_a SET a = 1 WHERE a > 1", false),
        ("ALTER TABLE quiet_a ADD b int DEFAULT body()", true),
        ("ALTER TABLE quiet_a ADD b int DEFAULT local()", false),
        ("INSERT INTO quiet_a SELECT a FROM loud_calling", true),
        ("SELECT a FROM loud_calling", true),
        ("SELECT a FROM loud_calling_server", true),
        ("SELECT a FROM loud_default", false),
    ] {
        let found = judge(&analyse(sql.as_bytes()), Some(&catalog), &routing());
        assert_eq!(found.statements[0].session == pins, expected, "{sql}");
    }
}
