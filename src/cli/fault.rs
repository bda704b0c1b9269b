//! `lintmesh fault`: takes a node out of the mesh, or brings it back.

use anyhow::Context as _;

use super::connect::ServerArgs;
use super::exit::Exit;
use super::{output, task_name};
use crate::proto::v1::{FaultAction, HandleFaultRequest, HandleFaultResponse};

/// Arguments of `fault`.
#[derive(Debug, clap::Args)]
pub(super) struct FaultArgs {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    /// The node, as `lintmesh status` names it
    #[arg(value_name = "NODE")]
    node: String,
    /// Why, for the records
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Action {
    /// Mark the node FAILED and give its work to others
    Fail,
    /// Bring the node back
    Recover,
}

pub(super) async fn run(args: FaultArgs) -> anyhow::Result<Exit> {
    let action = match args.action {
        Action::Fail => FaultAction::Fail,
        Action::Recover => FaultAction::Recover,
    };
    let connection = args.server.connect().await?;
    let request = HandleFaultRequest {
        fault_id: super::random_id()?,
        action: action.into(),
        node_id: args.node,
        reason: args.reason,
    };
    let answer = connection.coordinator().handle_fault(request).await.context("handling the fault")?;
    output::print(render(answer.get_ref()).as_bytes())?;
    Ok(Exit::Success)
}

fn render(answer: &HandleFaultResponse) -> String {
    let healthy = match answer.healthy_nodes.as_slice() {
        [] => "none; work stays queued until a node is back".to_owned(),
        nodes => nodes.join(", "),
    };
    let mut text = format!(
        "node             {}\ntopology health  {:.2}\nhealthy nodes    {healthy}\n",
        answer.failed_node, answer.new_topology_health
    );
    for task in &answer.redistributed_tasks {
        let to = if task.to_node_id.is_empty() { "waits for a node" } else { &task.to_node_id };
        let name = task.task.as_ref().map(task_name).unwrap_or_default();
        text.push_str(&format!("redistributed    {name} of run {}: {to}\n", task.run_id));
    }
    for step in &answer.steps {
        text.push_str(&format!("step             {step}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_node_to_fail_leaves_an_answer_that_says_what_happens_to_work() {
        let answer = HandleFaultResponse { failed_node: "api-docs".into(), ..Default::default() };
        let text = render(&answer);
        assert!(text.contains("api-docs") && text.contains("none; work stays queued"), "{text}");
    }
}
