//! The secrets by which nodes prove that they may join.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq as _;

use crate::config::{SecretHash, Settings};
use crate::middleware::enrolment::{Enrolled, Enrolment};
use crate::types::{Digest, NodeId};

/// Secrets made for launched nodes, one for each start, and those that configuration gives to external ones.
pub struct Secrets {
    configured: Vec<SecretHash>,
    launched: Mutex<BTreeMap<NodeId, Digest>>,
}

impl Secrets {
    /// With the secrets of the configuration.
    pub fn new(settings: &Settings) -> Self {
        let configured = settings.nodes.secrets.iter().map(|secret| secret.sha256.clone()).collect();
        Self { configured, launched: Mutex::default() }
    }

    /// Expects a launched node with this secret. The secret of its last start is void from now on, so each is good
    /// for one process only.
    pub fn expect(&self, node: &NodeId, secret: &str) {
        self.lock().insert(node.clone(), Digest::of(secret.as_bytes()));
    }

    /// Expects a launched node whose secret another coordinator made; only the secret's SHA-256 is known here.
    pub fn inherit(&self, node: &NodeId, secret: Digest) {
        self.lock().insert(node.clone(), secret);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Digest>> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Enrolment for Secrets {
    fn check(&self, secret: &str) -> Option<Enrolled> {
        let presented = Digest::of(secret.as_bytes());
        // All are compared, and digests rather than secrets, so that time tells nothing.
        let mut found = None;
        for (node, expected) in self.lock().iter() {
            if bool::from(expected.as_bytes().ct_eq(presented.as_bytes())) {
                found = Some(Enrolled { node: Some(node.clone()) });
            }
        }
        for hash in &self.configured {
            if hash.matches(secret.as_bytes()) && found.is_none() {
                found = Some(Enrolled { node: None });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inherited_secret_counts_until_the_node_is_started_anew() {
        let secrets = Secrets::new(&Settings::default());
        let node = NodeId::new("backend-dev").expect("valid");
        secrets.inherit(&node, Digest::of(b"old"));
        let who = |secret: &str| secrets.check(secret).and_then(|enrolled| enrolled.node);
        assert_eq!(who("old"), Some(node.clone()));
        secrets.expect(&node, "new");
        assert_eq!((who("old"), who("new")), (None, Some(node)));
    }
}
