//! Turns the generated wire types into the vocabulary of [`crate::types`] and back.

pub mod peer;
