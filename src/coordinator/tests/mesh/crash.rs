//! The coordinator of a test mesh dies, and another one takes up what it left.

use std::time::Duration;

use super::TestMesh;
use crate::coordinator::input::Input;
use crate::coordinator::snapshot::Part;
use crate::coordinator::state::State;
use crate::coordinator::{Coordinator, invariants};
use crate::types::{Epoch, Now, UnixMillis};

impl TestMesh {
    /// The coordinator dies; some time later another one takes up its state, which the events give and the parts of a
    /// snapshot too. All connections are gone; no node has joined yet.
    pub(in crate::coordinator::tests) fn crash(&mut self, down: Duration) {
        let epoch = Epoch(self.core.state().epoch.0 + 1);
        let mut replayed = State::new(epoch);
        for event in &self.events {
            let record = serde_json::to_vec(event).expect("writes");
            replayed.apply(&serde_json::from_slice(&record).expect("reads"));
        }
        let mut restored = State::new(epoch);
        for part in self.core.state().parts() {
            let record = serde_json::to_vec(&part).expect("writes");
            restored.restore(serde_json::from_slice::<Part>(&record).expect("reads"));
        }
        assert_eq!(restored, replayed, "the parts of the state say what its events say");
        self.now = self.now + down;
        let now = Now { tick: self.now, wall: UnixMillis(self.now.0 / 1000) };
        self.core = Coordinator::resume(self.core.settings().clone(), restored, now);
        assert_eq!(invariants::broken(&self.core), Vec::<String>::new());
        self.replayed = replayed;
        self.rosters.clear();
        self.probes.clear();
        self.effects.clear();
        self.wake_at = self.core.wake_at();
        if self.wake_at.is_some_and(|wake| wake <= self.now) {
            self.decide(Input::Timer);
        }
    }
}
