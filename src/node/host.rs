//! What a node says of the machine it runs on.

use std::num::NonZeroUsize;

use crate::types::Digest;

/// The machine's id: equal for all processes of one machine, different between machines.
///
/// Derived from `/etc/machine-id`, which its manual page asks not to show to others as it is; where that is missing
/// (containers), from the host name and the kernel's boot id.
pub fn host_id() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    derive_host_id(
        &read("/etc/machine-id"),
        &read("/proc/sys/kernel/hostname"),
        &read("/proc/sys/kernel/random/boot_id"),
    )
}

fn derive_host_id(machine_id: &str, host_name: &str, boot_id: &str) -> String {
    // Containers of one image share their machine-id, and containers of one machine share its boot id: only the host
    // name is there to tell the former apart.
    let identity = format!(
        "lintmesh host\n{machine_id}\n{host_name}\n{}",
        if machine_id.is_empty() { boot_id } else { "" }
    );
    let mut text = Digest::of(identity.as_bytes()).to_string();
    text.truncate(16);
    text
}

/// Interpreter, operating system and architecture: nodes of one class give the same results for the same input.
pub fn environment_class(interpreter: &str) -> String {
    format!("{interpreter} {} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The cores that linters may use on this machine, as the scheduler of the system allows; at least 1.
pub fn cpu_slots() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_id_is_stable_and_does_not_show_the_machine_id() {
        let id = derive_host_id("0123456789abcdef", "box", "boot-1");
        assert_eq!(id, derive_host_id("0123456789abcdef", "box", "boot-2"));
        assert_ne!(id, derive_host_id("0123456789abcdef", "other", "boot-1"));
        assert!(!id.contains("0123456789abcdef") && id.len() == 16, "{id}");
        assert_ne!(derive_host_id("", "box", "boot-1"), derive_host_id("", "box", "boot-2"));
    }
}
