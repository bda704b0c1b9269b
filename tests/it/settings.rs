//! Settings come from defaults, file, environment and flags, in this order; what is wrong is said all at once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lintmesh::config::{
    Launch, LoadBalancing, OptionText, OutputFormat, Overrides, SettingsError, Sources, ToolchainChoice, load,
};
use lintmesh::types::{Digest, Severity};

fn sources(dir: &Path, environment: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Sources {
    let mut overrides = Overrides::default();
    for (flag, key, value) in flags {
        overrides.set(flag, key, *value);
    }
    Sources {
        directories: vec![dir.to_owned()],
        file: None,
        pyproject: true,
        environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        overrides,
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("written");
    }
    dir
}

#[test]
fn a_later_source_wins_setting_by_setting() {
    let dir = folder(&[
        ("pyproject.toml", "[tool.lintmesh.lint]\nformat = \"json\"\nexclude = [\"a\"]\nfail_on = \"low\"\n"),
        (
            "lintmesh.toml",
            "[lint]\nformat = \"sarif\"\noptions.flake8 = { max-line-length = 100, select = [\"E\", \"W\"] }\n\
             [mesh]\nheartbeat_interval = 1\nmessage_timeout = 9\nbatch_size = 3\n[severity]\n\"pylint:C0301\" = \"HIGH\"\n",
        ),
    ]);
    let environment = [
        ("LINTMESH__MESH__HEARTBEAT_INTERVAL", "2.5"),
        ("LINTMESH__MESH__BATCH_SIZE", "4"),
        ("LINTMESH__NODES__LAUNCH", "external"),
        ("LINTMESH__LINT__SELECT_TOOLS", "ruff, mypy"),
        ("LINTMESH__SEVERITY", "{ \"ruff:E5*\" = \"INFO\" }"),
        ("LINTMESH_SERVER", "not a setting of this kind"),
        ("PATH", "/bin"),
    ];
    let flags = [
        ("--batch-size", "mesh.batch_size", "5"),
        ("--exclude", "lint.exclude", "[\"x,y\", \"z\"]"),
        ("--toolchain", "toolchain.mode", "/opt/tools"),
    ];
    let loaded = load(&sources(dir.path(), &environment, &flags)).expect("all good");
    let settings = loaded.settings;
    assert_eq!(settings.mesh.heartbeat_interval, Duration::from_millis(2500));
    assert_eq!(settings.mesh.message_timeout, Duration::from_secs(9));
    assert_eq!(settings.mesh.batch_size, 5);
    assert_eq!(settings.mesh.load_balancing_strategy, LoadBalancing::CapabilityBased);
    assert_eq!(settings.nodes.launch, Launch::External);
    assert_eq!(settings.lint.format, OutputFormat::Sarif);
    assert_eq!(settings.lint.fail_on, Severity::Low);
    assert_eq!(settings.lint.exclude, ["x,y", "z"]);
    let tools: Vec<_> = settings.lint.select_tools.iter().map(|tool| tool.as_str()).collect();
    assert_eq!(tools, ["ruff", "mypy"]);
    assert_eq!(settings.lint.options["flake8"]["max-line-length"], OptionText("100".into()));
    assert_eq!(settings.lint.options["flake8"]["select"], OptionText("E,W".into()));
    assert_eq!(settings.toolchain.mode, ToolchainChoice::Environment("/opt/tools".into()));
    assert_eq!(settings.severity.len(), 2, "{:?}", settings.severity);
    assert_eq!(loaded.files, [dir.path().join("pyproject.toml"), dir.path().join("lintmesh.toml")]);
}

#[test]
fn everything_wrong_is_said_at_once_with_source_key_value_and_what_is_allowed() {
    let dir = folder(&[(
        "lintmesh.toml",
        "colour = 1\n[mesh]\nheartbeat_intervall = 3\nconsensus_threshold = 1.5\n\
         [[nodes.specialists]]\nnode_id = \"Bad Name\"\nweight = 2\n",
    )]);
    let environment =
        [("LINTMESH__SERVER__LISTEN", "everywhere"), ("LINTMESH__RUNS__MAX", "1"), ("LINTMESH__NODES", "x")];
    let flags = [("--format", "lint.format", "xml")];
    let error = load(&sources(dir.path(), &environment[..2], &flags)).expect_err("seven problems");
    let text = error.to_string();
    let file = dir.path().join("lintmesh.toml").display().to_string();
    for line in [
        format!("{file}: colour = 1 is not a setting; known here: mesh, server, "),
        format!("{file}: mesh.heartbeat_intervall = 3 is not a setting; known here: heartbeat_interval, "),
        format!("{file}: mesh.consensus_threshold = 1.5 is not valid; allowed: a number above 0, at most 1"),
        format!("{file}: nodes.specialists[0].node_id = \"Bad Name\" is not valid; allowed: a name of a-z"),
        format!("{file}: nodes.specialists[0].weight = 2 is not a setting; known here: node_id, "),
        "environment variable LINTMESH__SERVER__LISTEN: server.listen = \"everywhere\" is not valid".into(),
        "environment variable LINTMESH__RUNS__MAX: runs.max = \"1\" is not a setting".into(),
        "flag --format: lint.format = \"xml\" is not valid; allowed: full, concise, json".into(),
    ] {
        assert!(text.lines().any(|found| found.starts_with(&line)), "{line}\nin\n{text}");
    }
    let error = load(&sources(dir.path(), &environment[2..], &[])).expect_err("not a table").to_string();
    assert!(error.contains("environment variable LINTMESH__NODES: nodes = \"x\" is not valid"), "{error}");
}

#[test]
fn a_secret_is_never_shown() {
    const SECRET: &str = "hunter2hunter2";
    for text in [
        format!("[[auth.tokens]]\nname = \"ci\"\nsha256 = \"{SECRET}\"\n"),
        format!("[[auth.tokens]]\nname = \"ci\"\ntoken = \"{SECRET}\"\n"),
        format!("auth = \"{SECRET}\"\n"),
        format!("authentication.key = \"{SECRET}\"\n"),
        format!("nodes.secrets = [\"{SECRET}\"]\n"),
        format!("nodes.secrets = [{{ name = \"a\", sha256 = \"{SECRET} }}]\n"),
        format!("[[auth.tokens]]\nsha256 = {SECRET}\n"),
    ] {
        let dir = folder(&[("lintmesh.toml", &text)]);
        let error = load(&sources(dir.path(), &[], &[])).expect_err("refused");
        assert!(!error.to_string().contains(SECRET) && !format!("{error:?}").contains(SECRET), "{error:?}");
    }
    let hash = Digest::of(SECRET.as_bytes()).to_string();
    let dir =
        folder(&[("lintmesh.toml", &format!("nodes.secrets = [{{ name = \"a\", sha256 = \"{hash}\" }}]\n"))]);
    let settings = load(&sources(dir.path(), &[], &[])).expect("good").settings;
    assert!(settings.nodes.secrets[0].sha256.matches(SECRET.as_bytes()));
    assert!(!format!("{settings:?}").contains(&hash[..8]));
}

#[test]
fn lists_of_tables_can_come_from_the_environment() {
    let hash = Digest::of(b"x").to_string();
    let tokens = format!("[{{ name = \"ci\", role = \"submitter\", sha256 = \"{hash}\" }}]");
    let dir = folder(&[]);
    let loaded = load(&sources(dir.path(), &[("LINTMESH__AUTH__TOKENS", &tokens)], &[])).expect("good");
    assert_eq!(loaded.settings.auth.tokens[0].name, "ci");
}

#[test]
fn a_file_that_cannot_be_read_is_one_line_with_its_name() {
    let dir = folder(&[("broken.toml", "[mesh]\nbatch_size = = 3\n"), ("pyproject.toml", "[tool\n")]);
    let with = |file: &str| Sources { file: Some(dir.path().join(file)), ..Sources::default() };
    for (file, part) in
        [("broken.toml", "line 2: "), ("absent.toml", "No such file"), ("pyproject.toml", "line 1: ")]
    {
        let error = load(&with(file)).expect_err("unreadable");
        assert!(matches!(error, SettingsError::File { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(file) && text.contains(part) && text.lines().count() == 1, "{text}");
    }
    let loaded =
        load(&sources(dir.path(), &[], &[])).expect("a broken pyproject.toml is for the tools to report");
    assert!(
        loaded.warnings.len() == 1 && loaded.warnings[0].contains("pyproject.toml"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn a_project_sets_only_the_part_of_the_client() {
    let dir = folder(&[("pyproject.toml", "[tool.lintmesh.server]\nlisten = \"0.0.0.0:1\"\n")]);
    let error = load(&sources(dir.path(), &[], &[])).expect_err("not for a project").to_string();
    assert!(
        error.contains("tool.lintmesh.server") && error.contains("known here: lint, severity"),
        "{error}"
    );
    let server = Sources { pyproject: false, ..sources(dir.path(), &[], &[]) };
    assert!(load(&server).expect("not looked at").files.is_empty());
}
