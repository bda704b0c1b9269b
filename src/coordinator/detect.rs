//! Watches over nodes: asks the silent ones, asks their peers, gathers what is known and acts on the verdict.
//!
//! Each node has an alarm, the moment at which something about it may change by itself; only nodes whose alarm is due are
//! looked at, so a thousand healthy nodes cost no more than their own messages. Looks happen when time passes, never
//! while messages that arrived still wait: the next one in the queue may be the one that is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decision::Effect;
use super::message::Message;
use super::node::Presence;
use super::suspicion::{self, DOUBLE_AFTER_RESET, Evidence, Limits, Verdict};
use super::{Coordinator, Draft};
use crate::types::{FaultCause, LinkState, NodeId, NodeStatus, Tick};

/// A timer that comes later than this says that this process was asleep.
const OVERSLEPT: Duration = Duration::from_millis(500);
/// Peers that are asked about a node at a time, as SWIM (Das et al., 2002) and its followers do.
const ASKED_PEERS: usize = 3;
/// Members for which the coordinator probes each node each interval; with more, peers do the work.
const PROBED_MEMBERS: u32 = 64;
/// How long an accusation by a peer makes the coordinator look closely.
const CLOSE_LOOK: Duration = Duration::from_secs(10);

/// What the coordinator keeps for its watching.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The moment of the last decision.
    pub(super) now: Tick,
    started: Option<Tick>,
    /// Silence before this moment was perhaps this process's own.
    awake_since: Tick,
    /// When time should be let pass next, to notice that it was not.
    pub(super) due: Option<Tick>,
    alarms: BTreeMap<Tick, BTreeSet<NodeId>>,
    /// Nodes that only the coordinator finds suspicious.
    suspects: BTreeSet<NodeId>,
    pub(super) is_guarded: bool,
    /// When too many were last suspected at once.
    guarded_until: Option<Tick>,
    /// Nodes whose tasks should get a second attempt.
    pub(super) doubted: BTreeSet<NodeId>,
    /// A breaker's time is over: there may be room for work that waits.
    pub(super) has_probe: bool,
    /// When the whole mesh is looked at again.
    pub(super) sweep_at: Tick,
    /// Nodes looked at since the start: the cost of watching.
    pub(super) looks: u64,
    /// Questions to peers so far.
    pub(super) requests: u64,
}

impl Coordinator {
    /// An observer that missed its own timers has no right to call others late: it measures their silence from now, and
    /// what may have arrived while it could not decide gets that time back.
    pub(super) fn notice_oversleep(&mut self, now: Tick) {
        self.watch.now = now;
        self.watch.started.get_or_insert(now);
        if let Some(due) = self.watch.due.filter(|due| now >= *due + OVERSLEPT) {
            self.watch.awake_since = now;
            self.postpone_deadlines(now.since(due));
        }
    }

    /// Has a node looked at no later than this.
    pub(super) fn wake(&mut self, node: &NodeId, at: Tick) {
        let Some(presence) = self.presences.get_mut(node) else { return };
        if presence.contact.alarm.is_none_or(|alarm| at < alarm) {
            let replaced = presence.contact.alarm.replace(at);
            self.forget_alarm(node, replaced);
            self.watch.alarms.entry(at).or_default().insert(node.clone());
        }
    }

    fn forget_alarm(&mut self, node: &NodeId, alarm: Option<Tick>) {
        if let Some(alarm) = alarm
            && let Some(nodes) = self.watch.alarms.get_mut(&alarm)
        {
            nodes.remove(node);
            if nodes.is_empty() {
                self.watch.alarms.remove(&alarm);
            }
        }
    }

    /// The next alarm after a moment; of all, those that are due included, if there is no moment.
    pub(super) fn next_alarm(&self, after: Option<Tick>) -> Option<Tick> {
        match after {
            None => self.watch.alarms.keys().next().copied(),
            Some(after) => {
                self.watch.alarms.range(Tick(after.0.saturating_add(1))..).next().map(|(at, _)| *at)
            }
        }
    }

    /// Looks at every node whose alarm is due.
    pub(super) fn detect(&mut self, draft: &mut Draft) {
        let now = draft.now.tick;
        let mut due = BTreeSet::new();
        while let Some(entry) = self.watch.alarms.first_entry().filter(|entry| *entry.key() <= now) {
            due.extend(entry.remove());
        }
        for node in &due {
            if let Some(presence) = self.presences.get_mut(node) {
                presence.contact.alarm = None;
            }
            self.suspect(node, now);
        }
        // Many at once: more likely this process or its network was asleep than all of them died. Everyone who is
        // late counts, for silence is staggered: the first to reach a limit would always be alone.
        let is_guarded = self.has_too_many_suspects();
        if is_guarded != self.watch.is_guarded {
            self.watch.is_guarded = is_guarded;
            self.watch.guarded_until = Some(now);
            due.extend(self.watch.suspects.iter().cloned());
        }
        for node in due {
            self.watch.looks += 1;
            self.end_overdue_attempts(draft, &node);
            self.probe_if_quiet(draft, &node);
            let next_probe = self.presences.get(&node).and_then(|presence| presence.breaker.next_probe());
            self.watch.has_probe |= next_probe.is_some_and(|at| at <= now);
            self.judge(draft, &node);
            // What was decided about it may have had it looked at at once, which was done: the next look is another.
            let asked = self.presences.get_mut(&node).and_then(|presence| presence.contact.alarm.take());
            self.forget_alarm(&node, asked);
            if let Some(next) = self.next_look(&node, now) {
                self.wake(&node, next);
            }
        }
    }

    fn has_too_many_suspects(&self) -> bool {
        let suspects = self.watch.suspects.len();
        let tolerated = self.settings.fault_tolerance_level * self.state.members.len() as f64;
        suspects > 1 && suspects as f64 > tolerated
    }

    /// Keeps the list of suspects. Those whose peers saw them go are none: that is not only the coordinator's view.
    fn suspect(&mut self, node: &NodeId, now: Tick) {
        let is_suspect = self.is_watched(node)
            && self.evidence(node, now).is_some_and(|evidence| {
                evidence.is_suspicious(&self.limits(node, now)) && !evidence.is_corroborated()
            });
        if is_suspect {
            self.watch.suspects.insert(node.clone());
        } else {
            self.watch.suspects.remove(node);
        }
    }

    /// A node was heard or left the mesh: it is no suspect. Others may not be excused any more.
    pub(super) fn clear_suspicion(&mut self, node: &NodeId, now: Tick) {
        if self.watch.suspects.remove(node) && self.watch.is_guarded {
            self.wake(node, now);
        }
        self.watch.doubted.remove(node);
    }

    fn is_watched(&self, node: &NodeId) -> bool {
        matches!(self.status(node), Some(NodeStatus::Active | NodeStatus::Degraded))
    }

    /// All that is known of a node.
    fn evidence(&self, node: &NodeId, now: Tick) -> Option<Evidence> {
        let presence = self.presences.get(node)?;
        let silence = now.since(self.heard(presence)?);
        let gone = presence
            .disconnected_at
            .filter(|_| presence.session.is_none())
            .map(|at| (presence.contact.proof_of_end(), now.since(at)));
        let unseen = presence.contact.seen_at.map(|seen| now.since(seen));
        let mut evidence = Evidence { gone, silence, unseen, observers: 0, resets: 0, ups: 0 };
        if evidence.is_suspicious(&self.limits(node, now)) {
            let memory = self.silent_after(presence, now);
            for (_, view) in self.witnesses(node, now) {
                evidence.observers += 1;
                evidence.ups += usize::from(view.state == LinkState::Up);
                // The end of a process ends all of its connections at once.
                let with_ours = presence
                    .disconnected_at
                    .is_some_and(|at| view.since + memory >= at && at + memory >= view.since);
                evidence.resets += usize::from(view.state == LinkState::Reset && with_ours);
            }
        }
        Some(evidence)
    }

    /// The peers that watch a node and can be believed, with what they see.
    pub(super) fn witnesses(
        &self,
        node: &NodeId,
        now: Tick,
    ) -> impl Iterator<Item = (&NodeId, suspicion::View)> {
        let views = self.presences.get(node).map(|presence| &presence.contact.views);
        self.links.observers(node).filter_map(move |observer| {
            let view = *views?.get(observer)?;
            (self.status(observer) == Some(NodeStatus::Active)
                && self.is_responsive(observer, now)
                && !self.presences.get(observer)?.contact.abstains)
                .then_some((observer, view))
        })
    }

    fn limits(&self, node: &NodeId, now: Tick) -> Limits {
        let presence = self.presences.get(node);
        let is_starting = self.watch.started.is_some_and(|at| now < at + self.settings.message_timeout);
        Limits {
            quiet: self.quiet(presence, now),
            silent_after: presence.map_or(Duration::MAX, |presence| self.silent_after(presence, now)),
            fresh: self.settings.probe_interval * 3,
            message_timeout: self.settings.message_timeout,
            reconnect_grace: self.settings.reconnect_grace,
            is_starting,
            is_awaited: is_starting && presence.is_some_and(|presence| presence.contact.is_awaited),
            is_guarded: self.watch.is_guarded,
            unguarded: self.watch.guarded_until.map_or(Duration::MAX, |until| now.since(until)),
        }
    }

    /// From when a node's silence is measured.
    fn heard(&self, presence: &Presence) -> Option<Tick> {
        let (heard, _) = presence.heard_at?;
        let accused = presence.contact.accused_at.filter(|_| self.is_large());
        Some(heard.max(self.watch.awake_since).max(accused.unwrap_or_default()))
    }

    fn is_large(&self) -> bool {
        self.state.members.len() > PROBED_MEMBERS as usize
    }

    /// Silence after which a node is asked for an answer: the probe interval, longer in a large mesh, where a node is
    /// probed by its peers and looked at closely once one of them finds something wrong.
    fn quiet(&self, presence: Option<&Presence>, now: Tick) -> Duration {
        let interval = self.settings.probe_interval;
        let accused = presence.and_then(|presence| presence.contact.accused_at);
        if !self.is_large() || accused.is_some_and(|at| now < at + CLOSE_LOOK) {
            return interval;
        }
        let members = u32::try_from(self.state.members.len()).unwrap_or(u32::MAX);
        // Heartbeats come anyway.
        (interval.saturating_mul(members) / PROBED_MEMBERS)
            .min(self.settings.heartbeat_interval.mul_f64(1.2))
            .max(interval)
    }

    /// Two probes without an answer and half an interval to answer the second.
    fn silent_after(&self, presence: &Presence, now: Tick) -> Duration {
        self.quiet(Some(presence), now) + self.settings.probe_interval.mul_f64(1.5)
    }

    /// Whether a node is connected and not late.
    pub(super) fn is_responsive(&self, node: &NodeId, now: Tick) -> bool {
        self.presences.get(node).is_some_and(|presence| {
            presence.session.is_some()
                && self.heard(presence).is_some_and(|heard| now < heard + self.silent_after(presence, now))
        })
    }

    fn probe_if_quiet(&mut self, draft: &mut Draft, node: &NodeId) {
        let now = draft.now.tick;
        let Some(presence) = self.presences.get(node) else { return };
        let quiet = self.quiet(Some(presence), now);
        let interval = self.settings.probe_interval;
        let Some(presence) = self.presences.get_mut(node) else { return };
        let (Some(session), Some((heard, _))) = (presence.session, presence.heard_at) else { return };
        let contact = &mut presence.contact;
        if now >= heard + quiet && contact.probed_at.is_none_or(|at| now >= at + interval) {
            contact.probed_at = Some(now);
            contact.probes += 1;
            let message = Message::Probe { number: contact.probes };
            draft.effects.push(Effect::Send { node: node.clone(), session, message });
        }
    }

    /// Asks some peers whether they reach a node, each time others.
    fn ask_peers(&mut self, draft: &mut Draft, node: &NodeId) {
        let now = draft.now.tick;
        let Some(presence) = self.presences.get(node) else { return };
        if presence.contact.asked_at.is_some_and(|at| now < at + self.settings.probe_interval) {
            return;
        }
        let able = |observer: &&NodeId| {
            self.status(observer) == Some(NodeStatus::Active) && self.is_responsive(observer, now)
        };
        let able: Vec<&NodeId> = self.links.observers(node).filter(able).collect();
        let first = usize::try_from(self.watch.requests).unwrap_or(0).checked_rem(able.len()).unwrap_or(0);
        let asked: Vec<NodeId> = able
            .iter()
            .cycle()
            .skip(first)
            .take(able.len().min(ASKED_PEERS))
            .map(|peer| (*peer).clone())
            .collect();
        for peer in asked {
            self.watch.requests += 1;
            if let Some(session) = self.presences.get(&peer).and_then(|presence| presence.session) {
                let message = Message::ProbeRequest { subject: node.clone(), number: self.watch.requests };
                draft.effects.push(Effect::Send { node: peer, session, message });
            }
        }
        self.presence(node).contact.asked_at = Some(now);
    }

    /// Acts on what is known of a node.
    fn judge(&mut self, draft: &mut Draft, node: &NodeId) {
        let now = draft.now.tick;
        let Some((status, cause)) = self.state.members.get(node).map(|member| (member.status, member.cause))
        else {
            return;
        };
        let Some(evidence) = self.evidence(node, now) else { return };
        let limits = self.limits(node, now);
        let verdict = suspicion::judge(&evidence, &limits);
        let deliberate = matches!(cause, Some(FaultCause::Operator | FaultCause::Draining));
        match (verdict, status) {
            (Verdict::Present, _) => {
                self.watch.doubted.remove(node);
                if status != NodeStatus::Active && self.is_proved(node, now) {
                    self.presence(node).contact.is_excused = false;
                    if let Some((status, cause)) = self.status_on_contact(node) {
                        self.set_status(draft, node, status, cause);
                    }
                } else if evidence.silence >= limits.quiet + self.settings.probe_interval
                    && self.is_watched(node)
                {
                    // The first probe went unanswered: peers are asked now, so that their answers are there in time.
                    self.ask_peers(draft, node);
                }
            }
            (_, NodeStatus::Failed | NodeStatus::Initializing) => {}
            (Verdict::Failed(cause), _) => {
                self.fail(draft, node, cause);
            }
            (Verdict::Degraded { cause, doubles_work }, _) => {
                self.presence(node).contact.is_excused |= limits.is_guarded;
                if !deliberate {
                    self.set_status(draft, node, NodeStatus::Degraded, Some(cause));
                }
                if doubles_work {
                    self.watch.doubted.insert(node.clone());
                } else {
                    self.watch.doubted.remove(node);
                }
                self.ask_peers(draft, node);
            }
        }
    }

    /// The next moment at which something about a node may change by itself.
    fn next_look(&self, node: &NodeId, now: Tick) -> Option<Tick> {
        let presence = self.presences.get(node)?;
        let contact = &presence.contact;
        let awaited = presence.running.values().filter(|running| !running.has_arrived);
        let mut moments: Vec<Tick> = awaited.map(|running| running.deadline).collect();
        if let (Some(_), Some((raw, _)), Some(heard)) =
            (presence.session, presence.heard_at, self.heard(presence))
        {
            let (quiet, interval) = (self.quiet(Some(presence), now), self.settings.probe_interval);
            let asked = contact.probed_at.map_or(Tick(0), |at| at + interval);
            moments.push((raw + quiet).max(asked));
            moments.extend([
                heard + quiet + interval,
                heard + self.silent_after(presence, now),
                heard + self.settings.message_timeout,
            ]);
            moments.extend(presence.breaker.next_probe());
            moments.extend(contact.since.map(|since| since + self.hold_down(presence, now)));
        }
        if self.is_watched(node) {
            if let Some(at) = presence.disconnected_at.filter(|_| presence.session.is_none()) {
                moments.extend([
                    at + DOUBLE_AFTER_RESET,
                    at + self.settings.reconnect_grace,
                    at + self.settings.message_timeout,
                ]);
            }
            if self.evidence(node, now)?.is_suspicious(&self.limits(node, now)) {
                // Peers are asked again, and what they said goes stale.
                moments.push(now + self.settings.probe_interval);
            }
        }
        moments.into_iter().filter(|moment| *moment > now).min()
    }
}
