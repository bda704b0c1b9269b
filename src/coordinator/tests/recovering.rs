//! FAILED nodes are started again, within a budget, and get their work back.

use super::mesh::*;
use crate::coordinator::decision::Effect;
use crate::coordinator::event::{Event, RecoveryStep};
use crate::coordinator::input::{Hello, Input};
use crate::coordinator::settings::Settings;
use crate::types::{FaultCause, LinkState, NodeStatus, Stage};

const ACTIVE: (NodeStatus, Option<FaultCause>) = (NodeStatus::Active, None);
const IN_VAIN: (NodeStatus, Option<FaultCause>) = (NodeStatus::Failed, Some(FaultCause::RestartFailed));
const OTHERS: [&str; 3] = [ARCHITECT, DOCS, INTEGRATION];

/// All four are launched by the coordinator's own process.
fn launched() -> Settings {
    let mut settings = Settings::default();
    settings.restart.launched = ALL.map(node).into();
    settings
}

fn dies(mesh: &mut TestMesh, name: &str) {
    let process_id = mesh.core.presences()[&node(name)].process_id;
    mesh.input(Input::ProcessExited { node: node(name), process_id });
}

/// A start came to nothing.
fn fails_to_start(mesh: &mut TestMesh, start: u64, reason: &str) {
    mesh.input(Input::RestartFailed { node: node(BACKEND), start, reason: reason.into() });
}

/// The starts that the last input asked for.
fn asked(mesh: &TestMesh) -> Vec<u64> {
    let effects = mesh.effects.iter();
    effects
        .filter_map(|effect| match effect {
            Effect::RestartProcess { node: of, start, .. } if *of == node(BACKEND) => Some(*start),
            _ => None,
        })
        .collect()
}

fn steps(mesh: &TestMesh) -> Vec<(RecoveryStep, String)> {
    let events = mesh.events.iter();
    events
        .filter_map(|event| match event {
            Event::NodeRecovery { node: of, step, detail } if *of == node(BACKEND) => {
                Some((*step, detail.clone()))
            }
            _ => None,
        })
        .collect()
}

fn detail(mesh: &TestMesh) -> &str {
    &mesh.core.state().members[&node(BACKEND)].detail
}

/// Lets time pass while the others live; answers the starts that were asked for meanwhile.
fn pass(mesh: &mut TestMesh, duration: u64) -> Vec<u64> {
    mesh.effects.clear();
    let end = mesh.now + seconds(duration);
    let mut starts = Vec::new();
    while mesh.now < end {
        for name in OTHERS {
            mesh.beat(name);
            starts.extend(asked(mesh));
        }
        mesh.effects.clear();
        mesh.pass(std::time::Duration::from_millis(500));
        starts.extend(asked(mesh));
    }
    starts
}

#[test]
fn a_dead_node_is_started_at_once_and_its_return_is_told_step_by_step() {
    let mut mesh = TestMesh::full_with(launched());
    mesh.planned(&["mypy", "ruff", "flake8"], 2);
    fails_to_start(&mut mesh, 0, "process 1 ended: signal: 9 (SIGKILL)");
    assert_eq!(mesh.status(BACKEND), ACTIVE, "words decide nothing");
    dies(&mut mesh, BACKEND);
    assert_eq!(asked(&mesh), [1]);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Failed, Some(FaultCause::ProcessExited)));
    assert_eq!(detail(&mesh), "start 1 of 5; process 1 ended: signal: 9 (SIGKILL)");
    assert_eq!(mesh.core.recoveries().attempted(), 1);
    mesh.pass(seconds(1));
    mesh.join(BACKEND);
    assert_eq!((mesh.status(BACKEND), detail(&mesh)), (ACTIVE, ""));
    mesh.link_up();
    let told = steps(&mesh);
    let order: Vec<RecoveryStep> = told.iter().map(|(step, _)| *step).collect();
    use RecoveryStep::{Linked, Rebalanced, Restarted, Restarting, Synced};
    assert_eq!(order, [Restarting, Restarted, Synced, Rebalanced, Linked]);
    assert_eq!(told[1].1, "its new process joined after 1.0 s");
    assert_eq!(told[2].1, "0 attempts adopted, 0 revoked");
}

#[test]
fn waiting_work_moves_to_the_specialist_that_returned() {
    let mut mesh = TestMesh::full_with(launched());
    let run = mesh.planned(&["mypy", "ruff", "flake8"], 4);
    dies(&mut mesh, BACKEND);
    assert!(mesh.running_on(BACKEND).is_empty());
    assert_eq!(mesh.running_of(&run, Stage::Lint).len(), 2, "the others use both cores");
    mesh.join(BACKEND);
    // No work is assigned that does not run at once, so there is nothing to take from others: the next core is its.
    let lint = mesh.running_of(&run, Stage::Lint).remove(0);
    mesh.finish(&lint);
    assert_eq!(mesh.running_on(BACKEND).iter().filter(|assign| assign.task.stage == Stage::Lint).count(), 1);
    // The probe of its breaker ends well: now it gets all that it has room for.
    let probe = mesh.running_on(BACKEND).remove(0);
    mesh.finish(&probe);
    for lint in mesh.running_of(&run, Stage::Lint) {
        if mesh.holder(&lint).as_deref() != Some(BACKEND) {
            mesh.finish(&lint);
        }
    }
    let lints = mesh.running_of(&run, Stage::Lint);
    assert!(!lints.is_empty() && lints.iter().all(|lint| mesh.holder(lint).as_deref() == Some(BACKEND)));
}

#[test]
fn starts_that_come_to_nothing_are_repeated_with_pauses_until_the_budget_is_spent() {
    let mut mesh = TestMesh::full_with(launched());
    dies(&mut mesh, BACKEND);
    let mut pauses = Vec::new();
    for start in 1..5 {
        fails_to_start(&mut mesh, start, "exit status: 2");
        assert_eq!((mesh.status(BACKEND), asked(&mesh)), (IN_VAIN, vec![]));
        let begun = mesh.now;
        mesh.effects.clear();
        while asked(&mesh).is_empty() {
            for name in OTHERS {
                mesh.beat(name);
            }
            mesh.effects.clear();
            mesh.pass(std::time::Duration::from_millis(500));
        }
        assert_eq!(asked(&mesh), [start + 1]);
        pauses.push(mesh.now.since(begun).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
    fails_to_start(&mut mesh, 5, "exit status: 2");
    let said =
        "started 5 times within 600 s in vain; exit status: 2; remove the cause, then recover the node";
    assert_eq!((mesh.status(BACKEND), detail(&mesh)), (IN_VAIN, said));
    assert_eq!(pass(&mut mesh, 700), [] as [u64; 0], "it stays so, also after the window");
    assert_eq!(detail(&mesh), said);
    assert_eq!(mesh.core.recoveries().attempted(), 5);
    mesh.input(recovering("r", BACKEND));
    assert_eq!(asked(&mesh), [6], "but an operator may try again");
    fails_to_start(&mut mesh, 6, "exit status: 2");
    assert_eq!(pass(&mut mesh, 2), [7], "with a fresh budget");
    mesh.join(BACKEND);
    assert_eq!(mesh.status(BACKEND), ACTIVE);
}

#[test]
fn a_start_that_nobody_hears_of_again_has_failed_when_its_time_is_over() {
    let mut mesh = TestMesh::full_with(launched());
    dies(&mut mesh, BACKEND);
    assert_eq!(pass(&mut mesh, 59), [] as [u64; 0]);
    assert_eq!(pass(&mut mesh, 3), [2]);
    assert_eq!(mesh.status(BACKEND), IN_VAIN);
    assert!(detail(&mesh).ends_with("it did not join within 60 s of its start"), "{}", detail(&mesh));
    fails_to_start(&mut mesh, 1, "the first one, late");
    assert_eq!(pass(&mut mesh, 30), [] as [u64; 0], "what an earlier start did is not this one's failure");
}

#[test]
fn exits_soon_after_a_start_count_and_a_minute_of_health_gives_the_budget_back() {
    let mut mesh = TestMesh::full_with(launched());
    for start in 1..=5 {
        dies(&mut mesh, BACKEND);
        let now = asked(&mesh);
        let later = if now.is_empty() { pass(&mut mesh, 10) } else { Vec::new() };
        assert_eq!([now, later].concat(), [start]);
        mesh.join(BACKEND);
    }
    dies(&mut mesh, BACKEND);
    assert_eq!(mesh.status(BACKEND), IN_VAIN);
    assert_eq!(pass(&mut mesh, 60), [] as [u64; 0]);

    let mut mesh = TestMesh::full_with(launched());
    for start in 1..=8 {
        dies(&mut mesh, BACKEND);
        assert_eq!(asked(&mesh), [start], "at once, each time");
        mesh.join(BACKEND);
        mesh.pass_with(&ALL, seconds(61));
    }
}

#[test]
fn what_nothing_starts_stays_failed_with_its_cause_and_spends_nothing() {
    let mut mesh = TestMesh::full();
    mesh.disconnect(BACKEND);
    mesh.pass_with(&OTHERS, seconds(5));
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Failed, Some(FaultCause::SessionLost)));
    assert_eq!(detail(&mesh), "no launcher: start the node again by hand");
    assert_eq!(mesh.core.recoveries().attempted(), 0);
    mesh.join(BACKEND);
    assert_eq!((mesh.status(BACKEND), detail(&mesh)), (ACTIVE, ""));
    assert!(
        steps(&mesh)
            .contains(&(RecoveryStep::Restarted, "its process was started by somebody else".to_owned()))
    );
}

#[test]
fn an_operator_who_fails_a_node_is_not_overruled_by_recovery() {
    let mut mesh = TestMesh::full_with(launched());
    mesh.input(failing("f", BACKEND));
    assert_eq!(asked(&mesh), [] as [u64; 0]);
    dies(&mut mesh, BACKEND);
    assert_eq!(pass(&mut mesh, 100), [] as [u64; 0]);
    assert_eq!(mesh.status(BACKEND), (NodeStatus::Failed, Some(FaultCause::Operator)));
}

#[test]
fn a_node_that_comes_back_by_itself_is_not_started_anew() {
    let mut mesh = TestMesh::full_with(launched());
    dies(&mut mesh, BACKEND);
    fails_to_start(&mut mesh, 1, "fork: no memory");
    mesh.reconnect(BACKEND, &[], &[]);
    mesh.pass_with(&ALL, seconds(30));
    assert_eq!(mesh.status(BACKEND), ACTIVE);
    assert_eq!(mesh.core.recoveries().attempted(), 1);
}

#[test]
fn links_are_told_once_every_one_to_and_from_the_node_is_up() {
    let mut mesh = TestMesh::with(launched());
    let with_links = |name: &str, incarnation| {
        let mut hello = hello(name, incarnation);
        hello.peer_endpoint = Some(format!("http://127.0.0.1:{incarnation}"));
        hello
    };
    mesh.connect(with_links(BACKEND, 1));
    mesh.connect(with_links(DOCS, 1));
    mesh.connect(Hello { peer_endpoint: None, ..hello(ARCHITECT, 1) });
    dies(&mut mesh, BACKEND);
    mesh.connect(with_links(BACKEND, 2));
    let linked = |mesh: &TestMesh| steps(mesh).iter().any(|(step, _)| *step == RecoveryStep::Linked);
    for (from, to) in [(BACKEND, DOCS), (DOCS, BACKEND)] {
        assert!(!linked(&mesh), "a link is missing");
        let session = mesh.session(from);
        let (node, subject) = (node(from), node(to));
        mesh.input(Input::LinkChanged { session, node, subject, state: LinkState::Up });
    }
    let told = steps(&mesh).pop().expect("told");
    assert_eq!(told, (RecoveryStep::Linked, "2 links to and from it are up after 0.0 s".to_owned()));
}
