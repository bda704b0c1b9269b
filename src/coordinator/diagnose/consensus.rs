//! Whether there are enough nodes to agree on something, and whether their clocks do.

use super::probing::{PathProbe, ProbeOutcome};
use super::{DiagnosisResult, Figure, Finding, FindingSeverity, Section, SectionDiagnosis};
use crate::coordinator::Coordinator;
use crate::types::{NodeId, NodeStatus};

/// ACTIVE nodes below which no consensus is reliable. Source: the operations manual, "Consensus Failures".
const ENOUGH_NODES: usize = 3;
/// Seconds by which a node's clock may differ. Source: the operations manual, "Consensus Failures".
const CLOCK_TOLERANCE: f64 = 5.0;

impl Coordinator {
    pub(super) fn consensus(&self, probes: &[PathProbe]) -> SectionDiagnosis {
        let active = self.state.active().count();
        let mut findings = Vec::new();
        if active < ENOUGH_NODES {
            findings.push(Finding {
                code: "insufficient_nodes",
                severity: FindingSeverity::Critical,
                node: None,
                evidence: format!("{active} nodes are ACTIVE"),
                remedy: format!("at least {ENOUGH_NODES} ACTIVE nodes are needed for reliable consensus: start or recover nodes"),
            });
        }
        let offsets: Vec<(&NodeId, f64)> =
            probes.iter().filter_map(|probe| Some((&probe.to, self.offset(probe)?))).collect();
        findings.extend(offsets.iter().filter(|(_, offset)| offset.abs() > CLOCK_TOLERANCE).map(
            |(node, offset)| Finding {
                code: "clock_synchronization",
                severity: FindingSeverity::Warning,
                node: Some(node.to_string()),
                evidence: format!(
                    "its clock is {:.3} s {} the coordinator's",
                    offset.abs(),
                    if *offset > 0.0 { "ahead of" } else { "behind" }
                ),
                remedy: "synchronise the clocks of both machines with NTP".to_owned(),
            },
        ));
        let worst = offsets.iter().map(|(_, offset)| offset.abs()).max_by(f64::total_cmp);
        if worst.is_none() && active > 0 {
            findings.push(Finding {
                code: "clock_not_measured",
                severity: FindingSeverity::Info,
                node: None,
                evidence: "no ACTIVE node answered a probe, so no clock was compared".to_owned(),
                remedy: "see the section on communication".to_owned(),
            });
        }
        let mut figures = vec![Figure {
            name: "active_nodes",
            value: active as f64,
            unit: "nodes",
            threshold: Some(ENOUGH_NODES as f64),
        }];
        figures.extend(worst.map(|worst| Figure {
            name: "largest_clock_offset",
            value: worst,
            unit: "seconds",
            threshold: Some(CLOCK_TOLERANCE),
        }));
        let mut told = SectionDiagnosis::of(Section::Consensus, findings, figures);
        if worst.is_none() && told.result == DiagnosisResult::Passed {
            told.result = DiagnosisResult::NotMeasured;
        }
        told
    }

    /// The clock offset in seconds that the coordinator's own probe of an ACTIVE node measured.
    fn offset(&self, probe: &PathProbe) -> Option<f64> {
        let is_active = self.state.members.get(&probe.to)?.status == NodeStatus::Active;
        match probe.outcome {
            ProbeOutcome::Answered { clock_offset_ms: Some(offset), .. } if is_active => {
                Some(offset as f64 / 1000.0)
            }
            _ => None,
        }
    }
}
