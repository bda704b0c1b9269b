//! How processes of nodes end and start.

use std::time::Duration;

use super::fault::Place;
use super::network::ConnectionId;
use super::world::{Happening, World};
use crate::coordinator::input::Input;

/// From a machine's power to its node's process.
const BOOT: Duration = Duration::from_secs(2);
/// From the wish to start a process to its start.
const LAUNCHING: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a node that was asked to end may take, before it is killed.
const TERMINATION: Duration = Duration::from_secs(30);
/// Until a launcher is told that a process ended.
const REAPING: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

impl World {
    /// A process ends: its kernel closes its connections, and its launcher, if there is one, is told.
    pub(super) fn end_process(&mut self, node: usize) {
        let Some(process) = self.hosts[node].process.take() else { return };
        self.stalled.remove(&Place::Node(node));
        for (connection, end) in self.network.of(Place::Node(node)) {
            self.close(connection, end);
        }
        let process_id = u32::try_from(process.life).unwrap_or(u32::MAX);
        let pause = self.random.duration(REAPING.0, REAPING.1);
        // A coordinator that starts later finds no process to watch, and starts one.
        if self.seat.is_up {
            let seat = self.seat.life;
            self.schedule.after(pause, Happening::Exited { node, process_id, seat });
        }
    }

    /// A process is asked to end: it takes no new work, finishes what it has, and waits for leave to go.
    pub(super) fn terminate(&mut self, node: usize) {
        let Some(process) = &mut self.hosts[node].process else { return };
        process.draining = true;
        let life = process.life;
        self.schedule.after(TERMINATION, Happening::Killed { node, life });
        self.report(node, |session, node| Input::NodeDraining {
            session,
            node,
            reason: "asked to end".into(),
        });
    }

    pub(super) fn kill(&mut self, node: usize, life: u64) {
        if self.process(node, life).is_some() {
            self.end_process(node);
        }
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
        self.schedule.after(lasts + BOOT, Happening::Boots { node });
    }

    pub(super) fn order_start(&mut self, node: usize, start: u64) {
        let pause = self.random.duration(LAUNCHING.0, LAUNCHING.1);
        let seat = self.seat.life;
        self.schedule.after(pause, Happening::Launches { node, start, seat });
    }

    /// The launcher starts a node's process: one that still runs is ended first, but for the first start of all.
    pub(super) fn launch(&mut self, node: usize, start: u64, seat: u64) {
        // The launcher is gone with its coordinator.
        if seat != self.seat.life || (start == 0 && self.hosts[node].process.is_some()) {
            return;
        }
        let (now, host) = (self.now(), &mut self.hosts[node]);
        let fails = host.starts_fail > 0 || now < host.off_until;
        host.starts_fail = host.starts_fail.saturating_sub(1);
        if fails {
            let (node, reason) = (host.node.clone(), "no such program".to_owned());
            return self.command(Input::RestartFailed { node, start, reason });
        }
        self.end_process(node);
        self.start_process(node);
    }

    pub(super) fn boot(&mut self, node: usize) {
        let (now, host) = (self.now(), &self.hosts[node]);
        if host.process.is_none() && now >= host.off_until {
            self.start_process(node);
        }
    }

    pub(super) fn tell_exit(&mut self, node: usize, process_id: u32, seat: u64) {
        if seat != self.seat.life {
            return;
        }
        let node = self.hosts[node].node.clone();
        self.command(Input::ProcessExited { node, process_id });
    }
}
