//! The gRPC server: services, layer stacks, health, shutdown.

pub mod accept;
mod admin;
mod alert_post;
mod alertmanager;
mod connection;
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
pub mod listener;
mod mesh;
mod metrics;
mod nodes;
mod observe;
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
