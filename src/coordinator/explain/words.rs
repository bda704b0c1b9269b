//! An explanation as people read it: why a task is where it is, and what would make it go.

use std::collections::BTreeSet;

use super::{Candidate, Obstacle, TaskExplanation};
use crate::coordinator::eligibility::Refused;
use crate::coordinator::run::TaskState;
use crate::types::Tick;

/// Nodes that a sentence names; of more it tells how many.
const NAMED: usize = 5;

impl TaskExplanation {
    /// Why it is where it is, in a sentence.
    pub fn reason(&self, now: Tick) -> String {
        match &self.state {
            TaskState::Running { node, attempt, .. } => format!("{node} runs it as attempt {attempt}"),
            TaskState::Done { node, attempt, tool_error: None, .. } => {
                format!("{node} has done it with attempt {attempt}")
            }
            TaskState::Done { node, tool_error: Some(error), .. } => {
                format!("{node} has done it; the tool failed: {}", error.message)
            }
            TaskState::GivenUp { reason } => format!("it was given up: {reason}"),
            TaskState::Queued => self.waiting(now),
        }
    }

    fn waiting(&self, now: Tick) -> String {
        let Some(obstacle) = self.obstacle else { return "its run ended without it".to_owned() };
        let all = self.candidates.len();
        let which = self.stopped_by(obstacle);
        match obstacle {
            Obstacle::None => match self.candidates.first() {
                Some(best) => {
                    format!("{} would take it; it is next when the scheduler comes to it", best.node)
                }
                None => "it is next when the scheduler comes to it".to_owned(),
            },
            Obstacle::Room => {
                let ahead = match self.runs_ahead {
                    0 => String::new(),
                    1 => "; 1 run is before its own in the queue".to_owned(),
                    ahead => format!("; {ahead} runs are before its own in the queue"),
                };
                format!("it waits for room: {} could do it and {}{ahead}", names(&which), first(&which, now))
            }
            Obstacle::ProjectCap => format!(
                "its project runs as many tasks as queue.max_tasks_per_project lets it: {}",
                self.project_cap.unwrap_or_default()
            ),
            Obstacle::Breaker => format!("{} could do it, but {}", names(&which), first(&which, now)),
            Obstacle::Absence => format!("{} could do it, but {}", names(&which), first(&which, now)),
            Obstacle::Tool => {
                format!("none of {all} nodes has its tool: {}: {}", names(&which), first(&which, now))
            }
            Obstacle::Capabilities => {
                format!("none of {all} nodes has the capabilities: {}: {}", names(&which), first(&which, now))
            }
            Obstacle::Empty => "the mesh has no node".to_owned(),
        }
    }

    /// What would make it go, or go sooner; empty if nothing would.
    pub fn remedy(&self) -> String {
        let Some(obstacle) = self.obstacle else { return String::new() };
        let which = self.stopped_by(obstacle);
        let some = which.first().map_or_else(|| "a node".to_owned(), |best| best.node.to_string());
        match obstacle {
            Obstacle::None => String::new(),
            Obstacle::Room => {
                "it goes when a task that runs ends; more nodes, slots or cores would start it sooner"
                    .to_owned()
            }
            Obstacle::ProjectCap => {
                "it goes when a task of its project ends; a higher queue.max_tasks_per_project would start it sooner"
                    .to_owned()
            }
            Obstacle::Breaker => format!(
                "it goes when the breaker of {some} lets a task through; `lintmesh fault reset-breakers {some}` closes it \
                 at once, but see first why the tasks there failed"
            ),
            Obstacle::Absence => {
                format!("bring {some} back: `lintmesh doctor --node {some}` tells what is wrong with it")
            }
            Obstacle::Tool => self.tool_remedy(),
            Obstacle::Capabilities => {
                format!("give a node {} as its own capabilities or as fallbacks", self.lacking())
            }
            Obstacle::Empty => "start nodes".to_owned(),
        }
    }

    fn tool_remedy(&self) -> String {
        let tool =
            self.candidates.iter().flat_map(|candidate| &candidate.refused).find_map(
                |refused| match refused {
                    Refused::Tool { tool, wanted: Some(version), .. } => Some(format!("{tool} {version}")),
                    _ => None,
                },
            );
        match tool {
            Some(tool) => format!(
                "start a node that has {tool}, or cancel the run and start it again: a new run is pinned to the versions \
                 that are there"
            ),
            None => "cancel the run and start it again: a new run is planned for the tools that are there"
                .to_owned(),
        }
    }

    /// The least that any node lacks.
    fn lacking(&self) -> String {
        let lacking =
            self.candidates.iter().flat_map(|candidate| &candidate.refused).filter_map(
                |refused| match refused {
                    Refused::CapabilitiesMissing(names) => Some(names),
                    _ => None,
                },
            );
        let least = lacking.min_by_key(|names| names.len());
        least.map(|names| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")).unwrap_or_default()
    }

    /// The nodes whose worst refusal is this obstacle: the ones that would do the work soonest.
    fn stopped_by(&self, obstacle: Obstacle) -> Vec<&Candidate> {
        self.candidates.iter().filter(|candidate| Obstacle::of_node(candidate) == obstacle).collect()
    }
}

fn names(candidates: &[&Candidate]) -> String {
    let named: Vec<&str> = candidates.iter().take(NAMED).map(|candidate| candidate.node.as_str()).collect();
    let more = candidates.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", named.join(", "))
}

/// Why the first of them is refused, or all if it is for the same reason.
fn first(candidates: &[&Candidate], now: Tick) -> String {
    let worst = |candidate: &&Candidate| {
        candidate
            .refused
            .iter()
            .max_by_key(|refused| Obstacle::of(refused))
            .map(|refused| refused.describe(now))
    };
    let reasons: BTreeSet<String> = candidates.iter().filter_map(worst).collect();
    match (reasons.len(), candidates.first()) {
        (1, _) => reasons.into_iter().next().unwrap_or_default(),
        (_, Some(best)) => format!("of {}: {}", best.node, worst(best).unwrap_or_default()),
        _ => String::new(),
    }
}
