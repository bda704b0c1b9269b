//! The queue alone, on a machine of a few cores that the test plays.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::coordinator::event::{NewTask, RunOrder, TaskRef};
use crate::types::{
    AttemptId, Digest, Epoch, Incarnation, Measured, NodeId, Outcome, RequestKind, Stage, TaskOutput,
    UnixMillis,
};

const LONGEST: Duration = Duration::from_secs(600);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs with their tasks, and the cores that work on them.
struct Machine {
    queue: FairQueue,
    runs: BTreeMap<RunId, Run>,
    now: Tick,
    cores: usize,
    cap: Option<usize>,
    /// Has no node that could do its tasks.
    held: Option<&'static str>,
    attempts: u64,
    /// When each running task ends, and what it took.
    running: BTreeMap<(Tick, RunId, TaskId), Duration>,
    /// CPU time of the tasks that were started, by project.
    given: BTreeMap<String, Duration>,
}

impl Machine {
    fn new(cores: usize) -> Self {
        Self {
            queue: FairQueue::new(LONGEST),
            runs: BTreeMap::new(),
            now: Tick(1_000_000),
            cores,
            cap: None,
            held: None,
            attempts: 0,
            running: BTreeMap::new(),
            given: BTreeMap::new(),
        }
    }

    fn record(&mut self, id: &RunId, event: &RunEvent) {
        let run = self.runs.get_mut(id).expect("known");
        run.apply(UnixMillis(0), event);
        self.queue.follow(self.now, id, run, event);
    }

    /// A run whose LINT tasks cost what their CPU times should be, in milliseconds.
    fn start(&mut self, name: &str, project: &str, priority: i32, estimates: &[u64]) -> RunId {
        let id = RunId::new(name).expect("valid");
        let order = RunOrder {
            caller: "tester".into(),
            request_id: String::new(),
            body: Digest::of(b"body"),
            project: project.into(),
            priority: Priority::new(priority).expect("on the scale"),
            supersede_key: String::new(),
            manifest: Digest::of(b"manifest"),
            files: 1,
            spec: Digest::of(b"spec"),
            tree_root: None,
            tools: BTreeMap::new(),
            timeout: LONGEST,
            source: RequestKind::InPlace,
        };
        self.runs.insert(id.clone(), Run::new(order.clone(), UnixMillis(0)));
        self.record(&id, &RunEvent::Started { order: Box::new(order), assignments: BTreeMap::new() });
        let task = |(number, estimate): (u64, &u64)| NewTask {
            task: TaskRef { id: TaskId(number), stage: Stage::Lint, tool: None, shard: 0, shards: 1 },
            // Hundreds of nanoseconds.
            cost: estimate * 10_000,
        };
        let tasks = (1..).zip(estimates).map(task).collect();
        self.record(&id, &RunEvent::TasksCreated { tasks, assignments: None });
        id
    }

    fn may_start(&self, project: &str) -> bool {
        self.waits(project)
            && self.held != Some(project)
            && self.cap.is_none_or(|cap| self.queue.running_tasks(project) < cap)
    }

    /// The next task, if there is one that may start; and the projects that are passed over for it.
    fn next(&self) -> Option<(Project, RunId, TaskRef, Vec<Project>)> {
        let mut passed = Vec::new();
        let mut turn = self.queue.first();
        while let Some(at) = turn {
            if self.may_start(&at.1) {
                let id = self.queue.waiting_runs(&at.1).next()?.clone();
                let task = self.runs[&id].waiting.values().flatten().next().map(|(_, task)| *task)?;
                return Some((at.1.clone(), id.clone(), self.runs[&id].task(task)?.task.clone(), passed));
            }
            turn = self.queue.after(&at);
            passed.push(at.1);
        }
        None
    }

    /// Gives every free core a task; `takes` is what it will really take, of its estimate in milliseconds.
    fn fill(&mut self, takes: &mut impl FnMut(u64) -> u64) {
        while self.running.len() < self.cores
            && let Some((project, id, task, passed)) = self.next()
        {
            self.attempts += 1;
            let taken = millis(takes(self.runs[&id].task(task.id).expect("known").cost / 10_000));
            *self.given.entry(project.to_string()).or_default() += taken;
            self.running.insert((self.now + taken, id.clone(), task.id), taken);
            let assigned = RunEvent::TaskAssigned {
                task,
                attempt: AttemptId { epoch: Epoch(1), number: self.attempts },
                second: false,
                node: NodeId::new("node").expect("valid"),
                incarnation: Incarnation(1),
            };
            self.record(&id, &assigned);
            passed.iter().for_each(|project| self.queue.pass_over(project));
        }
    }

    /// Lets the next task end.
    fn end_one(&mut self) {
        let Some(((at, id, task), taken)) = self.running.pop_first() else { return };
        self.now = at;
        let accepted = RunEvent::TaskAccepted {
            task: self.runs[&id].task(task).expect("known").task.clone(),
            attempt: AttemptId { epoch: Epoch(1), number: 1 },
            node: NodeId::new("node").expect("valid"),
            output: TaskOutput { digest: Digest::of(b"output"), size: 1 },
            tool_error: None,
            measured: Measured { cpu: taken, ..Measured::default() },
            origin: None,
        };
        self.record(&id, &accepted);
    }

    fn waits(&self, project: &str) -> bool {
        self.queue.waiting_runs(project).next().is_some()
    }

    fn time(&self, project: &str) -> VirtualTime {
        self.queue.projects[project].account.time()
    }
}

/// The share of each project in all that was given, in milliseconds, beside what it had.
fn shares(given: &BTreeMap<String, Duration>, weights: &[f64]) -> Vec<(f64, f64)> {
    let had: Vec<f64> = (0..weights.len())
        .map(|at| given.get(&format!("p{at}")).map_or(0.0, |had| had.as_secs_f64() * 1e3))
        .collect();
    let all: f64 = had.iter().sum();
    let sum: f64 = weights.iter().sum();
    had.iter().zip(weights).map(|(had, weight)| (*had, all * weight / sum)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The bound of start-time fair queueing: nobody is ahead of its share by more than its own longest task, nor behind
    /// by more than its part of one such task for each project.
    #[test]
    fn backlogged_projects_have_their_share_of_cpu_time_to_one_task_each(
        projects in prop::collection::vec((-10..=10_i32, prop::collection::vec(1..2000_u64, 30..60)), 2..6),
        cores in 1..5_usize,
    ) {
        let mut machine = Machine::new(cores);
        for (at, (priority, tasks)) in projects.iter().enumerate() {
            machine.start(&format!("run-{at}"), &format!("p{at}"), *priority, tasks);
        }
        let weights: Vec<f64> = projects.iter().map(|(priority, _)| 1.25_f64.powi(*priority)).collect();
        let longest: Vec<f64> =
            projects.iter().map(|(_, tasks)| tasks.iter().max().map_or(0.0, |most| *most as f64)).collect();
        let part = longest.iter().sum::<f64>() / weights.iter().sum::<f64>();
        loop {
            machine.fill(&mut |estimate| estimate);
            if !(0..projects.len()).all(|at| machine.waits(&format!("p{at}"))) {
                break;
            }
            for ((had, share), (weight, longest)) in
                shares(&machine.given, &weights).into_iter().zip(weights.iter().zip(&longest))
            {
                // A millionth for the rounding of weights.
                let rounding = 0.01 + share * 1e-4;
                prop_assert!(had - share <= longest + rounding, "{had} of {share}: ahead by more than {longest}");
                prop_assert!(share - had <= weight * part + rounding, "{had} of {share}: behind");
            }
            machine.end_one();
        }
    }

    /// Wrong estimates delay the shares by what runs at the moment, and by no more: each is corrected once.
    #[test]
    fn wrong_estimates_are_made_good_and_nobody_is_charged_twice(
        factors in prop::collection::vec(1..20_u64, 2..5),
        cores in 1..4_usize,
    ) {
        let mut machine = Machine::new(cores);
        for at in 0..factors.len() {
            machine.start(&format!("run-{at}"), &format!("p{at}"), 0, &[100; 400]);
        }
        // Which factor is right is known by the project only; the pace that is learnt is of no use.
        let mut ended = 0;
        while (0..factors.len()).all(|at| machine.waits(&format!("p{at}"))) {
            while machine.running.len() < cores && let Some((project, ..)) = machine.next() {
                let at: usize = project[1..].parse().expect("a number");
                let before = machine.running.len();
                let all = std::mem::replace(&mut machine.cores, before + 1);
                machine.fill(&mut |estimate| estimate * factors[at] / 4);
                machine.cores = all;
            }
            machine.end_one();
            ended += 1;
        }
        prop_assert!(ended > 50);
        let weights = vec![1.0; factors.len()];
        let longest = factors.iter().max().map_or(0.0, |most| *most as f64 * 25.0);
        for (had, share) in shares(&machine.given, &weights) {
            // What runs on each core is charged by its estimate until it has ended.
            let bound = longest * (factors.len() + cores) as f64 + 100.0 * cores as f64;
            prop_assert!((had - share).abs() <= bound, "{had} of {share}, bound {bound}");
        }
        while !machine.running.is_empty() {
            machine.end_one();
        }
        for at in 0..factors.len() {
            let project = format!("p{at}");
            let had = machine.given.get(&project).copied().unwrap_or_default();
            prop_assert_eq!(machine.time(&project), had.as_nanos(), "exactly what was measured");
        }
    }

    /// Whoever comes and goes: no core idles while a task may start, no cap is exceeded, and whoever waits is served.
    #[test]
    fn work_is_conserved_caps_hold_and_nobody_starves(
        arrivals in prop::collection::vec(
            (0..4_usize, -10..=10_i32, prop::collection::vec(1..500_u64, 1..12), 0..6_usize),
            1..40,
        ),
        cores in 1..6_usize,
        cap in prop::option::of(1..4_usize),
    ) {
        let mut machine = Machine::new(cores);
        machine.cap = cap;
        let mut takes = |estimate: u64| (estimate * 7919 % 997).max(1);
        for (number, (project, priority, tasks, pause)) in arrivals.iter().enumerate() {
            machine.start(&format!("run-{number}"), &format!("p{project}"), *priority, tasks);
            machine.fill(&mut takes);
            for _ in 0..*pause {
                machine.end_one();
                machine.fill(&mut takes);
                let may_start = (0..4).any(|at| machine.may_start(&format!("p{at}")));
                prop_assert!(machine.running.len() == cores || !may_start, "a core idles");
                for at in 0..4 {
                    let runs = machine.queue.running_tasks(&format!("p{at}"));
                    prop_assert!(cap.is_none_or(|cap| runs <= cap), "{runs} over {cap:?}");
                }
            }
        }
        while !machine.running.is_empty() {
            machine.end_one();
            machine.fill(&mut takes);
        }
        prop_assert!(machine.runs.values().all(|run| run.unfinished == 0), "somebody was never served");
    }
}

#[test]
fn a_project_that_idled_starts_at_the_clock() {
    let mut machine = Machine::new(1);
    machine.start("old", "p0", 0, &[100; 50]);
    for _ in 0..20 {
        machine.fill(&mut |estimate| estimate);
        machine.end_one();
    }
    machine.start("new", "p1", 0, &[100; 50]);
    machine.given.clear();
    for _ in 0..10 {
        machine.fill(&mut |estimate| estimate);
        machine.end_one();
    }
    let had = |project: &str| machine.given[project].as_millis();
    assert_eq!((had("p0"), had("p1")), (500, 500), "no credit for the time before it came");
}

#[test]
fn a_project_that_cannot_use_its_share_does_not_save_it_up() {
    let mut machine = Machine::new(1);
    machine.start("held", "p0", 0, &[100; 50]);
    machine.start("free", "p1", 0, &[100; 50]);
    machine.held = Some("p0");
    for _ in 0..20 {
        machine.fill(&mut |estimate| estimate);
        machine.end_one();
    }
    assert_eq!(machine.given.keys().collect::<Vec<_>>(), ["p1"]);
    machine.held = None;
    machine.given.clear();
    for _ in 0..10 {
        machine.fill(&mut |estimate| estimate);
        machine.end_one();
    }
    let had = machine.given["p0"].as_millis();
    assert!((400..=600).contains(&had), "half, to one task: {had} of 1000");
}

#[test]
fn what_is_taken_back_is_not_charged_and_what_is_cancelled_is() {
    let mut machine = Machine::new(2);
    let id = machine.start("run", "p0", 0, &[1000; 4]);
    machine.fill(&mut |estimate| estimate);
    assert_eq!(machine.time("p0"), millis(2000).as_nanos(), "two estimates");
    let tasks: Vec<TaskRef> = machine.runs[&id].tasks[..1].iter().map(|task| task.task.clone()).collect();
    let from = NodeId::new("node").expect("valid");
    machine.now = machine.now + millis(300);
    machine.record(&id, &RunEvent::Redistributed { from, tasks, counts: true });
    assert_eq!(machine.time("p0"), millis(1000).as_nanos(), "it will be done again");
    let detail = "enough".to_owned();
    machine.record(&id, &RunEvent::Finished { outcome: Outcome::Cancelled, result: None, detail });
    assert_eq!(machine.time("p0"), millis(300).as_nanos(), "its core was in use so long");
    assert!(!machine.queue.has_waiting());
    assert_eq!((machine.queue.open_runs("p0"), machine.queue.running_tasks("p0")), (0, 0));
}

#[test]
fn a_nodes_word_is_believed_up_to_what_its_cores_could_do() {
    let mut machine = Machine::new(1);
    let id = machine.start("run", "p0", 0, &[1000; 2]);
    machine.fill(&mut |estimate| estimate);
    let (_, taken) = machine.running.iter_mut().next().expect("one runs");
    *taken = Duration::MAX;
    machine.end_one();
    assert_eq!(machine.time("p0"), millis(1000).as_nanos());
    assert_eq!(machine.runs[&id].unfinished, 1);
}

#[test]
fn the_line_takes_one_run_of_each_project_after_the_other() {
    let mut machine = Machine::new(1);
    machine.start("a-1", "p0", 0, &[10]);
    machine.start("a-2", "p0", 5, &[10]);
    machine.start("a-3", "p0", 0, &[10]);
    machine.start("b-1", "p1", 0, &[10]);
    machine.start("b-2", "p1", -1, &[10]);
    let line: Vec<&str> = machine.queue.line().map(RunId::as_str).collect();
    assert_eq!(line, ["a-2", "b-1", "a-1", "b-2", "a-3"]);
    machine.fill(&mut |estimate| estimate);
    // a-2 is being served and waits no more.
    let positions = machine.queue.positions();
    let positions: Vec<(&str, u32)> = positions.iter().map(|(run, at)| (run.as_str(), *at)).collect();
    assert_eq!(positions, [("a-1", 1), ("a-3", 3), ("b-1", 0), ("b-2", 2)]);
    for (run, at) in positions {
        assert_eq!(machine.queue.position(&RunId::new(run).expect("valid")), at);
    }
    assert_eq!(machine.queue.position(&RunId::new("a-2").expect("valid")), 0);
}

#[test]
fn projects_that_are_gone_are_forgotten() {
    let mut machine = Machine::new(1);
    for number in 0..3 * REMEMBERED {
        let project = format!("p{number}");
        let id = machine.start(&format!("run-{number}"), &project, 0, &[1]);
        machine.fill(&mut |estimate| estimate);
        machine.end_one();
        let (result, detail) = (None, String::new());
        machine.record(&id, &RunEvent::Finished { outcome: Outcome::Clean, result, detail });
    }
    assert!(machine.queue.projects.len() <= REMEMBERED + 1, "{}", machine.queue.projects.len());
    assert!(
        machine.queue.runs.is_empty() && machine.queue.charges.is_empty() && machine.queue.turns.is_empty()
    );
}
