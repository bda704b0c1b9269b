//! The vocabulary of the product as plain data: no I/O, no clock, no wire format.
//!
//! Every other module speaks in these words, so a term means the same in the
//! coordinator, in a node, on the wire and in a report.

mod diagnostic;
mod digest;
mod id;
mod link;
mod manifest;
mod node;
mod plan;
mod request;
mod result;
mod stage;
mod text;
mod time;
mod tree_path;

pub use diagnostic::{Diagnostic, Position, RawDiagnostic, Reported, Severity, Span};
pub use digest::{Digest, ParseDigestError};
pub use id::{
    AttemptId, AttemptRef, Epoch, Incarnation, InvalidName, NodeId, RunId, SessionId, TaskId, ToolName,
};
pub use link::{LinkReport, LinkState};
pub(crate) use manifest::clashes;
pub use manifest::{Manifest, ManifestEntry, ManifestError, ManifestProblem, Unreadable};
pub use node::{AgentType, FaultCause, Load, NodeSpec, NodeStatus};
pub use plan::{Plan, RunSpec, Shard, ToolPlan, ToolRequest, names_rules};
pub use request::{Priority, RequestKind};
pub use result::{
    ClassifiedOutput, LintOutput, Outcome, RunResult, Summary, ToolError, ToolErrorKind, ToolResult,
};
pub use stage::{Measured, Stage, TaskOutput};
pub use time::{Now, Tick, UnixMillis};
pub use tree_path::{InvalidPath, TreePath};
