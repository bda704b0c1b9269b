//! One binary for all integration tests; one module per promise.

mod parity;
mod support;
