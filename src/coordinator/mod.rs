//! The pure core: decides, with no clock, no I/O and no wire format.
//!
//! [`Coordinator::decide`] takes one [`Input`] at a moment and answers a [`Decision`]: facts to commit, effects to
//! perform after the commit, and when to be asked again. Time is let pass by
//! [`Input::Timer`] alone, which the caller sends after each batch of inputs and at [`Decision::wake_at`]. Only [`State::apply`] changes what is durable; what is known of
//! connected nodes (sessions, loads, running attempts) is apart, in [`node::Presence`].

pub mod alert;
pub mod breaker;
pub mod diagnose;
pub mod eligibility;
pub mod event;
pub mod explain;
pub mod health;
pub mod history;
pub mod input;
pub mod invariants;
pub mod metrics;
pub mod node;
pub mod placement;
pub mod queue;
pub mod recovery;
pub mod run;
pub mod settings;
pub mod state;

mod detect;
mod dispatch;
mod drain;
mod faults;
mod membership;
mod results;
mod runs;

use std::collections::BTreeMap;
use std::time::Duration;

use alert::Alerts;
use breaker::{Breaker, BreakerSettings};
use drain::Drains;
use event::{Event, RunEvent};
use input::{Decision, Effect, Input, Reply};
use metrics::Metrics;
use node::Presence;
use queue::FairQueue;
use recovery::Recoveries;
use settings::Settings;
use state::State;

use crate::types::{Epoch, NodeId, Now, RunId, Tick};

/// How long after its own deadline an attempt may still report, because its node enforces the deadline first.
const ATTEMPT_GRACE: Duration = Duration::from_secs(30);

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
    /// When time should be let pass next, to notice that it was not.
    due: Option<Tick>,
    /// Silence before this moment was perhaps this process's own.
    awake_since: Tick,
    metrics: Metrics,
    alerts: Alerts,
    stale_results: u64,
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
            due: None,
            awake_since: Tick(0),
            metrics: Metrics::default(),
            alerts: Alerts::default(),
            stale_results: 0,
            revision: 0,
        }
    }

    /// Decides what follows from an input. The facts in the answer are applied already; the caller commits them before
    /// it performs the effects, and stops if it cannot.
    pub fn decide(&mut self, now: Now, input: Input) -> Decision {
        let mut draft = Draft { now, events: Vec::new(), effects: Vec::new() };
        self.notice_oversleep(now.tick);
        let time_passes = matches!(input, Input::Timer);
        let reply = match input {
            Input::Declare(specs) => self.declare(&mut draft, specs),
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
                self.link_changed(session, &node, subject, state)
            }
            Input::NodeDraining { session, node, reason } => {
                self.node_draining(&mut draft, session, &node, &reason)
            }
            Input::ProbeReported { .. } => Reply::Done,
            Input::Rejected { node, attempt, reason } => self.rejected(&mut draft, &node, &attempt, &reason),
            Input::TaskEnded { executor, incarnation, attempt, ending, measured, via: _ } => {
                self.task_ended(&mut draft, &executor, incarnation, &attempt, ending, measured)
            }
            Input::StartRun { run, order } => self.start_run(&mut draft, run, *order),
            Input::CancelRun { run, reason } => self.cancel_run(&mut draft, &run, &reason),
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
        // Not with every input: the next one in the queue may be the heartbeat or the result that is missed here.
        if time_passes {
            self.detect(&mut draft);
            self.end_overdue_work(&mut draft);
        }
        self.end_drains(&mut draft);
        self.dispatch(&mut draft);
        self.recover(&mut draft);
        if !time_passes || !draft.events.is_empty() {
            self.alerts.something_happened();
        }
        let alerts_changed = time_passes && self.watch_figures(now);
        if alerts_changed || !draft.events.is_empty() {
            self.revision += 1;
        }
        debug_assert_eq!(invariants::broken(self), Vec::<String>::new());
        let mut wakes = self.wakes(now.tick);
        wakes.extend(self.recoveries.wakes().chain(self.drains.wakes()));
        wakes.extend(self.next_figure_change());
        self.due = wakes.iter().copied().filter(|wake| *wake > now.tick).min();
        let wake_at = if time_passes { self.due } else { wakes.into_iter().min() };
        Decision { reply, events: draft.events, effects: draft.effects, wake_at }
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

    /// Results that were dropped because another attempt had taken their place.
    pub const fn stale_results(&self) -> u64 {
        self.stale_results
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
        let event = Event::Run { run: run.clone(), at: draft.now.wall, event };
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
