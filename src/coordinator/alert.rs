//! Alerts: five thresholds with hysteresis, so that an alert means something and does not flap.
//!
//! A value beyond its threshold for `raise_after` raises the alert; one that is better than the threshold by `margin`
//! for `clear_after` ends it. A value between the two keeps what is. A value that cannot be measured is not beyond its
//! threshold. Thresholds by default: the operations manual, "Alerting System".

use std::time::Duration;

use super::Coordinator;
use super::metrics::Figures;
use crate::types::{Now, Tick, UnixMillis};

/// Figures are compared at most so often, however much happens: with a thousand nodes it takes a while.
const COMPARE_INTERVAL: Duration = Duration::from_secs(1);

/// When alerts are raised and when they end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlertSettings {
    /// Raised below this connectivity, 0 to 1.
    pub low_connectivity: f64,
    /// Raised above this share of nodes that were FAILED in the window.
    pub high_node_failure_rate: f64,
    /// Raised above this mean time of a message.
    pub high_message_latency: Duration,
    /// Raised below this share of decisions that were agreed.
    pub low_consensus_rate: f64,
    /// Raised below this topology health.
    pub degraded_health: f64,
    /// How long a value must be beyond its threshold.
    pub raise_after: Duration,
    /// How long it must be better again.
    pub clear_after: Duration,
    /// By how much better, as a share of the threshold.
    pub margin: f64,
}

impl Default for AlertSettings {
    fn default() -> Self {
        Self {
            low_connectivity: 0.7,
            high_node_failure_rate: 0.2,
            high_message_latency: Duration::from_secs(5),
            low_consensus_rate: 0.8,
            degraded_health: 0.6,
            raise_after: Duration::from_secs(10),
            clear_after: Duration::from_secs(30),
            margin: 0.05,
        }
    }
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Too few links between nodes live.
    LowConnectivity,
    /// Too many nodes failed.
    HighNodeFailureRate,
    /// Messages take too long.
    HighMessageLatency,
    /// Too few decisions are agreed.
    LowConsensusRate,
    /// Too few nodes are ACTIVE.
    DegradedHealth,
}

/// How urgent an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertSeverity {
    /// Look at it during working hours.
    Warning,
    /// Look at it now.
    Critical,
}

impl AlertSeverity {
    /// The word for it: `warning`, `critical`.
    pub const fn as_str(self) -> &'static str {
        match self {
            AlertSeverity::Warning => "warning",
            AlertSeverity::Critical => "critical",
        }
    }
}

impl Rule {
    /// All, in the order of their declaration.
    pub const ALL: [Rule; 5] = [
        Rule::LowConnectivity,
        Rule::HighNodeFailureRate,
        Rule::HighMessageLatency,
        Rule::LowConsensusRate,
        Rule::DegradedHealth,
    ];

    /// The stable id: `low_connectivity`, ...
    pub const fn id(self) -> &'static str {
        match self {
            Rule::LowConnectivity => "low_connectivity",
            Rule::HighNodeFailureRate => "high_node_failure_rate",
            Rule::HighMessageLatency => "high_message_latency",
            Rule::LowConsensusRate => "low_consensus_rate",
            Rule::DegradedHealth => "degraded_health",
        }
    }

    /// How urgent it is.
    pub const fn severity(self) -> AlertSeverity {
        match self {
            Rule::DegradedHealth => AlertSeverity::Critical,
            _ => AlertSeverity::Warning,
        }
    }

    /// What to do.
    pub const fn recommendation(self) -> &'static str {
        match self {
            Rule::LowConnectivity => {
                "look for failed nodes and for what keeps nodes from reaching each other: peer addresses, firewalls, \
                 name resolution; then rebuild the links with HandleFault REBUILD_CONNECTIONS"
            }
            Rule::HighNodeFailureRate => {
                "look at the causes of the failed nodes (node_health) and at their logs; a node that cannot start \
                 says why"
            }
            Rule::HighMessageLatency => {
                "look at the load of the nodes' hosts and at the network between them"
            }
            Rule::LowConsensusRate => {
                "check that clocks are synchronised and that no part of the network is cut off"
            }
            Rule::DegradedHealth => "act at once: see which nodes are FAILED and why, and bring them back",
        }
    }

    fn value(self, figures: &Figures) -> Option<f64> {
        match self {
            Rule::LowConnectivity => Some(figures.connectivity_percentage),
            Rule::HighNodeFailureRate => figures.node_failure_rate,
            Rule::HighMessageLatency => figures.average_message_latency,
            Rule::LowConsensusRate => figures.consensus_agreement_rate,
            Rule::DegradedHealth => Some(figures.topology_health),
        }
    }

    fn limit(self, settings: &AlertSettings) -> Limit {
        match self {
            Rule::LowConnectivity => Limit::AtLeast(settings.low_connectivity),
            Rule::HighNodeFailureRate => Limit::AtMost(settings.high_node_failure_rate),
            Rule::HighMessageLatency => Limit::AtMost(settings.high_message_latency.as_secs_f64()),
            Rule::LowConsensusRate => Limit::AtLeast(settings.low_consensus_rate),
            Rule::DegradedHealth => Limit::AtLeast(settings.degraded_health),
        }
    }
}

/// What a value should be.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// A share: 1 is the best.
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    const fn threshold(self) -> f64 {
        match self {
            Limit::AtLeast(limit) | Limit::AtMost(limit) => limit,
        }
    }

    fn is_broken_by(self, value: f64) -> bool {
        match self {
            Limit::AtLeast(least) => value < least,
            Limit::AtMost(most) => value > most,
        }
    }

    /// Whether a value is better by the margin. The best value there is always suffices.
    fn is_kept_well_by(self, value: f64, margin: f64) -> bool {
        match self {
            Limit::AtLeast(least) => value >= (least * (1.0 + margin)).min(1.0),
            Limit::AtMost(most) => value <= most * (1.0 - margin),
        }
    }
}

/// An alert that is raised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alert {
    /// What it is about; also its identity.
    pub rule: Rule,
    /// The newest value; the last one that could be measured.
    pub value: f64,
    /// The threshold it broke.
    pub threshold: f64,
    /// Since when the value has been beyond the threshold.
    pub since: UnixMillis,
}

impl Alert {
    /// What is wrong, in words and figures.
    pub fn message(&self) -> String {
        let (value, threshold) = (self.value, self.threshold);
        let share = |what: &str, side: &str| {
            format!("{what} is {:.1} %, {side} {:.1} %", value * 100.0, threshold * 100.0)
        };
        match self.rule {
            Rule::LowConnectivity => share("mesh connectivity", "below"),
            Rule::HighNodeFailureRate => share("the share of nodes that failed in 300 s", "above"),
            Rule::HighMessageLatency => {
                format!("the mean time of a message is {value:.2} s, above {threshold:.2} s")
            }
            Rule::LowConsensusRate => share("the share of decisions that were agreed", "below"),
            Rule::DegradedHealth => share("mesh health", "below"),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Quiet,
    /// Beyond the threshold, not yet for long enough.
    Pending { since: Now },
    /// Raised; perhaps better already, not yet for long enough.
    Raised { alert: Alert, better_since: Option<Tick> },
}

/// The state of all rules.
#[derive(Debug, Clone, Default)]
pub struct Alerts {
    states: [State; Rule::ALL.len()],
    /// When time first passed.
    started_at: Option<Tick>,
    /// When the figures were last compared.
    compared_at: Option<Tick>,
    /// Whether something happened since.
    stale: bool,
}

impl Alerts {
    /// The figures may be others now; they are compared soon.
    pub(super) const fn something_happened(&mut self) {
        self.stale = true;
    }

    /// Compares figures with the thresholds. Answers whether an alert was raised or ended.
    fn compare(&mut self, now: Now, figures: &Figures, settings: &AlertSettings, armed_at: Tick) -> bool {
        self.compared_at = Some(now.tick);
        self.stale = false;
        let mut changed = false;
        for (rule, state) in Rule::ALL.into_iter().zip(&mut self.states) {
            let was_raised = matches!(state, State::Raised { .. });
            *state = next(*state, rule, rule.value(figures), now, settings, armed_at);
            changed |= was_raised != matches!(state, State::Raised { .. });
        }
        changed
    }

    /// The alerts that are raised, in the order of their rules.
    fn raised(&self) -> impl Iterator<Item = Alert> {
        self.states.iter().filter_map(|state| match state {
            State::Raised { alert, .. } => Some(*alert),
            State::Quiet | State::Pending { .. } => None,
        })
    }

    /// From when alerts are raised: a mesh that has just started is not yet what it will be.
    fn armed_at(&self, grace: Duration) -> Tick {
        self.started_at.map_or(Tick(0), |started| started + grace)
    }

    /// When a hold time is over.
    fn next_change(&self, settings: &AlertSettings, armed_at: Tick) -> Option<Tick> {
        let change = |state: &State| match state {
            State::Quiet => None,
            State::Pending { since } => Some((since.tick + settings.raise_after).max(armed_at)),
            State::Raised { better_since, .. } => better_since.map(|since| since + settings.clear_after),
        };
        self.states.iter().filter_map(change).min()
    }
}

fn next(
    state: State,
    rule: Rule,
    value: Option<f64>,
    now: Now,
    settings: &AlertSettings,
    armed_at: Tick,
) -> State {
    let limit = rule.limit(settings);
    let broken = value.filter(|value| limit.is_broken_by(*value));
    match state {
        State::Quiet | State::Pending { .. } => {
            let Some(value) = broken else { return State::Quiet };
            let since = match state {
                State::Pending { since } => since,
                _ => now,
            };
            if now.tick < armed_at || now.tick < since.tick + settings.raise_after {
                return State::Pending { since };
            }
            let alert = Alert { rule, value, threshold: limit.threshold(), since: since.wall };
            State::Raised { alert, better_since: None }
        }
        State::Raised { alert, better_since } => {
            let alert = Alert { value: value.unwrap_or(alert.value), ..alert };
            if !value.is_none_or(|value| limit.is_kept_well_by(value, settings.margin)) {
                return State::Raised { alert, better_since: None };
            }
            let since = better_since.unwrap_or(now.tick);
            if now.tick >= since + settings.clear_after {
                return State::Quiet;
            }
            State::Raised { alert, better_since: Some(since) }
        }
    }
}

impl Coordinator {
    /// The alerts that are raised.
    pub fn alerts(&self) -> impl Iterator<Item = Alert> {
        self.alerts.raised()
    }

    /// Lets time pass over figures and alerts. Answers whether an alert was raised or ended.
    pub(super) fn watch_figures(&mut self, now: Now) -> bool {
        self.alerts.started_at.get_or_insert(now.tick);
        if self.next_figure_change().is_none_or(|due| now.tick < due) {
            return false;
        }
        self.metrics.advance(now.tick, self.settings.recovery_timeout);
        let figures = self.figures(now.tick);
        let armed_at = self.alerts.armed_at(self.settings.message_timeout);
        self.alerts.compare(now, &figures, &self.settings.alerts, armed_at)
    }

    /// When figures must be compared again: some time after something happened, and when they or an alert change
    /// although nothing does.
    pub(super) fn next_figure_change(&self) -> Option<Tick> {
        let armed_at = self.alerts.armed_at(self.settings.message_timeout);
        let of_alerts = self.alerts.next_change(&self.settings.alerts, armed_at);
        let of_metrics = self.metrics.next_change(self.settings.recovery_timeout);
        let after_events = self
            .alerts
            .stale
            .then(|| self.alerts.compared_at.map_or(Tick(0), |compared| compared + COMPARE_INTERVAL));
        of_alerts.into_iter().chain(of_metrics).chain(after_events).min()
    }
}

#[cfg(test)]
mod tests;
