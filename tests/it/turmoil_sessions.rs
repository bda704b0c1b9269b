//! Sessions of nodes on a network that breaks them: everybody notices in time, nobody stampedes, all come back.

use std::time::Duration;

use lintmesh::types::NodeStatus;

use super::support::virtual_network::{COORDINATOR, VirtualNetwork};

const NODES: [&str; 4] = ["api-docs", "backend-dev", "integration-specialist", "system-architect"];
const VICTIM: &str = "backend-dev";
/// Silence until DEGRADED, at most, with what the network adds.
const DEGRADED: Duration = Duration::from_secs(4);
/// After a fault is over: an attempt that began before, the longest pause after it, and the time for which contact must
/// hold.
const BACK: Duration = Duration::from_secs(40);
/// The default of `mesh.message_timeout`.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Four nodes, ACTIVE for longer than the grace after a start.
fn settled(seed: u64) -> VirtualNetwork {
    let mut network = VirtualNetwork::new(seed, "");
    for node in NODES {
        network.node(node);
    }
    network.until("all join", seconds(10), |network| network.active(4));
    network.pass(MESSAGE_TIMEOUT + seconds(1));
    network
}

#[test]
fn a_quiet_network_changes_no_status() {
    let mut network = settled(1);
    let since = network.sim.elapsed();
    network.pass(seconds(60));
    assert_eq!(network.changes(since), []);
    assert_eq!(network.accepted(since).len(), 0, "no connection was made anew");
}

#[test]
fn messages_that_take_half_a_second_are_no_fault() {
    let mut network = settled(2);
    let since = network.sim.elapsed();
    for node in NODES {
        network.sim.set_link_latency(COORDINATOR, node, Duration::from_millis(500));
    }
    network.pass(seconds(120));
    assert_eq!(network.changes(since), []);
}

#[test]
fn a_node_cut_off_from_all_in_silence_is_failed_at_the_timeout_and_comes_back() {
    let mut network = settled(3);
    let since = network.sim.elapsed();
    let others = || [COORDINATOR].into_iter().chain(NODES).filter(|name| *name != VICTIM);
    for other in others() {
        network.sim.partition(other, VICTIM);
    }
    network.until("DEGRADED", DEGRADED, |network| network.status(VICTIM) == Some(NodeStatus::Degraded));
    network.until("FAILED", MESSAGE_TIMEOUT, |network| network.status(VICTIM) == Some(NodeStatus::Failed));
    let failed = network.sim.elapsed() - since;
    assert!(failed >= MESSAGE_TIMEOUT - seconds(1), "FAILED after {failed:?}");
    network.pass(seconds(30));
    for other in others() {
        network.sim.repair(other, VICTIM);
    }
    network.until("ACTIVE", BACK, |network| network.status(VICTIM) == Some(NodeStatus::Active));
    network.pass(seconds(30));
    let changes = network.changes(since);
    assert!(changes.iter().all(|change| change.node == VICTIM), "the others are left alone: {changes:?}");
    assert_eq!(changes.len(), 3, "DEGRADED, FAILED, ACTIVE: {changes:?}");
}

#[test]
fn a_node_cut_off_from_its_coordinator_only_is_not_failed() {
    let mut network = settled(9);
    let since = network.sim.elapsed();
    network.sim.partition(COORDINATOR, VICTIM);
    network.until("DEGRADED", DEGRADED, |network| network.status(VICTIM) == Some(NodeStatus::Degraded));
    network.pass(2 * MESSAGE_TIMEOUT);
    network.sim.repair(COORDINATOR, VICTIM);
    network.until("ACTIVE", BACK, |network| network.status(VICTIM) == Some(NodeStatus::Active));
    let changes = network.changes(since);
    assert!(changes.iter().all(|change| change.node == VICTIM), "the others are left alone: {changes:?}");
    assert_eq!(changes.len(), 2, "DEGRADED, ACTIVE: its peers see it: {changes:?}");
}

#[test]
fn a_one_way_partition_is_noticed_whichever_way_it_goes() {
    for (seed, (from, to)) in [(COORDINATOR, VICTIM), (VICTIM, COORDINATOR)].into_iter().enumerate() {
        let mut network = settled(4 + seed as u64);
        let since = network.sim.elapsed();
        network.sim.partition_oneway(from, to);
        network.until("not ACTIVE", DEGRADED, |network| network.status(VICTIM) != Some(NodeStatus::Active));
        network.pass(seconds(15));
        network.sim.repair_oneway(from, to);
        network.until("ACTIVE", BACK, |network| network.status(VICTIM) == Some(NodeStatus::Active));
        let changes = network.changes(since);
        assert!(changes.iter().all(|change| change.node == VICTIM), "{from} to {to}: {changes:?}");
        assert!(changes.len() <= 2, "{from} to {to}: one change for each of two faults: {changes:?}");
    }
}

#[test]
fn messages_that_are_held_for_a_moment_arrive_and_nothing_happened() {
    let mut network = settled(6);
    let since = network.sim.elapsed();
    for _ in 0..5 {
        // With what may have passed since the last probe, well below the silence that is suspicious.
        network.sim.hold(COORDINATOR, VICTIM);
        network.pass(seconds(1));
        network.sim.release(COORDINATOR, VICTIM);
        network.pass(seconds(5));
    }
    assert_eq!(network.changes(since), []);
    assert_eq!(network.accepted(since).len(), 0, "the session is the same");
}

#[test]
fn a_coordinator_that_was_away_gets_its_nodes_back_without_a_stampede() {
    const COUNT: usize = 24;
    let mut network = VirtualNetwork::new(7, "");
    let names: Vec<String> = (0..COUNT).map(|number| format!("node-{number}")).collect();
    for name in &names {
        network.node(name);
    }
    network.until("all join", seconds(20), |network| network.active(COUNT));
    for name in &names {
        network.sim.partition(COORDINATOR, name.as_str());
    }
    network.pass(seconds(60));
    let since = network.sim.elapsed();
    for name in &names {
        network.sim.repair(COORDINATOR, name.as_str());
    }
    let took = network.until("all are back", BACK, |network| {
        network.active(COUNT) && network.accepted(since).len() >= COUNT
    });
    network.pass(seconds(5));
    // One connection each is enough; an attempt that the end of the outage cut in two may be made again.
    let accepted = network.accepted(since);
    assert!(accepted.len() <= 2 * COUNT, "{} connections for {COUNT} nodes", accepted.len());
    let within = |begin: &Duration| {
        accepted.iter().filter(|at| **at >= *begin && **at < *begin + seconds(1) / 2).count()
    };
    let most = accepted.iter().map(within).max().unwrap_or_default();
    assert!(most <= COUNT / 2, "{most} of {COUNT} came within half a second; all were back after {took:?}");
}

#[test]
fn a_node_that_crashes_is_noticed_at_once_and_back_at_once() {
    let mut network = settled(8);
    let since = network.sim.elapsed();
    network.sim.crash(VICTIM);
    network.until("not ACTIVE", seconds(1), |network| network.status(VICTIM) != Some(NodeStatus::Active));
    network.until("FAILED", seconds(2), |network| network.status(VICTIM) == Some(NodeStatus::Failed));
    network.pass(seconds(5));
    network.sim.bounce(VICTIM);
    network.until("ACTIVE", seconds(1), |network| network.status(VICTIM) == Some(NodeStatus::Active));
    let changes = network.changes(since);
    assert!(changes.iter().all(|change| change.node == VICTIM), "{changes:?}");
}
