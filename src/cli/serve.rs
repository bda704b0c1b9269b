//! `lintmesh serve`: the service.

use std::path::PathBuf;

use anyhow::Context as _;

use super::arguments::{ConfigArgs, load};
use super::error::UsageError;
use super::exit::Exit;
use super::interrupt::Interrupt;
use super::linters;
use super::local_mesh::{Holdings, Keeping, LocalMesh, MeshOptions};
use super::state_dir::StateDir;
use crate::config::{Launch, Overrides, Settings, Sources, StoreKind};
use crate::node::launcher::Record;
use crate::server::TreePolicy;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
lintmesh serve\n  \
lintmesh serve --listen 127.0.0.1:9000 --allow-root /srv/checkouts\n  \
lintmesh serve --config /etc/lintmesh/lintmesh.toml --launch external\n  \
lintmesh serve --state-dir /var/lib/lintmesh")]
pub(super) struct ServeArgs {
    /// Where the API listens; beyond loopback it needs TLS and a token (see the settings)
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Where health checks are answered in plain text
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<String>,
    /// Where nodes join
    #[arg(long, value_name = "IP:PORT")]
    node_listen: Option<String>,
    /// Who starts the nodes: local (this process) or external
    #[arg(long, value_name = "WHO")]
    launch: Option<String>,
    /// A folder whose trees requests may name by path; may be repeated
    #[arg(long, value_name = "DIR")]
    allow_root: Vec<String>,
    /// Where the linters come from: managed (pinned, installed once), system (PATH), or the path of a virtual
    /// environment
    #[arg(long, value_name = "SOURCE")]
    toolchain: Option<String>,
    /// Where runs, reports and the state of the mesh are kept over a restart; by default `lintmesh` in the user's folder
    /// for state, ~/.local/state
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// If the state is damaged, go on without what is damaged, once; the damaged file is kept beside it
    #[arg(long)]
    salvage: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl ServeArgs {
    fn settings(&self) -> anyhow::Result<Settings> {
        let mut overrides = Overrides::default();
        let flags = [
            ("--listen", "server.listen", &self.listen),
            ("--admin-listen", "server.admin_listen", &self.admin_listen),
            ("--node-listen", "server.node_listen", &self.node_listen),
            ("--launch", "nodes.launch", &self.launch),
            ("--toolchain", "toolchain.mode", &self.toolchain),
        ];
        for (flag, key, value) in flags {
            if let Some(value) = value {
                overrides.set(flag, key, value.clone());
            }
        }
        if let Some(dir) = &self.state_dir {
            overrides.set("--state-dir", "state.dir", dir.to_string_lossy());
        }
        if !self.allow_root.is_empty() {
            let roots: Vec<String> = self.allow_root.iter().map(|root| format!("{root:?}")).collect();
            overrides.set("--allow-root", "workspace.allowed_roots", format!("[{}]", roots.join(", ")));
        }
        load(&Sources { directories: vec![".".into()], overrides, ..self.config.sources() })
    }
}

/// Serves until SIGINT or SIGTERM, which is a good end.
pub(super) async fn run(args: ServeArgs, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    let settings = args.settings()?;
    let keeping = match settings.state.store {
        StoreKind::Memory if args.state_dir.is_some() || args.salvage => {
            let text = "--state-dir and --salvage are for a state that is kept, and state.store is \"memory\"; leave them \
                        out, or set state.store = \"embedded\"";
            return Err(UsageError(text.to_owned()).into());
        }
        StoreKind::Memory => Keeping::Nothing,
        StoreKind::Embedded => {
            Keeping::State { dir: StateDir::open(settings.state.dir.as_deref())?, salvage: args.salvage }
        }
    };
    let kept = Kept::of(&settings, &keeping);
    let launched = match &keeping {
        Keeping::Nothing => None,
        Keeping::State { dir, .. } => Some(dir.launched()),
    };
    let toolchain = match settings.nodes.launch {
        Launch::External => None,
        Launch::Local => {
            let of = settings.clone();
            let provide = tokio::task::spawn_blocking(move || {
                linters::toolchain(&of, &mut |text| tracing::info!("{text}"))
            });
            let provided = interrupt.unless(async { provide.await.context("providing the linters")? }).await;
            match provided {
                Err(_) if interrupt.exit().is_some() => return Ok(Exit::Success),
                provided => Some(provided?),
            }
        }
    };
    let drain_timeout = settings.server.drain_timeout;
    let mesh = LocalMesh::start(MeshOptions {
        trees: TreePolicy {
            allowed_roots: settings.workspace.allowed_roots.clone(),
            allow_tree_code: settings.runs.allow_tree_code.unwrap_or(false),
            nodes_share_files: settings.nodes.launch == Launch::Local,
            allow_interpreter_paths: false,
        },
        tokens: Vec::new(),
        admin: true,
        toolchain,
        settings,
        keeping,
    })
    .await?;
    if let Some(launched) = launched {
        // Who ends the service twice does not want its nodes to wait for the next one. Not before the state is ours: until
        // then the record may be another's.
        let listener = mesh.node_address();
        interrupt.before_ending_at_once(move || Record::read(&launched).kill_all(listener));
    }
    let failure = match mesh.holdings().await {
        // Only a coordinator that has stopped does not answer.
        Err(_) => Some(mesh.failed().await),
        Ok(holdings) => {
            kept.tell(&holdings);
            tracing::info!(
                api = %mesh.api_address(),
                admin = mesh.admin_address().map(tracing::field::display),
                nodes = %mesh.node_address(),
                "serving"
            );
            tokio::select! {
                () = interrupt.requested() => None,
                reason = mesh.failed() => Some(reason),
            }
        }
    };
    let failure = match failure {
        None => tokio::select! {
            biased;
            reason = mesh.failed() => Some(reason),
            () = mesh.drain(drain_timeout) => None,
        },
        failed => failed,
    };
    match failure {
        // It may still fail while it ends.
        None => match mesh.stop().await {
            None => Ok(Exit::Success),
            Some(reason) => Err(anyhow::anyhow!(reason)),
        },
        Some(reason) => {
            // What its nodes have not delivered is in their memory, and perhaps nowhere else.
            mesh.leave().await;
            Err(anyhow::anyhow!(reason))
        }
    }
}

/// What outlives the process, for whoever starts it.
struct Kept {
    dir: Option<PathBuf>,
    blobs: PathBuf,
    blob_bytes: u64,
    runs: u32,
    days: f64,
}

impl Kept {
    fn of(settings: &Settings, keeping: &Keeping) -> Self {
        let dir = match keeping {
            Keeping::Nothing => None,
            Keeping::State { dir, .. } => Some(dir),
        };
        let blobs = settings.workspace.blob_dir.clone();
        Self {
            blobs: blobs.or_else(|| dir.map(StateDir::blobs)).unwrap_or_else(std::env::temp_dir),
            dir: dir.map(|dir| dir.path().to_owned()),
            blob_bytes: settings.workspace.max_store_bytes,
            runs: settings.runs.keep,
            days: settings.runs.keep_for.as_secs_f64() / (24.0 * 3600.0),
        }
    }

    fn tell(&self, held: &Holdings) {
        let Self { dir, blobs, blob_bytes, runs, days } = self;
        match dir {
            Some(dir) => tracing::info!(
                dir = %dir.display(),
                keeps_runs = runs,
                keeps_days = days,
                blobs = %blobs.display(),
                blob_bytes,
                epoch = held.epoch.0,
                open_runs = held.open,
                finished_runs = held.finished,
                "the state is kept over restarts"
            ),
            None => tracing::info!(
                keeps_runs = runs,
                keeps_days = days,
                blobs = %blobs.display(),
                blob_bytes,
                "runs and reports are kept in memory, and go with this process"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn settings(arguments: &[&str]) -> anyhow::Result<Settings> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("lintmesh.toml");
        std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:1\"\n").expect("written");
        let all =
            ["serve", "--config", file.to_str().expect("UTF-8")].into_iter().chain(arguments.iter().copied());
        <Line as clap::Parser>::try_parse_from(all)?.serve.settings()
    }

    #[test]
    fn flags_win_over_the_file_and_bad_ones_are_named() {
        let by_file = settings(&[]).expect("valid");
        assert_eq!(by_file.server.listen.port(), 1);
        let folder = tempfile::tempdir().expect("a folder");
        let roots = ["a,b", "c \"d\""].map(|name| folder.path().join(name));
        let [one, other] = roots.each_ref().map(|root| {
            std::fs::create_dir(root).expect("created");
            root.to_str().expect("UTF-8")
        });
        let flags = ["--listen", "127.0.0.1:2", "--allow-root", one, "--allow-root", other];
        let by_flag = settings(&flags).expect("valid");
        assert_eq!(by_flag.server.listen.port(), 2);
        assert_eq!(by_flag.workspace.allowed_roots, roots);
        let error = settings(&["--listen", "here", "--launch", "me"]).expect_err("two bad flags").to_string();
        assert!(error.contains("flag --listen") && error.contains("flag --launch"), "{error}");
    }
}
