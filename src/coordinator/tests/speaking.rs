//! What the nodes of a [`TestMesh`] say of themselves, and how their connections end.

use std::time::Duration;

use super::builders::node;
use super::mesh::TestMesh;
use crate::coordinator::input::{Beat, Input, SessionEnding};
use crate::types::{AttemptRef, NodeId};

impl TestMesh {
    /// The connection of a node ends. Who is welcomed beats at once, so it has spoken.
    pub(super) fn disconnect(&mut self, name: &str) {
        if !self.core.presences()[&node(name)].contact.has_spoken {
            self.beat(name);
        }
        self.hang_up(name);
    }

    /// The connection of a node ends, whatever it said.
    pub(super) fn hang_up(&mut self, name: &str) {
        let session = self.session(name);
        self.input(Input::SessionClosed { session, node: node(name), ending: SessionEnding::Reset });
    }

    /// A node tells that it does what it was given.
    pub(super) fn beat(&mut self, name: &str) {
        self.beat_with(name, Beat::default());
    }

    /// A heartbeat that tells of what the node was given, beside what the test has it tell.
    pub(super) fn beat_with(&mut self, name: &str, mut beat: Beat) {
        let session = self.session(name);
        beat.attempts.extend(self.held(&node(name)));
        self.input(Input::Beat { session, node: node(name), beat });
    }

    /// What a node was given.
    fn held(&self, node: &NodeId) -> Vec<(AttemptRef, Duration)> {
        let running = self.core.presences()[node].running.iter();
        let attempts = running.map(|(id, running)| {
            let attempt = AttemptRef { run: running.run.clone(), task: running.task, attempt: *id };
            (attempt, Duration::ZERO)
        });
        attempts.collect()
    }
}
