//! Tests of the rules, on a mesh whose clock is advanced by hand.

mod budget;
mod builders;
mod detection;
mod doubles;
mod figures;
mod lies;
mod mesh;
mod operator;
mod placing;
mod random;
mod reconnecting;
mod run_life;
mod simulation;
mod walk;
