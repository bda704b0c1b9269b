//! Logs of this process: text on a terminal, JSON otherwise, always on standard error.

mod aside;

use std::ffi::OsString;
use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use aside::Aside;

/// Why logs could not be set up. The user must fix the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// The variable holds bytes that are not text.
    #[error(
        "MESH_LOG_LEVEL is not UTF-8 text; use a level such as `debug` or a filter such as `info,lintmesh=debug`"
    )]
    NotText,
    /// The debug switch is neither on nor off.
    #[error("MESH_DEBUG={value} is neither on nor off; use true, 1, false or 0")]
    Debug {
        /// The refused text.
        value: String,
    },
    /// The filter cannot be read.
    #[error(
        "MESH_LOG_LEVEL `{value}` is not a level or a filter ({reason}); use trace, debug, info, warn, error or off, or a filter such as `info,lintmesh=debug`"
    )]
    Filter {
        /// The refused text.
        value: String,
        /// What the parser said.
        reason: String,
    },
}

/// The filter that the environment asks for: `MESH_LOG_LEVEL` if it is set and not empty; else `debug` if
/// `MESH_DEBUG` is `true` or `1`; else `default`. What is neither on nor off is refused.
pub fn directives(
    level: Option<OsString>,
    debug: Option<OsString>,
    default: &'static str,
) -> Result<String, TelemetryError> {
    let level = match level {
        Some(text) => text.into_string().map_err(|_| TelemetryError::NotText)?,
        None => String::new(),
    };
    let debug = match debug.as_ref().map(|flag| flag.to_string_lossy()) {
        None => false,
        Some(flag) => match flag.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => true,
            "" | "false" | "0" => false,
            _ => return Err(TelemetryError::Debug { value: flag.chars().take(200).collect() }),
        },
    };
    let text = match (level.trim(), debug) {
        ("", true) => "debug",
        ("", false) => default,
        (level, _) => level,
    };
    check(text)?;
    // At `debug` and below the HTTP/2 stack prints every frame, which hides all else; a filter may still ask for it.
    Ok(match text {
        "debug" | "trace" => format!("{text},h2=info,hyper=info,hyper_util=info,tower=info,tonic=info"),
        other => other.to_owned(),
    })
}

/// `EnvFilter` takes a misspelt level for the name of a target, so single words are checked here.
fn check(text: &str) -> Result<(), TelemetryError> {
    let refused = |reason: String| TelemetryError::Filter { value: text.chars().take(200).collect(), reason };
    for part in text.split(',') {
        let part = part.trim();
        let is_word = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric());
        if is_word && part.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
            return Err(refused(format!("`{part}` is no level")));
        }
    }
    EnvFilter::try_new(text).map(|_| ()).map_err(|error| refused(error.to_string()))
}

/// Starts logging to standard error, by way of `writer`. `default` is the filter when the environment names none.
pub fn init<W>(default: &'static str, writer: W) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let text = directives(std::env::var_os("MESH_LOG_LEVEL"), std::env::var_os("MESH_DEBUG"), default)?;
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| TelemetryError::Filter { value: text, reason: error.to_string() })?;
    let terminal = stderr().is_terminal();
    // A line that cannot be written would be complained about on the same closed pipe, with a panic.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    // A second call (several commands in one test process) keeps the first subscriber.
    let _ = if terminal {
        builder.with_ansi(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(level: Option<&str>, debug: Option<&str>) -> Result<String, TelemetryError> {
        directives(level.map(Into::into), debug.map(Into::into), "warn")
    }

    #[test]
    fn the_level_wins_over_the_debug_switch_and_both_over_the_default() {
        assert_eq!(filter(None, None).as_deref(), Ok("warn"));
        assert_eq!(filter(Some(""), Some("false")).as_deref(), Ok("warn"));
        assert!(filter(None, Some("true")).is_ok_and(|text| text.starts_with("debug,")));
        assert!(filter(None, Some("1")).is_ok_and(|text| text.starts_with("debug,")));
        assert_eq!(filter(None, Some("0")).as_deref(), Ok("warn"));
        assert_eq!(filter(Some("error"), Some("true")).as_deref(), Ok("error"));
        assert_eq!(filter(Some("info,lintmesh=trace"), None).as_deref(), Ok("info,lintmesh=trace"));
    }

    #[test]
    fn a_debug_switch_that_is_neither_on_nor_off_is_refused_whatever_the_level() {
        for level in [None, Some("info")] {
            let error = filter(level, Some("maybe")).expect_err("maybe").to_string();
            assert!(error.contains("MESH_DEBUG=maybe") && error.contains("true, 1, false or 0"), "{error}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused_with_what_is_allowed() {
        for bad in ["verbose", "info,loud", "lintmesh=loud", "a=b=c"] {
            let error = filter(Some(bad), None).expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains("trace, debug, info"), "{error}");
        }
    }
}
