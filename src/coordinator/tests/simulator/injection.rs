//! Faults of the script, done to the world.

use std::time::Duration;

use super::fault::{Fault, Order, Place, Trouble};
use super::network::{Arrival, Segment};
use super::world::{Happening, World};
use crate::coordinator::input::{FaultAction, FaultRequest, FaultTarget, Input};
use crate::types::Digest;

impl World {
    pub(super) fn begin(&mut self, number: usize) {
        if self.calm {
            return;
        }
        let Some(fault) = self.fault(number) else { return };
        let now = self.now();
        self.checks.excuses.injected(now, &fault);
        match fault.clone() {
            Fault::Crash { node } => self.end_process(node),
            Fault::Terminate { node } => self.terminate(node),
            Fault::PowerLoss { node, lasts } => {
                self.lose_power(node, lasts);
                self.disturb(number, fault);
            }
            Fault::Stall { place, lasts } => self.stall(place, number, lasts),
            Fault::Cut { .. } | Fault::Partition { .. } | Fault::Loss { .. } | Fault::Slow { .. } => {
                self.disturb(number, fault);
            }
            Fault::Reset { one, other } => self.reset(one, other),
            Fault::Skew { node, millis } => self.hosts[node].skew_ms = millis,
            Fault::StartsFail { node, times } => self.hosts[node].starts_fail += times,
            Fault::Operator { node, order } => self.operate(number, node, order),
            Fault::CrashCoordinator { moment, .. } => self.doom(number, moment),
            Fault::StoreFails { trouble, lasts } => {
                self.checks.meet(match trouble {
                    Trouble::Full => "store full",
                    Trouble::Away => "store away",
                    Trouble::Unknown => "store unsure",
                });
                self.seat.trouble = Some((number, trouble));
                self.schedule.after(lasts, Happening::Mends(number));
            }
            Fault::Repeat { results } => {
                for _ in 0..results {
                    let said = self.checks.results();
                    if said.is_empty() {
                        return;
                    }
                    let again = said[self.random.below(said.len())].clone();
                    self.command(again);
                }
            }
        }
    }

    pub(super) fn disturb(&mut self, number: usize, fault: Fault) {
        let lasts = fault.lasts();
        self.network.disturb(number, fault);
        self.schedule.after(lasts, Happening::Mends(number));
    }

    pub(super) fn mend(&mut self, number: usize) {
        self.network.mend(number);
        self.seat.trouble.take_if(|(fault, _)| *fault == number);
    }

    /// Both kernels see the end of each connection between two places at once.
    fn reset(&mut self, one: Place, other: Place) {
        for (connection, end) in self.network.of(one) {
            if self.network.place(connection, end.other()) == Some(other) {
                for (place, at) in [(one, end), (other, end.other())] {
                    let arrival = Arrival { connection, at, segment: Segment::Fin };
                    self.happen(Happening::Arrives(place, arrival));
                }
            }
        }
    }

    /// Some ids are used again, for the same request or another.
    fn operate(&mut self, number: usize, node: Option<usize>, order: Order) {
        let fault_id = format!("fault-{}", number % 7);
        let action = match order {
            Order::Fail => FaultAction::Fail,
            Order::Recover => FaultAction::Recover,
            Order::Drain => {
                let bound = self.random.duration(Duration::ZERO, Duration::from_secs(20));
                FaultAction::Drain { bound: Some(bound) }
            }
            Order::ResetBreaker => FaultAction::ResetBreaker,
            Order::RebuildConnections => FaultAction::RebuildConnections,
            Order::Forget => FaultAction::Forget,
        };
        let target = node.map_or(FaultTarget::All, |node| FaultTarget::Node(self.hosts[node].node.clone()));
        let body = Digest::of(format!("{action:?} {target:?}").as_bytes());
        self.command(Input::HandleFault(FaultRequest { fault_id, body, action, target }));
    }

    /// Everything is mended, every machine runs, and every process gets time.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.network.mend_all();
        (self.seat.trouble, self.seat.doom) = (None, None);
        self.resume_all();
        self.start_again(self.seat.life);
        let now = self.now();
        for node in 0..self.hosts.len() {
            let host = &mut self.hosts[node];
            host.starts_fail = 0;
            if now < host.off_until {
                host.off_until = now;
                self.start_process(node);
            }
        }
    }

    /// Nobody starts nodes that were forgotten but their owner.
    pub(super) fn start_forgotten(&mut self) {
        for node in 0..self.hosts.len() {
            let host = &self.hosts[node];
            let is_member = self.seat.core().state().members.contains_key(&host.node);
            if host.process.is_none() && !is_member {
                self.start_process(node);
            }
        }
    }

    /// An operator brings every node back.
    pub(super) fn recover_all(&mut self) {
        let target = FaultTarget::All;
        let (fault_id, body, action) = (String::new(), Digest::of(b"all"), FaultAction::Recover);
        self.command(Input::HandleFault(FaultRequest { fault_id, body, action, target }));
    }
}
