//! Diagnoses on the wire.

use crate::coordinator::diagnose::{
    DiagnosisResult, Figure, Finding, FindingSeverity, NodeCommunication, PathProbe, ProbeOutcome, Section,
    SectionDiagnosis,
};
use crate::proto::v1;
use crate::types::{FaultCause, UnixMillis};

use super::time;

/// A diagnosis; its result is the worst of its sections.
pub fn response(at: UnixMillis, sections: &[SectionDiagnosis]) -> v1::DiagnoseResponse {
    let worst = sections.iter().map(|section| section.result).max().unwrap_or(DiagnosisResult::NotMeasured);
    v1::DiagnoseResponse {
        time: Some(time::timestamp(at)),
        result: v1::DiagnosisResult::from(worst).into(),
        sections: sections.iter().map(section).collect(),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A section as a client asked for it; none if it is not one.
pub fn asked_section(number: i32) -> Option<Section> {
    match v1::DiagnosisSection::try_from(number).ok()? {
        v1::DiagnosisSection::Unspecified => None,
        v1::DiagnosisSection::Communication => Some(Section::Communication),
        v1::DiagnosisSection::Consensus => Some(Section::Consensus),
        v1::DiagnosisSection::Performance => Some(Section::Performance),
    }
}

impl From<Section> for v1::DiagnosisSection {
    fn from(section: Section) -> Self {
        match section {
            Section::Communication => v1::DiagnosisSection::Communication,
            Section::Consensus => v1::DiagnosisSection::Consensus,
            Section::Performance => v1::DiagnosisSection::Performance,
        }
    }
}

impl From<DiagnosisResult> for v1::DiagnosisResult {
    fn from(result: DiagnosisResult) -> Self {
        match result {
            DiagnosisResult::NotMeasured => v1::DiagnosisResult::NotMeasured,
            DiagnosisResult::Passed => v1::DiagnosisResult::Passed,
            DiagnosisResult::Warning => v1::DiagnosisResult::Warning,
            DiagnosisResult::Failed => v1::DiagnosisResult::Failed,
        }
    }
}

impl From<FindingSeverity> for v1::FindingSeverity {
    fn from(severity: FindingSeverity) -> Self {
        match severity {
            FindingSeverity::Info => v1::FindingSeverity::Info,
            FindingSeverity::Warning => v1::FindingSeverity::Warning,
            FindingSeverity::Critical => v1::FindingSeverity::Critical,
        }
    }
}

fn section(told: &SectionDiagnosis) -> v1::SectionDiagnosis {
    v1::SectionDiagnosis {
        section: v1::DiagnosisSection::from(told.section).into(),
        result: v1::DiagnosisResult::from(told.result).into(),
        findings: told.findings.iter().map(finding).collect(),
        figures: told.figures.iter().map(figure).collect(),
        nodes: told.nodes.iter().map(|(name, told)| (name.clone(), node(told))).collect(),
    }
}

fn finding(told: &Finding) -> v1::Finding {
    v1::Finding {
        code: told.code.to_owned(),
        severity: v1::FindingSeverity::from(told.severity).into(),
        node_id: told.node.clone().unwrap_or_default(),
        evidence: told.evidence.clone(),
        remedy: told.remedy.clone(),
    }
}

fn figure(told: &Figure) -> v1::Figure {
    v1::Figure {
        name: told.name.to_owned(),
        value: told.value,
        unit: told.unit.to_owned(),
        threshold: told.threshold,
    }
}

fn node(told: &NodeCommunication) -> v1::NodeCommunication {
    let direct = told.probes.iter().find(|probe| probe.from.is_none());
    v1::NodeCommunication {
        node_exists: told.status.is_some(),
        node_status: told.status.map_or(v1::NodeStatus::Unspecified, v1::NodeStatus::from).into(),
        cause: told.cause.map_or("", FaultCause::as_str).to_owned(),
        last_heartbeat_age: told.last_heartbeat_age.map(time::duration),
        connection_count: told.connection_count,
        connectivity_test: direct
            .map_or_else(|| "error: there is no such node".to_owned(), PathProbe::result),
        probes: told.probes.iter().map(probe).collect(),
    }
}

fn probe(told: &PathProbe) -> v1::PathProbe {
    let (round_trip, clock_offset_ms) = match told.outcome {
        ProbeOutcome::Answered { round_trip, clock_offset_ms } => {
            (Some(time::duration(round_trip)), clock_offset_ms)
        }
        ProbeOutcome::Unanswered | ProbeOutcome::Impossible(_) => (None, None),
    };
    v1::PathProbe {
        from_node_id: told.from.as_ref().map(ToString::to_string).unwrap_or_default(),
        result: told.result(),
        round_trip,
        clock_offset_ms,
    }
}
