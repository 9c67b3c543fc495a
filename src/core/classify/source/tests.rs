use super::*;

fn is_quiet(source: &str) -> bool {
    leaves_nothing(source, Language::Read, Volatility::Volatile)
}

#[test]
fn lists_that_are_searched_are_sorted() {
    assert!(LEAVING.is_sorted() && LEAVING_ANYWHERE.is_sorted());
}

#[test]
fn what_ordinary_triggers_and_defaults_do_leaves_nothing_behind() {
    for source in [
        "BEGIN NEW.updated_at = now(); RETURN NEW; END",
        "begin new.updated_at := clock_timestamp(); return new; end;",
        "BEGIN INSERT INTO audit (who, what) VALUES (current_user, row_to_json(NEW)); RETURN NULL; END",
        "BEGIN UPDATE t SET a = 1 WHERE id = NEW.id; RETURN NEW; END",
        "BEGIN\n -- the sum\n UPDATE t\n SET a = 1; INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2; RETURN NEW; END",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET a = 1",
        "BEGIN SET LOCAL search_path = s; SET CONSTRAINTS ALL DEFERRED; SET TRANSACTION READ WRITE; RETURN 1; END",
        "BEGIN PERFORM set_config('app.a', NEW.a::text, true); RETURN NEW; END",
        "BEGIN PERFORM pg_catalog.set_config('app.a', coalesce(f(a, b), 'x'), TRUE); RETURN NEW; END",
        "BEGIN PERFORM pg_notify('news', 'set search_path, listen, execute'); NOTIFY news; RETURN NEW; END",
        "BEGIN PERFORM pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2); RETURN NEW; END",
        "BEGIN RAISE NOTICE 'cannot load'; -- LISTEN news; SET a = 1;\n /* EXECUTE x; */ RETURN NEW; END",
        "SELECT nextval('s'), lastval(), lo_create(0), current_setting('app.tenant', true)::int",
        "SELECT regexp_replace($1, '\\s+', ' ', 'g'), E'it\\'s'",
        "DECLARE load int := 1; BEGIN load := 2; reset = 3; RETURN load; END",
        "DECLARE c CURSOR FOR SELECT 1; BEGIN OPEN c; FETCH c INTO NEW.a; CLOSE c; RETURN NEW; END",
        "BEGIN IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE NEW.temp_c = 1; RETURN NEW; END IF; END",
    ] {
        assert!(is_quiet(source), "{source}");
    }
}

#[test]
fn what_the_session_shows_afterwards_is_found_however_it_is_written() {
    for source in [
        "BEGIN SET search_path = s; RETURN 1; END",
        "begin\n\tset\n\tstatement_timeout to '1h'; return 1; end",
        "SET search_path = s; SELECT 1",
        "BEGIN -- first\n SET /* what */ ROLE other; RETURN NEW; END",
        "BEGIN IF true THEN SET SESSION AUTHORIZATION other; END IF; RETURN NEW; END",
        "BEGIN IF a THEN b := 1; ELSE SET TimeZone = 'UTC'; END IF; RETURN NEW; END",
        "BEGIN LOOP SET a.b = 1; END LOOP; END",
        "BEGIN <<here>> SET a.b = 1; RETURN NEW; END",
        "BEGIN NULL; EXCEPTION WHEN others THEN RESET ALL; END",
        "BEGIN PERFORM set_config('search_path', 's', false); RETURN NEW; END",
        "BEGIN PERFORM pg_catalog.\"set_config\" ('TimeZone', f(x, true), is_local); RETURN NEW; END",
        "BEGIN PERFORM set_config('a.b', f(x, true), not true); RETURN NEW; END",
        "SELECT set_config('a.b', 'c', 'true')",
        "BEGIN LISTEN leak; RETURN NEW; END",
        "BEGIN UNLISTEN *; RETURN NEW; END",
        "BEGIN CREATE TEMP TABLE IF NOT EXISTS t (a int); RETURN NEW; END",
        "BEGIN CREATE TEMPORARY VIEW v AS SELECT 1; RETURN NEW; END",
        "BEGIN CREATE TABLE pg_temp.t (a int); RETURN NEW; END",
        "SELECT pg_advisory_lock(1)",
        "BEGIN IF pg_try_advisory_lock_shared(1, 2) THEN NULL; END IF; END",
        "BEGIN PREPARE p AS SELECT 1; RETURN NEW; END",
        "BEGIN DEALLOCATE ALL; DISCARD PLANS; RETURN NEW; END",
        "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
        "BEGIN LOAD 'auto_explain'; RETURN NEW; END",
        "BEGIN EXECUTE 'SET a.b = 1'; RETURN NEW; END",
        "BEGIN RETURN QUERY EXECUTE format('SELECT %I', a); END",
        "BEGIN FOR r IN EXECUTE q LOOP NULL; END LOOP; END",
        "BEGIN DO $x$ BEGIN END $x$; END",
        "SELECT setseed(0.5)",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        // Another statement where backslashes escape quotes.
        "SELECT 'a\\'; SET search_path = s; --'",
        // Not to be cut into tokens.
        "BEGIN RAISE NOTICE 'a",
        "SELECT U&\"\\0073et_config\"('a.b', 'c', false)",
    ] {
        assert!(!is_quiet(source), "{source}");
    }
}

#[test]
fn a_function_that_is_not_volatile_can_only_call_what_leaves_something() {
    for volatility in [Volatility::Stable, Volatility::Immutable] {
        let quiet = |source| leaves_nothing(source, Language::Read, volatility);
        assert!(quiet("BEGIN RETURN QUERY EXECUTE q; END"));
        assert!(!quiet("SELECT set_config('a.b', 'c', false)"));
        assert!(leaves_nothing("", Language::Other, volatility));
    }
    let volatile = Volatility::Volatile;
    assert!(!leaves_nothing("", Language::Other, volatile));
}
