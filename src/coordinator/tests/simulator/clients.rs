//! Clients that ask for runs until they are answered, watch what they asked for, and change their minds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::builders::order;
use super::checks::Checks;
use super::disk::RunLogs;
use super::durable::agrees;
use super::seat::Asker;
use super::world::{Happening, World};
use crate::coordinator::decision::Reply;
use crate::coordinator::event::{RunEvent, RunOrder};
use crate::coordinator::input::Input;
use crate::types::{Digest, Priority, RunId};

const TOOLS: [&[&str]; 3] = [&["ruff"], &["flake8", "ruff"], &["bandit", "mypy", "pylint"]];
/// How long a client waits for an answer before it asks again.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(6));
/// How often a client looks for more events.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3));

#[derive(Default)]
pub(super) struct Clients {
    asked: u64,
    requests: u64,
    /// What was not answered yet.
    open: BTreeMap<u64, RunOrder>,
    /// The run that each request's id was answered with.
    answers: BTreeMap<String, RunId>,
    /// The same by the request's number.
    runs: BTreeMap<u64, RunId>,
    watches: BTreeMap<RunId, Watch>,
}

/// What a client has seen of a run.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) events: Vec<RunEvent>,
    /// Restarts of the coordinator since it began.
    restarts: u64,
}

impl Clients {
    /// How many requests wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.open.len()
    }

    /// A coordinator has begun with these logs.
    pub(super) fn restarted(&mut self, checks: &mut Checks, logs: &RunLogs) {
        for run in self.answers.values() {
            checks.is_kept(run, logs);
        }
        for (run, watch) in &mut self.watches {
            watch.restarts += 1;
            if let Some(log) = logs.get(run) {
                agrees(run, watch, log);
            }
        }
    }
}

impl World {
    pub(super) fn ask(&mut self) {
        let Some((least, most)) = self.scenario.asks.filter(|_| !self.calm) else { return };
        let pause = self.random.duration(least, most);
        self.schedule.after(pause, Happening::Asks);

        let mut order = order(TOOLS[self.random.below(TOOLS.len())]);
        order.timeout = self.random.duration(Duration::from_secs(5), self.scenario.patience);
        // Some requests are repeated.
        self.clients.requests += u64::from(self.random.percent(90));
        order.request_id = format!("request-{}", self.clients.requests);
        order.body = Digest::of(order.request_id.as_bytes());
        order.project = ["one", "two", ""][self.random.below(3)].into();
        order.priority = [Priority::LOWEST, Priority::default(), Priority::HIGHEST][self.random.below(3)];
        if self.random.percent(20) {
            order.supersede_key = "branch".into();
        }
        self.clients.asked += 1;
        let request = self.clients.asked;
        self.clients.open.insert(request, order);
        if self.random.percent(8) {
            let pause = self.random.duration(Duration::ZERO, Duration::from_secs(10));
            self.schedule.after(pause, Happening::Cancels { request });
        }
        self.submit(request);
    }

    /// Asks, and asks again unless it is answered. The server names the run anew each time.
    pub(super) fn submit(&mut self, request: u64) {
        let Some(order) = self.clients.open.get(&request).cloned() else { return };
        self.seat.named += 1;
        let run = RunId::new(&format!("run-{}", self.seat.named)).expect("a valid run id");
        let input = Input::StartRun { run, order: Box::new(order) };
        self.command_of(Asker::Client(request), input);
        let pause = self.random.duration(RETRIES.0, RETRIES.1);
        self.schedule.after(pause, Happening::AsksAgain { request });
    }

    pub(super) fn submit_again(&mut self, request: u64) {
        if self.clients.open.contains_key(&request) {
            self.checks.meet("request repeated");
            self.submit(request);
        }
    }

    pub(super) fn answer_client(&mut self, request: u64, reply: &Reply) {
        let Some(order) = self.clients.open.remove(&request) else { return };
        let Reply::Run(run) = reply else { return };
        self.clients.runs.insert(request, run.clone());
        let earlier = self.clients.answers.insert(order.request_id.clone(), run.clone());
        if let Some(earlier) = earlier.filter(|earlier| !self.checks.is_forgotten(earlier)) {
            assert_eq!(earlier, *run, "{}: the same request is the same run", order.request_id);
        }
        if !self.clients.watches.contains_key(run) {
            self.clients.watches.insert(run.clone(), Watch::default());
            self.schedule.after(Duration::ZERO, Happening::Watches(run.clone()));
        }
    }

    /// A client reads on, after what it has seen.
    pub(super) fn watch(&mut self, run: RunId) {
        let Some(watch) = self.clients.watches.get_mut(&run) else { return };
        if self.seat.is_up {
            let Some(log) = self.seat.logs.get(&run) else {
                assert!(self.checks.is_forgotten(&run), "{run} is watched, and not known");
                self.clients.watches.remove(&run);
                return;
            };
            watch.events.extend_from_slice(&log[watch.events.len()..]);
            if matches!(watch.events.last(), Some(RunEvent::Finished { .. })) {
                agrees(&run, watch, log);
                if watch.restarts > 0 {
                    self.checks.meet("watched over a restart");
                }
                self.clients.watches.remove(&run);
                return;
            }
        }
        let pause = self.random.duration(LOOKS.0, LOOKS.1);
        self.schedule.after(pause, Happening::Watches(run));
    }

    pub(super) fn cancel(&mut self, request: u64) {
        if let Some(run) = self.clients.runs.get(&request).cloned() {
            self.command(Input::CancelRun { run, reason: "enough".into() });
        }
    }
}
