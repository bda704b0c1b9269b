//! The linters are there: installed once, whoever asks at the same time and whatever was interrupted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lintmesh::linters::process::{Limits, ProcessSpec, run};
use lintmesh::linters::toolchain::{ToolBinary, Toolchain};
use lintmesh::node::provision::{Host, Progress, ProvisionError, ToolchainChoice, provision_on};
use lintmesh::types::ToolName;
use tokio_util::sync::CancellationToken;

const TOOLS: [&str; 5] = ["bandit", "flake8", "mypy", "pylint", "ruff"];

/// An installer that leaves what `uv` would, without the network: it notes each call and may fail or hang.
const INSTALLER: &str = r#"#!/bin/sh
echo "$1" >> "$FAKE_CALLS"
if [ "$1" = venv ]; then
    for folder; do :; done
    mkdir -p "$folder/bin" "$folder/lib/python3.12/site-packages"
    ln -s /bin/sh "$folder/bin/python"
    exit
fi
for argument; do
    [ "$before" = --python ] && folder=${argument%/bin/python}
    [ "$before" = -r ] && list=$argument
    before=$argument
done
case $FAKE_MODE in
    hang) exec sleep 600 ;;
    break) echo half > "$folder/bin/mypy"; echo "error: the disk is full"; exit 1 ;;
esac
grep -E '^(bandit|flake8|mypy|pylint|ruff)==' "$list" | sed 's/[ \\].*//; s/==/ /' | while read -r name version; do
    mkdir -p "$folder/lib/python3.12/site-packages/$name-$version.dist-info"
    touch "$folder/lib/python3.12/site-packages/$name-$version.dist-info/METADATA"
    printf '#!/bin/sh\necho %s\n' "$version" > "$folder/bin/$name"
    chmod +x "$folder/bin/$name"
done
"#;

/// A machine of its own: a PATH with chosen programs, a cache, a record of calls.
struct Machine {
    folder: tempfile::TempDir,
    host: Host,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let calls = folder.path().join("calls");
        fs::write(&calls, "").unwrap();
        let mut path = OsString::from(&bin);
        path.push(":/usr/bin:/bin");
        let host = Host {
            path,
            installer_environment: vec![("FAKE_CALLS".into(), calls.into())],
            install_deadline: Duration::from_secs(300),
        };
        Self { folder, host }
    }

    fn with_fakes(python: &str) -> Self {
        let machine = Self::new();
        machine.program("uv", INSTALLER);
        let calls = machine.folder.path().join("calls");
        machine
            .program("python3", &format!("#!/bin/sh\necho python >> '{}'\necho {python}\n", calls.display()));
        machine
    }

    fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join("bin").join(name);
        write_program(&path, text);
        path
    }

    fn mode(&mut self, mode: &str) {
        self.host.installer_environment.push(("FAKE_MODE".into(), mode.into()));
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("calls")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn managed(&self) -> Result<(Toolchain, Vec<Progress>), ProvisionError> {
        let mut told = Vec::new();
        let result =
            provision_on(&self.host, ToolchainChoice::Managed, &self.cache(), &mut |step| told.push(step));
        result.map(|toolchain| (toolchain, told))
    }

    fn refused(&self) -> String {
        self.managed().unwrap_err().to_string()
    }
}

/// Makes an executable file, in another process: if this one had it open for writing while a parallel test
/// forks, starting it could fail with "text file busy".
fn write_program(path: &Path, text: &str) {
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

fn real_python() -> String {
    let code = "import sys; print(sys.executable)";
    let output = Command::new("python3").args(["-c", code]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn program<'a>(toolchain: &'a Toolchain, tool: &str) -> &'a Path {
    match &toolchain.tools[&ToolName::new(tool).unwrap()] {
        ToolBinary::Present { program, prefix, .. } => {
            assert!(prefix.is_empty(), "{tool} is started by its script");
            program
        }
        ToolBinary::Missing { reason } => panic!("{tool}: {reason}"),
    }
}

fn missing<'a>(toolchain: &'a Toolchain, tool: &str) -> &'a str {
    match &toolchain.tools[&ToolName::new(tool).unwrap()] {
        ToolBinary::Missing { reason } => reason,
        present => panic!("{tool} is there: {present:?}"),
    }
}

#[test]
fn the_second_time_nothing_is_started_and_nothing_is_said() {
    let machine = Machine::with_fakes("CPython 3.12.1");
    let (first, told) = machine.managed().unwrap();
    assert!(
        matches!(&told[..], [Progress::Installing { installer: "uv", .. }, Progress::Installed { .. }]),
        "{told:?}"
    );
    assert_eq!(machine.calls(), ["python", "venv", "pip"]);
    let (second, told) = machine.managed().unwrap();
    assert_eq!((second, told), (first.clone(), vec![]));
    assert_eq!(machine.calls().len(), 3);
    assert_eq!(first.versions().len(), TOOLS.len());
    for tool in TOOLS {
        assert!(program(&first, tool).starts_with(machine.cache()), "{tool}");
    }
}

#[test]
fn those_who_come_at_the_same_time_wait_for_one_installation() {
    let machine = Machine::with_fakes("CPython 3.12.1");
    let ids: BTreeSet<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| machine.managed().unwrap().0.id)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), 1);
    assert_eq!(machine.calls().iter().filter(|call| *call == "pip").count(), 1);
}

#[test]
fn an_interrupted_installation_is_redone_from_nothing() {
    let mut machine = Machine::with_fakes("CPython 3.12.1");
    machine.mode("break");
    let error = machine.refused();
    assert!(error.contains("the disk is full") && error.contains("--toolchain system"), "{error}");
    machine.mode("work");
    let (toolchain, _) = machine.managed().unwrap();
    let text = fs::read_to_string(program(&toolchain, "mypy")).unwrap();
    assert!(text.starts_with("#!"), "the half-written file is gone: {text}");
}

#[test]
fn damage_is_noticed_and_mended() {
    let machine = Machine::with_fakes("CPython 3.12.1");
    let (toolchain, _) = machine.managed().unwrap();
    let folder = program(&toolchain, "ruff").parent().unwrap().parent().unwrap().to_owned();
    let versions = toolchain.versions();
    let package = format!(
        "lib/python3.12/site-packages/pylint-{}.dist-info",
        versions[&ToolName::new("pylint").unwrap()]
    );
    let damages: [&dyn Fn(); 5] = [
        &|| fs::remove_file(folder.join("bin/mypy")).unwrap(),
        &|| fs::remove_dir_all(folder.join(&package)).unwrap(),
        &|| fs::write(folder.join("lintmesh.json"), "{}").unwrap(),
        &|| fs::remove_file(folder.join("bin/python")).unwrap(),
        &|| fs::remove_dir_all(&folder).unwrap(),
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        let (mended, told) = machine.managed().unwrap();
        assert_eq!(told.len(), 2, "damage {number}");
        assert_eq!(mended, toolchain);
        assert!(folder.join(&package).exists() && folder.join("bin/mypy").exists());
    }
}

#[test]
fn an_installation_that_hangs_ends_at_the_deadline() {
    let mut machine = Machine::with_fakes("CPython 3.12.1");
    machine.mode("hang");
    machine.host.install_deadline = Duration::from_millis(500);
    let error = machine.managed().unwrap_err();
    assert!(matches!(error, ProvisionError::Deadline { what: "uv", .. }), "{error}");
}

#[test]
fn waiting_for_another_process_is_told_and_ends_at_the_deadline() {
    let mut machine = Machine::with_fakes("CPython 3.12.1");
    let patience = std::mem::replace(&mut machine.host.install_deadline, Duration::from_millis(200));
    fs::create_dir_all(machine.cache().join("toolchains")).unwrap();
    let other = fs::File::create(machine.cache().join("toolchains/lock")).unwrap();
    other.lock().unwrap();
    let mut told = Vec::new();
    let result =
        provision_on(&machine.host, ToolchainChoice::Managed, &machine.cache(), &mut |step| told.push(step));
    assert!(matches!(result, Err(ProvisionError::Deadline { .. })));
    assert_eq!(told, [Progress::Waiting]);
    drop(other);
    machine.host.install_deadline = patience;
    machine.managed().unwrap();
}

#[test]
fn another_interpreter_gets_a_toolchain_of_its_own() {
    let machine = Machine::with_fakes("CPython 3.12.1");
    let before = machine.managed().unwrap().0.id;
    fs::remove_file(machine.folder.path().join("bin/python3")).unwrap();
    machine.program("python3", "#!/bin/sh\necho CPython 3.13.0\n");
    assert_ne!(machine.managed().unwrap().0.id, before);
}

#[test]
fn an_old_python_is_passed_over_or_refused() {
    let mut machine = Machine::with_fakes("CPython 3.9.2");
    machine.host.path = machine.folder.path().join("bin").into();
    let error = machine.refused();
    for part in ["3.11 or newer", "CPython 3.9.2", "--toolchain PATH-TO-VENV"] {
        assert!(error.contains(part), "{error}");
    }
    machine.program("python3.13", "#!/bin/sh\necho CPython 3.13.1\n");
    let mut path = machine.host.path.clone();
    path.push(":/usr/bin:/bin");
    // Only the fake interpreters may be found first; the fake installer needs the system's commands.
    machine.host.path = path;
    machine.managed().unwrap();

    let mut bare = Machine::new();
    bare.host.path = bare.folder.path().join("bin").into();
    assert!(bare.refused().contains("none on PATH"));
}

#[test]
fn a_cache_that_cannot_be_used_is_named() {
    let machine = Machine::with_fakes("CPython 3.12.1");
    fs::write(machine.cache(), "a file").unwrap();
    let error = machine.refused();
    assert!(error.contains("cache folder") && error.contains("/cache"), "{error}");
}

#[test]
fn without_a_network_the_package_and_the_alternatives_are_named() {
    let mut machine = Machine::new();
    machine.program("python3", &format!("#!/bin/sh\nexec '{}' \"$@\"\n", real_python()));
    // Nothing listens on this port of this host.
    let nowhere = "http://127.0.0.1:9/simple";
    for (name, value) in [
        ("PIP_INDEX_URL", nowhere),
        ("PIP_EXTRA_INDEX_URL", ""),
        ("PIP_FIND_LINKS", ""),
        ("PIP_CONFIG_FILE", "/dev/null"),
        ("PIP_RETRIES", "0"),
        ("PIP_NO_CACHE_DIR", "1"),
    ] {
        machine.host.installer_environment.push((name.into(), value.into()));
    }
    let error = machine.managed().unwrap_err();
    let ProvisionError::Unavailable { package, .. } = &error else { panic!("{error:?}") };
    assert!(package.contains("=="), "{package}");
    let text = error.to_string();
    assert!(text.contains("--toolchain system") && text.contains("--toolchain PATH-TO-VENV"), "{text}");
}

#[test]
fn tools_on_path_are_asked_and_each_problem_is_named() {
    let mut machine = Machine::new();
    machine.host.path = machine.folder.path().join("bin").into();
    machine.program("ruff", "#!/bin/sh\necho ruff 9.8.7\n");
    machine.program("pylint", "#!/bin/sh\nprintf 'pylint 1.2.3\\nastroid 4\\n'\n");
    machine.program("mypy", "#!/bin/sh\necho 'no module named mypy' >&2\nexit 1\n");
    machine.program("bandit", "#!/no/such/interpreter\n");
    let toolchain =
        provision_on(&machine.host, ToolchainChoice::System, &machine.cache(), &mut |_| {}).unwrap();
    let versions: Vec<_> =
        toolchain.versions().into_iter().map(|(tool, version)| format!("{tool} {version}")).collect();
    assert_eq!(versions, ["pylint 1.2.3", "ruff 9.8.7"]);
    for (tool, part) in
        [("mypy", "no module named mypy"), ("bandit", "cannot be started"), ("flake8", "on PATH")]
    {
        let reason = missing(&toolchain, tool);
        assert!(reason.contains(part) && reason.contains("managed"), "{reason}");
    }
    assert!(!machine.cache().exists(), "nothing is cached");
}

#[test]
fn an_environment_is_used_as_it_is() {
    let machine = Machine::new();
    let folder = machine.folder.path().join("my venv");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::write(folder.join("pyvenv.cfg"), "").unwrap();
    fs::write(folder.join("bin/python"), "").unwrap();
    write_program(&folder.join("bin/flake8"), "#!/bin/sh\necho '5.4.3 (mccabe: 1)'\n");
    let choice = ToolchainChoice::Environment(folder.clone());
    let toolchain = provision_on(&machine.host, choice, &machine.cache(), &mut |_| {}).unwrap();
    assert_eq!(program(&toolchain, "flake8"), folder.join("bin/flake8"));
    assert!(missing(&toolchain, "mypy").contains("-m pip install mypy"));
}

/// Needs a Python package index: the one test that installs for real.
#[tokio::test(flavor = "multi_thread")]
async fn the_pinned_tools_install_with_pip_and_run_in_the_sandbox() {
    let machine = Machine::new();
    machine.program("python3", &format!("#!/bin/sh\nexec '{}' \"$@\"\n", real_python()));
    let (toolchain, told) = tokio::task::block_in_place(|| machine.managed()).unwrap();
    assert!(matches!(told[0], Progress::Installing { installer: "pip", .. }), "{told:?}");
    let tree = machine.folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    // Shadows a module that every tool imports, should the tree come onto the module path.
    fs::write(tree.join("argparse.py"), "raise SystemExit('code of the tree ran')\n").unwrap();
    for (tool, version) in toolchain.versions() {
        let scratch = tempfile::tempdir().unwrap();
        let spec = ProcessSpec {
            program: program(&toolchain, tool.as_str()).into(),
            arguments: vec!["--version".into()],
            environment: vec![],
            directory: tree.clone(),
            scratch: scratch.path().into(),
            limits: Limits {
                wall: Duration::from_secs(60),
                cpu: Duration::from_secs(60),
                memory_bytes: 2 << 30,
                file_bytes: 1 << 30,
                output_bytes: 1 << 20,
                processes: 64,
            },
        };
        let shim = Path::new(env!("CARGO_BIN_EXE_lintmesh"));
        let finished = run(spec, shim, &CancellationToken::new()).await.unwrap();
        let said = String::from_utf8_lossy(&finished.stdout);
        assert!(finished.code == Some(0) && said.contains(&version), "{tool}: {finished:?}");
    }
}
