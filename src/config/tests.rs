use super::*;

/// Settings from a file with this text, environment variables and flags.
fn from(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join(FILE_NAME), file).expect("written");
    let mut overrides = Overrides::default();
    for (key, value) in flags {
        overrides.set("--flag", key, *value);
    }
    load(&Sources {
        directories: vec![dir.path().to_owned()],
        environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        overrides,
        ..Sources::default()
    })
}

fn problems(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<Problem> {
    match from(file, environment, flags) {
        Err(SettingsError::Invalid(problems)) => problems,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn defaults_pass_their_own_checks_and_are_those_of_the_manual() {
    let loaded = load(&Sources::default()).expect("good defaults");
    assert_eq!(loaded.settings, Settings::default());
    let specs = loaded.settings.nodes.specs();
    let shown: Vec<_> = specs
        .iter()
        .map(|node| (node.node_id.as_str(), node.priority_weight, node.max_concurrent_tasks))
        .collect();
    assert_eq!(
        shown,
        [
            ("system-architect", 0.9, 5),
            ("backend-dev", 0.8, 3),
            ("api-docs", 0.7, 4),
            ("integration-specialist", 1.0, 6)
        ]
    );
    for node in &specs {
        assert_eq!((node.capabilities.len(), node.fallback_capabilities.len()), (4, 12), "{node:?}");
    }
}

#[test]
fn each_setting_is_read_from_the_environment_as_it_is_shown_in_the_reference() {
    for row in reference().iter().filter(|row| !row.default.is_empty() && row.default != "see below") {
        if row.key.contains("[]") {
            continue;
        }
        let name = format!("{PREFIX}{}", row.key.to_uppercase().replace('.', "__"));
        let text = row.default.trim_matches('"');
        let loaded = from("", &[(&name, text)], &[]).unwrap_or_else(|error| panic!("{name}={text}: {error}"));
        assert_eq!(loaded.settings, Settings::default(), "{name}={text}");
    }
}

#[test]
fn every_bad_value_of_a_kind_is_refused() {
    for (key, bad) in [
        ("mesh.heartbeat_interval", ["0", "-1", "\"5\"", "inf"]),
        ("mesh.consensus_threshold", ["0", "1.01", "nan", "\"x\""]),
        ("mesh.load_balancing_strategy", ["\"random\"", "1", "\"\"", "[]"]),
        ("mesh.circuit_breaker_threshold", ["0", "-1", "1.5", "4294967296"]),
        ("queue.max_tasks_per_project", ["0", "-1", "1.5", "\"all\""]),
        ("server.listen", ["\"localhost\"", "\"1.2.3.4\"", "50051", "\"127.0.0.1:70000\""]),
        ("server.reflection", ["1", "\"true\"", "[]", "{ a = 1 }"]),
        ("lint.fail_on", ["\"any\"", "3", "[]", "\"\""]),
        ("lint.select_tools", ["[]", "[\"ruff\", \"eslint\"]", "\"ruff\"", "[1]"]),
        ("nodes.specialists", ["[]", "[1]", "{ a = 1 }", "\"x\""]),
        ("severity", ["{ C0301 = \"HIGH\" }", "{ \"pylint:C0301\" = \"BAD\" }", "{ \"x:\" = \"LOW\" }", "1"]),
    ] {
        for value in bad {
            let text = format!("{key} = {value}");
            let found = problems(&text, &[], &[]);
            assert!(
                found.iter().any(|p| p.key.starts_with(key) && p.source.ends_with(FILE_NAME)),
                "{text}: {found:?}"
            );
        }
    }
}

#[test]
fn relations_between_settings_are_checked() {
    for (text, key) in [
        ("mesh.heartbeat_interval = 30", "mesh.heartbeat_interval"),
        ("workspace.max_inline_bytes = 5000000", "workspace.max_inline_bytes"),
        ("workspace.max_blob_bytes = 1000", "workspace.max_blob_bytes"),
        // It has room for the largest tree, but not beside what the run makes.
        ("workspace.max_store_bytes = 600000000", "workspace.max_store_bytes"),
        ("workspace.max_snapshot_bytes = 4000000000", "workspace.max_snapshot_bytes"),
        ("mesh.message_timeout = 4.5", "mesh.message_timeout"),
        ("server.tls.cert = \"/nonexistent\"", "server.tls.cert"),
        ("server.tls.key = \"/nonexistent\"", "server.tls.key"),
        ("server.listen = \"0.0.0.0:1\"", "server.listen"),
        ("server.listen = \"[::]:1\"", "server.listen"),
        ("server.node_listen = \"10.0.0.1:0\"", "server.node_listen"),
        ("workspace.allowed_roots = [\"/nonexistent\"]", "workspace.allowed_roots[0]"),
        ("workspace.allowed_roots = [\"relative\"]", "workspace.allowed_roots"),
        ("environments.a = \"/nonexistent\"", "environments.a"),
        ("stages.lint = [\"magic\"]", "stages.lint"),
        ("nodes.specialists = [{ node_id = \"a\" }, { node_id = \"a\" }]", "nodes.specialists[1].node_id"),
        ("nodes.specialists = [{ capabilities = [] }]", "nodes.specialists[0].node_id"),
        ("auth.tokens = [{ name = \"ci\" }]", "auth.tokens[0].sha256"),
        ("nodes.secrets = [{ name = \"\" }]", "nodes.secrets[0].name"),
    ] {
        let found = problems(text, &[], &[]);
        let problem = found.iter().find(|problem| problem.key == key);
        assert!(problem.is_some_and(|problem| problem.source.ends_with(FILE_NAME)), "{text}: {found:?}");
    }
}

#[test]
fn listening_to_everybody_needs_both_a_certificate_and_a_token() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pem = dir.path().join("server.pem");
    std::fs::write(&pem, "").expect("written");
    let tls = format!("[server]\nlisten = \"0.0.0.0:1\"\ntls = {{ cert = {pem:?}, key = {pem:?} }}\n");
    let hash = crate::types::Digest::of(b"token");
    let token = format!("[[auth.tokens]]\nname = \"ci\"\nrole = \"operator\"\nsha256 = \"{hash}\"\n");
    assert_eq!(problems(&tls, &[], &[])[0].key, "server.listen");
    assert_eq!(
        problems(&format!("server.listen = \"0.0.0.0:1\"\n{token}"), &[], &[])[0].key,
        "server.listen"
    );
    let loaded = from(&format!("{tls}{token}"), &[], &[]).expect("both");
    let token = &loaded.settings.auth.tokens[0];
    assert_eq!(
        (token.role, token.sha256.matches(b"token"), token.sha256.matches(b"Token")),
        (Role::Operator, true, false)
    );
    assert!(!SecretHash::default().matches(b""));
}

#[test]
fn what_launched_nodes_dial_must_be_dialable() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pem = dir.path().join("server.pem");
    std::fs::write(&pem, "").expect("written");
    let hash = crate::types::Digest::of(b"secret");
    let listening = |server: &str, launch: &str| {
        format!(
            "[server]\ntls = {{ cert = {pem:?}, key = {pem:?} }}\n{server}\n[nodes]\nlaunch = \"{launch}\"\n\
             [[nodes.secrets]]\nname = \"all\"\nsha256 = \"{hash}\"\n"
        )
    };
    let everywhere = ["0.0.0.0:7000", "[::]:7000", "[::ffff:0.0.0.0]:7000"];
    for listen in everywhere.map(|address| format!("node_listen = \"{address}\"")) {
        let found = problems(&listening(&listen, "local"), &[], &[]);
        let found: Vec<_> = found.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
        assert_eq!(found, [("server.advertise", "(not set)")], "{listen}");
        from(&listening(&listen, "external"), &[], &[]).expect("whoever launches them knows what they dial");
        let named = format!("{listen}\nadvertise = \"mesh.example.org:7000\"");
        from(&listening(&named, "local"), &[], &[]).expect("they dial the name");
    }
    from(&listening("node_listen = \"10.0.0.1:0\"", "local"), &[], &[]).expect("that can be dialled");
    for bad in [
        "mesh",
        "mesh:",
        ":7000",
        "mesh:0",
        "mesh:70000",
        "mesh:+1",
        "0.0.0.0:1",
        "[::]:1",
        "::1:1",
        "https://m:1",
    ] {
        let found = problems(&format!("server.advertise = \"{bad}\""), &[], &[]);
        let problem = found.iter().find(|problem| problem.key == "server.advertise").expect(bad);
        assert!(problem.value.contains(bad) && problem.allowed.starts_with("HOST:PORT"), "{problem:?}");
    }
    for good in ["mesh:7000", "10.0.0.1:7000", "[fd00::1]:7000", "a-b.example_c.org:1"] {
        from(&format!("server.advertise = \"{good}\""), &[], &[]).expect(good);
    }
}
