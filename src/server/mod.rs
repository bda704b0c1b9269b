//! The gRPC server: services, layer stacks, health, shutdown.

pub mod accept;
mod admin;
mod connection;
mod coordinator;
mod enrolment;
mod events;
mod faults;
mod health;
mod lifecycle;
pub mod listener;
mod mesh;
mod nodes;
mod orders;
mod outputs;
mod pages;
mod preface;
mod reports;
mod service;
mod settings;
pub mod stack;
pub mod tls;
mod workspace;

pub use enrolment::Secrets;
pub use lifecycle::{Listeners, RunningServer, ServerOptions, StartError, start, start_on};
pub use nodes::MESH_ID;
pub use service::TreePolicy;
