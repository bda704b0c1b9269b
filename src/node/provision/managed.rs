//! Installs the pinned tools into the cache, once.
//!
//! A virtual environment cannot be moved, since its scripts hold its path. So it is made where it stays, under
//! a lock, and a marker is written last; a folder without a valid marker is wiped and made anew.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::child::{self, Failure};
use super::marker::Marker;
use super::{Host, Progress, ProvisionError, failure, lock, probe, toolchain, toolchain_id};
use crate::linters::toolchain::{ToolBinary, Toolchain, ToolchainMode};
use crate::types::Digest;

/// What a system may call its interpreter; the first one that is new enough is taken.
const INTERPRETERS: [&str; 6] = ["python3", "python", "python3.14", "python3.13", "python3.12", "python3.11"];
/// Printing its own path and version takes an interpreter milliseconds.
const ASK_DEADLINE: Duration = Duration::from_secs(30);
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

pub(super) fn provision(
    host: &Host,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Toolchain, ProvisionError> {
    let cache = Cache::open(cache_dir)?;
    let interpreters: Vec<PathBuf> =
        INTERPRETERS.iter().filter_map(|name| probe::look_up(name, &host.path)).collect();
    let Some(first) = interpreters.first() else {
        return Err(ProvisionError::NoPython { found: "none on PATH".into() });
    };
    // Asking the interpreter for its version costs more than all the rest, so the answer is remembered.
    let memory = cache.memory_of(first)?;
    if let Some(toolchain) = remembered(&memory).and_then(|id| cache.complete(id)) {
        return Ok(toolchain);
    }
    let python = newest_enough(&interpreters)?;
    let contents = format!("{}\n{}", python.version, lock::LOCK);
    let id = toolchain_id(&ToolchainMode::Managed, &contents);
    let toolchain = match cache.complete(id) {
        Some(toolchain) => toolchain,
        None => {
            let lock_file = cache.lock(host.install_deadline, progress)?;
            // Whoever held the lock may just have installed it.
            match cache.complete(id) {
                Some(toolchain) => toolchain,
                None => cache.install(host, &python, id, &lock_file, progress)?,
            }
        }
    };
    // Only a convenience: a cache made by somebody else, for example in an image, may be read-only.
    let _ = fs::write(&memory, id.to_string());
    Ok(toolchain)
}

fn remembered(memory: &Path) -> Option<Digest> {
    fs::read_to_string(memory).ok()?.parse().ok()
}

/// An interpreter that the tools run on.
struct Python {
    program: PathBuf,
    /// Implementation and version, for example `CPython 3.11.7`.
    version: String,
}

fn newest_enough(interpreters: &[PathBuf]) -> Result<Python, ProvisionError> {
    let mut refused = Vec::new();
    for program in interpreters {
        match ask(program) {
            Some((version, number)) if number >= lock::OLDEST_PYTHON => {
                return Ok(Python { program: program.clone(), version });
            }
            Some((version, _)) => refused.push(format!("{} ({version})", program.display())),
            None => refused.push(format!("{} (does not start)", program.display())),
        }
    }
    Err(ProvisionError::NoPython { found: refused.join(", ") })
}

fn ask(program: &Path) -> Option<(String, (u32, u32))> {
    let mut command = Command::new(program);
    command
        .args([
            "-I",
            "-c",
            "import platform; print(platform.python_implementation(), platform.python_version())",
        ])
        .current_dir("/")
        .stdin(Stdio::null());
    let ended = child::run(&mut command, ASK_DEADLINE).ok().filter(|ended| ended.status.success())?;
    let version = ended.output.lines().next_back()?.trim().to_owned();
    let mut numbers = version.split_whitespace().nth(1)?.split('.').map(|part| part.parse().ok());
    let number = (numbers.next()??, numbers.next()??);
    Some((version, number))
}

/// The folder `toolchains` of the cache.
struct Cache {
    folder: PathBuf,
}

impl Cache {
    fn open(cache_dir: &Path) -> Result<Self, ProvisionError> {
        let problem = |source| ProvisionError::Cache { path: cache_dir.into(), source };
        let folder = std::path::absolute(cache_dir).map_err(problem)?.join("toolchains");
        fs::create_dir_all(folder.join("interpreters")).map_err(problem)?;
        Ok(Self { folder })
    }

    fn path(&self, id: Digest) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// The file that remembers the toolchain for an interpreter, until the interpreter or the lock changes.
    fn memory_of(&self, interpreter: &Path) -> Result<PathBuf, ProvisionError> {
        let problem = |source| ProvisionError::Cache { path: interpreter.into(), source };
        let real = interpreter.canonicalize().map_err(problem)?;
        let data = real.metadata().map_err(problem)?;
        // Whole seconds and no inode: neither survives being packed into a container image.
        let identity = (&real, data.size(), data.mtime());
        let key = toolchain_id(&ToolchainMode::Managed, &format!("{identity:?}\n{}", lock::LOCK));
        Ok(self.folder.join("interpreters").join(key.to_string()))
    }

    /// The toolchain, if it is completely there.
    fn complete(&self, id: Digest) -> Option<Toolchain> {
        let folder = self.path(id);
        let marker = Marker::read(&folder, id)?;
        let tools = marker.versions.iter().map(|(tool, version)| {
            let program = folder.join("bin").join(tool);
            (tool.as_str(), ToolBinary::Present { version: version.clone(), program, prefix: Vec::new() })
        });
        Some(toolchain(id, ToolchainMode::Managed, tools))
    }

    /// Waits until nobody else installs.
    fn lock(&self, deadline: Duration, progress: &mut dyn FnMut(Progress)) -> Result<File, ProvisionError> {
        let path = self.folder.join("lock");
        let problem = |source| ProvisionError::Cache { path: path.clone(), source };
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(problem)?;
        let start = Instant::now();
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(problem(source)),
                Err(TryLockError::WouldBlock) if start.elapsed() > deadline => {
                    return Err(ProvisionError::Deadline {
                        what: "another process holds the lock",
                        deadline,
                    });
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !told {
                progress(Progress::Waiting);
                told = true;
            }
            std::thread::sleep(LOCK_INTERVAL);
        }
    }

    fn install(
        &self,
        host: &Host,
        python: &Python,
        id: Digest,
        lock_file: &File,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Toolchain, ProvisionError> {
        let start = Instant::now();
        let folder = self.path(id);
        let problem = |source| ProvisionError::Cache { path: folder.clone(), source };
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(problem(error)),
            _ => {}
        }
        let pins = lock::pins(lock::LOCK);
        let uv = probe::look_up("uv", &host.path);
        let installer = if uv.is_some() { "uv" } else { "pip" };
        progress(Progress::Installing { packages: pins.len(), installer });
        let requirements = self.folder.join(format!("{id}.txt"));
        fs::write(&requirements, lock::LOCK).map_err(problem)?;
        let commands = match &uv {
            Some(uv) => with_uv(uv, &python.program, &folder, &requirements),
            None => with_pip(&python.program, &folder, &requirements),
        };
        for mut command in commands {
            // The tree's folder might hold settings for installers; this one holds none.
            command.current_dir(&self.folder);
            for name in ["PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"] {
                command.env_remove(name);
            }
            command.env("PATH", &host.path).envs(host.installer_environment.iter().cloned());
            // The lock lives as long as anybody holds the file: should this process be killed, the next one waits
            // for the installer that is left behind instead of wiping the folder beneath it.
            command.stdin(lock_file.try_clone().map_err(problem)?);
            let left = host.install_deadline.saturating_sub(start.elapsed());
            match child::run(&mut command, left) {
                Ok(ended) if ended.status.success() => {}
                Ok(ended) => return Err(failure::explain(installer, &ended.output, &pins)),
                Err(Failure::Deadline) => {
                    return Err(ProvisionError::Deadline {
                        what: installer,
                        deadline: host.install_deadline,
                    });
                }
                Err(Failure::Start(error)) => {
                    return Err(ProvisionError::Install { installer, detail: error.to_string() });
                }
            }
        }
        // The requirements are in the binary; the copy has served.
        let _ = fs::remove_file(&requirements);
        let incomplete =
            || ProvisionError::Install { installer, detail: "a tool is missing afterwards".into() };
        Marker::of(&folder, id).ok_or_else(incomplete)?.write(&folder).map_err(problem)?;
        progress(Progress::Installed { elapsed: start.elapsed() });
        self.complete(id).ok_or_else(incomplete)
    }
}

/// Bytecode is compiled now because the sandbox does not let a linter write it later.
fn with_uv(uv: &Path, python: &Path, folder: &Path, requirements: &Path) -> [Command; 2] {
    let mut create = Command::new(uv);
    create.args(["venv", "--quiet", "--no-project", "--python"]).arg(python).arg(folder);
    let mut install = Command::new(uv);
    install
        .args(["pip", "install", "--require-hashes", "--no-build", "--compile-bytecode", "--python"])
        .arg(folder.join("bin/python"))
        .arg("-r")
        .arg(requirements);
    [create, install]
}

fn with_pip(python: &Path, folder: &Path, requirements: &Path) -> [Command; 2] {
    let mut create = Command::new(python);
    create.args(["-I", "-m", "venv"]).arg(folder);
    let mut install = Command::new(folder.join("bin/python"));
    install
        .args(["-I", "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "--no-deps"])
        .args(["--compile", "--no-input", "--disable-pip-version-check", "--no-warn-script-location", "-r"])
        .arg(requirements);
    [create, install]
}
