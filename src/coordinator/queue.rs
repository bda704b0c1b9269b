//! The fair queue: which project, and which of its runs, is next when tasks wait.
//!
//! Projects share the mesh by CPU time. Each has a virtual time ([`share`]); the project with the least of it is next,
//! and within a project the run with the highest priority, the oldest first. A task is charged by its estimated cost
//! when it starts and by its measured CPU time when it has ended. The queue's clock is the virtual time of the project
//! that was served last; a project that begins to wait is moved up to it, so that idling earns nothing.
//!
//! All of it follows from the runs' events and from when they happened, so nothing else has to tell the queue anything.

pub mod share;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::dispatch::cpu_slots;
use super::event::{AttemptFault, RunEvent};
use super::run::{Run, TaskState};
use super::state::State;
use crate::types::{Priority, RunId, TaskId, Tick};
use share::{Account, Charged, Pace, VirtualTime};

/// A project's name; runs without one are a project together.
pub type Project = Arc<str>;

/// A project's place in the line. Its place moves back whenever it is served.
pub type Turn = (VirtualTime, Project);

/// Projects whose virtual time is remembered although they have no open run. More than that go back to the clock, the
/// least ahead first.
const REMEMBERED: usize = 1024;

/// Whose turn it is, and what everybody has had.
#[derive(Debug)]
pub struct FairQueue {
    projects: BTreeMap<Project, Entry>,
    /// The projects that have waiting tasks.
    turns: BTreeSet<Turn>,
    /// The open runs.
    runs: BTreeMap<RunId, OpenRun>,
    /// The running tasks.
    charges: BTreeMap<(RunId, TaskId), Charge>,
    clock: VirtualTime,
    started: u64,
    pace: Pace,
}

#[derive(Debug, Default)]
struct Entry {
    account: Account,
    open_runs: usize,
    running_tasks: usize,
    /// Its runs that have waiting tasks, in the order in which they are served.
    waiting: BTreeMap<Place, RunId>,
}

/// The urgent first, of equals the older.
type Place = (Reverse<Priority>, u64);

#[derive(Debug)]
struct OpenRun {
    project: Project,
    place: Place,
}

#[derive(Debug)]
struct Charge {
    charged: Charged,
    cost: u64,
    cores: u32,
    since: Tick,
}

/// What a task took in the end.
#[derive(Clone, Copy)]
enum Taken {
    /// What its node measured.
    Measured(Duration),
    /// Nobody measured it: the time for which it had its cores.
    CoreTime,
    /// It was taken back through no fault of its own, and will be charged when it is done again.
    Nothing,
}

impl FairQueue {
    /// Nobody has had anything. No task takes longer than `longest`.
    pub const fn new(longest: Duration) -> Self {
        Self {
            projects: BTreeMap::new(),
            turns: BTreeSet::new(),
            runs: BTreeMap::new(),
            charges: BTreeMap::new(),
            clock: 0,
            started: 0,
            pace: Pace::new(longest),
        }
    }

    /// Takes in an event of a run; `run` is the run after it.
    pub fn follow(&mut self, now: Tick, id: &RunId, run: &Run, event: &RunEvent) {
        let stopped =
            |task: TaskId| !run.task(task).is_some_and(|at| matches!(at.state, TaskState::Running { .. }));
        match event {
            RunEvent::Started { order, .. } => self.open(id, &order.project, order.priority),
            RunEvent::TaskAssigned { task, .. } => {
                let cost = run.task(task.id).map_or(0, |task| task.cost);
                self.begin(now, id, task.id, cost, cpu_slots(task.stage));
            }
            RunEvent::TaskAccepted { task, measured, .. } => {
                self.end(now, id, task.id, Taken::Measured(measured.cpu));
            }
            RunEvent::AttemptFailed { task, cause, .. } if stopped(task.id) => {
                let taken = match cause {
                    AttemptFault::Failed | AttemptFault::Deadline | AttemptFault::Hung => Taken::CoreTime,
                    AttemptFault::Rejected | AttemptFault::Lost => Taken::Nothing,
                };
                self.end(now, id, task.id, taken);
            }
            RunEvent::Redistributed { tasks, .. } => {
                for task in tasks.iter().filter(|task| stopped(task.id)) {
                    self.end(now, id, task.id, Taken::Nothing);
                }
            }
            RunEvent::TaskGivenUp { task, .. } => self.end(now, id, task.id, Taken::CoreTime),
            RunEvent::Finished { .. } => self.close(now, id),
            RunEvent::AttemptFailed { .. } | RunEvent::TasksCreated { .. } | RunEvent::NodeFault { .. } => {}
        }
        self.set_waiting(id, run.is_open() && !run.waiting.is_empty());
    }

    /// Takes in a run that was begun under an earlier coordinator. What its project has had then is forgotten; its
    /// running tasks are charged anew.
    pub fn adopt(&mut self, now: Tick, id: &RunId, run: &Run) {
        self.open(id, &run.order.project, run.order.priority);
        for task in run.tasks.iter().filter(|task| matches!(task.state, TaskState::Running { .. })) {
            self.begin(now, id, task.task.id, task.cost, cpu_slots(task.task.stage));
        }
        self.set_waiting(id, run.is_open() && !run.waiting.is_empty());
    }

    fn open(&mut self, id: &RunId, project: &str, priority: Priority) {
        if !self.projects.contains_key(project) {
            self.forget_idle();
        }
        let project: Project =
            self.projects.get_key_value(project).map_or_else(|| project.into(), |(known, _)| known.clone());
        self.projects.entry(project.clone()).or_default().open_runs += 1;
        self.started += 1;
        let place = (Reverse(priority), self.started);
        self.runs.insert(id.clone(), OpenRun { project, place });
    }

    /// Projects that are idle and not ahead of the clock would start at the clock anyway.
    fn forget_idle(&mut self) {
        let clock = self.clock;
        self.projects.retain(|_, entry| entry.open_runs > 0 || entry.account.time() > clock);
        let idle = |entry: &Entry| entry.open_runs == 0;
        let mut ahead: Vec<_> = self
            .projects
            .iter()
            .filter(|(_, entry)| idle(entry))
            .map(|(project, entry)| (entry.account.time(), project.clone()))
            .collect();
        ahead.sort();
        for (_, project) in &ahead[..ahead.len().saturating_sub(REMEMBERED - 1)] {
            self.projects.remove(project);
        }
    }

    fn set_waiting(&mut self, id: &RunId, waits: bool) {
        let Some(run) = self.runs.get(id) else { return };
        let Some(entry) = self.projects.get_mut(&run.project) else { return };
        let waited = !entry.waiting.is_empty();
        if waits {
            entry.waiting.insert(run.place, id.clone());
        } else {
            entry.waiting.remove(&run.place);
        }
        match (waited, !entry.waiting.is_empty()) {
            (false, true) => {
                entry.account.move_up(self.clock);
                self.turns.insert((entry.account.time(), run.project.clone()));
            }
            (true, false) => {
                self.turns.remove(&(entry.account.time(), run.project.clone()));
            }
            _ => {}
        }
    }

    /// A second attempt of a task is the mesh's own caution: the task is charged once.
    fn begin(&mut self, now: Tick, id: &RunId, task: TaskId, cost: u64, cores: u32) {
        let key = (id.clone(), task);
        let Some((project, place)) = self.runs.get(id).map(|run| (run.project.clone(), run.place)) else {
            return;
        };
        if self.charges.contains_key(&key) {
            return;
        }
        let estimate = if cores > 0 { self.pace.estimate(cost) } else { share::LEAST_CHARGE };
        let amount = share::charge(estimate, place.0.0);
        let mut clock = self.clock;
        let charged = self.change(&project, |account| {
            // The stages without a core are placed whether or not others wait for cores: they tell nothing about whose
            // turn it is.
            if cores > 0 {
                clock = clock.max(account.time());
            }
            account.charge(amount)
        });
        self.clock = clock;
        if let Some(charged) = charged {
            self.charges.insert(key, Charge { charged, cost, cores, since: now });
            self.projects.entry(project).or_default().running_tasks += 1;
        }
    }

    fn end(&mut self, now: Tick, id: &RunId, task: TaskId, taken: Taken) {
        let Some(run) = self.runs.get(id) else { return };
        let (project, priority) = (run.project.clone(), run.place.0.0);
        let Some(charge) = self.charges.remove(&(id.clone(), task)) else { return };
        let core_time = now.since(charge.since).saturating_mul(charge.cores);
        let amount = match taken {
            Taken::Measured(cpu) => {
                // A node's word, believed up to what the cores that it was given could do.
                let cpu = cpu.min(core_time);
                if charge.cores > 0 {
                    self.pace.learn(charge.cost, cpu);
                }
                share::charge(cpu.max(share::LEAST_CHARGE), priority)
            }
            Taken::CoreTime => share::charge(core_time.max(share::LEAST_CHARGE), priority),
            Taken::Nothing => 0,
        };
        self.change(&project, |account| account.correct(charge.charged, amount));
        if let Some(entry) = self.projects.get_mut(&project) {
            entry.running_tasks -= 1;
        }
    }

    fn close(&mut self, now: Tick, id: &RunId) {
        let running: Vec<TaskId> = self.running_of(id).collect();
        for task in running {
            self.end(now, id, task, Taken::CoreTime);
        }
        self.set_waiting(id, false);
        if let Some(entry) = self.runs.remove(id).and_then(|run| self.projects.get_mut(&run.project)) {
            entry.open_runs -= 1;
        }
    }

    /// Changes a project's account, and its place in the line with it.
    fn change<T>(&mut self, project: &Project, change: impl FnOnce(&mut Account) -> T) -> Option<T> {
        let entry = self.projects.get_mut(project)?;
        let before = entry.account.time();
        let changed = change(&mut entry.account);
        if entry.account.time() != before && self.turns.remove(&(before, project.clone())) {
            self.turns.insert((entry.account.time(), project.clone()));
        }
        Some(changed)
    }

    /// A project was passed over for others: it may not use its share now, and must not get it later at their cost.
    pub fn pass_over(&mut self, project: &Project) {
        let clock = self.clock;
        self.change(project, |account| account.move_up(clock));
    }

    /// Whether any task waits.
    pub fn has_waiting(&self) -> bool {
        !self.turns.is_empty()
    }

    /// The first project in the line.
    pub fn first(&self) -> Option<Turn> {
        self.turns.first().cloned()
    }

    /// The first project that is not before a turn: the same one if it was not served.
    pub fn from(&self, turn: &Turn) -> Option<Turn> {
        self.turns.range(turn..).next().cloned()
    }

    /// The next project after a turn.
    pub fn after(&self, turn: &Turn) -> Option<Turn> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.turns.range((Excluded(turn), Unbounded)).next().cloned()
    }

    /// The runs of a project that have waiting tasks, in the order in which they are served.
    pub fn waiting_runs(&self, project: &str) -> impl Iterator<Item = &RunId> {
        self.projects.get(project).into_iter().flat_map(|entry| entry.waiting.values())
    }

    /// How many tasks of a project run.
    pub fn running_tasks(&self, project: &str) -> usize {
        self.projects.get(project).map_or(0, |entry| entry.running_tasks)
    }

    /// How many runs of a project are open.
    pub fn open_runs(&self, project: &str) -> usize {
        self.projects.get(project).map_or(0, |entry| entry.open_runs)
    }

    fn running_of(&self, run: &RunId) -> impl Iterator<Item = TaskId> {
        let tasks = (run.clone(), TaskId(0))..=(run.clone(), TaskId(u64::MAX));
        self.charges.range(tasks).map(|((_, task), _)| *task)
    }

    /// The runs with waiting tasks in the order in which they will be served as far as can be foretold: the first run of
    /// each project in the order of the projects' turns, then the second of each, and so on.
    fn line(&self) -> impl Iterator<Item = &RunId> {
        let mut projects: Vec<_> = self.turns.iter().map(|(_, project)| self.waiting_runs(project)).collect();
        let mut line = Vec::new();
        while !projects.is_empty() {
            projects.retain_mut(|runs| runs.next().map(|run| line.push(run)).is_some());
        }
        line.into_iter()
    }

    /// The runs that wait and are not being served, each with how many runs are before it.
    pub fn positions(&self) -> BTreeMap<RunId, u32> {
        let not_served = |(_, run): &(u32, &RunId)| self.running_of(run).next().is_none();
        let waiting = (0..).zip(self.line()).filter(not_served);
        waiting.map(|(ahead, run)| (run.clone(), ahead)).collect()
    }

    /// How many runs are before a run in the queue; 0 if nothing of it waits, or if it is being served.
    pub fn position(&self, run: &RunId) -> u32 {
        let waits = self.runs.get(run).is_some_and(|open| {
            self.projects.get(&open.project).is_some_and(|entry| entry.waiting.contains_key(&open.place))
        });
        if !waits || self.running_of(run).next().is_some() {
            return 0;
        }
        (0..).zip(self.line()).find(|(_, waiting)| *waiting == run).map_or(0, |(ahead, _)| ahead)
    }

    /// Everything in which the queue and the state differ, in words; empty if all is well.
    pub fn differences(&self, state: &State) -> Vec<String> {
        let mut broken = Vec::new();
        let waiting: BTreeSet<_> = self.projects.values().flat_map(|entry| entry.waiting.values()).collect();
        let mut running = BTreeSet::new();
        for (id, run) in state.open_runs() {
            if run.waiting.is_empty() == waiting.contains(id) {
                broken.push(format!("{id}: the queue does not know whether it waits"));
            }
            let runs = |task: &&super::run::Task| matches!(task.state, TaskState::Running { .. });
            running.extend(run.tasks.iter().filter(runs).map(|task| (id.clone(), task.task.id)));
        }
        if !self.charges.keys().eq(running.iter()) {
            broken.push("what runs and what is charged differ".to_owned());
        }
        if !self.runs.keys().eq(state.open.iter().collect::<BTreeSet<_>>()) {
            broken.push("what is open and what is queued differ".to_owned());
        }
        let turns = self.projects.iter().filter(|(_, entry)| !entry.waiting.is_empty());
        let turns: BTreeSet<_> =
            turns.map(|(project, entry)| (entry.account.time(), project.clone())).collect();
        if turns != self.turns {
            broken.push("the line of projects is not in order".to_owned());
        }
        for (project, entry) in &self.projects {
            let of_it = |id: &RunId| self.runs.get(id).is_some_and(|run| run.project == *project);
            if entry.running_tasks != self.charges.keys().filter(|(run, _)| of_it(run)).count()
                || entry.open_runs != self.runs.keys().filter(|run| of_it(run)).count()
            {
                broken.push(format!("project `{project}`: its runs and tasks are miscounted"));
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests;
