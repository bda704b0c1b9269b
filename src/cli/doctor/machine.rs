//! The configuration, the sandbox and the linters of this machine.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::check::{Check, Section, Verdict};
use crate::cli::{linters as provided, output, toolchain};
use crate::config::{Loaded, Settings, SettingsError, ToolchainChoice};
use crate::linters::toolchain::{ToolBinary, Toolchain};
use crate::node::shim::{SandboxStatus, sandbox_status};

/// Where Linux says how many user namespaces may be made.
const USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// Every problem is a check of its own.
pub(super) fn configuration(loaded: &Result<Loaded, SettingsError>) -> Section {
    let checks = match loaded {
        Ok(loaded) => {
            let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
            let evidence = match files.is_empty() {
                true => "valid: the defaults and the environment; there is no settings file".to_owned(),
                false => format!("valid: {}", files.join(", ")),
            };
            let mut checks = vec![Check::passed("settings", evidence)];
            checks.extend(loaded.warnings.iter().map(|warning| {
                Check::wrong("settings", Verdict::Warning, warning, "remove it, or correct its name")
            }));
            checks
        }
        Err(SettingsError::Invalid(problems)) => problems
            .iter()
            .map(|problem| {
                let remedy = if problem.unknown {
                    "remove it, or correct its name".to_owned()
                } else {
                    format!("allowed is {}", problem.allowed)
                };
                Check::wrong(&problem.key, Verdict::Failed, problem.to_string(), remedy)
            })
            .collect(),
        Err(error @ SettingsError::File { .. }) => {
            vec![Check::wrong(
                "settings",
                Verdict::Failed,
                error.to_string(),
                "correct the file, or name another with --config",
            )]
        }
    };
    Section::new("configuration", checks)
}

/// What confines the linters here.
pub(super) fn sandbox(settings: Option<&Settings>) -> Section {
    let mut checks = vec![landlock(&sandbox_status())];
    checks.extend(settings.map(resource_limits));
    let namespaces = std::fs::read_to_string(USER_NAMESPACES);
    let most = namespaces.ok().and_then(|text| text.trim().parse::<u64>().ok());
    checks.push(match most {
        Some(most) => {
            Check::passed("namespaces", format!("{most} user namespaces allowed; linters need none"))
        }
        None => Check::passed("namespaces", "this kernel has no user namespaces; linters need none"),
    });
    Section::new("sandbox", checks)
}

fn landlock(status: &SandboxStatus) -> Check {
    if status.writes && status.network {
        return Check::passed("landlock", status.to_string());
    }
    Check::wrong(
        "landlock",
        Verdict::Warning,
        status.to_string(),
        "use a kernel with Landlock (Linux 6.7 or newer has all of it) if trees are not trusted",
    )
}

/// Linters get the settings' limits, or this process's own where those are lower.
fn resource_limits(settings: &Settings) -> Check {
    let limits = &settings.limits;
    let wanted = [
        ("limits.cpu", Resource::RLIMIT_CPU, limits.cpu.as_secs()),
        ("limits.memory_bytes", Resource::RLIMIT_DATA, limits.memory_bytes),
        ("limits.file_bytes", Resource::RLIMIT_FSIZE, limits.file_bytes),
    ];
    let lower: Vec<String> = wanted
        .into_iter()
        .filter_map(|(name, resource, wanted)| {
            let (_, ceiling) = getrlimit(resource).ok()?;
            (ceiling != RLIM_INFINITY && ceiling < wanted)
                .then(|| format!("{name} is {wanted}, but this process may give at most {ceiling}"))
        })
        .collect();
    if lower.is_empty() {
        let told = wanted.map(|(name, _, value)| format!("{name} {value}"));
        return Check::passed("resource limits", told.join(", "));
    }
    Check::wrong(
        "resource limits",
        Verdict::Warning,
        lower.join("\n"),
        "raise the hard limits (ulimit -H) of the user or the container, or lower the settings",
    )
}

/// The linters, installed first if they are managed and not there.
pub(super) async fn linters(settings: Settings) -> Section {
    let managed = settings.toolchain.mode == ToolchainChoice::Managed;
    let provide =
        move || provided::toolchain(&settings, &mut |text| output::say(&format!("lintmesh: {text}")));
    let checks = match tokio::task::spawn_blocking(provide).await {
        Ok(Ok(found)) => tools(&found),
        Ok(Err(cause)) => vec![Check::wrong(
            "linters",
            Verdict::Failed,
            format!("{cause:#}"),
            if managed {
                "see above; `lintmesh toolchain install` tries again"
            } else {
                "set toolchain.mode to what is there"
            },
        )],
        Err(cause) => vec![Check::wrong(
            "linters",
            Verdict::Failed,
            cause.to_string(),
            "report this as a bug of lintmesh",
        )],
    };
    Section::new("toolchain", checks)
}

fn tools(found: &Toolchain) -> Vec<Check> {
    let mut checks: Vec<Check> = found
        .tools
        .iter()
        .map(|(name, binary)| match binary {
            ToolBinary::Present { version, program, .. } => {
                Check::passed(name.as_str(), format!("{version}, {}", program.display()))
            }
            ToolBinary::Missing { reason } => Check::wrong(
                name.as_str(),
                Verdict::Failed,
                format!("missing: {reason}"),
                "install it, or use the managed toolchain (toolchain.mode = \"managed\")",
            ),
        })
        .collect();
    if toolchain::is_complete(found) {
        let evidence = format!("{}, on {}", found.id, provided::interpreter(found));
        checks.push(Check::passed("toolchain id", evidence));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_landlock_is_warned_of_with_a_remedy() {
        let none =
            SandboxStatus { abi: 0, writes: false, network: false, scopes: false, reason: "no".into() };
        let check = landlock(&none);
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.evidence.contains("not in force: no") && !check.remedy.is_empty());
    }

    #[test]
    fn limits_above_what_this_process_may_give_are_told() {
        let mut settings = Settings::default();
        assert_eq!(resource_limits(&settings).name, "resource limits");
        settings.limits.memory_bytes = u64::MAX - 1;
        let (_, ceiling) = getrlimit(Resource::RLIMIT_DATA).expect("a limit");
        let expected = if ceiling == RLIM_INFINITY { Verdict::Passed } else { Verdict::Warning };
        assert_eq!(resource_limits(&settings).verdict, expected);
    }

    #[test]
    fn a_missing_tool_fails_and_names_itself() {
        let name = crate::types::ToolName::new("ruff").expect("valid");
        let found = Toolchain {
            id: crate::types::Digest::of(b"x"),
            mode: crate::linters::toolchain::ToolchainMode::System,
            tools: [(name, ToolBinary::Missing { reason: "not on PATH".into() })].into(),
        };
        let checks = tools(&found);
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Failed));
        assert!(checks[0].name == "ruff" && checks[0].evidence.contains("not on PATH"));
    }
}
