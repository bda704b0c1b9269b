//! The pure core: decides, with no clock, no I/O and no wire format.

pub mod breaker;
