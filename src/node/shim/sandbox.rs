//! What a linter may touch, enforced by the kernel where it has Landlock.

use std::fmt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use serde::{Deserialize, Serialize};

/// The newest rules this is written for; an older kernel enforces what it knows of them.
const RULES: ABI = ABI::V7;

/// Which restrictions are in force for linters on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// The Landlock version of the kernel as far as it is known here; 0 without Landlock.
    pub abi: u32,
    /// Writing is refused outside the scratch folder (version 1).
    pub writes: bool,
    /// TCP is refused (version 4).
    pub network: bool,
    /// Signals and abstract sockets do not leave the sandbox, and no signal of a linter reaches its shim (version 6).
    pub scopes: bool,
    /// Why something is not in force; empty if all is.
    pub reason: String,
}

impl fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.abi == 0 {
            return write!(f, "not in force: {}", self.reason);
        }
        write!(f, "Landlock ABI {}: writes only to the scratch folder", self.abi)?;
        if self.network {
            f.write_str(", no TCP")?;
        }
        if self.scopes {
            f.write_str(", no signals or abstract sockets outwards")?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

/// Restricts the calling thread and all it starts from now on.
///
/// Reading stays free: linters read the interpreter, its packages and system files in places that no list
/// would ever cover, and what they print goes back to the owner of the tree. `/dev/shm` is no exception to the rule
/// on writing, so Python's `multiprocessing` has no locks: a linter must be asked for one job.
pub(super) fn restrict(scratch: &Path) -> Result<RestrictionStatus, RulesetError> {
    let write = AccessFs::from_write(RULES);
    Ruleset::default()
        .handle_access(write)?
        // Handled and never allowed: refused.
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?
        .add_rules(path_beneath_rules([scratch], write))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::WriteFile | AccessFs::Truncate))?
        .restrict_self()
}

/// What the linter gets on top, before it is started: a sandbox inside that of its shim, so that it cannot stop or kill
/// the shim, while the shim can still kill it. Without effect before version 6.
pub(super) fn linter_alone() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .scope(Scope::Signal)?
        // A sandbox that says nothing of it refuses to move files from folder to folder.
        .handle_access(AccessFs::Refer)?
        .create()?
        .add_rules(path_beneath_rules(["/"], AccessFs::Refer))
}

/// Measures what would be in force, by restricting a thread that then ends.
pub fn sandbox_status() -> SandboxStatus {
    let measured = std::thread::Builder::new()
        .name("sandbox-probe".into())
        .spawn(|| restrict(Path::new("/proc/self")).map_err(|error| error.to_string()))
        .map_err(|error| error.to_string())
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err("the probe panicked".into())));
    match measured {
        Ok(status) => describe(&status),
        Err(reason) => SandboxStatus { abi: 0, writes: false, network: false, scopes: false, reason },
    }
}

fn describe(status: &RestrictionStatus) -> SandboxStatus {
    let enforced = status.ruleset != RulesetStatus::NotEnforced;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if enforced => effective_abi as u32,
        _ => 0,
    };
    let reason = match status.landlock {
        LandlockStatus::NotEnabled => "Landlock is disabled in this kernel",
        LandlockStatus::NotImplemented => "this kernel has no Landlock",
        LandlockStatus::Available { .. } if abi == 0 => "the kernel refused every rule",
        LandlockStatus::Available { .. } if abi < ABI::V6 as u32 => "this kernel's Landlock is older",
        LandlockStatus::Available { .. } => "",
    };
    SandboxStatus {
        abi,
        writes: abi >= ABI::V1 as u32,
        network: abi >= ABI::V4 as u32,
        scopes: abi >= ABI::V6 as u32,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_is_and_is_not_in_force() {
        let none = SandboxStatus {
            abi: 0,
            writes: false,
            network: false,
            scopes: false,
            reason: "this kernel has no Landlock".into(),
        };
        assert_eq!(none.to_string(), "not in force: this kernel has no Landlock");
        let old =
            SandboxStatus { abi: 3, writes: true, reason: "this kernel's Landlock is older".into(), ..none };
        let text = old.to_string();
        assert!(text.starts_with("Landlock ABI 3: writes only") && !text.contains("TCP"), "{text}");
    }

    #[test]
    fn measuring_does_not_restrict_this_thread() {
        let status = sandbox_status();
        assert_eq!(status.writes, status.abi >= 1);
        tempfile::tempfile().unwrap();
    }
}
