//! Between the wire types and the vocabulary; the only place that knows both.

pub mod diagnose;
pub mod explain;
pub mod lint;
pub mod mesh;
pub mod mesh_health;
pub mod peer;
pub mod run;
pub mod session;
pub mod specialist;
pub mod time;
