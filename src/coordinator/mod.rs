//! The pure core: decides, with no clock, no I/O and no wire format.
//!
//! [`Coordinator::decide`] takes one [`Input`] at a moment and answers a [`Decision`]: facts to commit, effects to
//! perform after the commit, and when to be asked again. Time is let pass by [`Input::Timer`] alone,
//! which the caller sends after each batch of inputs and at [`Decision::wake_at`]. Only [`State::apply`] changes what is
//! durable; what is known of connected nodes (sessions, loads, running attempts) is apart, in [`node::Presence`].

pub mod alert;
pub mod breaker;
pub mod decision;
pub mod diagnose;
pub mod eligibility;
pub mod event;
pub mod explain;
pub mod health;
pub mod history;
pub mod input;
pub mod invariants;
pub mod links;
pub mod message;
pub mod metrics;
pub mod node;
pub mod placement;
pub mod queue;
pub mod recovery;
pub mod run;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod suspicion;

mod contact;
mod declared;
mod detect;
mod dispatch;
mod doubles;
mod drain;
mod faults;
mod hold_down;
mod membership;
mod overdue;
mod restart;
mod results;
mod retention;
mod rosters;
mod runs;
mod trips;

use std::collections::BTreeMap;
use std::time::Duration;

use alert::Alerts;
use breaker::{Breaker, BreakerSettings};
use decision::{Decision, Effect, Reply};
use detect::Watch;
use drain::Drains;
use event::{Event, RunEvent};
use input::Input;
use links::LinkPlan;
use metrics::Metrics;
use node::Presence;
use queue::FairQueue;
use recovery::Recoveries;
pub use results::Dropped;
use results::Executor;
use rosters::Rosters;
use settings::Settings;
use state::State;

use crate::types::{Epoch, NodeId, Now, RunId, Tick};

/// How long after its own deadline an attempt may still report, because its node enforces the deadline first.
const ATTEMPT_GRACE: Duration = Duration::from_secs(30);

/// Members above which what must hold is not checked with each decision, even in a debug build.
const CHECKED_MEMBERS: usize = 64;

/// The coordinator: durable state, presences, and the rules.
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    state: State,
    presences: BTreeMap<NodeId, Presence>,
    deadlines: BTreeMap<RunId, Tick>,
    queue: FairQueue,
    recoveries: Recoveries,
    drains: Drains,
    links: LinkPlan,
    rosters: Rosters,
    watch: Watch,
    metrics: Metrics,
    alerts: Alerts,
    dropped: BTreeMap<Dropped, u64>,
    relayed_results: u64,
    revision: u64,
}

/// One decision in the making.
struct Draft {
    now: Now,
    events: Vec<Event>,
    effects: Vec<Effect>,
}

impl Coordinator {
    /// A coordinator that starts now.
    pub fn new(settings: Settings, epoch: Epoch) -> Self {
        Self {
            queue: FairQueue::new(settings.task_timeout),
            settings,
            state: State::new(epoch),
            presences: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            recoveries: Recoveries::default(),
            drains: Drains::default(),
            links: LinkPlan::default(),
            rosters: Rosters::default(),
            watch: Watch::default(),
            metrics: Metrics::default(),
            alerts: Alerts::default(),
            dropped: BTreeMap::new(),
            relayed_results: 0,
            revision: 0,
        }
    }

    /// Decides what follows from an input. The facts in the answer are applied already; the caller commits them before
    /// it performs the effects, and stops if it cannot.
    pub fn decide(&mut self, now: Now, input: Input) -> Decision {
        let mut draft = Draft { now, events: Vec::new(), effects: Vec::new() };
        self.notice_oversleep(now.tick);
        let time_passes = matches!(input, Input::Timer);
        // Signs of life make no room for work, unless something follows from them.
        let makes_room = !matches!(
            input,
            Input::Timer
                | Input::Beat { .. }
                | Input::ProbeAnswered { .. }
                | Input::LinkChanged { .. }
                | Input::ProbeReported { .. }
                | Input::ResultWaits { .. }
        );
        let reply = match input {
            Input::Declare(specs) => self.declare(&mut draft, specs),
            Input::Configure(specs) => self.configure(&mut draft, specs),
            Input::Joined { session, hello } => self.join(&mut draft, session, *hello),
            Input::SessionClosed { session, node, ending } => {
                self.session_closed(&mut draft, session, &node, ending)
            }
            Input::ProcessExited { node, process_id } => self.process_exited(&mut draft, &node, process_id),
            Input::Beat { session, node, beat } => self.beat(&mut draft, session, &node, beat),
            Input::ProbeAnswered { session, node, clock_offset_ms, .. } => {
                self.probe_answered(&draft, session, &node, clock_offset_ms)
            }
            Input::LinkChanged { session, node, subject, state } => {
                self.link_changed(&draft, session, &node, subject, state)
            }
            Input::ProbeReported { session, node, subject, round_trip, .. } => {
                self.probe_reported(&draft, session, &node, &subject, round_trip.is_some())
            }
            Input::NodeDraining { session, node, reason } => {
                self.node_draining(&mut draft, session, &node, &reason)
            }
            Input::Rejected { node, attempt, reason } => self.rejected(&mut draft, &node, &attempt, &reason),
            Input::TaskEnded { executor, incarnation, attempt, ending, measured, via } => {
                let executor = Executor { node: executor, incarnation, via };
                self.task_ended(&mut draft, &executor, &attempt, ending, measured)
            }
            Input::ResultWaits { executor, incarnation, attempt } => {
                self.result_waits(&executor, incarnation, &attempt)
            }
            Input::StartRun { run, order } => self.start_run(&mut draft, run, *order),
            Input::CancelRun { run, reason } => self.cancel_run(&mut draft, &run, &reason),
            Input::Stopping => self.stop_in_order(),
            Input::HandleFault(request) => self.handle_fault(&mut draft, &request),
            Input::RestartFailed { node, start, reason } => {
                self.restart_failed(&mut draft, &node, start, &reason)
            }
            Input::Traffic(traffic) => {
                self.metrics.traffic(now.tick, traffic);
                Reply::Done
            }
            Input::Timer => Reply::Done,
        };
        let mut is_sweep = false;
        // Not with every input: the next one in the queue may be the heartbeat or the result that is missed here.
        if time_passes {
            self.detect(&mut draft);
            self.end_overdue_runs(&mut draft);
            is_sweep = self.sweep(&mut draft);
        }
        let has_news = is_sweep || std::mem::take(&mut self.watch.has_probe) || !draft.events.is_empty();
        let may_follow = time_passes || makes_room || has_news;
        if may_follow {
            self.end_drains(&mut draft);
        }
        if makes_room || has_news || !self.watch.doubted.is_empty() {
            self.dispatch(&mut draft);
        }
        if may_follow {
            self.recover(&mut draft);
        }
        self.tell_rosters(&mut draft);
        if !time_passes || !draft.events.is_empty() {
            self.alerts.something_happened();
        }
        let alerts_changed = time_passes && self.watch_figures(now);
        if alerts_changed || !draft.events.is_empty() {
            self.revision += 1;
        }
        debug_assert_eq!(self.broken_now(), Vec::<String>::new());
        self.watch.due = self.next_wake(now, Some(now.tick));
        let wake_at = if time_passes { self.watch.due } else { self.next_wake(now, None) };
        Decision { reply, events: draft.events, effects: draft.effects, wake_at }
    }

    /// Every heartbeat: whatever a notification missed, the sweep finds.
    fn sweep(&mut self, draft: &mut Draft) -> bool {
        if draft.now.tick < self.watch.sweep_at {
            return false;
        }
        self.watch.sweep_at = draft.now.tick + self.settings.heartbeat_interval;
        self.check_links(draft.now.tick);
        self.forget_old_runs(draft);
        true
    }

    /// The next moment after another at which something may change by itself; of all, those that are due included, if
    /// there is no other.
    fn next_wake(&self, now: Now, after: Option<Tick>) -> Option<Tick> {
        let has_more = self.has_waiting_work() || self.links.links().next().is_some();
        let moments = self.deadlines.values().copied().chain(has_more.then_some(self.watch.sweep_at));
        let moments = moments.chain(self.recoveries.wakes()).chain(self.drains.wakes());
        let moments = moments.chain(self.next_figure_change()).chain(self.next_retention(now));
        let moments = moments.filter(|moment| after.is_none_or(|after| *moment > after));
        moments.chain(self.next_alarm(after)).min()
    }

    /// What does not hold of what must. Large meshes are checked now and then only: a check looks at everything.
    fn broken_now(&self) -> Vec<String> {
        if self.state.members.len() > CHECKED_MEMBERS && !self.revision.is_multiple_of(CHECKED_MEMBERS as u64)
        {
            return Vec::new();
        }
        invariants::broken(self)
    }

    /// When to let time pass next, before anything was decided.
    pub const fn wake_at(&self) -> Option<Tick> {
        self.watch.due
    }

    /// The settings in force.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The durable state.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// What is known of the nodes while they are connected.
    pub const fn presences(&self) -> &BTreeMap<NodeId, Presence> {
        &self.presences
    }

    /// Whose turn it is.
    pub const fn queue(&self) -> &FairQueue {
        &self.queue
    }

    /// The moment of the last decision.
    pub const fn decided_at(&self) -> Tick {
        self.watch.now
    }

    /// Results that were dropped, whatever the reason.
    #[cfg(test)]
    pub(crate) fn stale_results(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Results that were dropped, by reason.
    pub const fn dropped_results(&self) -> &BTreeMap<Dropped, u64> {
        &self.dropped
    }

    /// Results that came by another node than their executor.
    pub const fn relayed_results(&self) -> u64 {
        self.relayed_results
    }

    /// Nodes looked at since the start: what watching over them costs.
    pub const fn looks(&self) -> u64 {
        self.watch.looks
    }

    /// Counts the decisions that changed something.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    fn record(&mut self, draft: &mut Draft, event: Event) {
        self.state.apply(&event);
        if let Event::Run { run: id, event, .. } = &event
            && let Some(run) = self.state.runs.get(id)
        {
            self.queue.follow(draft.now.tick, id, run, event);
        }
        self.recoveries.follow(draft.now.tick, &event);
        self.metrics.observe(draft.now.tick, &event);
        draft.events.push(event);
    }

    fn record_run(&mut self, draft: &mut Draft, run: &RunId, event: RunEvent) {
        let sequence = self.state.runs.get(run).map_or(0, |run| run.sequence) + 1;
        let event = Event::Run { run: run.clone(), sequence, at: draft.now.wall, event };
        self.record(draft, event);
    }

    fn presence(&mut self, node: &NodeId) -> &mut Presence {
        let settings = &self.settings;
        self.presences.entry(node.clone()).or_insert_with(|| {
            Presence::new(Breaker::new(BreakerSettings {
                failure_threshold: settings.circuit_breaker_threshold,
                recovery_timeout: settings.recovery_timeout,
                ..BreakerSettings::default()
            }))
        })
    }
}

#[cfg(test)]
mod tests;
