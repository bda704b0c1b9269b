//! Logs name run, task, attempt and node, as text or JSON, at the level that is asked for; what is linted is not in them.

use serde_json::Value;

use super::support::lint_command::World;

/// In names, strings, comments and errors: somewhere every linter quotes it.
const SOURCE: &str = "import os\nquoted_by_linters = undefined_quoted_by_linters  # quoted_by_linters\nassert 'quoted_by_linters'\n";
const BROKEN: &str = "def quoted_by_linters(:\n";

#[test]
fn every_attempt_is_logged_with_its_ids_and_no_source_text() {
    let mut world = World::new();
    world.file("a.py", SOURCE).file("b.py", BROKEN);
    world.set("MESH_LOG_LEVEL", "trace");
    let ran = world.lint(&["--format", "concise"]);
    assert!(ran.stdout.contains("quoted_by_linters"), "the linters quote it: {ran:?}");
    assert!(!ran.stderr.contains("quoted_by_linters"), "{}", ran.stderr);

    let lines: Vec<Value> = ran
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON, since it is no terminal"))
        .collect();
    let ids =
        |place: &Value| ["run", "task", "attempt", "node"].map(|id| place[id].as_str().map(str::to_owned));
    // The coordinator, when it gives a task; the node, while it works on it.
    for (message, field) in [("task assigned", None), ("finished", Some("span"))] {
        let told: Vec<_> = lines.iter().filter(|line| line["message"] == message).collect();
        // PLAN, AGGREGATE, and LINT and CLASSIFY for five tools.
        assert!(told.len() >= 12, "{message}: {}", ran.stderr);
        for line in told {
            let ids = ids(field.map_or(line, |field| &line[field]));
            assert!(ids.iter().all(|id| id.as_ref().is_some_and(|id| !id.is_empty())), "{line}");
        }
    }
}

#[test]
fn the_level_is_the_one_asked_for_and_debug_is_the_other_way_to_ask() {
    let mut world = World::new();
    world.file("a.py", SOURCE);
    let levels = |world: &World| {
        let ran = world.lint(&["--select-tools", "ruff", "--format", "concise"]);
        let has = |level: &str| ran.stderr.contains(&format!("\"level\":\"{level}\""));
        (has("INFO"), has("DEBUG"))
    };
    assert_eq!(levels(&world), (false, false), "a clean run has nothing to say");
    world.set("MESH_DEBUG", "true");
    assert_eq!(levels(&world), (true, true));
    world.set("MESH_LOG_LEVEL", "info");
    assert_eq!(levels(&world), (true, false), "the level wins");
    world.set("MESH_LOG_LEVEL", "warn,lintmesh::node=debug");
    assert!(levels(&world).1, "a filter for a part");
}
