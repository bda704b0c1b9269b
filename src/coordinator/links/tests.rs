//! The plan on every size that matters, and that changing it node by node gives the same as planning it at once.

use super::*;

fn name(number: usize) -> NodeId {
    NodeId::new(&format!("node-{number}")).expect("a valid node id")
}

/// So many members, of which those stand that are not left out.
fn plan(members: usize, out: &[usize]) -> LinkPlan {
    let mut plan = LinkPlan::default();
    plan.fit(members);
    for number in (0..members).filter(|number| !out.contains(number)) {
        plan.add(&name(number));
    }
    plan
}

/// What each node's roster says.
fn parts(plan: &LinkPlan) -> BTreeMap<NodeId, (BTreeSet<NodeId>, BTreeSet<NodeId>)> {
    let nodes = plan.dials.keys();
    nodes
        .map(|node| {
            let (dials, observers) = (plan.dials(node).cloned(), plan.observers(node).cloned());
            (node.clone(), (dials.collect(), observers.collect()))
        })
        .collect()
}

#[test]
fn up_to_64_members_each_node_links_to_each_other() {
    for members in [1, 2, 4, 31, 64] {
        let plan = plan(members, &[]);
        assert_eq!(plan.topology(), Topology::FullMesh);
        assert_eq!(plan.links().count(), members * (members - 1));
        assert_eq!(LinkPlan::complete(Topology::FullMesh, members), members * (members - 1));
        assert!(plan.links().all(|(observer, subject)| observer != subject));
    }
}

#[test]
fn above_64_members_each_node_links_to_ten_others_and_is_watched_by_about_as_many() {
    for members in [65, 200, 1000] {
        let plan = plan(members, &[]);
        assert_eq!(plan.topology(), Topology::Rings);
        assert_eq!(LinkPlan::complete(Topology::Rings, members), members * 10);
        for node in plan.dials.keys() {
            assert_eq!(plan.dials(node).count(), 10, "{node}");
            assert!(plan.dials(node).all(|subject| subject != node && plan.plans(node, subject)));
            // A node that precedes it on two rings watches it once.
            assert!(
                (6..=16).contains(&plan.observers(node).count()),
                "{node}: {:?}",
                plan.observers(node).count()
            );
        }
        assert_eq!(plan.links().count(), members * 10, "so ten observers in the mean");
    }
}

#[test]
fn a_few_nodes_that_stand_of_many_members_all_link_to_each_other() {
    let out: Vec<usize> = (5..70).collect();
    let plan = plan(70, &out);
    assert_eq!((plan.topology(), plan.links().count()), (Topology::Rings, 20));
}

#[test]
fn changing_the_plan_node_by_node_gives_what_planning_it_at_once_gives() {
    for members in [12, 64, 65, 80] {
        let mut changing = plan(members, &[]);
        let mut out = Vec::new();
        for step in 0..30 {
            let number = step * 37 % members;
            let before = parts(&changing);
            let changed = match out.iter().position(|gone| *gone == number) {
                None => {
                    out.push(number);
                    changing.remove(&name(number))
                }
                Some(at) => {
                    out.remove(at);
                    changing.add(&name(number))
                }
            };
            let after = parts(&changing);
            assert_eq!(after, parts(&plan(members, &out)), "{members} members, step {step}");
            let differ: BTreeSet<NodeId> = after
                .iter()
                .filter(|(node, part)| before.get(*node) != Some(*part))
                .map(|(node, _)| node.clone())
                .collect();
            assert_eq!(changed, differ, "exactly those whose own part changed are told");
        }
    }
}

#[test]
fn a_join_and_a_leave_concern_few_nodes_of_many() {
    let mut plan = plan(1000, &[]);
    for number in (0..1000).step_by(25) {
        let left = plan.remove(&name(number)).len();
        let joined = plan.add(&name(number)).len();
        // Its observers, those it observed, and for each observer the node it watches instead.
        assert!(left <= 40 && joined <= 41, "{left} {joined}");
    }
}

#[test]
fn crossing_the_size_changes_the_shape_for_all() {
    let mut plan = plan(64, &[]);
    assert_eq!(plan.fit(64), BTreeSet::new());
    assert_eq!(plan.fit(65).len(), 64);
    assert!(plan.add(&name(64)).contains(&name(64)));
    assert_eq!(plan.links().count(), 650);
}
