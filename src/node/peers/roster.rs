//! Which links the coordinator planned, read from its roster; and who may dial.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

use crate::node::secret::Secret;
use crate::proto::peer::v1 as pb;
use crate::types::{Digest, Incarnation, NodeId};

/// The most entries of a roster: all other nodes up to 64, ten successors beyond, with room to spare.
const MOST: usize = 1024;

/// A roster that breaks the protocol; it is dropped, and the one before stays in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RosterError {
    /// A name is not valid.
    #[error("roster entry `{0}` has a name or a hash that is not valid")]
    Entry(String),
    /// There are too many.
    #[error("the roster has more than {MOST} entries")]
    TooMany,
}

/// A peer to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dial {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) endpoint: String,
    pub(super) secret: Secret,
}

/// The links of one node.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) version: u64,
    pub(super) rebuild: bool,
    pub(super) dial: BTreeMap<NodeId, Dial>,
    pub(super) accept: Vec<Accept>,
}

/// A peer that may dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) secret_sha256: Digest,
}

impl Plan {
    /// Reads a roster; entries about the node itself are left out.
    pub(super) fn from_proto(roster: pb::Roster, own: &NodeId) -> Result<Self, RosterError> {
        if roster.dial.len() + roster.accept.len() > MOST {
            return Err(RosterError::TooMany);
        }
        let name = |text: &str| NodeId::new(text).map_err(|_| RosterError::Entry(short(text)));
        let mut dial = BTreeMap::new();
        for peer in roster.dial {
            let node = name(&peer.node_id)?;
            let incarnation = Incarnation(peer.incarnation);
            let planned = Dial {
                node: node.clone(),
                incarnation,
                endpoint: peer.endpoint,
                secret: Secret::new(peer.secret),
            };
            if node != *own {
                dial.insert(node, planned);
            }
        }
        let mut accept = Vec::new();
        for peer in roster.accept {
            let secret_sha256 =
                peer.secret_sha256.parse().map_err(|_| RosterError::Entry(short(&peer.node_id)))?;
            accept.push(Accept {
                node: name(&peer.node_id)?,
                incarnation: Incarnation(peer.incarnation),
                secret_sha256,
            });
        }
        Ok(Self { version: roster.version, rebuild: roster.rebuild, dial, accept })
    }
}

fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// Who may dial now.
#[derive(Debug, Default)]
pub(super) struct Admissions {
    entries: Vec<(Accept, CancellationToken)>,
}

impl Admissions {
    /// Takes a new list; connections of those that are not on it any more end.
    pub(super) fn replace(&mut self, accept: Vec<Accept>) {
        let mut before = std::mem::take(&mut self.entries);
        for entry in accept {
            let kept = before.iter().position(|(known, _)| *known == entry);
            let until = kept.map_or_else(CancellationToken::new, |index| before.swap_remove(index).1);
            self.entries.push((entry, until));
        }
        for (_, until) in before {
            until.cancel();
        }
    }

    /// Whether this process of a node may dial with this secret; answers until when.
    pub(super) fn check(
        &self,
        node: &str,
        incarnation: Incarnation,
        presented: &str,
    ) -> Option<CancellationToken> {
        let presented = Digest::of(presented.as_bytes());
        let mut found = None;
        // All are compared, and digests rather than secrets, so that time tells nothing.
        for (entry, until) in &self.entries {
            let fits = bool::from(entry.secret_sha256.as_bytes().ct_eq(presented.as_bytes()));
            if fits && entry.node.as_str() == node && entry.incarnation == incarnation {
                found = Some(until.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(node: &str, incarnation: u64, secret: &str) -> Accept {
        Accept {
            node: NodeId::new(node).expect("valid"),
            incarnation: Incarnation(incarnation),
            secret_sha256: Digest::of(secret.as_bytes()),
        }
    }

    #[test]
    fn only_the_planned_process_with_its_own_secret_may_dial() {
        let mut admissions = Admissions::default();
        assert!(admissions.check("a", Incarnation(1), "").is_none());
        admissions.replace(vec![accept("a", 1, "alpha"), accept("b", 1, "beta")]);
        assert!(admissions.check("a", Incarnation(1), "alpha").is_some());
        for (node, incarnation, secret) in
            [("a", 1, "beta"), ("a", 2, "alpha"), ("b", 1, "alpha"), ("c", 1, "alpha"), ("a", 1, "")]
        {
            assert!(admissions.check(node, Incarnation(incarnation), secret).is_none(), "{node} {secret}");
        }
        let hash = Digest::of(b"alpha").to_string();
        assert!(admissions.check("a", Incarnation(1), &hash).is_none(), "the hash is not the secret");
    }

    #[test]
    fn who_leaves_the_roster_is_cut_off_and_who_stays_is_not() {
        let mut admissions = Admissions::default();
        admissions.replace(vec![accept("a", 1, "alpha"), accept("b", 1, "beta")]);
        let a = admissions.check("a", Incarnation(1), "alpha").expect("planned");
        let b = admissions.check("b", Incarnation(1), "beta").expect("planned");
        admissions.replace(vec![accept("b", 1, "beta"), accept("a", 2, "alpha")]);
        assert!(a.is_cancelled() && !b.is_cancelled());
    }

    #[test]
    fn a_roster_is_read_whole_or_not_at_all() {
        let own = NodeId::new("own").expect("valid");
        let address = |node: &str| pb::PeerAddress { node_id: node.into(), ..Default::default() };
        let hash = Digest::of(b"alpha").to_string();
        let admission = pb::PeerAdmission { node_id: "a".into(), secret_sha256: hash, ..Default::default() };
        let good = pb::Roster {
            version: 3,
            dial: vec![address("a"), address("own")],
            accept: vec![admission.clone()],
            rebuild: true,
            ..Default::default()
        };
        let plan = Plan::from_proto(good, &own).expect("valid");
        assert_eq!((plan.version, plan.rebuild, plan.dial.len(), plan.accept.len()), (3, true, 1, 1));
        let nameless = pb::Roster { dial: vec![address("")], ..Default::default() };
        let unhashed = pb::PeerAdmission { secret_sha256: "x".into(), ..admission.clone() };
        let unhashed = pb::Roster { accept: vec![unhashed], ..Default::default() };
        let many = pb::Roster { accept: vec![admission; MOST + 1], ..Default::default() };
        for bad in [nameless, unhashed, many] {
            assert!(Plan::from_proto(bad, &own).is_err());
        }
    }
}
