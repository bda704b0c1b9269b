//! The secrets by which nodes prove to each other that the coordinator planned a link.

use crate::middleware::request_id::RandomBits;
use crate::proto::peer::v1 as pb;
use crate::types::{Digest, Incarnation, NodeId};

/// Makes the secret of each link: the same at every call, so that a roster can be written again, and of use for one
/// pair of processes in one direction only.
pub struct LinkSecrets {
    /// 256 random bits of this server's start; never leaves it.
    key: [u8; 32],
}

impl LinkSecrets {
    /// With a new key.
    pub fn new(random: &RandomBits) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&random().to_be_bytes());
        key[16..].copy_from_slice(&random().to_be_bytes());
        Self { key }
    }

    /// What the process `from` presents to the process `to`.
    ///
    /// `SHA-256(K, SHA-256(K, from, to))`: nested as in HMAC (RFC 2104), so that it cannot be extended to the secret of
    /// another link.
    pub fn secret(&self, from: (&NodeId, Incarnation), to: (&NodeId, Incarnation)) -> String {
        let mut inner = self.key.to_vec();
        for (node, Incarnation(incarnation)) in [from, to] {
            // Names have no zero byte, so that no two links have the same text.
            inner.extend_from_slice(node.as_str().as_bytes());
            inner.push(0);
            inner.extend_from_slice(&incarnation.to_be_bytes());
        }
        let mut outer = self.key.to_vec();
        outer.extend_from_slice(Digest::of(&inner).as_bytes());
        Digest::of(&outer).to_string()
    }

    /// Fills in what the process `own` presents, and the hashes of what is presented to it. Entries whose name breaks
    /// the rules get nothing, and so fit nobody.
    pub fn fill(&self, roster: &mut pb::Roster, own: (&NodeId, Incarnation)) {
        for peer in &mut roster.dial {
            if let Ok(node) = NodeId::new(&peer.node_id) {
                peer.secret = self.secret(own, (&node, Incarnation(peer.incarnation)));
            }
        }
        for peer in &mut roster.accept {
            if let Ok(node) = NodeId::new(&peer.node_id) {
                let secret = self.secret((&node, Incarnation(peer.incarnation)), own);
                peer.secret_sha256 = Digest::of(secret.as_bytes()).to_string();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn secrets() -> LinkSecrets {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let random: RandomBits = Arc::new(|| u128::from(COUNT.fetch_add(1, Ordering::Relaxed)) << 64);
        LinkSecrets::new(&random)
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    #[test]
    fn each_pair_of_processes_and_each_direction_has_its_own_and_keeps_it() {
        let (secrets, a, b) = (secrets(), node("a"), node("b"));
        let mut all = std::collections::BTreeSet::new();
        for (from, to) in [(&a, &b), (&b, &a)] {
            for incarnations in [(1, 1), (1, 2), (2, 1)] {
                let [from, to] = [(from, Incarnation(incarnations.0)), (to, Incarnation(incarnations.1))];
                let secret = secrets.secret(from, to);
                assert_eq!(secret, secrets.secret(from, to));
                assert!(all.insert(secret));
            }
        }
        let [from, to] = [&a, &b].map(|node| (node, Incarnation(1)));
        assert_ne!(secrets.secret(from, to), self::secrets().secret(from, to), "another start, another key");
    }

    #[test]
    fn what_one_presents_is_what_the_other_compares_with() {
        let (secrets, a, b) = (secrets(), node("a"), node("b"));
        let address = pb::PeerAddress { node_id: "b".into(), incarnation: 2, ..Default::default() };
        let admission = pb::PeerAdmission { node_id: "a".into(), incarnation: 1, ..Default::default() };
        let mut of_a = pb::Roster { dial: vec![address], ..Default::default() };
        let mut of_b = pb::Roster { accept: vec![admission], ..Default::default() };
        secrets.fill(&mut of_a, (&a, Incarnation(1)));
        secrets.fill(&mut of_b, (&b, Incarnation(2)));
        let presented = Digest::of(of_a.dial[0].secret.as_bytes()).to_string();
        assert_eq!(presented, of_b.accept[0].secret_sha256);
        secrets.fill(&mut of_b, (&b, Incarnation(3)));
        assert_ne!(presented, of_b.accept[0].secret_sha256, "another process of b does not take it");
    }
}
