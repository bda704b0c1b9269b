//! Whether work is spread evenly and is not piling up.

use super::{DiagnosisResult, Figure, Finding, FindingSeverity, Section, SectionDiagnosis};
use crate::coordinator::Coordinator;
use crate::coordinator::breaker::State as BreakerState;
use crate::types::{NodeId, Tick};

/// Difference between the greatest and the mean load score of the ACTIVE nodes. Source: the operations manual,
/// "Performance Degradation".
const IMBALANCE: f64 = 0.3;
/// Tasks that wait for a node. Source: the operations manual, "Performance Degradation".
const LONG_QUEUE: usize = 100;

impl Coordinator {
    pub(super) fn performance(&self, now: Tick) -> SectionDiagnosis {
        let loads: Vec<(&NodeId, f64)> = self
            .state
            .active()
            .filter_map(|(id, member)| Some((id, self.presences.get(id)?.load_score(&member.spec).score)))
            .collect();
        let (mut findings, mut figures) = (Vec::new(), Vec::new());
        if let Some((busiest, most)) = loads.iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
            let mean = loads.iter().map(|(_, load)| load).sum::<f64>() / loads.len() as f64;
            let imbalance = most - mean;
            figures.push(Figure { name: "mean_load", value: mean, unit: "", threshold: None });
            figures.push(Figure {
                name: "load_imbalance",
                value: imbalance,
                unit: "",
                threshold: Some(IMBALANCE),
            });
            if imbalance > IMBALANCE {
                findings.push(Finding {
                    code: "load_imbalance",
                    severity: FindingSeverity::Warning,
                    node: Some(busiest.to_string()),
                    evidence: format!(
                        "its load is {most:.2}, {imbalance:.2} above the mean of {} ACTIVE nodes",
                        loads.len()
                    ),
                    remedy: "give the other nodes the capabilities to share its work, as their own or as fallbacks, or \
                             raise its max_concurrent_tasks if its machine has room"
                        .to_owned(),
                });
            }
        }
        let waiting = self.state.waiting_tasks();
        figures.push(Figure {
            name: "run_queue",
            value: waiting as f64,
            unit: "tasks",
            threshold: Some(LONG_QUEUE as f64),
        });
        if waiting > LONG_QUEUE {
            findings.push(Finding {
                code: "run_queue_buildup",
                severity: FindingSeverity::Warning,
                node: None,
                evidence: format!("{waiting} tasks of {} open runs wait for a node", self.state.open.len()),
                remedy: "add nodes or cores; `lintmesh explain RUN` tells what each task waits for"
                    .to_owned(),
            });
        }
        findings.extend(self.open_breakers(now));
        let mut told = SectionDiagnosis::of(Section::Performance, findings, figures);
        if loads.is_empty() && told.result == DiagnosisResult::Passed {
            told.result = DiagnosisResult::NotMeasured;
        }
        told
    }

    /// ACTIVE nodes that get no work all the same.
    fn open_breakers(&self, now: Tick) -> impl Iterator<Item = Finding> {
        self.state.active().filter_map(move |(id, _)| {
            let breaker = &self.presences.get(id)?.breaker;
            (breaker.state(now) == BreakerState::Open).then(|| {
                let probe = breaker.next_probe().map_or(0.0, |at| at.since(now).as_secs_f64().ceil());
                Finding {
                    code: "breaker_open",
                    severity: FindingSeverity::Warning,
                    node: Some(id.to_string()),
                    evidence: format!(
                        "it is ACTIVE, but its circuit breaker is open: it is tried again in {probe:.0} s"
                    ),
                    remedy: "see its log for why its tasks failed; `lintmesh fault reset-breakers NODE` closes the breaker at once"
                        .to_owned(),
                }
            })
        })
    }
}
