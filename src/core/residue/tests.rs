use super::*;

fn names(source: &str) -> (Vec<String>, Others) {
    let found = SettingNames::in_source(source);
    (found.names.into_vec(), found.others)
}

#[test]
fn a_source_full_of_placeholders_is_cut_short() {
    let sets: Vec<String> = (0..2_000).map(|at| format!("set a.b{at} = 1")).collect();
    let source = sets.join("; ");
    let (found, others) = names(&source);
    assert_eq!((found.len(), others), (NAMES_LIMIT + 1, Others::Some));
    let some = |from: usize| SettingNames {
        names: (from..from + 50).map(|at| format!("a.b{at}")).collect(),
        others: Others::None,
    };
    let both = some(0).and(&some(50));
    assert_eq!(
        (both.names.len(), both.others),
        (NAMES_LIMIT + 1, Others::Some)
    );
    assert_eq!(some(0).and(&some(5)).others, Others::None);
}

#[test]
fn placeholders_are_found_in_source() {
    let cases: [(&str, &[&str], Others); 8] = [
        (
            "PERFORM set_config('App.User', x, false)",
            &["app.user"],
            Others::None,
        ),
        (
            "EXECUTE 'SELECT set_config(''a.b'', 1)'",
            &["a.b"],
            Others::None,
        ),
        (
            "BEGIN SET a.b = 1; SET LOCAL c.d TO 2; END",
            &["a.b", "c.d"],
            Others::None,
        ),
        ("UPDATE t SET x = 1", &[], Others::None),
        (
            "PERFORM set_config('work_mem', '1', false)",
            &[],
            Others::None,
        ),
        ("PERFORM set_config(name, x, false)", &[], Others::Some),
        ("EXECUTE format('SET %I = 1', n)", &[], Others::Some),
        ("offset 5; reset a.b", &[], Others::None),
    ];
    for (source, expected, others) in cases {
        let (found, more) = names(source);
        assert_eq!(
            (found.as_slice(), more),
            (
                &expected.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()[..],
                others
            ),
            "{source}"
        );
    }
}

#[test]
fn rows_become_settings_that_can_be_set_again() {
    let mut residue = Residue::default();
    for (kind, value) in [
        ("set:session_authorization", Some("app")),
        ("set:search_path", Some("\"My, S\", \"$user\", Public")),
        ("set:app.name", Some("it's \\ odd")),
        ("set:gone.name", Some("")),
        ("set:no.name", None),
        ("set:work_mem", Some("4096")),
    ] {
        residue.add(kind, value, "app");
    }
    let expected = [
        ("search_path", "'My, S', '$user', 'public'"),
        ("app.name", " E'it''s \\\\ odd'"),
        ("work_mem", "'4096'"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    assert_eq!(residue.settings, expected);
    assert_eq!((residue.bound, residue.wear), (None, Wear::None));
}

#[test]
fn what_only_the_connection_has_binds() {
    let mut residue = Residue::default();
    residue.add("wear", Some(""), "app");
    residue.add("bound", Some("listen"), "app");
    residue.add("bound", Some("advisory_lock"), "app");
    residue.add("set:session_authorization", Some("other"), "app");
    assert_eq!(residue.bound, Some(PinReason::Listen));
    assert_eq!(residue.reads, Reads::Here);
    assert_eq!(residue.wear, Wear::TemporarySchema);
    assert_eq!(
        residue.settings,
        [("session_authorization".to_owned(), "'other'".to_owned())]
    );
}

#[test]
fn reads_are_free_beside_what_no_name_in_them_can_mean() {
    use Reads::{Anywhere, Apart, Here, Uncoded};
    assert_eq!(Reads::beside(PinReason::Sequence), Anywhere);
    for (bound, expected) in [
        (&[][..], Anywhere),
        (&["advisory_lock", "held_cursor", "sql_prepare"], Uncoded),
        (&["sql_prepare", "temporary_object"], Apart),
        (&["temporary_object", "child"], Here),
        (&["temporary_object", "listen"], Here),
        (&["listen"], Here),
        (&["something new"], Here),
    ] {
        let mut residue = Residue::default();
        for value in bound {
            residue.add("bound", Some(value), "app");
        }
        assert_eq!(residue.reads, expected, "{bound:?}");
    }
}

#[test]
fn a_path_that_makes_what_is_created_temporary_binds() {
    for (path, expected) in [
        ("public, pg_temp", Some(PinReason::Setting)),
        ("PG_TEMP", Some(PinReason::Setting)),
        ("public", None),
    ] {
        let mut residue = Residue::default();
        residue.add("set:search_path", Some(path), "app");
        assert_eq!(residue.bound, expected, "{path}");
    }
}

#[test]
fn options_exist_without_a_value_too_and_not_where_they_were_never_used() {
    let mut residue = Residue::default();
    residue.add("set:app.tenant", Some("7"), "app");
    residue.add("set:app.RESET", Some(""), "app");
    residue.add("set:app.never", None, "app");
    residue.add("set:work_mem", Some("1MB"), "app");
    assert_eq!(residue.options, ["app.tenant", "app.reset"]);
    let names: Vec<_> = residue.settings.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["app.tenant", "work_mem"]);
}

#[test]
fn placeholders_are_asked_for_as_literals() {
    let sql = query(&["a.b".to_owned(), "x'; DROP".to_owned()]);
    assert!(
        sql.ends_with("pg_catalog.current_setting('x''; DROP', true)"),
        "{sql}"
    );
}

#[test]
fn what_the_node_cuts_out_of_sources_tells_the_same_names() {
    for (cut, name) in [
        ("set_config('app.a'", Some("app.a")),
        ("set_config ( ''app.b'", Some("app.b")),
        ("set local app.c", Some("app.c")),
        ("SET app.d", Some("app.d")),
        ("set_config(name", None),
        ("set_config('", None),
    ] {
        let found = SettingNames::in_source(cut);
        let names: Vec<&str> = found.names.iter().map(String::as_str).collect();
        assert_eq!(names, name.as_slice(), "{cut}");
        assert_eq!(found.others == Others::Some, name.is_none(), "{cut}");
    }
}
