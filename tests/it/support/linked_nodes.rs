//! Real node processes that a scripted coordinator links to each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lintmesh::node::launcher::{LaunchOptions, Launcher, NodeExited};
use lintmesh::node::secret::Secret;
use lintmesh::proto::peer::v1 as pb;
use lintmesh::proto::peer::v1::mesh_message::Payload;
use lintmesh::types::{Digest, NodeId, NodeSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc;

use super::super::node_session::coordinator::{Coordinator, DEADLINE, SECRET, Session};
use super::super::node_session::world::{World, limits, spec, toolchain};

/// The nodes of a mesh, their sessions by name, and the coordinator that they joined.
pub(crate) struct LinkedNodes {
    pub(crate) coordinator: Coordinator,
    pub(crate) sessions: BTreeMap<String, Session>,
    /// Kills them at the end.
    _launcher: Launcher,
    _exits: mpsc::Receiver<NodeExited>,
    _world: World,
    version: u64,
}

/// What each node presents to each other.
pub(crate) fn link_secret(from: &str, to: &str) -> String {
    format!("from {from} to {to}")
}

impl LinkedNodes {
    /// Starts a process for each name; none is linked yet.
    pub(crate) async fn start(names: &[&str]) -> Self {
        let (mut coordinator, world) = (Coordinator::start().await, World::with_ruff());
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_lintmesh"));
        let options = LaunchOptions {
            drain_timeout: Duration::from_secs(5),
            program: binary.clone(),
            arguments: vec!["node".into(), "--launched".into()],
            coordinator: coordinator.uri.clone(),
            tls_ca: None,
            mesh_id: "default".into(),
            host_id: "host".into(),
            failure_domain: "host".into(),
            environment_class: "any".into(),
            toolchain: toolchain(&world.ruff),
            limits: limits(),
            work_dir: world.work_dir(),
            survival: None,
            cpu_slots: 1,
            shim: binary,
            make_secret: Box::new(|_| Secret::new(SECRET)),
        };
        let named = |name: &&str| NodeSpec { node_id: NodeId::new(name).unwrap(), ..spec() };
        let (launcher, exits) =
            Launcher::start(names.iter().map(named).collect(), options).expect("launched");
        let mut sessions = BTreeMap::new();
        for _ in names {
            let session = coordinator.session().await;
            sessions.insert(name(&session), session);
        }
        assert_eq!(sessions.len(), names.len());
        Self { coordinator, sessions, _launcher: launcher, _exits: exits, _world: world, version: 0 }
    }

    /// What the coordinator would plan for a node: links to and from all others.
    pub(crate) fn roster(&mut self, own: &str) -> pb::Roster {
        self.version += 1;
        let others = || self.sessions.iter().filter(|(name, _)| *name != own);
        let address = |(name, session): (&String, &Session)| pb::PeerAddress {
            node_id: name.clone(),
            incarnation: session.hello.incarnation,
            endpoint: session.hello.peer_endpoint.clone(),
            secret: link_secret(own, name),
        };
        let admission = |(name, session): (&String, &Session)| pb::PeerAdmission {
            node_id: name.clone(),
            incarnation: session.hello.incarnation,
            secret_sha256: Digest::of(link_secret(name, own).as_bytes()).to_string(),
        };
        pb::Roster {
            version: self.version,
            topology: "full_mesh".into(),
            dial: others().map(address).collect(),
            accept: others().map(admission).collect(),
            rebuild: false,
        }
    }

    pub(crate) async fn send_roster(&self, to: &str, roster: pb::Roster) {
        let kind = Some(pb::fault_tolerance::Kind::Roster(roster));
        self.sessions[to].say(Payload::FaultTolerance(pb::FaultTolerance { kind })).await;
    }

    /// Links all to all and waits until every link is up.
    pub(crate) async fn link(&mut self) {
        let names: Vec<String> = self.sessions.keys().cloned().collect();
        for name in &names {
            let roster = self.roster(name);
            self.send_roster(name, roster).await;
        }
        for name in &names {
            self.until_beat(name, |beat| up(beat) == names.len() - 1).await;
        }
    }

    /// Waits for a beat of a node that is as wanted.
    pub(crate) async fn until_beat(&mut self, node: &str, wanted: impl Fn(&pb::Beat) -> bool) -> pb::Beat {
        let session = self.sessions.get_mut(node).expect("a node");
        let mut last = None;
        let waited = async {
            loop {
                let beat = session.beat().await;
                if wanted(&beat) {
                    return beat;
                }
                last = Some(beat);
            }
        };
        match tokio::time::timeout(DEADLINE, waited).await {
            Ok(beat) => beat,
            Err(_) => panic!("no such beat of {node}; the last: {last:?}"),
        }
    }

    /// Waits until a node says that its link to `peer` is in this state.
    pub(crate) async fn until_change(&mut self, node: &str, peer: &str, state: pb::LinkState) {
        while self.next_change(node, peer).await != state {}
    }

    /// Waits until a node says that its link to `peer` is up no more; answers what it is.
    pub(crate) async fn until_trouble(&mut self, node: &str, peer: &str) -> pb::LinkState {
        loop {
            let state = self.next_change(node, peer).await;
            if ![pb::LinkState::Connecting, pb::LinkState::Up].contains(&state) {
                return state;
            }
        }
    }

    async fn next_change(&mut self, node: &str, peer: &str) -> pb::LinkState {
        let session = self.sessions.get_mut(node).expect("a node");
        let waited = async {
            loop {
                if let Some(Payload::FaultTolerance(pb::FaultTolerance {
                    kind: Some(pb::fault_tolerance::Kind::LinkChange(change)),
                })) = session.next().await.payload
                    && change.peer_id == peer
                {
                    return change.state();
                }
            }
        };
        tokio::time::timeout(DEADLINE, waited).await.expect("the change in time")
    }

    /// Has a node look at another one.
    pub(crate) async fn look(&mut self, node: &str, subject: &str, number: u64) -> pb::ProbeReport {
        let request = pb::ProbeRequest { subject_id: subject.into(), number };
        let kind = Some(pb::heartbeat::Kind::ProbeRequest(request));
        let session = self.sessions.get_mut(node).expect("a node");
        session.say(Payload::Heartbeat(pb::Heartbeat { kind })).await;
        loop {
            if let Some(Payload::Heartbeat(pb::Heartbeat {
                kind: Some(pb::heartbeat::Kind::ProbeReport(report)),
            })) = session.next().await.payload
            {
                return report;
            }
        }
    }

    pub(crate) fn signal(&self, node: &str, name: Signal) {
        let pid = self.sessions[node].hello.process_id;
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), name).unwrap();
    }
}

fn name(session: &Session) -> String {
    session.hello.specialist.as_ref().expect("declared").node_id.clone()
}

/// How many links of a beat are up.
pub(crate) fn up(beat: &pb::Beat) -> usize {
    beat.links.iter().filter(|link| link.state() == pb::LinkState::Up).count()
}
