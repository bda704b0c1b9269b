//! The gRPC server: services, layer stacks, health, shutdown.

pub mod accept;
mod connection;
pub mod listener;
mod preface;
pub mod stack;
pub mod tls;
