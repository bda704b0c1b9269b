//! Which processes a LINT task starts, and what they are given.

use super::*;

#[tokio::test]
async fn a_list_longer_than_a_command_line_reaches_the_tool_whole() {
    let names: Vec<String> = (0..4000).map(|n| format!("package_{n:0>30}/module.py")).collect();
    let mut files: Vec<&str> = names.iter().map(String::as_str).collect();
    files.push("odd\nname.py");
    let runner = Recorded::new(std::iter::repeat_n(end(0, b"", b""), 9));
    let linted = lint_with("flake8", &files, &runner, None).await.expect("an answer");
    assert_eq!(linted.output.error, None);
    assert_eq!(linted.output.files, 4001);
    let asked = runner.asked.into_inner().expect("not poisoned");
    assert!(asked.len() > 1);
    let given: usize = asked
        .iter()
        .map(|spec| spec.arguments.iter().filter(|a| a.to_string_lossy().starts_with("./")).count())
        .sum();
    assert_eq!(given, 4001);
    assert_eq!(linted.wall, Duration::from_millis(5) * u32::try_from(asked.len()).expect("few"));

    let runner = Recorded::new([end(0, b"", b"")]);
    lint_with("mypy", &files, &runner, None).await.expect("an answer");
    let asked = runner.asked.into_inner().expect("not poisoned");
    let tail: Vec<_> =
        asked[0].arguments.iter().map(|a| a.to_string_lossy().into_owned()).rev().take(2).collect();
    assert!(tail[0].starts_with('@') && tail[1] == "./odd\nname.py", "{tail:?}");

    let runner = Recorded::new([end(0, br#"{"messages":[]}"#, b"")]);
    let linted = lint_with("pylint", &files, &runner, None).await.expect("an answer");
    assert_eq!(linted.output.error, None);
    let asked = runner.asked.into_inner().expect("not poisoned");
    assert_eq!((asked.len(), asked[0].program.to_str()), (1, Some("/opt/venv/bin/python")));
}

#[tokio::test]
async fn what_many_processes_complain_of_makes_one_error_of_bounded_length() {
    let names: Vec<String> = (0..6000).map(|n| format!("package_{n:0>30}/module.py")).collect();
    let files: Vec<&str> = names.iter().map(String::as_str).collect();
    let complaint = |n: usize| end(70 + i32::try_from(n).expect("few"), b"", "é".repeat(3000).as_bytes());
    let runner = Recorded::new((0..9).map(complaint));
    let error = lint_with("flake8", &files, &runner, None).await.expect("an answer").output.error;
    let message = error.expect("a failure").message;
    assert!(message.starts_with("flake8 ended with status 70: é"), "{message}");
    assert!(message.contains("\nflake8 ended with status 71") && message.ends_with('…'), "{message}");
    assert!(message.len() <= ERROR_BYTES + '…'.len_utf8(), "{}", message.len());
}

#[tokio::test]
async fn the_project_s_interpreter_is_asked_once_and_shown_to_the_tool() {
    let python = Path::new("/home/p/.venv/bin/python");
    let paths = br#"["/home/p/.venv/lib/site-packages", "/home/p/.venv/lib/site-packages"]"#;
    let runner = Recorded::new([end(0, paths, b""), end(0, br#"{"messages":[]}"#, b"")]);
    let linted = lint_with("pylint", &["-x.py"], &runner, Some(python)).await.expect("an answer");
    assert_eq!(linted.output.error, None);
    let asked = runner.asked.into_inner().expect("not poisoned");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].program, python);
    let site = asked[1].environment.iter().find(|(name, _)| name == "LINTMESH_SITE_PACKAGES").expect("set");
    assert_eq!(site.1, "/home/p/.venv/lib/site-packages");
    assert_eq!(asked[1].arguments.last().and_then(|a| a.to_str()), Some("./-x.py"));

    let runner = Recorded::new([end(0, b"", b"")]);
    lint_with("mypy", &["a.py"], &runner, Some(python)).await.expect("an answer");
    let asked = runner.asked.into_inner().expect("not poisoned");
    let argument = "--python-executable=/home/p/.venv/bin/python";
    assert!(asked[0].arguments.iter().any(|a| a == argument));
}

#[tokio::test]
async fn files_without_configuration_above_them_are_isolated_from_the_machine_s() {
    let root = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(root.path().join("pkg")).expect("writable");
    std::fs::write(root.path().join("pkg/ruff.toml"), "line-length = 99").expect("writable");
    std::fs::write(root.path().join("pyproject.toml"), "[project]\nname = 'x'\n").expect("writable");
    let scratch = tempfile::tempdir().expect("a folder");
    let name = ToolName::new("ruff").expect("valid");
    let files = ["a.py", "pkg/b.py"].map(|file| TreePath::new(file).expect("valid")).to_vec();
    let plan = ToolPlan {
        tool: name.clone(),
        version: "0.17.6".into(),
        arguments: adapter("ruff").expect("known").arguments(),
        refused: None,
        shards: Vec::new(),
    };
    let binary =
        ToolBinary::Present { version: "0.17.6".into(), program: "/v/bin/ruff".into(), prefix: Vec::new() };
    let toolchain = Toolchain {
        id: Digest::of(b""),
        mode: ToolchainMode::System,
        tools: BTreeMap::from([(name, binary)]),
    };
    let runner = Recorded::new([end(0, b"[]", b""), end(0, b"[]", b"")]);
    let linted = lint(LintRequest {
        root: root.path(),
        plan: &plan,
        shard: &Shard { files, cost: 1 },
        toolchain: &toolchain,
        python: None,
        scratch: scratch.path(),
        limits: &LIMITS,
        cpu_slots: 2,
        runner: &runner,
        cancel: &CancellationToken::new(),
    })
    .await;
    assert_eq!(linted.expect("an answer").output.error, None);
    let asked = runner.asked.into_inner().expect("not poisoned");
    let ends: Vec<_> = asked
        .iter()
        .map(|spec| {
            let isolated = spec.arguments.iter().any(|argument| argument == "--isolated");
            (spec.arguments.last().expect("a file").to_string_lossy().into_owned(), isolated)
        })
        .collect();
    assert_eq!(ends, [("./pkg/b.py".to_owned(), false), ("./a.py".to_owned(), true)]);
    assert!(asked[0].environment.contains(&("RAYON_NUM_THREADS".into(), "2".into())));
}

#[tokio::test]
async fn a_tool_that_somebody_else_ended_gives_no_answer_and_one_that_crashed_does() {
    let ended =
        |signal| Finished { code: None, signal: Some(signal), ..end(0, &recorded("flake8.txt")[..300], b"") };
    let names = ["SIGHUP", "SIGINT", "SIGKILL", "SIGTERM"];
    for (signal, name) in [1, 2, 9, 15].into_iter().zip(names) {
        let outcome = lint_with("flake8", &["good.py"], &Recorded::new([ended(signal)]), None).await;
        let error = outcome.expect_err("to be tried again").to_string();
        assert_eq!(error, format!("flake8 was ended from outside ({name})"));
    }
    for signal in [6, 11] {
        let outcome = lint_with("flake8", &["good.py"], &Recorded::new([ended(signal)]), None).await;
        let error = outcome.expect("an answer").output.error.expect("a failure");
        assert_eq!(error.kind, ToolErrorKind::Crashed, "{signal}: {error:?}");
    }
    let python = Path::new("/home/p/.venv/bin/python");
    let outcome = lint_with("pylint", &["good.py"], &Recorded::new([ended(15)]), Some(python)).await;
    let error = outcome.expect_err("to be tried again").to_string();
    assert!(error.contains("interpreter was ended from outside"), "{error}");
}
