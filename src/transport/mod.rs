//! Listening for connections: accepted, bounded in every direction, ended within a bound. Coordinator and nodes share it.

pub mod accept;
mod connection;
pub mod listener;
mod preface;
pub mod tls;
