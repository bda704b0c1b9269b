//! The planned topology: who dials whom.
//!
//! Up to [`FULL_MESH`] members each node links to each other. Above, each node links to [`RINGS`] others: it has a place
//! on so many rings, ordered by SHA-256(ring, node id), and watches its successor on each. Ten observers for each
//! node after Rapid (Suresh et al., 2018), which needs that many to tell a dead node from a bad link at any size.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::message::Topology;
use crate::types::{Digest, NodeId};

/// Members up to which each node links to each other: 4,032 links; more grow faster than they help.
pub const FULL_MESH: usize = 64;
/// Rings, and so the links of each node, above that.
pub const RINGS: u8 = 10;

/// A place on a ring. The name decides between equal digests, so that places are never shared.
type Place = (Digest, NodeId);

/// Who dials whom, kept up to date node by node.
#[derive(Debug)]
pub struct LinkPlan {
    topology: Topology,
    rings: Vec<BTreeSet<Place>>,
    /// Each node's place on each ring.
    places: BTreeMap<NodeId, Vec<Place>>,
    /// Observer to subjects.
    dials: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Subject to observers.
    observers: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Default for LinkPlan {
    fn default() -> Self {
        Self {
            topology: Topology::FullMesh,
            rings: vec![BTreeSet::new(); usize::from(RINGS)],
            places: BTreeMap::new(),
            dials: BTreeMap::new(),
            observers: BTreeMap::new(),
        }
    }
}

impl LinkPlan {
    /// The shape in force.
    pub const fn topology(&self) -> Topology {
        self.topology
    }

    /// Whether a node is part of it.
    pub fn has(&self, node: &NodeId) -> bool {
        self.dials.contains_key(node)
    }

    /// Whom a node dials.
    pub fn dials(&self, node: &NodeId) -> impl Iterator<Item = &NodeId> + Clone {
        self.dials.get(node).into_iter().flatten()
    }

    /// Who dials a node.
    pub fn observers(&self, node: &NodeId) -> impl Iterator<Item = &NodeId> + Clone {
        self.observers.get(node).into_iter().flatten()
    }

    /// Whether a link is planned.
    pub fn plans(&self, observer: &NodeId, subject: &NodeId) -> bool {
        self.dials.get(observer).is_some_and(|subjects| subjects.contains(subject))
    }

    /// All planned links.
    pub fn links(&self) -> impl Iterator<Item = (&NodeId, &NodeId)> {
        self.dials
            .iter()
            .flat_map(|(observer, subjects)| subjects.iter().map(move |subject| (observer, subject)))
    }

    /// How many links so many members have when all are there.
    pub const fn complete(topology: Topology, members: usize) -> usize {
        let others = members.saturating_sub(1);
        match topology {
            Topology::FullMesh => members * others,
            Topology::Rings if others < RINGS as usize => members * others,
            Topology::Rings => members * RINGS as usize,
        }
    }

    /// Takes the shape that so many members need. Answers the nodes whose own part changed.
    pub fn fit(&mut self, members: usize) -> BTreeSet<NodeId> {
        let fitting = if members > FULL_MESH { Topology::Rings } else { Topology::FullMesh };
        if fitting == self.topology {
            return BTreeSet::new();
        }
        self.topology = fitting;
        let all: BTreeSet<NodeId> = self.dials.keys().cloned().collect();
        self.plan_anew(all)
    }

    /// Takes a node in. Answers the nodes whose own part changed, itself among them.
    pub fn add(&mut self, node: &NodeId) -> BTreeSet<NodeId> {
        if self.has(node) {
            return BTreeSet::new();
        }
        let mut concerned: BTreeSet<NodeId> = match self.topology {
            Topology::FullMesh => self.dials.keys().cloned().collect(),
            Topology::Rings => BTreeSet::new(),
        };
        self.dials.insert(node.clone(), BTreeSet::new());
        self.observers.insert(node.clone(), BTreeSet::new());
        let places: Vec<Place> = (0..RINGS).map(|ring| place(ring, node)).collect();
        for (ring, place) in self.rings.iter_mut().zip(&places) {
            if self.topology == Topology::Rings {
                // A node looks further along a ring only past those it has already: at most one for each other ring.
                concerned.extend(predecessors(ring, place));
            }
            ring.insert(place.clone());
        }
        self.places.insert(node.clone(), places);
        concerned.insert(node.clone());
        let mut changed = self.plan_anew(concerned);
        changed.insert(node.clone());
        changed
    }

    /// Takes a node out. Answers the other nodes whose own part changed.
    pub fn remove(&mut self, node: &NodeId) -> BTreeSet<NodeId> {
        for (ring, place) in self.rings.iter_mut().zip(self.places.remove(node).unwrap_or_default()) {
            ring.remove(&place);
        }
        let Some(subjects) = self.dials.remove(node) else { return BTreeSet::new() };
        let mut changed = BTreeSet::new();
        for subject in subjects {
            if let Some(observers) = self.observers.get_mut(&subject) {
                observers.remove(node);
            }
            changed.insert(subject);
        }
        // Whoever passed over it on a ring had it by another ring.
        let observers = self.observers.remove(node).unwrap_or_default();
        changed.extend(self.plan_anew(observers));
        changed
    }

    /// Plans what these nodes dial. Answers the nodes whose own part changed.
    fn plan_anew(&mut self, nodes: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut changed = BTreeSet::new();
        for node in nodes {
            let planned = self.targets(&node);
            let before = self.dials.insert(node.clone(), planned.clone()).unwrap_or_default();
            if before == planned {
                continue;
            }
            for gone in before.difference(&planned) {
                if let Some(observers) = self.observers.get_mut(gone) {
                    observers.remove(&node);
                }
                if self.has(gone) {
                    changed.insert(gone.clone());
                }
            }
            for new in planned.difference(&before) {
                self.observers.entry(new.clone()).or_default().insert(node.clone());
                changed.insert(new.clone());
            }
            changed.insert(node);
        }
        changed
    }

    /// Whom a node should dial.
    fn targets(&self, node: &NodeId) -> BTreeSet<NodeId> {
        match self.topology {
            Topology::FullMesh => self.dials.keys().filter(|other| *other != node).cloned().collect(),
            Topology::Rings => {
                let mut targets = BTreeSet::new();
                for (ring, own) in self.rings.iter().zip(self.places.get(node).into_iter().flatten()) {
                    let after = ring.range((Excluded(own), Unbounded)).chain(ring.range(..own));
                    let next = after.map(|(_, other)| other).find(|other| !targets.contains(*other));
                    targets.extend(next.cloned());
                }
                targets
            }
        }
    }
}

/// The nodes before a place on a ring, as many as could look past one another.
fn predecessors<'a>(ring: &'a BTreeSet<Place>, place: &Place) -> impl Iterator<Item = NodeId> + use<'a> {
    let before = ring.range(..place).rev().chain(ring.range((Excluded(place), Unbounded)).rev());
    before.take(usize::from(RINGS)).map(|(_, node)| node.clone())
}

/// Where a node is on a ring.
fn place(ring: u8, node: &NodeId) -> Place {
    let bytes: Vec<u8> = std::iter::once(ring).chain(node.as_str().bytes()).collect();
    (Digest::of(&bytes), node.clone())
}

#[cfg(test)]
mod tests;
