//! After the faults: everybody behaves, and within a bounded time everything must be well.

use std::time::Duration;

use super::fault::Place;
use super::world::World;
use crate::types::{LinkState, NodeStatus};

/// How long the mesh may take until it is whole, once nothing goes wrong any more: the longest pauses of senders on a
/// network that was cut, of nodes that dial, of breakers, and of runs that are waited for.
const PATIENCE: Duration = Duration::from_secs(900);
/// After how long an operator helps.
const BY_HAND: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_secs(5);

impl World {
    /// The whole script, then calm until all is well. Whoever does not come back by himself is brought back by an
    /// operator.
    pub(super) fn play(&mut self) {
        self.run_until(self.scenario.lasts);
        self.calm_down();
        let (by_hand, end) = (self.elapsed() + BY_HAND, self.elapsed() + PATIENCE);
        let mut is_recovered = false;
        while !self.trouble().is_empty() {
            assert!(self.elapsed() < end, "after the calm: {:#?}", self.trouble());
            if self.elapsed() >= by_hand && !std::mem::replace(&mut is_recovered, true) {
                self.recover_all();
                self.start_forgotten();
            }
            self.run_until(self.elapsed() + STEP);
        }
    }

    /// What is not as it should be after a calm.
    fn trouble(&self) -> Vec<String> {
        let mut trouble: Vec<String> = Vec::new();
        let core = self.seat.core();
        for run in self.checks.unfinished() {
            trouble.push(format!("{run} is open"));
        }
        if !self.seat.is_up {
            trouble.push("the coordinator is down".into());
        }
        if self.clients.waiting() > 0 {
            trouble.push("clients wait for answers".into());
        }
        if self.seat.queued() > 0 {
            trouble.push("inputs wait".into());
        }
        for (number, host) in self.hosts.iter().enumerate() {
            let name = &host.name;
            let Some(process) = &host.process else {
                trouble.push(format!("{name} has no process"));
                continue;
            };
            if process.session.joined().is_none() {
                trouble.push(format!("{name} has no session"));
            }
            if !process.running.is_empty() || !process.outbox.is_empty() {
                trouble.push(format!("{name} holds attempts"));
            }
            if process.links.states().count() + 1 != self.hosts.len() {
                trouble.push(format!("{name} does not link to every other node"));
            }
            trouble.extend(
                process
                    .links
                    .states()
                    .filter(|(_, state)| *state != LinkState::Up)
                    .map(|(peer, state)| format!("{name} sees {peer} {state:?}")),
            );
            match core.state().members.get(&host.node) {
                None => trouble.push(format!("{name} is no member")),
                Some(member) => {
                    if member.status != NodeStatus::Active {
                        trouble.push(format!("{name} is {} {:?}", member.status, member.cause));
                    }
                    if member.incarnation.map(|at| at.0) != Some(process.life) {
                        trouble.push(format!("{name} is another process: {:?}", member.incarnation));
                    }
                }
            }
            let Some(presence) = core.presences().get(&host.node) else { continue };
            if !presence.running.is_empty() {
                trouble.push(format!("{name} should hold attempts"));
            }
            if presence.session.map(|session| session.0) != process.session.joined() {
                trouble.push(format!("{name}: its session is another"));
            }
            for (peer, link) in &presence.links {
                let theirs = process.links.states().find(|(name, _)| *name == peer).map(|(_, state)| state);
                if theirs != Some(link.state) {
                    trouble.push(format!("{name}: of its link to {peer} {theirs:?}, not {:?}", link.state));
                }
            }
            if self.network.is_cut(Place::Node(number), Place::Coordinator) {
                trouble.push(format!("{name} is cut off"));
            }
        }
        trouble
    }
}
