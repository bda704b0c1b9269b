//! The declared part of a node on the wire: in a client's request and in a node's Hello.

use crate::proto::v1;
use crate::status::FieldViolation;
use crate::types::{NodeId, NodeSpec};

impl From<&NodeSpec> for v1::Specialist {
    fn from(spec: &NodeSpec) -> Self {
        Self {
            node_id: spec.node_id.to_string(),
            agent_type: spec.agent_type.clone(),
            capabilities: spec.capabilities.iter().cloned().collect(),
            fallback_capabilities: spec.fallback_capabilities.iter().cloned().collect(),
            tools_focus: spec.tools_focus.clone(),
            priority_weight: spec.priority_weight,
            max_concurrent_tasks: spec.max_concurrent_tasks,
        }
    }
}

/// A declared node, or all that is wrong with it. `at` is the path of the field.
pub fn read(declared: v1::Specialist, at: &str) -> Result<NodeSpec, Vec<FieldViolation>> {
    let mut bad = Vec::new();
    let node_id = NodeId::new(&declared.node_id)
        .map_err(|error| bad.push(FieldViolation::new(format!("{at}.node_id"), error.to_string())));
    if declared.agent_type.is_empty() || declared.agent_type.len() > 63 {
        bad.push(FieldViolation::new(format!("{at}.agent_type"), "must have 1 to 63 characters"));
    }
    let weight = declared.priority_weight;
    if !(weight > 0.0 && weight <= 1.0) {
        let text = format!("is {weight}; it must be greater than 0 and at most 1");
        bad.push(FieldViolation::new(format!("{at}.priority_weight"), text));
    }
    if !(1..=1024).contains(&declared.max_concurrent_tasks) {
        let text = format!("is {}; it must be 1 to 1024", declared.max_concurrent_tasks);
        bad.push(FieldViolation::new(format!("{at}.max_concurrent_tasks"), text));
    }
    for (field, names) in [
        ("capabilities", &declared.capabilities),
        ("fallback_capabilities", &declared.fallback_capabilities),
        ("tools_focus", &declared.tools_focus),
    ] {
        if names.len() > 256 || names.iter().any(|name| name.is_empty() || name.len() > 128) {
            let text = "must be at most 256 names of 1 to 128 characters";
            bad.push(FieldViolation::new(format!("{at}.{field}"), text));
        }
    }
    match node_id {
        Ok(node_id) if bad.is_empty() => Ok(NodeSpec {
            node_id,
            agent_type: declared.agent_type,
            capabilities: declared.capabilities.into_iter().collect(),
            fallback_capabilities: declared.fallback_capabilities.into_iter().collect(),
            tools_focus: declared.tools_focus,
            priority_weight: weight,
            max_concurrent_tasks: declared.max_concurrent_tasks,
        }),
        _ => Err(bad),
    }
}
