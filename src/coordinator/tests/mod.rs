//! Tests of the rules, on a mesh whose clock is advanced by hand.

mod budget;
mod builders;
mod detection;
mod diagnosing;
mod doubles;
mod draining;
mod explaining;
mod figures;
mod leftovers;
mod lies;
mod mesh;
mod observing;
mod operator;
mod placing;
mod random;
mod reconnecting;
mod recovering;
mod resuming;
mod run_life;
mod sharing;
mod simulation;
mod simulator;
mod watching;
