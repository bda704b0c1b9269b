//! While the coordinator's store stalls, nodes wait their turn outside: nothing piles up, nobody is blamed, all come back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lintmesh::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use lintmesh::proto::v1::{
    FaultAction, GetMeshStatusRequest, GetMeshStatusResponse, HandleFaultRequest, NodeStatus,
};
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use super::support::captured_logs::logs_of;
use super::support::virtual_network::{API_PORT, COORDINATOR, VirtualNetwork, connector};

const NODES: [&str; 4] = ["api-docs", "backend-dev", "integration-specialist", "system-architect"];
/// How long nothing can be stored.
const STALL: Duration = Duration::from_secs(900);
/// How long a node pauses at most before it dials again, and what joining takes.
const BACK: Duration = Duration::from_secs(60);

type Answer<T> = Arc<Mutex<Option<Result<T, Status>>>>;

fn client() -> CoordinatorServiceClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{COORDINATOR}:{API_PORT}")).expect("valid");
    CoordinatorServiceClient::new(connector()(endpoint))
}

/// Makes a call as a process of the network and waits for what comes of it.
fn call<T, F>(network: &mut VirtualNetwork, name: &str, call: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Status>> + 'static,
{
    let answer = Answer::<T>::default();
    let set = answer.clone();
    network.sim.client(name, async move {
        let told = call.await;
        *set.lock().expect("no panic") = Some(told);
        Ok(())
    });
    let told = answer.clone();
    network.until(name, Duration::from_secs(30), move |_| told.lock().expect("no panic").is_some());
    answer.lock().expect("no panic").take().expect("told")
}

fn reset(network: &mut VirtualNetwork, name: &str, fault_id: &str) -> Result<(), Status> {
    let request = HandleFaultRequest {
        fault_id: fault_id.into(),
        node_id: NODES[0].into(),
        action: FaultAction::ResetBreakers.into(),
        ..Default::default()
    };
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(5));
    call(network, name, async move { client().handle_fault(request).await.map(drop) })
}

fn status(network: &mut VirtualNetwork, name: &str) -> GetMeshStatusResponse {
    let told = call(network, name, async {
        client().get_mesh_status(GetMeshStatusRequest {}).await.map(tonic::Response::into_inner)
    });
    told.expect("health goes on")
}

#[test]
fn nodes_neither_pile_up_nor_are_blamed_and_all_come_back() {
    let logs = logs_of(|| {
        let mut network = VirtualNetwork::new(1, "");
        for node in NODES {
            network.node(node);
        }
        network.until("all join", Duration::from_secs(10), |network| network.active(4));
        network.pass(Duration::from_secs(31));

        network.store.fill(true);
        reset(&mut network, "operator", "first").expect_err("it cannot be stored");
        let since = network.sim.elapsed();
        let refused = reset(&mut network, "another", "second").expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
        network.pass(STALL);
        let told = status(&mut network, "watcher");
        assert_eq!(told.node_statuses.len(), 4);
        let dials = network.accepted(since).len();
        assert!(dials > 0, "nodes look whether it is over");

        network.store.fill(false);
        network.pass(BACK);
        let told = status(&mut network, "late-watcher");
        for (name, node) in &told.node_statuses {
            assert_eq!(node.status(), NodeStatus::Active, "{name}: {}", node.cause);
        }
        // Each join that waited would have had its turn, one after the other.
        let changes = network.changes(since);
        assert!(changes.len() <= 4 * 4, "{changes:?}");
    });
    assert!(!logs.contains("stays silent"), "the nodes are not to blame: {logs}");
    assert!(logs.contains("facts can be stored again"), "it did stall: {logs}");
}
