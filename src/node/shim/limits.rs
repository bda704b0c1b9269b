//! The limits that the kernel keeps for us, set on the shim and inherited by the linter.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use crate::linters::process::Limits;

/// Room for what is reserved but not used: thread stacks, allocator arenas.
const RESERVE_BYTES: u64 = 4 << 30;
/// More than a linter ever needs, and what most systems allow anyway.
const OPEN_FILES: rlim_t = 4096;

/// Sets the limits.
///
/// # Errors
/// The limit by name, and what the system says.
pub(super) fn apply(limits: &Limits) -> Result<(), String> {
    // At the soft limit SIGXCPU, which tells CPU time from other ends; a second later SIGKILL.
    let cpu = limits.cpu.as_secs().saturating_add(u64::from(limits.cpu.subsec_nanos() > 0)).max(1);
    // The memory limit itself is on resident memory, measured by sampling. This one catches what grows faster than
    // the samples; it counts reservations too, which allocators make freely, hence its width.
    let data = limits.memory_bytes.saturating_mul(2).saturating_add(RESERVE_BYTES);
    set("CPU time", Resource::RLIMIT_CPU, cpu, cpu.saturating_add(1))?;
    set("file size", Resource::RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes)?;
    set("data", Resource::RLIMIT_DATA, data, data)?;
    set("open files", Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)?;
    set("core", Resource::RLIMIT_CORE, 0, 0)
}

/// Never raises a hard limit, which only root may.
fn set(name: &str, resource: Resource, soft: rlim_t, hard: rlim_t) -> Result<(), String> {
    let apply = || -> Result<(), Errno> {
        let (_, ceiling) = getrlimit(resource)?;
        setrlimit(resource, soft.min(ceiling), hard.min(ceiling))
    };
    apply().map_err(|error| format!("cannot limit {name} to {soft}: {error}"))
}
