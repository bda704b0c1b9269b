//! What each adapter chooses and refuses.

use super::*;
use crate::linters::adapter;

fn configure(tool: &str, files: &[(&str, &str)], allow: bool) -> Result<Vec<String>, ToolError> {
    let files = files
        .iter()
        .map(|(path, text)| (TreePath::new(path).expect("valid"), text.as_bytes().to_vec()))
        .collect();
    adapter(tool).expect("known").configure(&files, allow)
}

#[test]
fn without_configuration_nothing_outside_the_tree_is_read() {
    for (tool, argument) in [
        ("flake8", &["--isolated"][..]),
        ("ruff", &["--isolated"]),
        ("pylint", &["--rcfile=/dev/null"]),
        ("mypy", &["--config-file="]),
        ("bandit", &[]),
    ] {
        let other = [("setup.cfg", "[metadata]\nname = x\n"), ("pyproject.toml", "[project]\nname = 'x'\n")];
        assert_eq!(configure(tool, &other, false).expect("nothing to refuse"), argument, "{tool}");
    }
}

#[test]
fn without_configuration_ruff_s_target_is_what_the_project_requires() {
    for (required, target) in [
        (">=3.10", Some("py310")),
        (">3.9", Some("py39")),
        ("~=3.10.4", Some("py310")),
        ("== 3.11.*", Some("py311")),
        (">=3.9, <4, >=3.10", Some("py39")),
        ("<4", None),
        ("!=3.9", None),
        (">=2.7", None),
        (">=3", None),
        ("nonsense", None),
    ] {
        let toml = format!("[project]\nrequires-python = \"{required}\"\n");
        let arguments = configure("ruff", &[("pyproject.toml", &toml)], false).expect("harmless");
        let target = target.map(|target| format!("--config=target-version=\"{target}\""));
        let expected: Vec<String> = [Some("--isolated".to_owned()), target].into_iter().flatten().collect();
        assert_eq!(arguments, expected, "{required}");
    }
}

#[test]
fn the_tool_s_own_precedence_decides() {
    let flake8 = "[flake8]\nignore = E1\n";
    let toml = "[tool.pylint.main]\njobs = 1\n[tool.mypy]\nstrict = true\n[tool.ruff]\n[tool.bandit]\n";
    for (tool, files, expected) in [
        (
            "flake8",
            &[(".flake8", flake8), ("tox.ini", flake8), ("setup.cfg", flake8)][..],
            "--config=setup.cfg",
        ),
        ("flake8", &[(".flake8", flake8), ("tox.ini", flake8), ("setup.cfg", "[x]\n")], "--config=tox.ini"),
        ("flake8", &[(".flake8", flake8), ("setup.cfg", "broken")], "--config=.flake8"),
        (
            "pylint",
            &[(".pylintrc", "[MAIN]\n"), ("pylintrc.toml", "x = 1"), ("pyproject.toml", toml)],
            "--rcfile=.pylintrc",
        ),
        ("pylint", &[(".pylintrc", ""), ("pylintrc.toml", "[tool.pylint]")], "--rcfile=pylintrc.toml"),
        ("pylint", &[("setup.cfg", "[pylint.main]\n"), ("pyproject.toml", toml)], "--rcfile=pyproject.toml"),
        ("pylint", &[("setup.cfg", "[pylint.main]\n"), ("tox.ini", "[pylint]\n")], "--rcfile=setup.cfg"),
        ("mypy", &[("setup.cfg", "[mypy]\n"), ("pyproject.toml", toml)], "--config-file=pyproject.toml"),
        ("mypy", &[("setup.cfg", "[mypy]\n"), (".mypy.ini", "")], "--config-file=.mypy.ini"),
        ("mypy", &[("mypy.ini", "[mypy]\n"), (".mypy.ini", "")], "--config-file=mypy.ini"),
        ("bandit", &[("pyproject.toml", toml)], "--configfile=pyproject.toml"),
        ("bandit", &[(".bandit", "[bandit]\nskips = B101\n")], "--ini=.bandit"),
    ] {
        assert_eq!(configure(tool, files, false).expect("harmless"), [expected], "{tool} {files:?}");
    }
    let nested = [("pkg/ruff.toml", "line-length = 100")];
    assert_eq!(configure("ruff", &nested, false).expect("harmless"), Vec::<String>::new());
}

#[test]
fn configuration_that_runs_code_of_the_tree_needs_leave() {
    for (tool, file, text, key) in [
        ("pylint", ".pylintrc", "[MASTER]\ninit-hook = 'import evil'\n", "init-hook"),
        ("pylint", ".pylintrc", "[DEFAULT]\nInit-Hook: x\n[MAIN]\n", "init-hook"),
        (
            "pylint",
            "setup.cfg",
            "[pylint]\nload-plugins =\n  pylint.extensions.docparams,\n  evil\n",
            "load-plugins",
        ),
        ("pylint", "pyproject.toml", "[tool.pylint.main]\nload-plugins = ['evil']\n", "load-plugins"),
        ("pylint", "pylintrc.toml", "[tool.pylint]\n\"\\u0069nit-hook\" = 'x'\n", "init-hook"),
        ("pylint", "pylintrc", "[MAIN]\nunsafe-load-any-extension=yes\n", "unsafe-load-any-extension"),
        ("pylint", "pylintrc", "[MAIN\ninit-hook=x\n", "init-hook"),
        ("mypy", "mypy.ini", "[mypy]\nplugins = evil.py\n", "plugins"),
        ("mypy", "pyproject.toml", "[tool.mypy]\nplugins = ['evil']\n", "plugins"),
        ("mypy", "setup.cfg", "[mypy]\npython_executable = ./evil\n", "python_executable"),
        ("flake8", ".flake8", "[flake8:local-plugins]\nextension =\n  X = evil:X\n", "extension"),
        ("flake8", "tox.ini", "[flake8]\n[flake8:local-plugins]\npaths = .\n", "paths"),
    ] {
        let error = configure(tool, &[(file, text)], false).expect_err("refused");
        assert_eq!(error.kind, ToolErrorKind::TreeCodeRefused, "{tool} {text}");
        for part in [file, key, "allow_tree_code"] {
            assert!(error.message.contains(part), "{part} in {}", error.message);
        }
        assert!(configure(tool, &[(file, text)], true).is_ok(), "{tool} {text}");
    }
}

#[test]
fn harmless_configuration_needs_no_leave() {
    for (tool, file, text) in [
        (
            "pylint",
            ".pylintrc",
            "[MAIN]\nload-plugins=pylint.extensions.mccabe, pylint.extensions.docparams\ninit-hook=\n",
        ),
        ("pylint", "pyproject.toml", "[tool.pylint]\nunsafe-load-any-extension = false\n"),
        ("mypy", "pyproject.toml", "[tool.mypy]\nplugins = []\n[[tool.mypy.overrides]]\nmodule = 'x'\n"),
        ("flake8", "setup.cfg", "[flake8:local-plugins]\n[flake8]\nmax-line-length = 100\n"),
    ] {
        assert!(configure(tool, &[(file, text)], false).is_ok(), "{tool} {text}");
    }
}

#[test]
fn configuration_that_hides_diagnostics_or_leaves_the_tree_is_an_error() {
    for (tool, file, text, part) in [
        ("flake8", ".flake8", "[flake8]\noutput-file = x\n", "output-file"),
        ("flake8", ".flake8", "[flake8]\nquiet = 1\n", "quiet"),
        ("ruff", "ruff.toml", "extend = '../ruff.toml'", "leaves the tree"),
        ("ruff", "a/ruff.toml", "extend = '../x/../../ruff.toml'", "leaves the tree"),
        ("ruff", "pyproject.toml", "[tool.ruff]\nextend = '/etc/ruff.toml'", "leaves the tree"),
    ] {
        let error = configure(tool, &[(file, text)], true).expect_err("refused");
        assert_eq!(error.kind, ToolErrorKind::Configuration);
        assert!(error.message.contains(part), "{}", error.message);
    }
    assert!(configure("ruff", &[("a/ruff.toml", "extend = '../ruff.toml'")], true).is_ok());
}

#[test]
fn configuration_is_known_by_name_and_place() {
    let is = |text: &str| is_configuration(&TreePath::new(text).expect("valid"));
    for yes in ["setup.cfg", ".flake8", "pyproject.toml", "a/pyproject.toml", "a/b/.ruff.toml", ".bandit"] {
        assert!(is(yes), "{yes}");
    }
    for no in ["a/setup.cfg", "a/.flake8", "x.toml", "a.py", "a/.pylintrc"] {
        assert!(!is(no), "{no}");
    }
}

#[test]
fn a_broken_file_is_suspected_of_what_it_might_hide() {
    assert_eq!(may_name_a_key("[x\nInit-Hook=1", &["init-hook"]), Some("init-hook"));
    assert_eq!(may_name_a_key("[x\n\"\\u0069nit\"=1", &["init-hook"]), Some("init-hook"));
    assert_eq!(may_name_a_key("[x\nmax-line-length=1", &["init-hook"]), None);
    assert_eq!(may_name_a_key("", &["init-hook"]), Some("init-hook"), "not UTF-8");
}
