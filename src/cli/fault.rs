//! `lintmesh fault`: says what to do about nodes.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::arguments::parse_duration;
use super::connect::ServerArgs;
use super::error::UsageError;
use super::exit::Exit;
use super::patience::{self, Waited};
use super::{output, task_name};
use crate::proto::v1::{
    FaultAction, GetMeshStatusRequest, GetMeshStatusResponse, HandleFaultRequest, HandleFaultResponse,
    NodeStatus,
};
use crate::wire;

/// How much longer than the node itself `--wait` waits: the word has to get around.
const WORD: Duration = Duration::from_secs(5);

/// Arguments of `fault`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done; 1 done, but --wait saw no end of it in time; 2 an error\n\n\
Examples:\n  \
lintmesh fault drain backend-dev --timeout 5m --wait && systemctl stop lintmesh-backend-dev\n  \
lintmesh fault recover backend-dev --wait\n  \
lintmesh fault rebuild --all --reason \"switch replaced\"\n  \
lintmesh fault forget backend-dev --reason \"its machine was sold\"")]
pub(super) struct FaultArgs {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    /// The node, as `lintmesh status` names it
    #[arg(value_name = "NODE", required_unless_present = "all", conflicts_with = "all")]
    node: Option<String>,
    /// All nodes; with recover, reset-breakers and rebuild
    #[arg(long)]
    all: bool,
    /// Why, for the records
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Makes the call idempotent: the same id gives the same answer and does nothing again
    #[arg(long, value_name = "ID")]
    fault_id: Option<String>,
    /// With drain: how long what the node runs may take to end; by default as the server is configured
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Wait until it is done: a drained node runs nothing, a recovered one is ACTIVE; exit 1 if that takes too long. A
    /// server that is away meanwhile is waited for
    #[arg(long)]
    wait: bool,
    /// How long --wait waits; by default --timeout and 5 s more, or 60 s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "wait")]
    wait_timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Mark the node FAILED and give its work to others
    Fail,
    /// Bring the node back, whatever it is in
    Recover,
    /// Give the node no new work; what it cannot finish in time goes to others
    Drain,
    /// Close the node's circuit breaker
    ResetBreakers,
    /// Close the node's links and open them anew
    Rebuild,
    /// Let go of a node that is not connected and will not come back
    Forget,
}

impl FaultArgs {
    /// What cannot be meant.
    fn check(&self) -> Result<(), UsageError> {
        let refuse = |text: &str| Err(UsageError(text.to_owned()));
        match self.action {
            Action::Fail | Action::Drain | Action::Forget if self.all => {
                refuse("--all is for recover, reset-breakers and rebuild; name one node")
            }
            Action::Fail | Action::ResetBreakers | Action::Rebuild | Action::Forget if self.wait => {
                refuse("--wait is for drain and recover; the others are done when they answer")
            }
            Action::Drain => Ok(()),
            _ if self.timeout.is_some() => refuse("--timeout is for drain; see --wait-timeout"),
            _ => Ok(()),
        }
    }

    fn request(&self) -> anyhow::Result<HandleFaultRequest> {
        let action = match self.action {
            Action::Fail => FaultAction::Fail,
            Action::Recover => FaultAction::Recover,
            Action::Drain => FaultAction::Drain,
            Action::ResetBreakers => FaultAction::ResetBreakers,
            Action::Rebuild => FaultAction::RebuildConnections,
            Action::Forget => FaultAction::Forget,
        };
        Ok(HandleFaultRequest {
            fault_id: match &self.fault_id {
                Some(id) => id.clone(),
                None => super::random_id()?,
            },
            action: action.into(),
            node_id: self.node.clone().unwrap_or_default(),
            reason: self.reason.clone(),
            all_nodes: self.all,
            timeout: self.timeout.map(wire::time::duration),
        })
    }

    fn patience(&self) -> Duration {
        self.wait_timeout
            .or_else(|| self.timeout.map(|timeout| timeout + WORD))
            .unwrap_or(Duration::from_secs(60))
    }
}

pub(super) async fn run(args: FaultArgs) -> anyhow::Result<Exit> {
    args.check()?;
    let connection = args.server.connect().await?;
    let answer =
        connection.coordinator().handle_fault(args.request()?).await.context("handling the fault")?;
    let answer = answer.into_inner();
    let unmet = if args.wait { wait(&args, &answer.nodes).await? } else { Vec::new() };
    if args.json {
        output::print_line(&format!("{:#}", as_json(&answer, &unmet)))?;
    } else {
        output::print(render(&answer, &unmet).as_bytes())?;
    }
    Ok(if unmet.is_empty() { Exit::Success } else { Exit::Findings })
}

/// Waits until what was asked for is so. Answers what is not, at the end of the patience.
async fn wait(args: &FaultArgs, nodes: &[String]) -> anyhow::Result<Vec<String>> {
    let look = async || {
        let connection = args.server.connect().await?;
        let status = connection.coordinator().get_mesh_status(GetMeshStatusRequest {}).await;
        Ok(unmet(args.action, nodes, &status.context("asking for the status")?.into_inner()))
    };
    match patience::until(args.patience(), look, Vec::is_empty).await? {
        Waited::Seen(unmet) => Ok(unmet),
        Waited::Unseen(error) => {
            let error = patience::in_vain(error, "the server did not say", args.patience());
            let text = super::error::render(&error);
            Ok(vec![text.trim_start_matches("error: ").to_owned()])
        }
    }
}

/// Which of the nodes are not what was asked for, and what they are.
fn unmet(action: Action, nodes: &[String], status: &GetMeshStatusResponse) -> Vec<String> {
    let unmet = nodes.iter().filter_map(|name| {
        let node = status.node_statuses.get(name)?;
        let health = status.metrics.as_ref().and_then(|mesh| mesh.node_health.get(name));
        let running = health.map_or(0, |health| health.running_tasks);
        match action {
            Action::Drain if running > 0 => Some(format!("{name} still runs {running} tasks")),
            Action::Recover if node.status() != NodeStatus::Active => {
                let state = node.status().as_str_name().trim_start_matches("NODE_STATUS_");
                let words = [state, &node.cause, &node.cause_detail].map(str::to_owned);
                let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
                Some(format!("{name} is {}", words.join(", ")))
            }
            _ => None,
        }
    });
    unmet.collect()
}

fn as_json(answer: &HandleFaultResponse, unmet: &[String]) -> Value {
    let tasks = answer.redistributed_tasks.iter().map(|task| {
        json!({
            "run_id": task.run_id,
            "task": task.task.as_ref().map(task_name),
            "to_node_id": if task.to_node_id.is_empty() { Value::Null } else { json!(task.to_node_id) },
        })
    });
    json!({
        "nodes": answer.nodes,
        "healthy_nodes": answer.healthy_nodes,
        "new_topology_health": answer.new_topology_health,
        "redistributed_tasks": tasks.collect::<Vec<_>>(),
        "steps": answer.steps,
        "unmet": unmet,
    })
}

fn render(answer: &HandleFaultResponse, unmet: &[String]) -> String {
    let healthy = match answer.healthy_nodes.as_slice() {
        [] => "none; work stays queued until a node is back".to_owned(),
        nodes => nodes.join(", "),
    };
    let mut text = format!(
        "nodes            {}\ntopology health  {:.2}\nhealthy nodes    {healthy}\n",
        answer.nodes.join(", "),
        answer.new_topology_health
    );
    for task in &answer.redistributed_tasks {
        let to = if task.to_node_id.is_empty() { "waits for a node" } else { &task.to_node_id };
        let name = task.task.as_ref().map(task_name).unwrap_or_default();
        text.push_str(&format!("redistributed    {name} of run {}: {to}\n", task.run_id));
    }
    for step in &answer.steps {
        text.push_str(&format!("step             {step}\n"));
    }
    for unmet in unmet {
        text.push_str(&format!("not yet          {unmet}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        fault: FaultArgs,
    }

    fn parsed(arguments: &[&str]) -> Result<FaultArgs, String> {
        let all = ["fault"].into_iter().chain(arguments.iter().copied());
        let args = <Line as clap::Parser>::try_parse_from(all).map_err(|error| error.to_string())?.fault;
        args.check().map_err(|error| error.to_string())?;
        Ok(args)
    }

    #[test]
    fn the_last_node_to_fail_leaves_an_answer_that_says_what_happens_to_work() {
        let answer = HandleFaultResponse { nodes: vec!["api-docs".into()], ..Default::default() };
        let text = render(&answer, &[]);
        assert!(text.contains("api-docs") && text.contains("none; work stays queued"), "{text}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        for (arguments, said) in [
            (&["drain"][..], "NODE"),
            (&["drain", "--all"], "name one node"),
            (&["fail", "--all"], "name one node"),
            (&["forget", "--all"], "name one node"),
            (&["recover", "api-docs", "--all"], "--all"),
            (&["fail", "api-docs", "--wait"], "--wait is for drain and recover"),
            (&["recover", "api-docs", "--timeout", "5s"], "--timeout is for drain"),
        ] {
            let error = parsed(arguments).expect_err("not meant");
            assert!(error.contains(said), "{arguments:?}: {error}");
        }
        let drain = parsed(&["drain", "api-docs", "--timeout", "5s", "--wait"]).expect("meant");
        assert_eq!(drain.patience(), Duration::from_secs(10));
        let request = drain.request().expect("random");
        assert_eq!(
            (request.node_id.as_str(), request.timeout.map(|span| span.seconds)),
            ("api-docs", Some(5))
        );
        let all = parsed(&["rebuild", "--all", "--fault-id", "f"]).expect("meant").request().expect("given");
        assert!(all.all_nodes && all.node_id.is_empty() && all.fault_id == "f");
    }
}
