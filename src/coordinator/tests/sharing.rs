//! Runs of several projects share the mesh: shares, caps, keys, positions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::mesh::*;
use crate::coordinator::decision::{Refusal, Reply};
use crate::coordinator::input::{Facts, Input};
use crate::coordinator::settings::Settings;
use crate::types::{Measured, Outcome, Priority, RunId, Stage};

fn of_project(project: &str, priority: i32) -> crate::coordinator::event::RunOrder {
    let mut order = order(&["ruff"]);
    order.project = project.into();
    order.priority = Priority::new(priority).expect("on the scale");
    order
}

fn begun(reply: Reply) -> RunId {
    match reply {
        Reply::Run(run) => run,
        other => panic!("not started: {other:?}"),
    }
}

impl TestMesh {
    /// A run of a project, PLAN done, with so many LINT tasks of about the same cost.
    fn planned_of(&mut self, project: &str, priority: i32, shards: u64) -> RunId {
        let run = begun(self.start_order(of_project(project, priority)));
        self.plan_done(&run, shards);
        run
    }

    fn lints(&self, run: &RunId) -> usize {
        self.running_of(run, Stage::Lint).len()
    }

    /// One LINT task ends that took a second; what follows from it at once is done. Answers its run.
    fn lint_ends(&mut self) -> Option<RunId> {
        let assign = self.running().into_iter().find(|assign| assign.task.stage == Stage::Lint)?;
        self.now = self.now + Duration::from_millis(500);
        let holder = self.holder(&assign)?;
        self.input(Input::TaskEnded {
            executor: node(&holder),
            incarnation: self.incarnation(&holder),
            attempt: assign.attempt.clone(),
            ending: crate::coordinator::input::Ending::Made {
                output: blob(&assign.attempt.to_string()),
                facts: Facts::Lint { error: None },
            },
            measured: Measured { cpu: seconds(1), ..Measured::default() },
            via: None,
        });
        while let Some(other) = self.running().into_iter().find(|other| other.task.stage != Stage::Lint) {
            self.finish(&other);
        }
        Some(assign.attempt.run)
    }

    /// How many of the next LINT tasks to end are of each run.
    fn served(&mut self, tasks: usize) -> BTreeMap<RunId, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..tasks {
            for name in ALL {
                if self.core.presences().get(&node(name)).is_some_and(|at| at.session.is_some()) {
                    self.beat(name);
                }
            }
            if let Some(run) = self.lint_ends() {
                *served.entry(run).or_default() += 1;
            }
        }
        served
    }
}

#[test]
fn projects_share_the_cores_whatever_number_of_runs_each_has() {
    let mut mesh = TestMesh::full();
    let many: Vec<RunId> = (0..3).map(|_| mesh.planned_of("many", 0, 20)).collect();
    let one = mesh.planned_of("one", 0, 20);
    let served = mesh.served(20);
    let of_many: usize = many.iter().filter_map(|run| served.get(run)).sum();
    let of_one = served[&one];
    assert_eq!(of_many + of_one, 20);
    // What ran already when the second project came is not shared.
    assert!((9..=11).contains(&of_one), "{of_one} of 20");
    assert!(!served.contains_key(&many[2]), "within a project the older run first: {served:?}");
}

#[test]
fn priority_weighs_between_projects_and_orders_within_one() {
    let mut mesh = TestMesh::full();
    let urgent = mesh.planned_of("a", 5, 60);
    let usual = mesh.planned_of("b", 0, 60);
    let served = mesh.served(40);
    // 1.25^5 is 3.05: three quarters.
    assert!((29..=31).contains(&served[&urgent]), "{served:?}");
    assert!((9..=11).contains(&served[&usual]), "{served:?}");

    let mut mesh = TestMesh::full();
    let older = mesh.planned_of("a", 0, 4);
    let newer = mesh.planned_of("a", 1, 4);
    assert_eq!(mesh.lints(&older), 2, "nothing that runs is taken back");
    assert_eq!(mesh.served(2).len(), 1);
    assert_eq!((mesh.lints(&older), mesh.lints(&newer)), (0, 2));
}

#[test]
fn a_cap_holds_and_leaves_the_cores_to_others() {
    let settings = Settings { max_tasks_per_project: Some(1), ..Settings::default() };
    let mut mesh = TestMesh::with(settings);
    for name in ALL {
        mesh.join(name);
    }
    let first = mesh.planned_of("a", 10, 5);
    assert_eq!(mesh.lints(&first), 1, "though a core is free");
    let second = mesh.planned_of("b", -10, 5);
    for _ in 0..4 {
        assert_eq!((mesh.lints(&first), mesh.lints(&second)), (1, 1));
        let assign = mesh.running_of(&second, Stage::Lint).pop().expect("runs");
        mesh.finish(&assign);
        let of = |project| mesh.core.queue().running_tasks(project);
        assert!(of("a") <= 1 && of("b") <= 1);
        // CLASSIFY is a task too.
        while let Some(assign) = mesh.running_of(&second, Stage::Classify).pop() {
            mesh.finish(&assign);
        }
    }
    mesh.drain();
    assert_eq!([mesh.outcome(&first), mesh.outcome(&second)], [Some(Outcome::Clean); 2]);
}

#[test]
fn a_project_that_waits_for_its_tool_does_not_save_up_the_time() {
    let mut mesh = TestMesh::with(Settings::default());
    mesh.join(BACKEND);
    let newer = |name| {
        let mut hello = hello(name, 1);
        hello.tools.insert(tool("ruff"), "2".into());
        hello
    };
    let mut needs_newer = of_project("a", 0);
    needs_newer.tools.insert(tool("ruff"), Some("2".into()));
    let waits = begun(mesh.start_order(needs_newer));
    mesh.plan_done(&waits, 40);
    let runs = mesh.planned_of("b", 0, 40);
    assert_eq!(mesh.served(20), [(runs.clone(), 20)].into());
    mesh.connect(newer(DOCS));
    let served = mesh.served(12);
    assert!(served[&waits] >= 4 && served[&runs] >= 4, "{served:?}");
}

#[test]
fn a_project_may_have_so_many_runs_open_and_others_as_many() {
    let settings = Settings { max_runs_per_project: Some(2), ..Settings::default() };
    let mut mesh = TestMesh::with(settings);
    let first = begun(mesh.start_order(of_project("a", 0)));
    begun(mesh.start_order(of_project("a", 0)));
    let refused = Refusal::TooManyRunsOfProject { project: "a".into(), limit: 2 };
    assert_eq!(refusal(mesh.start_order(of_project("a", 10))), refused);
    begun(mesh.start_order(of_project("b", 0)));
    mesh.input(Input::CancelRun { run: first, reason: "enough".into() });
    begun(mesh.start_order(of_project("a", 0)));
    assert_eq!(refusal(mesh.start_order(of_project("a", 0))), refused);
}

#[test]
fn a_newer_run_of_the_same_key_takes_the_place_of_the_older() {
    let settings = Settings { max_runs_per_project: Some(1), max_open_runs: 3, ..Settings::default() };
    let mut mesh = TestMesh::with(settings);
    for name in ALL {
        mesh.join(name);
    }
    let keyed = |caller: &str, project: &str| {
        let mut order = of_project(project, 0);
        (order.caller, order.supersede_key) = (caller.into(), "main".into());
        order
    };
    let older = begun(mesh.start_order(keyed("ci", "a")));
    mesh.plan_done(&older, 2);
    let running = mesh.running();
    // Full, but for the older run that goes.
    let newer = begun(mesh.start_order(keyed("ci", "a")));
    assert_eq!(mesh.revoked(), running.iter().map(|assign| &assign.attempt).collect::<Vec<_>>());
    let ending = mesh.run(&older).ending.clone().expect("ended");
    assert_eq!(ending.outcome, Outcome::Cancelled);
    assert!(ending.detail.contains(newer.as_str()) && ending.detail.contains("`main`"), "{}", ending.detail);

    let elsewhere = begun(mesh.start_order(keyed("ci", "b")));
    assert_eq!(mesh.outcome(&newer), None, "another project");
    let refused = Refusal::TooManyRunsOfProject { project: "a".into(), limit: 1 };
    assert_eq!(
        refusal(mesh.start_order(keyed("somebody", "a"))),
        refused,
        "another caller's is not replaced"
    );
    assert_eq!(refusal(mesh.start_order(of_project("a", 0))), refused, "nor is one replaced without a key");
    begun(mesh.start_order(of_project("c", 0)));
    assert_eq!(refusal(mesh.start_order(of_project("d", 0))), Refusal::TooManyRuns(3));
    assert_eq!(mesh.outcome(&newer), None, "a refused request replaces nothing");
    let last = begun(mesh.start_order(keyed("ci", "b")));
    assert_eq!((mesh.outcome(&elsewhere), mesh.outcome(&last)), (Some(Outcome::Cancelled), None));
}

#[test]
fn a_repeated_request_replaces_nothing() {
    let mut mesh = TestMesh::full();
    let keyed = |id: &str| {
        let mut order = of_project("a", 0);
        (order.request_id, order.supersede_key) = (id.into(), "main".into());
        order
    };
    let older = begun(mesh.start_order(keyed("first")));
    let newer = begun(mesh.start_order(keyed("second")));
    assert_eq!(begun(mesh.start_order(keyed("first"))), older);
    assert_eq!((mesh.outcome(&older), mesh.outcome(&newer)), (Some(Outcome::Cancelled), None));
}

#[test]
fn a_position_is_that_of_the_next_to_be_served_and_0_for_those_who_are() {
    let mut mesh = TestMesh::full();
    let served = mesh.planned_of("a", 0, 4);
    let second = mesh.planned_of("a", 0, 1);
    let other = mesh.planned_of("b", 0, 1);
    let third = mesh.planned_of("a", 0, 1);
    let positions = |mesh: &TestMesh| mesh.core.queue().positions();
    assert_eq!(
        positions(&mesh),
        [(second.clone(), 2), (other.clone(), 0), (third.clone(), 3)].into(),
        "one of each project in turn, and the run that is served has more to come"
    );
    mesh.served(1);
    assert_eq!(mesh.lints(&other), 1);
    assert_eq!(positions(&mesh), [(second.clone(), 1), (third.clone(), 2)].into());
    mesh.input(Input::CancelRun { run: served, reason: "enough".into() });
    assert_eq!(mesh.lints(&second), 1);
    assert_eq!(positions(&mesh), [(third, 0)].into());
}

#[test]
fn many_runs_of_many_projects_all_end() {
    let mut mesh = TestMesh::full();
    let runs: Vec<RunId> = (0..14)
        .map(|number| begun(mesh.start_order(of_project(&format!("p{}", number % 5), number - 7))))
        .collect();
    while let Some(plan) = mesh.running().into_iter().find(|assign| assign.task.stage == Stage::Plan) {
        mesh.plan_done(&plan.attempt.run, 8);
    }
    let waiting: usize = mesh.core.state().open_runs().map(|(_, run)| run.waiting_and_running().0).sum();
    assert_eq!(waiting, 14 * 8 - 2, "two run");
    mesh.drain();
    assert!(runs.iter().all(|run| mesh.outcome(run) == Some(Outcome::Clean)));
    assert!(!mesh.core.queue().has_waiting());
}
