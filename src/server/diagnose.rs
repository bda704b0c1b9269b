//! Diagnose: sends probes over the paths in question, waits for their answers, and has all of it judged.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::service::{Service, stopped};
use crate::coordinator::diagnose::{Examination, PathProbe, ProbeOutcome, ProbePlan, Section};
use crate::coordinator::message::Message;
use crate::engine::probes::{PendingProbe, ProbeAnswer};
use crate::proto::v1;
use crate::status::{ApiError, FieldViolation};
use crate::types::{NodeId, SessionId, Tick};
use crate::wire;

/// How long a node may take to answer the coordinator's probe.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// How long a peer may take to tell what it found: it waits for its own probe first.
const REPORT_WAIT: Duration = Duration::from_secs(3);
/// Between the starts of two diagnoses: whoever asks again and again must not flood the nodes.
const PACE: Duration = Duration::from_millis(100);
/// How long a diagnosis may wait for its start.
const PATIENCE: Duration = Duration::from_secs(2);
/// Characters of a node's name that are looked at; no node has a longer one than 63.
const MAX_NAME: usize = 256;

/// Spaces the starts of diagnoses.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// When the next one may start.
    fn next(&self, now: Instant) -> Result<Instant, ApiError> {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        if at > now + PATIENCE {
            let limit = u64::try_from(PATIENCE.as_millis() / PACE.as_millis()).unwrap_or(u64::MAX);
            return Err(ApiError::ResourceExhausted { what: "diagnoses", limit, retry: PATIENCE });
        }
        *next = Some(at + PACE);
        Ok(at)
    }
}

/// Answers the rpc.
pub async fn diagnose(
    service: &Service,
    pace: &Pace,
    request: v1::DiagnoseRequest,
    deadline: Option<Instant>,
) -> Result<v1::DiagnoseResponse, ApiError> {
    let sections = sections(&request)?;
    let probes_wanted = sections.iter().any(|section| *section != Section::Performance);
    if probes_wanted {
        sleep_until(pace.next(Instant::now())?).await;
    }
    let node = Some(request.node_id).filter(|name| !name.is_empty());
    // A name that cannot be one is a node that does not exist.
    let id = node.as_deref().map(NodeId::new).and_then(Result::ok);
    // Clocks are compared over the whole mesh, whichever node is looked at.
    let all = node.is_none() || sections.contains(&Section::Consensus);
    let (began, heard, plan) = service
        .engine
        .observe(move |core, now| {
            let mut plan = match &id {
                Some(id) => core.probe_plan(Some(id)),
                None => ProbePlan::default(),
            };
            if all {
                plan.direct = core.probe_plan(None).direct;
            }
            let heard: BTreeMap<NodeId, Tick> = core
                .presences()
                .iter()
                .filter_map(|(id, presence)| Some((id.clone(), presence.heard_at?.0)))
                .collect();
            (now.tick, heard, if probes_wanted { plan } else { ProbePlan::default() })
        })
        .await
        .map_err(stopped)?;
    let probes = probe(service, plan, deadline).await;
    let examination = Examination { began, node, sections, heard, probes };
    service
        .engine
        .observe(move |core, now| wire::diagnose::response(now.wall, &core.diagnose(now.tick, &examination)))
        .await
        .map_err(stopped)
}

fn sections(request: &v1::DiagnoseRequest) -> Result<Vec<Section>, ApiError> {
    let mut bad = Vec::new();
    if request.node_id.chars().count() > MAX_NAME {
        bad.push(FieldViolation::new("node_id", format!("must have at most {MAX_NAME} characters")));
    }
    let mut sections = Vec::new();
    for (index, number) in request.sections.iter().enumerate() {
        match wire::diagnose::asked_section(*number) {
            Some(section) => sections.push(section),
            None => {
                let text = "must be DIAGNOSIS_SECTION_COMMUNICATION, DIAGNOSIS_SECTION_CONSENSUS or \
                            DIAGNOSIS_SECTION_PERFORMANCE";
                bad.push(FieldViolation::new(format!("sections[{index}]"), text));
            }
        }
    }
    if !bad.is_empty() {
        return Err(ApiError::InvalidArgument(bad));
    }
    Ok(if sections.is_empty() { Section::ALL.to_vec() } else { sections })
}

/// Sends all probes at once and waits for their answers, no longer than the caller does.
async fn probe(service: &Service, plan: ProbePlan, deadline: Option<Instant>) -> Vec<PathProbe> {
    let now = Instant::now();
    // An answer that is late for its caller is none: some of the time must be left for it.
    let left = deadline.map_or(REPORT_WAIT, |at| at.saturating_duration_since(now).mul_f64(0.8));
    let (by_node, by_peer) = (now + PROBE_WAIT.min(left), now + REPORT_WAIT.min(left));
    let send = |asked: &NodeId, session: SessionId, message: &dyn Fn(u64) -> Message| {
        let pending = service.engine.probes().expect(asked.clone());
        service.engine.sessions().send(session, message(pending.number));
        pending
    };
    let direct: Vec<_> = plan
        .direct
        .into_iter()
        .map(|(to, session)| {
            (session.map(|session| send(&to, session, &|number| Message::Probe { number })), to)
        })
        .collect();
    let by_peers: Vec<_> = plan
        .by_peers
        .into_iter()
        .map(|(from, session, to)| {
            let subject = || to.clone();
            let ask = |number| Message::ProbeRequest { subject: subject(), number };
            (send(&from, session, &ask), from, to)
        })
        .collect();
    // All are under way, and the moments until which they are waited for are fixed: one after the other takes no longer.
    let mut probes = Vec::new();
    for (pending, to) in direct {
        let outcome = match pending {
            None => ProbeOutcome::Impossible("it has no session with the coordinator"),
            Some(pending) => outcome(pending, by_node, ProbeOutcome::Unanswered).await,
        };
        probes.push(PathProbe { from: None, to, outcome });
    }
    for (pending, from, to) in by_peers {
        let missing = ProbeOutcome::Impossible("the peer that was asked did not report");
        let outcome = outcome(pending, by_peer, missing).await;
        probes.push(PathProbe { from: Some(from), to, outcome });
    }
    probes
}

async fn outcome(pending: PendingProbe, by: Instant, missing: ProbeOutcome) -> ProbeOutcome {
    match pending.answered(by).await {
        Some(ProbeAnswer { round_trip: Some(round_trip), clock_offset_ms }) => {
            ProbeOutcome::Answered { round_trip, clock_offset_ms }
        }
        Some(ProbeAnswer { round_trip: None, .. }) => ProbeOutcome::Unanswered,
        None => missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn diagnoses_start_a_tenth_of_a_second_apart_and_too_many_are_refused() {
        let pace = Pace::default();
        let now = Instant::now();
        let starts: Vec<_> = (0..30).map(|_| pace.next(now)).collect();
        let granted: Vec<_> = starts.iter().map_while(|start| start.as_ref().ok()).collect();
        assert_eq!(granted.len(), 21);
        assert!(granted.windows(2).all(|two| *two[1] - *two[0] == PACE));
        assert!(starts[21..].iter().all(Result::is_err));
        assert_eq!(pace.next(now + Duration::from_secs(60)).ok(), Some(now + Duration::from_secs(60)));
    }

    #[test]
    fn sections_are_all_by_default_and_what_is_none_is_named() {
        let ask =
            |sections: &[i32]| v1::DiagnoseRequest { node_id: String::new(), sections: sections.to_vec() };
        assert_eq!(sections(&ask(&[])).expect("valid"), Section::ALL);
        assert_eq!(sections(&ask(&[3])).expect("valid"), [Section::Performance]);
        let refused = sections(&ask(&[1, 0, 9])).expect_err("two are none").to_string();
        assert!(refused.contains("sections[1]") && refused.contains("sections[2]"), "{refused}");
    }
}
