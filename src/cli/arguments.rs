//! Arguments that several commands share, and how their values are read.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{self, Loaded, Overrides, Settings, SettingsError, Sources};

/// Where settings are read from.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct ConfigArgs {
    /// The settings file; by default lintmesh.toml, and for lint also [tool.lintmesh] of pyproject.toml
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that was named and the environment; where else to look is for the command to say.
    pub(super) fn sources(&self) -> Sources {
        Sources {
            file: self.config.clone(),
            environment: config::process_environment(),
            ..Sources::default()
        }
    }

    /// The settings of a command that is not about a tree: those of the current folder.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        load(&self.of_this_folder())
    }

    /// The same under what other flags say, with all that was noticed on the way.
    pub(super) fn load(&self, overrides: Overrides) -> Result<Loaded, SettingsError> {
        config::load(&Sources { overrides, ..self.of_this_folder() })
    }

    fn of_this_folder(&self) -> Sources {
        Sources { directories: vec![PathBuf::from(".")], ..self.sources() }
    }
}

/// Loads settings and logs what the user should know about them.
pub(super) fn load(sources: &Sources) -> anyhow::Result<Settings> {
    let loaded = config::load(sources)?;
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.settings)
}

/// Reads `90s`, `5m`, `1.5h`, `250ms` or a bare number of seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || "use a number with a unit, for example 500ms, 30s, 5m or 1h".to_owned();
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(refused()),
    };
    let seconds: f64 = number.parse().map_err(|_| refused())?;
    let duration = Duration::try_from_secs_f64(seconds * scale).map_err(|_| refused())?;
    if duration.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [("250ms", 250), ("1s", 1000), ("1.5m", 90_000), ("2h", 7_200_000), ("3", 3000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "1d", "-1s", "0s", "1s2", "1..5s", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
