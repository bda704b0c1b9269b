//! The tree's own configuration of each tool counts, and no other: not that of a folder above, not the user's.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command};

use super::support::lint_command::{Report, World};

/// Breaks two rules of each tool: the first is what configuration switches off here.
const BAD: &str = "import os\n\nx: int = \"a\"\ny: str = undefined_name\nassert x == None\neval(\"1\")\n";
const OFF_AND_ON: [(&str, &str, &str); 5] = [
    ("bandit", "B101", "B307"),
    ("flake8", "F401", "E711"),
    ("mypy", "assignment", "name-defined"),
    ("pylint", "W0611", "C0114"),
    ("ruff", "F401", "F821"),
];

const PYPROJECT: &str = "[tool.ruff.lint]\nignore = [\"F401\"]\n[tool.pylint.main]\ndisable = [\"W0611\"]\n\
    [tool.mypy]\ndisable_error_code = [\"assignment\"]\n[tool.bandit]\nskips = [\"B101\"]\n";
const PYLINTRC: &str = "[MESSAGES CONTROL]\ndisable=W0611\n";
const MYPY: &str = "[mypy]\ndisable_error_code = assignment\n";
const FLAKE8: &str = "[flake8]\nextend-ignore = F401\n";
const RUFF: &str = "lint.ignore = [\"F401\"]\n";
const BANDIT: &str = "[bandit]\nskips = B101\n";

fn assert_switched_off(report: &Report, path: &str, tools: &[&str], case: &str) {
    for (tool, off, on) in OFF_AND_ON {
        let codes = report.codes(tool, path);
        assert_eq!(report.error(tool), None, "{case}");
        assert!(codes.contains(on), "{case}: {tool} on {path}: {codes:?}");
        assert_eq!(codes.contains(off), !tools.contains(&tool), "{case}: {tool} on {path}: {codes:?}");
    }
}

#[test]
fn each_place_of_configuration_counts() {
    const ALL: [&str; 5] = ["bandit", "flake8", "mypy", "pylint", "ruff"];
    let cases: [(&str, &[(&str, &str)]); 4] = [
        ("pyproject.toml", &[("pyproject.toml", PYPROJECT), (".flake8", FLAKE8)]),
        (
            "setup.cfg",
            &[
                ("setup.cfg", &[FLAKE8, MYPY, "[pylint.main]\ndisable=W0611\n"].concat()),
                (".bandit", BANDIT),
                ("ruff.toml", RUFF),
            ],
        ),
        (
            "tox.ini",
            &[
                ("tox.ini", &[FLAKE8, "[pylint.main]\ndisable=W0611\n"].concat()),
                ("mypy.ini", MYPY),
                (".bandit", BANDIT),
                (".ruff.toml", RUFF),
            ],
        ),
        (
            "files of their own",
            &[
                (".pylintrc", PYLINTRC),
                (".mypy.ini", MYPY),
                (".flake8", FLAKE8),
                (".bandit", BANDIT),
                ("ruff.toml", RUFF),
            ],
        ),
    ];
    for (case, files) in cases {
        let world = World::new();
        world.file("bad.py", BAD);
        for (name, text) in files {
            world.file(name, text);
        }
        let (_, report) = world.report(&[]);
        assert_switched_off(&report, "bad.py", &ALL, case);
    }
}

#[test]
fn ruff_takes_the_nearest_configuration_and_the_others_that_of_the_root() {
    let world = World::new();
    world
        .file("bad.py", BAD)
        .file("sub/other.py", BAD)
        .file("sub/ruff.toml", RUFF)
        .file("sub/.flake8", FLAKE8);
    let (_, report) = world.report(&[]);
    assert_switched_off(&report, "bad.py", &[], "above");
    assert_switched_off(&report, "sub/other.py", &["ruff"], "beneath");
}

#[test]
fn nothing_outside_the_tree_takes_part() {
    let mut world = World::new();
    world.file("bad.py", BAD);
    let everywhere = [
        ("pyproject.toml", PYPROJECT),
        (".pylintrc", PYLINTRC),
        ("mypy.ini", MYPY),
        (".flake8", FLAKE8),
        ("ruff.toml", RUFF),
        (".bandit", BANDIT),
    ];
    for (name, text) in everywhere {
        for folder in ["", "home", "home/.config", "tmp"] {
            fs::create_dir_all(world.path(folder)).unwrap();
            fs::write(world.path(folder).join(name), text).unwrap();
        }
    }
    for (name, text) in [
        ("flake8", FLAKE8),
        ("pylintrc", PYLINTRC),
        ("mypy/config", MYPY),
        ("ruff/ruff.toml", RUFF),
        ("bandit/bandit.toml", PYPROJECT),
    ] {
        let path = world.path("home/.config").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let home = world.path("home");
    world.set("PYLINTRC", home.join(".pylintrc")).set("RUFF_CONFIG", home.join("ruff.toml"));
    world.set("MYPY_CONFIG_FILE_DIR", &home).set("PYTHONPATH", &home);
    fs::write(home.join("flake8.py"), "raise SystemExit('not this one')\n").unwrap();
    // A module of the tree does not stand in for one of a tool's own either.
    world.file("ast.py", "raise SystemExit('nor this one')\n");
    let (_, report) = world.report(&[]);
    assert_switched_off(&report, "bad.py", &[], "outside");
}

#[test]
fn broken_configuration_is_the_tool_s_error_in_its_own_words() {
    let world = World::new();
    world.file("bad.py", BAD);
    world.file(".flake8", "[flake8]\nmax-line-length = wide\n");
    world.file(".pylintrc", "[MAIN\njobs=1\n");
    world.file("mypy.ini", "[mypy]\nstrict_optional = perhaps\n");
    world.file("ruff.toml", "line-length = \"long\"\n");
    world.file(".bandit", "[bandit]\nprofile = nowhere\n");
    let (ran, report) = world.report(&[]);
    assert_eq!((report.outcome(), ran.code), ("INCOMPLETE", Some(3)), "{report:?}");
    for (tool, words) in [
        ("bandit", "nowhere"),
        ("flake8", "wide"),
        ("mypy", "strict_optional"),
        ("pylint", ".pylintrc"),
        ("ruff", "line-length"),
    ] {
        let (kind, message) = report.error(tool).unwrap_or_else(|| panic!("{tool}: {report:?}"));
        assert_eq!(kind, "CONFIGURATION", "{tool}: {message}");
        assert!(message.contains(words), "{tool}: {message}");
    }
    let shown = world.lint(&[]).stdout;
    assert!(shown.contains("wide") && shown.contains("line-length"), "{shown}");
}

/// A tree whose configuration runs code of the tree in three tools.
fn with_code_of_the_tree(world: &World) {
    world.file("bad.py", BAD);
    world.file(".flake8", "[flake8:local-plugins]\nextension =\n    X9 = checker:Checker\npaths = .\n");
    world.file(
        "checker.py",
        "class Checker:\n    name = \"x9\"\n    version = \"1\"\n\n    def __init__(self, tree):\n        pass\n\n    \
         def run(self):\n        yield 1, 0, \"X901 by the tree\", type(self)\n",
    );
    world.file(".pylintrc", "[MAIN]\ninit-hook=import sys; sys.stderr.write('by the tree')\ndisable=W0611\n");
    world.file("mypy.ini", "[mypy]\nplugins = plugin.py\n");
    world.file("plugin.py", "from mypy.plugin import Plugin\n\n\ndef plugin(version):\n    return Plugin\n");
}

const WITH_CODE: [&str; 3] = ["flake8", "mypy", "pylint"];

#[test]
fn code_of_the_tree_runs_in_place_unless_it_is_forbidden() {
    let mut world = World::new();
    with_code_of_the_tree(&world);
    let (_, report) = world.report(&[]);
    for tool in WITH_CODE {
        assert_eq!(report.error(tool), None, "{tool}");
    }
    assert!(report.codes("flake8", "bad.py").contains("X901"), "{report:?}");
    world.setting("runs.allow_tree_code", "false");
    let (ran, report) = world.report(&[]);
    assert_refused(&report);
    assert_eq!(ran.code, Some(3));
}

fn assert_refused(report: &Report) {
    assert_eq!(report.outcome(), "INCOMPLETE");
    for (tool, key) in [("flake8", "extension"), ("mypy", "plugins"), ("pylint", "init-hook")] {
        let (kind, message) = report.error(tool).unwrap_or_else(|| panic!("{tool}: {report:?}"));
        assert_eq!(kind, "TREE_CODE_REFUSED", "{tool}: {message}");
        assert!(message.contains(key) && message.contains("allow_tree_code"), "{tool}: {message}");
    }
    for tool in ["bandit", "ruff"] {
        assert_eq!(report.error(tool), None, "it runs no code of the tree");
    }
}

/// A server, killed with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_refuses_code_of_the_tree() {
    let world = World::new();
    with_code_of_the_tree(&world);
    // The same settings as for `lint`, another command.
    let lint = world.command(&[]);
    let mut serve = Command::new(lint.get_program());
    serve.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).env_clear();
    serve.envs(lint.get_envs().filter_map(|(name, value)| Some((name, value?))));
    serve.env("LINTMESH__STATE__STORE", "memory");
    serve.current_dir(world.path("home")).stderr(std::process::Stdio::piped());
    let mut server = Server(serve.spawn().unwrap());
    let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines();
    let address = lines
        .find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).ok()?;
            let api = line["fields"]["api"].as_str().or(line["api"].as_str())?;
            Some(api.to_owned())
        })
        .expect("it says where it listens");
    // Its log must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    let (ran, report) = world.report(&["--server", &format!("http://{address}")]);
    assert_refused(&report);
    assert_eq!(ran.code, Some(3));
}

#[test]
fn the_project_s_packages_are_seen_in_the_environment_that_the_user_names() {
    let world = World::new();
    world.file("uses.py", "import dependency\n\nx: str = dependency.number()\nz = dependency.missing\n");
    let environment = world.path("environment");
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&environment).status();
    assert!(made.unwrap().success());
    let python = environment.join("bin/python");
    let asked = Command::new(&python)
        .args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        .output()
        .unwrap();
    let packages = String::from_utf8(asked.stdout).unwrap();
    let package = Path::new(packages.trim()).join("dependency");
    fs::create_dir(&package).unwrap();
    fs::write(package.join("py.typed"), "").unwrap();
    fs::write(package.join("__init__.py"), "def number() -> int:\n    return 1\n").unwrap();

    let tools = ["--select-tools", "mypy,pylint"];
    let (_, without) = world.report(&tools);
    assert!(without.codes("mypy", "uses.py").contains("import-not-found"), "{without:?}");
    assert!(without.codes("pylint", "uses.py").contains("E0401"), "{without:?}");
    let (_, with) = world.report(&[&tools[..], &["--python", python.to_str().unwrap()]].concat());
    let mypy = with.codes("mypy", "uses.py");
    assert!(mypy.contains("assignment") && !mypy.contains("import-not-found"), "{with:?}");
    let pylint = with.codes("pylint", "uses.py");
    assert!(pylint.contains("E1101") && !pylint.contains("E0401"), "{with:?}");

    let missing = world.lint(&["--python", "no/such/python"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("no/such/python"), "{missing:?}");
}

#[test]
fn options_reach_their_tools_and_wrong_ones_are_named() {
    let world = World::new();
    world.file("bad.py", BAD);
    let options = [
        "flake8.max-line-length=20",
        "ruff.extend-select=D100",
        "pylint.max-line-length=20",
        "mypy.disable-error-code=assignment",
        "bandit.skips=B101",
    ];
    let arguments: Vec<&str> = options.iter().flat_map(|option| ["--option", option]).collect();
    let (_, report) = world.report(&arguments);
    for (tool, code) in [("flake8", "E501"), ("ruff", "D100"), ("pylint", "C0301")] {
        assert!(report.codes(tool, "bad.py").contains(code), "{tool}: {report:?}");
    }
    for (tool, code) in [("mypy", "assignment"), ("bandit", "B101")] {
        assert!(!report.codes(tool, "bad.py").contains(code), "{tool}: {report:?}");
        assert_eq!(report.error(tool), None);
    }
    let wrong = ["--option", "flake8.max-line-length=wide", "--option", "mypy.plugins=evil.py"];
    let refused = world.lint(&wrong);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for part in ["max-line-length", "wide", "plugins"] {
        assert!(refused.stderr.contains(part), "{part} in {}", refused.stderr);
    }
}
