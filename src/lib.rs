//! lintmesh coordinates a full mesh of specialist agent nodes that lint a source tree together, and gives one report.
//!
//! # Modules
//! Dependencies point downward only (`tests/it/architecture.rs` holds them to it):
//! ```text
//!                              cli                      one file per command; the only one that prints or exits
//!               ┌───────────────┴───────────────┐
//!            server                            node     two processes of one binary: coordinator and agent
//!      ┌────────┼──────────┐                ┌───┴────┐
//!   engine  middleware    wire ─ ─ ─ ─ ─ ─ peer      │  wire::peer is what both ends of a session speak
//!   ┌──┴──┐     └───┐      └─ proto, status          │
//! store  coordinator┘          linters          workspace
//!   └──────────┴──────────────────┴──────────────────┘
//!                            types                      the vocabulary, as plain data
//! ```
//! - [`coordinator`] is synchronous and pure: `decide(now, input)` gives events, effects and when to wake it. No clock, no
//!   randomness, no bytes. [`engine`] is its only async owner: it has a batch decided, stores the events in [`store`],
//!   and only then performs the effects.
//! - [`node`] runs tasks under the shim (`lintmesh exec`) and reports results; it knows nothing of the coordinator but
//!   messages.
//! - [`linters`] is adapters, catalogue, PLAN, CLASSIFY, AGGREGATE and the report's formats: pure but for LINT, which
//!   reads the files it is about, and [`linters::process`], which runs a linter.
//! - [`workspace`] finds the files of a tree and keeps blobs by digest; [`middleware`] is the tower layers of both sides
//!   of a call, [`transport`] the accept loop of everything that listens; [`config`] and [`telemetry`] are settings and
//!   logs.
//! # The path of one run
//! 1. `cli::lint` lists the tree ([`workspace::discover`]) and calls `Coordinate`, either of a server or of the private
//!    mesh that it starts: the same server in this process and four nodes as its children.
//! 2. `server::orders` checks every field, stores manifest and specification as blobs and hands the core an
//!    [`Input::StartRun`](coordinator::input::Input::StartRun). The core records the run with its first task, PLAN, and
//!    assigns it by suitability and free slots.
//! 3. Each assignment goes down a node's session; `node::executor` runs it. PLAN pins the tools' versions and cuts shards,
//!    LINT runs one tool over one shard, CLASSIFY gives each diagnostic its severity and link, AGGREGATE folds what several
//!    tools say into one diagnostic and makes the canonical result. Every output is a blob.
//! 4. Results come back fenced by run, task, attempt and incarnation. `server::outputs` takes the blob in, the core makes
//!    the tasks that follow, or tries again elsewhere if a node is lost.
//! 5. Meanwhile each watcher follows the run's recorded events in order, with diagnostics shard by shard
//!    (`server::events`); the last event names outcome and digest, and `DownloadReport` gives the report.

pub mod cli;
pub mod config;
pub mod coordinator;
pub mod engine;
pub mod linters;
pub mod middleware;
pub mod node;
pub mod proto;
pub mod server;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod types;
pub mod wire;
pub mod workspace;
