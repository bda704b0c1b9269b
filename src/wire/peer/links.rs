//! Links between nodes on the wire: their states, what is measured of them, and the progress that travels along.

use std::time::Duration;

use super::{PeerMessageError, attempt_of, duration, node_name};
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;
use crate::types::{AttemptRef, LinkReport, LinkState, NodeId};
use crate::wire::time;

/// The most links of one report: full mesh up to 64 nodes, and 10 links each beyond, with room to spare.
const MAX_LINKS: usize = 256;
/// The most attempts of one beat; no node runs nearly as many.
const MAX_ATTEMPTS: usize = 4096;

/// Reads a state; an unknown one is an error.
pub fn state(number: i32) -> Result<LinkState, PeerMessageError> {
    match pb::LinkState::try_from(number) {
        Ok(pb::LinkState::Connecting) => Ok(LinkState::Connecting),
        Ok(pb::LinkState::Up) => Ok(LinkState::Up),
        Ok(pb::LinkState::Reset) => Ok(LinkState::Reset),
        Ok(pb::LinkState::Silent) => Ok(LinkState::Silent),
        Ok(pb::LinkState::Unspecified) | Err(_) => {
            Err(PeerMessageError::Value { field: "state", problem: "is not known" })
        }
    }
}

/// Writes a state.
pub const fn state_to_proto(state: LinkState) -> pb::LinkState {
    match state {
        LinkState::Connecting => pb::LinkState::Connecting,
        LinkState::Up => pb::LinkState::Up,
        LinkState::Reset => pb::LinkState::Reset,
        LinkState::Silent => pb::LinkState::Silent,
    }
}

impl LinkReport {
    /// Reads it from the wire.
    pub fn from_proto(message: &pb::LinkReport) -> Result<Self, PeerMessageError> {
        let optional = |field, span: Option<&prost_types::Duration>| match span {
            Some(span) => duration(field, Some(span)).map(Some),
            None => Ok(None),
        };
        Ok(Self {
            peer: node_name("links.peer_id", &message.peer_id)?,
            state: state(message.state)?,
            last_seen_age: optional("links.last_seen_age", message.last_seen_age.as_ref())?,
            round_trip: optional("links.round_trip", message.round_trip.as_ref())?,
            clock_offset_ms: message.clock_offset_ms,
            sent_bytes: message.sent_bytes,
            received_bytes: message.received_bytes,
        })
    }

    /// Writes it to the wire.
    pub fn to_proto(&self) -> pb::LinkReport {
        pb::LinkReport {
            peer_id: self.peer.to_string(),
            state: state_to_proto(self.state).into(),
            last_seen_age: self.last_seen_age.map(time::duration),
            round_trip: self.round_trip.map(time::duration),
            clock_offset_ms: self.clock_offset_ms,
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
        }
    }
}

/// Reads the links of a beat.
pub fn reports(beat: &pb::Beat) -> Result<Vec<LinkReport>, PeerMessageError> {
    if beat.links.len() > MAX_LINKS {
        return Err(PeerMessageError::Value {
            field: "links",
            problem: "has more entries than a node has links",
        });
    }
    beat.links.iter().map(LinkReport::from_proto).collect()
}

/// Reads the attempts of a beat, with the time for which each has not moved.
pub fn progress(beat: &pb::Beat) -> Result<Vec<(AttemptRef, Duration)>, PeerMessageError> {
    if beat.attempts.len() > MAX_ATTEMPTS {
        return Err(PeerMessageError::Value {
            field: "attempts",
            problem: "has more entries than a node runs",
        });
    }
    let one = |progress: &pb::AttemptProgress| {
        let idle = duration("attempts.idle", progress.idle.as_ref())?;
        Ok((attempt_of(progress.attempt.as_ref())?, idle))
    };
    beat.attempts.iter().map(one).collect()
}

/// Writes how far an attempt is.
pub fn progress_to_proto(attempt: &AttemptRef, idle: Duration) -> pb::AttemptProgress {
    pb::AttemptProgress { attempt: Some(attempt.to_proto()), idle: Some(time::duration(idle)) }
}

/// Says that a link's state changed.
pub fn change(peer: &NodeId, state: LinkState) -> Payload {
    let change = pb::LinkChange { peer_id: peer.to_string(), state: state_to_proto(state).into() };
    let kind = Some(pb::fault_tolerance::Kind::LinkChange(change));
    Payload::FaultTolerance(pb::FaultTolerance { kind })
}

/// Reads which link changed, and to what.
pub fn changed(message: &pb::LinkChange) -> Result<(NodeId, LinkState), PeerMessageError> {
    Ok((node_name("link_change.peer_id", &message.peer_id)?, state(message.state)?))
}

/// Reads what a node found: whom it looked at, by which request, and how long the answer took if there was one.
pub fn report(message: &pb::ProbeReport) -> Result<(NodeId, u64, Option<Duration>), PeerMessageError> {
    let subject = node_name("probe_report.subject_id", &message.subject_id)?;
    let round_trip = match message.reached {
        true => Some(duration("probe_report.round_trip", message.round_trip.as_ref())?),
        false => None,
    };
    Ok((subject, message.number, round_trip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{AttemptId, Epoch, RunId, TaskId};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    #[test]
    fn what_is_measured_of_a_link_survives_the_wire() {
        let bare = LinkReport::new(node("api-docs"), LinkState::Connecting);
        let full = LinkReport {
            state: LinkState::Up,
            last_seen_age: Some(Duration::from_millis(700)),
            round_trip: Some(Duration::from_micros(230)),
            clock_offset_ms: Some(-3),
            sent_bytes: 7,
            received_bytes: 9,
            ..bare.clone()
        };
        let beat = pb::Beat { links: vec![bare.to_proto(), full.to_proto()], ..Default::default() };
        assert_eq!(reports(&beat), Ok(vec![bare, full]));
        let nameless = pb::LinkReport { state: 2, ..Default::default() };
        let unknown = pb::LinkReport { peer_id: "api-docs".into(), state: 9, ..Default::default() };
        for bad in [nameless, unknown] {
            assert!(reports(&pb::Beat { links: vec![bad], ..Default::default() }).is_err());
        }
        let many = vec![pb::LinkReport::default(); MAX_LINKS + 1];
        assert!(reports(&pb::Beat { links: many, ..Default::default() }).is_err());
    }

    #[test]
    fn states_changes_and_progress_survive_the_wire() {
        for known in [LinkState::Connecting, LinkState::Up, LinkState::Reset, LinkState::Silent] {
            let Payload::FaultTolerance(pb::FaultTolerance {
                kind: Some(pb::fault_tolerance::Kind::LinkChange(message)),
            }) = change(&node("api-docs"), known)
            else {
                panic!("another kind");
            };
            assert_eq!(changed(&message), Ok((node("api-docs"), known)));
        }
        let attempt = AttemptRef {
            run: RunId::new("run").expect("valid"),
            task: TaskId(1),
            attempt: AttemptId { epoch: Epoch(1), number: 2 },
        };
        let idle = Duration::from_secs(3);
        let beat = pb::Beat { attempts: vec![progress_to_proto(&attempt, idle)], ..Default::default() };
        assert_eq!(progress(&beat), Ok(vec![(attempt, idle)]));
        assert!(progress(&pb::Beat { attempts: vec![Default::default()], ..Default::default() }).is_err());
    }

    #[test]
    fn a_report_without_an_answer_has_no_round_trip() {
        let found = pb::ProbeReport { subject_id: "api-docs".into(), number: 4, ..Default::default() };
        assert_eq!(report(&found), Ok((node("api-docs"), 4, None)));
        assert!(report(&pb::ProbeReport { reached: true, ..found }).is_err(), "an answer takes some time");
    }
}
