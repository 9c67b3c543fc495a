//! Code that runs behind plain writes (triggers, defaults, checks) may change the session: what it leaves
//! there belongs to the client whose write it was, and to nobody else.

use pgweir::sandbox::LocalCluster;
use tokio::sync::OnceCell;

use super::harness::Proxy;
use super::harness::parity::filled;
use super::harness::wire::{self, Message, Wire};
use super::{SHARED, sharing};

static SCHEMA: OnceCell<()> = OnceCell::const_new();

/// What each table does behind a write to it.
const MADE: &str = "
CREATE SCHEMA loud; CREATE ROLE borrowed; GRANT borrowed TO app WITH ADMIN OPTION;
GRANT ALL ON SCHEMA loud TO app, borrowed;
CREATE FUNCTION loud.sets() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN SET search_path = loud; SET statement_timeout = '1h'; RETURN 1; END $$;
CREATE FUNCTION loud.tables() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS scratch (a int); RETURN 1; END $$;
CREATE FUNCTION loud.listens() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LISTEN leak; RETURN 1; END $$;
CREATE FUNCTION loud.locks() RETURNS int LANGUAGE sql AS $$ SELECT 1 FROM pg_advisory_lock(77) $$;
CREATE FUNCTION loud.prepares() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE 'PREPARE left_there AS SELECT 1'; RETURN 1; END $$;
CREATE FUNCTION loud.zones() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('TimeZone', 'Etc/GMT-3', false); RETURN NEW; END $$;
CREATE FUNCTION loud.becomes() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN SET ROLE borrowed; RETURN NEW; END $$;
CREATE FUNCTION loud.passes_on() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO loud.zoned VALUES (NEW.a); RETURN NEW; END $$;
CREATE FUNCTION loud.hides() RETURNS text STABLE LANGUAGE plpgsql AS
    $$ DECLARE r text; BEGIN EXECUTE 'SELECT set' || '_config(''DateStyle'', ''German'', false)' INTO r; RETURN r; END $$;
CREATE TABLE loud.hidden (a int, b text DEFAULT loud.hides());
CREATE TABLE loud.defaulted (a int, b int DEFAULT loud.sets());
CREATE TABLE loud.scratching (a int, b int DEFAULT loud.tables());
CREATE TABLE loud.listening (a int, b int DEFAULT loud.listens());
CREATE TABLE loud.locking (a int, b int CHECK (b = loud.locks()) DEFAULT 1);
CREATE TABLE loud.preparing (a int, b int DEFAULT loud.prepares());
CREATE TABLE loud.direct (a int, b text DEFAULT set_config('opt.direct', 'mine', false) || set_config('DateStyle', 'German', false));
CREATE SEQUENCE loud.numbers; GRANT ALL ON SEQUENCE loud.numbers TO app;
CREATE FUNCTION loud.chooses() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('opt.kept', 'mine', false); RETURN NEW; END $$;
CREATE TABLE loud.optioned (a int);
CREATE TRIGGER first BEFORE INSERT ON loud.optioned FOR EACH ROW EXECUTE FUNCTION loud.chooses();
CREATE TABLE loud.zoned (a int);
CREATE TRIGGER first BEFORE INSERT OR UPDATE ON loud.zoned FOR EACH ROW EXECUTE FUNCTION loud.zones();
CREATE TABLE loud.becoming (a int);
CREATE TRIGGER first BEFORE INSERT ON loud.becoming FOR EACH ROW EXECUTE FUNCTION loud.becomes();
CREATE TABLE loud.passing (a int);
CREATE TRIGGER first AFTER INSERT ON loud.passing FOR EACH ROW EXECUTE FUNCTION loud.passes_on();
CREATE TABLE loud.parent (a int PRIMARY KEY);
CREATE TABLE loud.child (a int REFERENCES loud.parent ON DELETE CASCADE);
CREATE TRIGGER first AFTER DELETE ON loud.child FOR EACH ROW EXECUTE FUNCTION loud.zones();
INSERT INTO loud.parent SELECT generate_series(1, 100); INSERT INTO loud.child SELECT generate_series(1, 100);
CREATE VIEW loud.window AS SELECT a FROM loud.zoned;
CREATE TABLE loud.ranged (a int) PARTITION BY RANGE (a);
CREATE TABLE loud.ranged_1 PARTITION OF loud.ranged FOR VALUES FROM (0) TO (100);
CREATE TRIGGER first BEFORE INSERT ON loud.ranged_1 FOR EACH ROW EXECUTE FUNCTION loud.zones();
GRANT ALL ON ALL TABLES IN SCHEMA loud TO app, borrowed;
CREATE SCHEMA quiet; GRANT ALL ON SCHEMA quiet TO app;
CREATE FUNCTION quiet.touches() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
CREATE TABLE quiet.audit (id bigserial, what jsonb);
CREATE FUNCTION quiet.audits() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN INSERT INTO quiet.audit (what) VALUES (to_jsonb(NEW)); RETURN NULL; END $$;
CREATE TABLE quiet.owners (id serial PRIMARY KEY, updated_at timestamptz DEFAULT now());
CREATE TABLE quiet.things (id serial PRIMARY KEY, owner int REFERENCES quiet.owners ON DELETE CASCADE,
    size int CHECK (size > 0), twice int GENERATED ALWAYS AS (size * 2) STORED, updated_at timestamptz);
CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON quiet.things FOR EACH ROW EXECUTE FUNCTION quiet.touches();
CREATE TRIGGER audited AFTER INSERT OR UPDATE ON quiet.things FOR EACH ROW EXECUTE FUNCTION quiet.audits();
GRANT ALL ON ALL TABLES IN SCHEMA quiet TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA quiet TO app;
";

async fn cluster() -> &'static LocalCluster {
    let cluster = filled().await;
    SCHEMA
        .get_or_init(|| async {
            cluster.superuser_sql(0, MADE).await.unwrap();
            for replica in cluster.replicas() {
                cluster.wait_for_replay(replica).await.unwrap();
            }
        })
        .await;
    cluster
}

/// A proxy of few connections that knows the catalog.
async fn of_size(cluster: &LocalCluster, size: usize) -> Proxy {
    let pool = format!("size: {size}, checkout_timeout: 10s");
    let pool = format!("clusters: {{ main: {{ pool: {{ {pool} }} }} }}");
    sharing(cluster, &pool).await
}

const MAKES: &str = "CREATE FUNCTION loud.made() RETURNS int LANGUAGE sql AS \
    'SELECT length(set_config(''search_path'', ''loud'', false))'; \
    CREATE TABLE loud.made (a int, b int DEFAULT loud.made())";

const MAKES_AND_WRITES: &str = "CREATE TABLE loud.made (a int, b text DEFAULT set_config('search_path', 'loud', false)); \
    INSERT INTO loud.made (a) VALUES (1); DROP TABLE loud.made";

/// What a session has that others should not see.
const STATE: &str = "SELECT current_setting('search_path'), current_setting('statement_timeout'), \
    current_setting('TimeZone'), current_setting('DateStyle'), current_user, \
    coalesce(current_setting('opt.kept', true), ''), to_regclass('pg_temp.scratch') IS NOT NULL, \
    (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_prepared_statements WHERE from_sql), \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";

fn state(client: &mut Wire) -> Vec<Option<String>> {
    client.run("BEGIN");
    let answer = client.query(STATE);
    client.run("COMMIT");
    let row = answer.iter().find(|message| message.tag == b'D');
    row.unwrap_or_else(|| panic!("{answer:?}")).values()
}

/// Runs the writes as one client and has two others in blocks at once, or after each other: all see what
/// they see directly. What is looked at is also what the session of the looker is asked about, so the
/// others come first.
fn assert_alike(directly: u16, through: u16, protocol: Protocol, writes: &[&str], kept: Kept) {
    let seen = |port: u16| {
        let mut clients = [(); 3].map(|()| Wire::connect(port));
        for write in writes {
            protocol.run(&mut clients[0], write);
        }
        let [first, one, two] = &mut clients;
        let others = match kept {
            Kept::Connection => [state(one), state(two)],
            Kept::Settings => {
                one.run("BEGIN");
                let inside = state_in_block(one);
                let others = [inside, state(two)];
                one.run("COMMIT");
                others
            }
        };
        let mine = state(first);
        (mine, others, state(one), state(first))
    };
    assert_eq!(seen(through), seen(directly), "{protocol:?} {writes:?}");
}

/// What the session keeps behind a write, if it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Settings,
    Connection,
}

fn state_in_block(client: &mut Wire) -> Vec<Option<String>> {
    let answer = client.query(STATE);
    let row = answer.iter().find(|message| message.tag == b'D');
    row.unwrap_or_else(|| panic!("{answer:?}")).values()
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Simple,
    Extended,
}

impl Protocol {
    fn run(self, client: &mut Wire, sql: &str) {
        let answer = match self {
            Self::Extended if !sql.contains(';') => {
                let run = [
                    wire::parse("", sql),
                    wire::bind("", &[]),
                    wire::execute("", 0),
                ];
                client.send(&[run.concat(), wire::sync()].concat());
                client.until_ready()
            }
            Self::Simple | Self::Extended => client.query(sql),
        };
        let error = answer.iter().find_map(Message::sqlstate);
        assert_eq!(error, None, "{sql}: {answer:?}");
    }
}

#[tokio::test]
async fn what_code_behind_a_write_leaves_stays_with_the_session_that_wrote() {
    let cluster = cluster().await;
    let proxy = of_size(cluster, 2).await;
    let settings = [
        &["INSERT INTO loud.defaulted (a) VALUES (1)"][..],
        &["INSERT INTO loud.direct (a) VALUES (1)"],
        // Nobody expects that of it, but the node reports it.
        &["INSERT INTO loud.hidden (a) VALUES (1)"],
        &["BEGIN", "INSERT INTO loud.hidden (a) VALUES (1)", "COMMIT"],
        &["INSERT INTO loud.becoming (a) VALUES (1)"],
        &["INSERT INTO loud.zoned (a) VALUES (1)"],
        &["UPDATE loud.zoned SET a = 2"],
        &["WITH new AS (INSERT INTO loud.zoned VALUES (3) RETURNING a) SELECT a FROM new"],
        &["EXPLAIN ANALYZE INSERT INTO \"loud\".\"zoned\" VALUES (4)"],
        &["INSERT INTO loud.passing VALUES (1)"],
        &["INSERT INTO loud.window VALUES (1)"],
        &["INSERT INTO loud.ranged VALUES (1)"],
        &["DELETE FROM loud.parent WHERE a = (SELECT min(a) FROM loud.parent)"],
        &["BEGIN", "INSERT INTO loud.zoned VALUES (1)", "COMMIT"],
        &["BEGIN", "INSERT INTO loud.zoned VALUES (1)", "ROLLBACK"],
        &["BEGIN; INSERT INTO loud.defaulted (a) VALUES (1); COMMIT"],
        &["INSERT INTO loud.optioned (a) VALUES (1)"],
        &[
            "PREPARE it AS INSERT INTO loud.optioned VALUES (1)",
            "EXECUTE it",
            "DEALLOCATE it",
        ],
        &[
            "BEGIN",
            MAKES,
            "INSERT INTO loud.made (a) VALUES (1)",
            "DROP TABLE loud.made; DROP FUNCTION loud.made()",
            "COMMIT",
        ],
        &[MAKES_AND_WRITES],
        &[
            "SET work_mem = '3MB'",
            "INSERT INTO loud.defaulted (a) VALUES (1)",
        ],
    ];
    let connection = [
        &["INSERT INTO loud.scratching (a) VALUES (1)"][..],
        &["INSERT INTO loud.listening (a) VALUES (1)"],
        &["INSERT INTO loud.locking (a) VALUES (1)"],
        &["INSERT INTO loud.preparing (a) VALUES (1)"],
        // Whoever asks for numbers keeps a connection, and so do all writers from then on.
        &[
            "SELECT nextval('loud.numbers')",
            "INSERT INTO loud.defaulted (a) SELECT lastval()",
        ],
    ];
    let settings = settings.map(|writes| (writes, Kept::Settings));
    let connection = connection.map(|writes| (writes, Kept::Connection));
    for (writes, kept) in settings.into_iter().chain(connection) {
        for protocol in [Protocol::Simple, Protocol::Extended] {
            assert_alike(cluster.port(0), proxy.port(), protocol, writes, kept);
        }
    }
}

#[tokio::test]
async fn a_copy_is_a_write_too() {
    let proxy = of_size(cluster().await, 1).await;
    let mut clients = [(); 2].map(|()| Wire::connect(proxy.port()));
    clients[0].send(&wire::query("COPY loud.defaulted (a) FROM STDIN"));
    clients[0].until(b'G');
    clients[0].send(&[wire::copy_data(b"1\n"), wire::copy_done()].concat());
    clients[0].until_ready();
    assert_ne!(state(&mut clients[1])[0].as_deref(), Some("loud"));
    assert_eq!(clients[0].value("SHOW search_path"), "loud");
}

/// Nothing is known yet, and then what has been made since.
#[tokio::test]
async fn what_is_not_known_yet_is_asked_about() {
    let cluster = cluster().await;
    for made in [
        "SELECT 1",
        "CREATE TABLE loud.late (a int, b int DEFAULT loud.sets())",
        "CREATE TABLE loud.later (a int); ALTER TABLE loud.later ADD COLUMN b int DEFAULT loud.sets()",
        "CREATE TRIGGER second BEFORE INSERT ON w FOR EACH ROW EXECUTE FUNCTION loud.zones()",
        "ALTER TABLE w ALTER id SET DEFAULT loud.sets()",
        "ALTER TABLE w ADD CONSTRAINT checked CHECK (loud.sets() = 1)",
        "CREATE OR REPLACE FUNCTION loud.was_quiet() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN SET search_path = loud; RETURN NEW; END $$",
    ] {
        let setup = "DROP TABLE IF EXISTS loud.late, loud.later, loud.waits; CREATE TABLE loud.waits (id int); \
             CREATE OR REPLACE FUNCTION loud.was_quiet() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RETURN NEW; END $$; \
             CREATE TRIGGER known BEFORE INSERT ON loud.waits FOR EACH ROW EXECUTE FUNCTION loud.was_quiet(); \
             ALTER TABLE loud.waits OWNER TO app; ALTER FUNCTION loud.was_quiet() OWNER TO app";
        cluster.superuser_sql(0, setup).await.unwrap();
        for replica in cluster.replicas() {
            cluster.wait_for_replay(replica).await.unwrap();
        }
        let proxy = match made {
            "SELECT 1" => Proxy::start(cluster, SHARED).await,
            _ => of_size(cluster, 1).await,
        };
        let mut clients = [(); 2].map(|()| Wire::connect(proxy.port()));
        let before = state(&mut clients[1]);
        clients[0].run(&made.replace(" w ", " loud.waits "));
        let write = match made {
            "SELECT 1" => "INSERT INTO loud.defaulted (a) VALUES (1)",
            _ if made.contains("loud.later") => "INSERT INTO loud.later (a) VALUES (1)",
            _ if made.contains("loud.late") => "INSERT INTO loud.late (a) VALUES (1)",
            _ if made.contains("SET DEFAULT") => "INSERT INTO loud.waits DEFAULT VALUES",
            _ => "INSERT INTO loud.waits VALUES (1)",
        };
        clients[0].run(write);
        assert_eq!(state(&mut clients[1]), before, "{made}");
        let mine = state(&mut clients[0]);
        assert_ne!(mine, before, "{made}");
        assert_eq!(state(&mut clients[1]), before, "{made}");
        assert_eq!(state(&mut clients[0]), mine, "{made}");
    }
}

/// The control: what ordinary code does behind writes costs no question.
#[tokio::test]
async fn ordinary_code_behind_writes_costs_nothing() {
    let cluster = cluster().await;
    let proxy = of_size(cluster, 2).await;
    let mut client = Wire::connect(proxy.port());
    let pins = async || proxy.metrics().await.sum("pgweir_pins_total", &[]) > 0.5;
    for sql in [
        "INSERT INTO quiet.owners DEFAULT VALUES",
        "INSERT INTO quiet.things (owner, size) SELECT max(id), 2 FROM quiet.owners",
        "UPDATE quiet.things SET size = 3",
        "BEGIN; UPDATE quiet.things SET size = size + 1; COMMIT",
        "DELETE FROM quiet.owners",
        "TRUNCATE quiet.audit",
        "INSERT INTO quiet.owners VALUES (1001)",
    ] {
        client.run(sql);
        // What is counted behind a statement is counted before the next.
        client.run("SHOW work_mem");
        assert!(!pins().await, "{sql}");
    }
    client.run("INSERT INTO loud.zoned VALUES (1)");
    client.run("SHOW work_mem");
    let reason = [("reason", "code_behind_write")];
    let asked = proxy.metrics().await.sum("pgweir_pins_total", &reason);
    assert!((0.5..1.5).contains(&asked), "{asked}");
}

/// What a node reports because pgweir has set it is nothing that code has done.
#[tokio::test]
async fn sessions_with_settings_of_their_own_are_not_asked_for_them() {
    let cluster = cluster().await;
    let proxy = of_size(cluster, 1).await;
    let mut clients = ["Asia/Tokyo", "Europe/Berlin", "UTC"].map(|zone| {
        let mut client = Wire::connect(proxy.port());
        client.run(&format!("SET TimeZone TO '{zone}'"));
        client
    });
    for _ in 0..5 {
        for client in &mut clients {
            client.run("UPDATE quiet.things SET size = 3");
            Protocol::Extended.run(client, "UPDATE quiet.things SET size = 4");
            client.run("BEGIN");
            client.run("UPDATE quiet.things SET size = 5");
            client.run("COMMIT");
        }
    }
    clients[0].run("SHOW work_mem");
    let pins = proxy.metrics().await.sum("pgweir_pins_total", &[]);
    assert!(pins < 0.5, "{pins}");
}
