//! The node's links to its peers: dialled and probed as the coordinator plans them, and answered when they dial.

mod bulk;
mod conversation;
mod dial;
mod listener;
mod prober;
mod roster;
mod service;
mod view;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use self::conversation::Conversation;
#[cfg(test)]
pub(super) use self::conversation::tests::answering;
pub(super) use self::listener::listen;
pub use self::listener::{ListenError, PeerTls};
use self::roster::{Admissions, Dial, Plan};
use self::view::View;
use super::backoff::Random;
use super::envelope::Envelope;
use super::held::Held;
use super::link::Connector;
use crate::middleware::refusals::Reasons;
use crate::proto::peer::v1 as pb;
use crate::types::{AttemptRef, Incarnation, LinkReport, LinkState, NodeId};
use crate::wire::peer::AttemptResult;

/// How long a look at a peer may take that the coordinator asked for.
const LOOK: Duration = Duration::from_secs(1);
/// Looks at one peer that may wait.
const LOOKS: usize = 8;

/// A question whether a peer is there, and who wants to know how long the answer took.
type Look = oneshot::Sender<Duration>;

/// The links of one node; clones share them. They outlive sessions.
#[derive(Clone)]
pub(super) struct Peers {
    shared: Arc<Shared>,
}

/// Who dials, and how.
pub(super) struct PeerOptions {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) mesh_id: String,
    pub(super) tls_ca: Option<Vec<u8>>,
    pub(super) connector: Connector,
    pub(super) random: Random,
    pub(super) envelope: Envelope,
    /// What peers may ask for.
    pub(super) held: Held,
    /// What peers say that is not about links.
    pub(super) from_peers: mpsc::Sender<FromPeer>,
    pub(super) stop: CancellationToken,
}

/// What a peer said that is not about the link itself.
pub(super) enum FromPeer {
    /// Its result, to be passed on to the coordinator.
    Result(Box<AttemptResult>, Arc<Conversation>),
    /// This peer says that the coordinator has this node's result.
    Acknowledged(String, AttemptRef),
    /// This peer cannot pass this node's result on.
    TurnedDown(String, AttemptRef),
}

pub(super) struct Shared {
    own: PeerOptions,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    admissions: Mutex<Admissions>,
    /// The bulk connections that peers opened, by peer.
    answering: Mutex<BTreeMap<String, Weak<Conversation>>>,
    changed: Notify,
    abstaining: AtomicBool,
    refusals: Reasons,
}

/// One planned link.
struct Link {
    peer: Dial,
    view: Mutex<View>,
    /// What the coordinator was told last on the session that lives.
    told: Mutex<Option<LinkState>>,
    looks: mpsc::Sender<Look>,
    /// The connection for everything but probes, once it is needed.
    bulk: tokio::sync::Mutex<Option<Arc<Conversation>>>,
    /// Until when the peer is not asked for outputs, because one did not come.
    spared: Mutex<Option<Instant>>,
    until: CancellationToken,
}

impl Peers {
    /// Without any link.
    pub(super) fn new(own: PeerOptions) -> Self {
        let shared = Shared {
            own,
            links: Mutex::default(),
            admissions: Mutex::default(),
            answering: Mutex::default(),
            changed: Notify::new(),
            abstaining: AtomicBool::new(false),
            refusals: Reasons::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes the links what the roster says: opens what is new, closes what is gone, keeps the rest unless all are to
    /// be rebuilt. A roster that breaks the protocol changes nothing.
    pub(super) fn apply(&self, roster: pb::Roster, probe_interval: Duration) {
        let plan = match Plan::from_proto(roster, &self.shared.own.node) {
            Ok(plan) => plan,
            Err(error) => return tracing::warn!(%error, "a roster was dropped"),
        };
        tracing::debug!(
            version = plan.version,
            rebuild = plan.rebuild,
            dial = plan.dial.len(),
            accept = plan.accept.len(),
            "links planned"
        );
        lock(&self.shared.admissions).replace(plan.accept);
        let mut links = lock(&self.shared.links);
        links.retain(|node, link| {
            let is_kept = !plan.rebuild && plan.dial.get(node) == Some(&link.peer);
            if !is_kept {
                link.until.cancel();
            }
            is_kept
        });
        for (node, peer) in plan.dial {
            links.entry(node).or_insert_with(|| self.open(peer, probe_interval));
        }
        drop(links);
        self.shared.changed.notify_one();
    }

    fn open(&self, peer: Dial, probe_interval: Duration) -> Arc<Link> {
        let (looks, asked) = mpsc::channel(LOOKS);
        let link = Arc::new(Link {
            peer,
            view: Mutex::new(View::new()),
            told: Mutex::default(),
            looks,
            bulk: tokio::sync::Mutex::default(),
            spared: Mutex::default(),
            until: self.shared.own.stop.child_token(),
        });
        let (shared, until) = (self.shared.clone(), link.until.clone());
        let probing = prober::run(shared, link.clone(), asked, probe_interval);
        tokio::spawn(async move { until.run_until_cancelled(probing).await });
        link
    }

    /// What is known of every link.
    pub(super) fn reports(&self) -> Vec<LinkReport> {
        let now = Instant::now();
        let links = lock(&self.shared.links);
        links.iter().map(|(node, link)| lock(&link.view).report(node.clone(), now)).collect()
    }

    /// Whether this node's own timers came late since this was asked last.
    pub(super) fn was_late(&self) -> bool {
        self.shared.abstaining.swap(false, Ordering::Relaxed)
    }

    /// Messages and calls of peers that were refused, by reason.
    pub(super) fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.shared.refusals.counts()
    }

    /// A new session: whoever listens there knows nothing yet.
    pub(super) fn forget_told(&self) {
        for link in lock(&self.shared.links).values() {
            *lock(&link.told) = None;
        }
    }

    /// Waits until links are in a state that the coordinator was not told of, and answers which; they count as told.
    /// Cancel safe as long as what it answers is sent.
    pub(super) async fn next_changes(&self) -> Vec<(NodeId, LinkState)> {
        loop {
            let changed = self.shared.changed.notified();
            let untold: Vec<_> = lock(&self.shared.links)
                .iter()
                .filter_map(|(node, link)| {
                    let state = lock(&link.view).state();
                    let before = lock(&link.told).replace(state);
                    // That a link is planned is no news.
                    let is_news = before.map_or(state != LinkState::Connecting, |told| told != state);
                    is_news.then(|| (node.clone(), state))
                })
                .collect();
            if !untold.is_empty() {
                return untold;
            }
            changed.await;
        }
    }

    /// Looks at a peer with a fresh probe; answers how long its answer took. Nothing: none within a second, or no link to
    /// it is planned.
    pub(super) async fn look_at(&self, subject: &str) -> Option<Duration> {
        let looks = lock(&self.shared.links)
            .iter()
            .find_map(|(node, link)| (node.as_str() == subject).then(|| link.looks.clone()))?;
        let (asked, answer) = oneshot::channel();
        looks.try_send(asked).ok()?;
        tokio::time::timeout(LOOK, answer).await.ok()?.ok()
    }
}

impl Shared {
    /// Counts payload of a link that this node dialled.
    fn moved(&self, peer: &str, sent: usize, received: usize) {
        let links = lock(&self.links);
        if let Some(link) = NodeId::new(peer).ok().and_then(|peer| links.get(&peer)) {
            lock(&link.view).moved(sent, received);
        }
    }

    /// Has a link's view changed by `change`, and the coordinator told if its state is another now.
    fn observe<T>(&self, link: &Link, change: impl FnOnce(&mut View) -> T) -> T {
        let mut view = lock(&link.view);
        let before = view.state();
        let answer = change(&mut view);
        let after = view.state();
        drop(view);
        if before != after {
            tracing::debug!(peer = %link.peer.node, state = after.as_str(), "link");
            self.changed.notify_one();
        }
        answer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds these; a poisoned lock is as good as a whole one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
