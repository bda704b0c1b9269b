//! The gRPC server: services, layer stacks, health, shutdown.
