//! The gRPC server: services, layer stacks, health, shutdown.

mod admin;
mod alert_post;
mod alertmanager;
mod coordinator;
mod counts;
mod diagnose;
mod enrolment;
mod events;
mod explain;
mod exposition;
mod faults;
mod health;
mod health_hub;
mod health_stream;
mod lifecycle;
mod links;
mod mesh;
mod metrics;
mod nodes;
mod observe;
mod orders;
mod outputs;
mod pages;
mod refusals;
mod reports;
mod service;
mod settings;
pub mod stack;
mod told_by_nodes;
mod workspace;

pub use enrolment::Secrets;
pub use lifecycle::{RunningServer, ServerOptions, StartError, start, start_on};
pub use nodes::MESH_ID;
pub use service::TreePolicy;
