//! What is asked of the catalog.

/// Functions of the server that leave something in the session: `setseed`, `set_config`, advisory locks, those
/// that run a text, replication origins.
macro_rules! loud_functions {
    () => {
        "1599|2078|288[0-36-9]|292[3-9]|293[03-8]|3684|3685|3689|3690|6006"
    };
}

/// One snapshot for all queries would hold back VACUUM: DDL that is seen meanwhile is doubtful
/// afterwards whatever they show of it, and what refers to a row that they do not show is refused.
pub(super) const PREPARE: &str = "SET search_path = pg_catalog; SET jit = off; \
    SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = on";

/// A function may be called as `row.function` when its first argument takes a row.
pub(super) const FUNCTIONS: &str = "SELECT p.oid, n.nspname::text, p.proname::text, p.provolatile::text, \
        e.extname::text, p.proargtypes::oid[] || p.prorettype, \
        coalesce(t.typtype = 'c' OR (t.typtype = 'p' AND p.oid >= 16384), false) \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
    LEFT JOIN pg_type t ON t.oid = p.proargtypes[0] \
    LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid \
        AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass \
    LEFT JOIN pg_extension e ON e.oid = d.refobjid";

/// The source of functions that may set settings or leave anything else in the session, and what they are
/// run with: placeholders among them are listed nowhere. 2078 is `set_config` in the body of a function in
/// the SQL standard's form, where the other numbers are those of [`LOUD_OBJECTS`]. What extensions bring in
/// C is believed.
pub(super) const SOURCES: &str = concat!(
    "SELECT p.oid, l.lanname IN ('sql', 'plpgsql'), p.provolatile::text, \
        CASE WHEN p.prosqlbody IS NULL THEN p.prosrc \
            WHEN p.prosqlbody::text LIKE '%:funcid 2078 %' THEN pg_get_function_sqlbody(p.oid) \
            ELSE 'setseed()' END \
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
    WHERE p.oid >= 16384 AND CASE WHEN l.lanname NOT IN ('sql', 'plpgsql') \
        THEN (l.lanname NOT IN ('c', 'internal') AND p.prosrc ~* '(set_config|\\mset\\M)') \
            OR (p.provolatile = 'v' AND NOT (l.lanname IN ('c', 'internal') AND EXISTS (SELECT FROM pg_depend d \
                WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'))) \
        ELSE p.prosrc ~* '(set_config|setseed|\\m(set|reset|listen|unlisten|load|prepare|deallocate|discard|do|execute\
                |temp|temporary|hold)\\M|pg_temp|advisory_(?!xact)|_to_xml|ts_stat|ts_rewrite|origin_session|\\\\''|u&\")' \
            OR p.prosqlbody::text ~ ':funcid (",
    loud_functions!(),
    ") ' END \
    UNION ALL SELECT 0, true, 'i', concat('SET ', split_part(run.setting, '=', 1)) \
    FROM pg_proc p, unnest(p.proconfig) AS run (setting) WHERE p.oid >= 16384"
);

/// What runs functions of the server that leave something in the session, by their numbers
/// (`src/include/catalog/pg_proc.dat`), behind a write. Views and policies have what they refer to read anyway.
pub(super) const LOUD_OBJECTS: &str = concat!(
    "SELECT class::oid, oid FROM ( \
    SELECT 'pg_attrdef'::regclass, oid, adbin::text FROM pg_attrdef \
    UNION ALL SELECT 'pg_constraint'::regclass, oid, conbin::text FROM pg_constraint WHERE conbin IS NOT NULL \
    UNION ALL SELECT 'pg_trigger'::regclass, oid, tgqual::text FROM pg_trigger WHERE tgqual IS NOT NULL \
    UNION ALL SELECT 'pg_type'::regclass, oid, typdefaultbin::text FROM pg_type WHERE typdefaultbin IS NOT NULL \
    UNION ALL SELECT 'pg_operator'::regclass, oid, concat(':funcid ', oprcode::oid, ' ') FROM pg_operator WHERE oid >= 16384 \
    UNION ALL SELECT 'pg_rewrite'::regclass, oid, concat(ev_qual, ev_action) FROM pg_rewrite \
        WHERE oid >= 16384 AND ev_type <> '1') AS found (class, oid, tree) \
    WHERE tree ~ ':funcid (",
    loud_functions!(),
    ") '"
);

/// The names of whatever reaches these functions and other objects, by writes, keys, views and children too.
/// What stands in the source of a function is known by its words alone: a function of this name may be
/// called (with parentheses, if its name is a key word), and a relation written to. A rule, a default and
/// the like are parts of a relation or a type (`src/backend/catalog/dependency.c`).
pub(super) const LOUD: &str = r#"WITH RECURSIVE words (function, word) AS (
    SELECT oid, regexp_split_to_table(lower(prosrc), '\W+') FROM pg_proc
    WHERE oid >= 16384 AND prosqlbody IS NULL
), names (class, oid, keyword, word) AS (
    SELECT 'pg_class'::regclass::oid, oid, NULL, substring(lower(relname) FROM '\w+') FROM pg_class
    WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'f')
    UNION ALL SELECT 'pg_proc'::regclass, oid, k.word, substring(lower(proname) FROM '\w+')
    FROM pg_proc LEFT JOIN pg_get_keywords() k ON k.word = proname AND catcode <> 'U' WHERE oid >= 16384
), mentions (class, oid, functions) AS MATERIALIZED (
    SELECT n.class, n.oid, array_agg(DISTINCT w.function) FROM words w JOIN names n ON n.word = w.word
    WHERE n.keyword IS NULL
        OR (SELECT prosrc FROM pg_proc WHERE oid = w.function) ~* concat('\m', n.keyword, '"?\s*\(')
    GROUP BY 1, 2
), loud (class, oid) AS (
    SELECT * FROM unnest($1::oid[], $2::oid[])
    UNION SELECT next.* FROM loud LEFT JOIN mentions m ON m.class = loud.class AND m.oid = loud.oid
    CROSS JOIN LATERAL (
        SELECT 'pg_proc'::regclass::oid, unnest(m.functions)
        UNION ALL SELECT classid, objid FROM pg_depend
        WHERE refclassid = loud.class AND refobjid = loud.oid AND (loud.class <> 'pg_class'::regclass
            OR classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass))
        UNION ALL SELECT refclassid, refobjid FROM pg_depend
        WHERE classid = loud.class AND objid = loud.oid AND deptype IN ('a', 'i')
            AND classid IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass,
                'pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_class'::regclass)
            AND refclassid IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_constraint'::regclass)
        UNION ALL SELECT loud.class, inhparent FROM pg_inherits
        WHERE loud.class = 'pg_class'::regclass AND inhrelid = loud.oid
        UNION ALL SELECT loud.class, inhrelid FROM pg_inherits
        WHERE loud.class = 'pg_class'::regclass AND inhparent = loud.oid
        UNION ALL SELECT loud.class, confrelid FROM pg_constraint
        WHERE loud.class = 'pg_class'::regclass AND conrelid = loud.oid AND contype = 'f'
            AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
        UNION ALL SELECT 'pg_type'::regclass, type FROM pg_cast, unnest(ARRAY[castsource, casttarget]) AS type
        WHERE loud.class = 'pg_cast'::regclass AND pg_cast.oid = loud.oid AND type >= 16384
    ) AS next (class, oid)
)
SELECT relname::text FROM loud JOIN pg_class o ON class = 'pg_class'::regclass AND o.oid = loud.oid
    AND relkind IN ('r', 'p', 'v', 'm', 'f')
UNION SELECT proname FROM loud JOIN pg_proc o ON class = 'pg_proc'::regclass AND o.oid = loud.oid
UNION SELECT oprname FROM loud JOIN pg_operator o ON class = 'pg_operator'::regclass AND o.oid = loud.oid
UNION SELECT typname FROM loud JOIN pg_type o ON class = 'pg_type'::regclass AND o.oid = loud.oid
UNION SELECT '' FROM loud JOIN pg_cast o ON class = 'pg_cast'::regclass AND o.oid = loud.oid
    AND greatest(castsource, casttarget) < 16384"#;

/// Procedures that run no DDL, in any schema and with whatever arguments: PL/pgSQL has to write the words
/// for it, or EXECUTE. What the functions do that they use is not seen, as in any other statement. None
/// comes with the server.
pub(super) const QUIET_PROCEDURES: &str = "SELECT p.proname::text \
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
    WHERE p.oid >= 16384 AND p.prokind = 'p' GROUP BY 1 HAVING bool_and(l.lanname = 'plpgsql' \
        AND p.prosrc !~* '(alter|call|create|drop|execute|import|reassign|\\\\)')";

/// Whether functions, their arguments, operators, types, defaults, triggers, rules or constraints ask for
/// customized options by name; what views and policies refer to is asked for anyway. 2077 and 3294 are the
/// forms of `current_setting` (`src/include/catalog/pg_proc.dat`).
pub(super) const ASKING_CODE: &str = "SELECT true WHERE EXISTS (SELECT FROM pg_proc WHERE oid >= 16384 \
        AND (prosrc ~* E'(current_setting(?!\\\\s*\\\\(\\\\s*''+[a-z_]+'')|\\\\mshow\\\\s+\\\\S*[.%''])' \
            OR concat(prosqlbody, proargdefaults) ~ ':funcid (2077|3294) ')) \
    OR EXISTS (SELECT FROM pg_operator WHERE oid >= 16384 AND oprcode IN (2077, 3294)) \
    OR EXISTS (SELECT FROM pg_type WHERE oid >= 16384 AND typdefaultbin::text ~ ':funcid (2077|3294) ') \
    OR EXISTS (SELECT FROM pg_attrdef WHERE adbin::text ~ ':funcid (2077|3294) ') \
    OR EXISTS (SELECT FROM pg_trigger WHERE tgqual::text ~ ':funcid (2077|3294) ') \
    OR EXISTS (SELECT FROM pg_rewrite WHERE oid >= 16384 AND ev_type <> '1' AND concat(ev_qual, ev_action) ~ ':funcid (2077|3294) ') \
    OR EXISTS (SELECT FROM pg_constraint WHERE oid >= 16384 AND conbin::text ~ ':funcid (2077|3294) ')";

/// What a call of a function runs beside it: the support functions of an aggregate, and what stands in
/// the defaults of arguments. A function is older than those whose defaults call it, unless its own
/// defaults have been replaced.
pub(super) const CALLS: &str = "SELECT caller, called FROM ( \
    SELECT aggfnoid::oid AS caller, ARRAY[aggtransfn, aggfinalfn, aggcombinefn, \
        aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[] AS called \
    FROM pg_aggregate \
    UNION ALL \
    SELECT oid, ARRAY(SELECT found[1]::oid FROM \
        regexp_matches(proargdefaults::text, ':(?:funcid|opfuncid) ([1-9][0-9]*)', 'g') AS found) \
    FROM pg_proc WHERE proargdefaults IS NOT NULL ORDER BY 1) calls";

pub(super) const OPERATORS: &str = "SELECT oid, oprname::text, oprcode::oid FROM pg_operator";

pub(super) const EVENT_TRIGGERS: &str = "SELECT oid FROM pg_event_trigger WHERE evtenabled <> 'D'";

pub(super) const COMPARISON_FUNCTIONS: &str =
    "SELECT DISTINCT amproc::oid FROM pg_amproc WHERE amproc::oid >= 16384";

pub(super) const TYPES: &str = "SELECT t.oid, t.typname::text, t.typinput::oid, \
        ARRAY[t.typbasetype, t.typelem, coalesce(r.rngsubtype, 0::oid)] || coalesce(a.types, '{}') \
    FROM pg_type t \
    LEFT JOIN (SELECT unnest(ARRAY[rngtypid, rngmultitypid]) AS type, rngsubtype FROM pg_range) r \
        ON r.type = t.oid \
    LEFT JOIN (SELECT attrelid, array_agg(DISTINCT atttypid) AS types FROM pg_attribute \
        WHERE attnum > 0 AND NOT attisdropped AND atttypid >= 16384 GROUP BY 1) a \
        ON a.attrelid = t.typrelid";

pub(super) const CASTS: &str =
    "SELECT casttarget, castfunc, castcontext::text, castsource FROM pg_cast";

pub(super) const RELATIONS: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, \
        c.relpersistence::text \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace";

pub(super) const READABLE: &str =
    "c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname <> 'pg_toast' AND c.oid";

/// Relations with columns of types that do not come with the server, or whose values are names.
pub(super) const ODD_COLUMNS: &str = "SELECT DISTINCT attrelid FROM pg_attribute \
    WHERE attnum > 0 AND NOT attisdropped AND (atttypid >= 16384 \
        OR atttypid IN (SELECT unnest(ARRAY[oid, typarray]) FROM pg_type WHERE typname ~ '^reg'))";

/// What is read with a table. Temporary children are not, but by the session that has them
/// (`expand_inherited_rtentry`, `src/backend/optimizer/util/inherit.c`), and its reads stay with it.
pub(super) const CHILDREN: &str = "SELECT i.inhparent, i.inhrelid FROM pg_inherits i \
    JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'";

/// Views, policies in force and domains: what they are of, and which version of which row holds what
/// they refer to.
pub(super) const SOURCES_OF_REFERENCES: &str = "SELECT kind, source, concat(kind, id, ' ', version) FROM ( \
        SELECT 'view' AS kind, r.oid AS id, r.ev_class AS source, \
            concat(r.xmin::text, r.ctid::text) AS version \
        FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
        WHERE c.relkind = 'v' AND r.ev_type = '1' AND c.oid >= 16384 \
        UNION ALL \
        SELECT 'policy', p.oid, p.polrelid, concat(p.xmin::text, p.ctid::text) \
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relrowsecurity \
        UNION ALL \
        SELECT 'type', oid, contypid, concat(xmin::text, ctid::text) \
        FROM pg_constraint WHERE contypid <> 0 \
    ) found";

/// What these rows refer to. `pg_depend` has no rows for functions that came with the server, so the
/// node trees themselves are searched (`src/include/nodes/primnodes.h` and `parsenodes.h` name the
/// fields).
pub(super) const REFERENCES: &str = "SELECT DISTINCT tree.key, found[1], found[2]::oid FROM ( \
        SELECT concat('view', oid, ' ', xmin::text, ctid::text) AS key, ev_action::text AS nodes \
        FROM pg_rewrite \
        UNION ALL \
        SELECT concat('policy', oid, ' ', xmin::text, ctid::text), \
            concat(polqual::text, ' ', polwithcheck::text) FROM pg_policy \
        UNION ALL \
        SELECT concat('type', oid, ' ', xmin::text, ctid::text), conbin::text FROM pg_constraint \
    ) tree LEFT JOIN LATERAL regexp_matches(tree.nodes, ':(funcid|opfuncid|opno|eqop|sortop|aggfnoid|winfnoid\
        |relid|resulttype) ([1-9][0-9]*)', 'g') AS found ON true WHERE tree.key = ANY($1)";

/// Whether the node is in recovery, and the numbers and versions of the rows that came with the server:
/// a row that is changed has the number of a later transaction afterwards.
pub(super) const VERSIONS: &str = "SELECT pg_is_in_recovery(), string_agg(concat(name, n, ' ', version), ',') FROM ( \
        SELECT 'f' AS name, count(*) AS n, sum(xmin::text::bigint) AS version FROM pg_proc WHERE oid < 16384 \
        UNION ALL SELECT 'a', count(*), sum(xmin::text::bigint) FROM pg_aggregate WHERE aggfnoid::oid < 16384 \
        UNION ALL SELECT 'o', count(*), sum(xmin::text::bigint) FROM pg_operator WHERE oid < 16384 \
        UNION ALL SELECT 't', count(*), sum(xmin::text::bigint) FROM pg_type WHERE oid < 16384 \
        UNION ALL SELECT 'c', count(*), sum(xmin::text::bigint) FROM pg_cast WHERE oid < 16384 \
        UNION ALL SELECT 'r', count(*), sum(xmin::text::bigint) FROM pg_class WHERE oid < 16384 \
        UNION ALL SELECT 'n', count(*), sum(xmin::text::bigint) FROM pg_namespace WHERE oid < 16384 \
    ) found";
