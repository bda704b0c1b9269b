//! The secrets by which nodes prove that they may join.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq as _;

use crate::config::SecretHash;
use crate::middleware::enrolment::{Enrolled, Enrolment};
use crate::types::{Digest, NodeId};

/// Secrets made for launched nodes, one for each start, and those that configuration gives to external ones.
pub struct Secrets {
    configured: Vec<SecretHash>,
    launched: Mutex<BTreeMap<NodeId, Digest>>,
}

impl Secrets {
    /// With the secrets of the configuration.
    pub fn new(configured: Vec<SecretHash>) -> Self {
        Self { configured, launched: Mutex::default() }
    }

    /// Expects a launched node with this secret. The secret of its last start is void from now on, so each is good
    /// for one process only.
    pub fn expect(&self, node: &NodeId, secret: &str) {
        self.lock().insert(node.clone(), Digest::of(secret.as_bytes()));
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
