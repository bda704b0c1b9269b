//! Tests of the rules, on a mesh whose clock is advanced by hand.

mod budget;
mod builders;
mod detection;
mod draining;
mod figures;
mod lies;
mod mesh;
mod operator;
mod placing;
mod random;
mod recovering;
mod reconnecting;
mod run_life;
mod sharing;
mod simulation;
mod walk;
