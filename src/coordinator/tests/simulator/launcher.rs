//! How processes of nodes end and start.

use std::time::Duration;

use super::fault::Place;
use super::network::ConnectionId;
use super::world::{Happening, World};
use crate::coordinator::input::Input;

/// Until whatever looks after a machine finds that its process is gone, and starts it.
const TENDING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(20));
/// Until a launcher is told that a process ended.
const REAPING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

impl World {
    /// A process ends: its kernel closes its connections, and its launcher is told.
    pub(super) fn end_process(&mut self, node: usize) {
        let Some(process) = self.hosts[node].process.take() else { return };
        self.stalled.remove(&Place::Node(node));
        for (connection, end) in self.network.of(Place::Node(node)) {
            self.close(connection, end);
        }
        let process_id = u32::try_from(process.life).unwrap_or(u32::MAX);
        let pause = self.random.duration(REAPING.0, REAPING.1);
        self.schedule.after(pause, Happening::Exited { node, process_id });
        let pause = self.random.duration(TENDING.0, TENDING.1);
        self.schedule.after(pause, Happening::Tends { node });
    }

    /// A machine loses its power: nobody is told.
    pub(super) fn lose_power(&mut self, node: usize, lasts: Duration) {
        self.hosts[node].off_until = self.now() + lasts;
        self.hosts[node].process = None;
        self.stalled.remove(&Place::Node(node));
        let connections: Vec<(ConnectionId, _)> = self.network.of(Place::Node(node));
        for (connection, end) in connections {
            self.network.abandon(connection, end);
        }
        self.schedule.after(lasts + TENDING.0, Happening::Tends { node });
    }

    /// The launcher was asked to start a node's process: one that still runs is ended first.
    pub(super) fn launch(&mut self, node: usize) {
        if self.may_start(node) {
            self.end_process(node);
            self.start_process(node);
        }
    }

    pub(super) fn tend(&mut self, node: usize) {
        if self.hosts[node].process.is_some() {
            return;
        }
        if self.may_start(node) {
            self.start_process(node);
        } else {
            self.schedule.after(TENDING.1, Happening::Tends { node });
        }
    }

    fn may_start(&mut self, node: usize) -> bool {
        let (now, host) = (self.now(), &mut self.hosts[node]);
        if now < host.off_until {
            return false;
        }
        let fails = host.starts_fail > 0;
        host.starts_fail = host.starts_fail.saturating_sub(1);
        !fails
    }

    pub(super) fn tell_exit(&mut self, node: usize, process_id: u32) {
        let node = self.hosts[node].node.clone();
        self.command(Input::ProcessExited { node, process_id });
    }
}
