//! Clients that ask for runs, repeat themselves, and change their minds.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::builders::order;
use super::world::{Happening, World};
use crate::coordinator::input::Input;
use crate::types::{Digest, Priority, RunId};

const TOOLS: [&[&str]; 3] = [&["ruff"], &["flake8", "ruff"], &["bandit", "mypy", "pylint"]];

#[derive(Default)]
pub(super) struct Clients {
    asked: u64,
    requests: u64,
    pub(super) runs: BTreeSet<RunId>,
}

impl Clients {
    pub(super) fn has(&mut self, run: RunId) {
        self.runs.insert(run);
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
        let run = RunId::new(&format!("run-{}", self.clients.asked)).expect("a valid run id");
        if self.random.percent(8) {
            let pause = self.random.duration(Duration::ZERO, Duration::from_secs(10));
            self.schedule.after(pause, Happening::Cancels(run.clone()));
        }
        self.command(Input::StartRun { run, order: Box::new(order) });
    }

    pub(super) fn cancel(&mut self, run: RunId) {
        self.command(Input::CancelRun { run, reason: "enough".into() });
    }
}
