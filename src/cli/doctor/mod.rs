//! `lintmesh doctor`: checks this machine, the configuration and the server; each finding with evidence and remedy.

mod check;
mod disk;
mod machine;
mod ports;
mod server;

use std::path::PathBuf;

use super::arguments::ConfigArgs;
use super::connect::ServerArgs;
use super::exit::Exit;
use super::output;
use crate::config::{Loaded, Overrides, SettingsError};
use check::{Section, Verdict};

/// Only warnings were found.
const WARNINGS: Exit = Exit::Code(4);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A server that is named, or that listens where the configuration says, is asked for its own diagnosis.\n\n\
                  Exit codes: 0 all is well, 1 something does not work, 2 bad usage, 4 there are warnings only"
)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Do not check the linters: that installs the managed ones if they are not there yet
    #[arg(long)]
    skip_toolchain: bool,
    /// Look at this node of the mesh; its peers are asked to probe it too
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Where `lintmesh serve` keeps its state, if that is told `--state-dir`
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

impl DoctorArgs {
    /// The settings as `serve` would have them.
    fn load(&self) -> Result<Loaded, SettingsError> {
        let mut overrides = Overrides::default();
        if let Some(dir) = &self.state_dir {
            overrides.set("--state-dir", "state.dir", dir.to_string_lossy());
        }
        self.config.load(overrides)
    }
}

/// Exits 0 if nothing is wrong.
pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<Exit> {
    let loaded = args.load();
    let mut sections = vec![machine::configuration(&loaded)];
    let settings = loaded.ok().map(|loaded| loaded.settings);
    sections.push(machine::sandbox(settings.as_ref()));
    if let Some(settings) = &settings {
        if !args.skip_toolchain {
            sections.push(machine::linters(settings.clone()).await);
        }
        sections.push(disk::disk(settings));
        sections.push(ports::ports(settings).await);
    }
    sections.extend(server::server(&args.server, args.node.as_deref(), settings.as_ref()).await);
    if args.json {
        output::print_line(&format!("{:#}", check::as_json(&sections)))?;
    } else {
        output::print(check::screen(&sections).as_bytes())?;
    }
    Ok(exit(&sections))
}

fn exit(sections: &[Section]) -> Exit {
    match sections.iter().map(Section::verdict).max() {
        Some(Verdict::Failed) => Exit::Findings,
        Some(Verdict::Warning) => WARNINGS,
        _ => Exit::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::check::Check;
    use super::*;

    #[test]
    fn the_exit_code_tells_the_worst() {
        let good = || Section::new("a", vec![Check::passed("x", "fine")]);
        let warned = || Section::new("b", vec![Check::wrong("y", Verdict::Warning, "so so", "mend it")]);
        let failed = || Section::new("c", vec![Check::wrong("z", Verdict::Failed, "broken", "mend it")]);
        let skipped = || Section::new("d", vec![Check::skipped("s", "not there", "start it")]);
        assert_eq!(exit(&[good(), skipped()]).code(), 0);
        assert_eq!(exit(&[good(), warned()]).code(), 4);
        assert_eq!(exit(&[failed(), warned(), skipped()]).code(), 1);
    }
}
