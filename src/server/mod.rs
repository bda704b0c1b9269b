//! The gRPC server: services, layer stacks, health, shutdown.

mod admin;
mod coordinator;
mod enrolment;
mod events;
mod health;
mod lifecycle;
mod links;
mod mesh;
mod nodes;
mod orders;
mod outputs;
mod pages;
mod refusals;
mod reports;
mod service;
mod settings;
pub mod stack;
mod workspace;

pub use enrolment::Secrets;
pub use lifecycle::{RunningServer, ServerOptions, StartError, start};
pub use nodes::MESH_ID;
pub use service::TreePolicy;
