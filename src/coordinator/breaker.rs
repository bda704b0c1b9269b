//! The circuit breaker as a state machine: Closed, Open, HalfOpen.
