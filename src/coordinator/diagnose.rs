//! What is wrong with the mesh: findings with evidence and remedy, from the committed state and the answers to probes
//! that were sent for the purpose.
//!
//! Thresholds and sections: the operations manual, "Troubleshooting Guide".

mod communication;
mod consensus;
mod performance;
mod probing;

use std::collections::BTreeMap;
use std::time::Duration;

use super::Coordinator;
use crate::types::{FaultCause, NodeId, NodeStatus, Tick};

pub use probing::{PathProbe, ProbeOutcome, ProbePlan};

/// A part of a diagnosis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Whether the nodes can be reached.
    Communication,
    /// Whether there are enough nodes to agree, and whether their clocks do.
    Consensus,
    /// Whether work is spread evenly and is not piling up.
    Performance,
}

impl Section {
    /// All, in the order in which they are told.
    pub const ALL: [Section; 3] = [Section::Communication, Section::Consensus, Section::Performance];
}

/// How a section ended. The greatest is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiagnosisResult {
    /// There was nothing to measure.
    NotMeasured,
    /// Nothing is wrong.
    Passed,
    /// The worst finding is a warning.
    Warning,
    /// A finding is critical.
    Failed,
}

/// How bad a finding is. The greatest is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// Good to know.
    Info,
    /// Works, less well than it could.
    Warning,
    /// Does not work.
    Critical,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Stable, for programs.
    pub code: &'static str,
    /// How bad it is.
    pub severity: FindingSeverity,
    /// The node it is about, as it was asked for; none: the mesh.
    pub node: Option<String>,
    /// What was seen.
    pub evidence: String,
    /// What to do.
    pub remedy: String,
}

/// Something that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Stable, for programs.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// Its unit; empty for a share.
    pub unit: &'static str,
    /// The value at which there is a finding.
    pub threshold: Option<f64>,
}

/// How a node can be reached.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeCommunication {
    /// Its status; none: it does not belong to the mesh.
    pub status: Option<NodeStatus>,
    /// Why it is not ACTIVE.
    pub cause: Option<FaultCause>,
    /// The same in words, as far as more is known; empty if not.
    pub detail: String,
    /// Since it was last heard from, before it was probed.
    pub last_heartbeat_age: Option<Duration>,
    /// Its links that were measured alive.
    pub connection_count: u32,
    /// Every probe of it; the coordinator's is the first.
    pub probes: Vec<PathProbe>,
}

/// One section.
#[derive(Debug, Clone, PartialEq)]
pub struct SectionDiagnosis {
    /// Which.
    pub section: Section,
    /// How it ended.
    pub result: DiagnosisResult,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// By node, for COMMUNICATION. Names as they were asked for: an unknown node's need not be valid.
    pub nodes: BTreeMap<String, NodeCommunication>,
}

impl SectionDiagnosis {
    /// A section whose findings give its result.
    fn of(section: Section, mut findings: Vec<Finding>, figures: Vec<Figure>) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let result = match findings.first().map(|finding| finding.severity) {
            None | Some(FindingSeverity::Info) => DiagnosisResult::Passed,
            Some(FindingSeverity::Warning) => DiagnosisResult::Warning,
            Some(FindingSeverity::Critical) => DiagnosisResult::Failed,
        };
        Self { section, result, findings, figures, nodes: BTreeMap::new() }
    }
}

/// What is asked, and what was found out for it.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The moment before the probes were sent: their answers are signs of life that nobody waited for until then.
    pub began: Tick,
    /// The node to look at, as it was asked for; none: all.
    pub node: Option<String>,
    /// The sections.
    pub sections: Vec<Section>,
    /// When each node was last heard from before the probes were sent.
    pub heard: BTreeMap<NodeId, Tick>,
    /// The probes and what came of them.
    pub probes: Vec<PathProbe>,
}

impl Coordinator {
    /// Judges the state and the probes. Sections in their order, each once.
    pub fn diagnose(&self, now: Tick, examination: &Examination) -> Vec<SectionDiagnosis> {
        let asked = |section: &Section| examination.sections.contains(section);
        Section::ALL
            .into_iter()
            .filter(asked)
            .map(|section| match section {
                Section::Communication => self.communication(examination),
                Section::Consensus => self.consensus(&examination.probes),
                Section::Performance => self.performance(now),
            })
            .collect()
    }
}
