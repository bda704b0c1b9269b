//! Where a run's report goes: `FORMAT=FILE` arguments, and files that appear complete or not at all.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::cli::error::UsageError;

/// One `--output FORMAT=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct OutputFile<F> {
    /// The form.
    pub(in crate::cli) format: F,
    /// The file.
    pub(in crate::cli) path: PathBuf,
}

/// Reads `FORMAT=FILE`.
pub(in crate::cli) fn parse_output<F: std::str::FromStr>(text: &str) -> Result<OutputFile<F>, String>
where
    F::Err: std::fmt::Display,
{
    let Some((format, path)) = text.split_once('=') else {
        return Err("use FORMAT=FILE, for example sarif=report.sarif".to_owned());
    };
    let format = format.parse::<F>().map_err(|error| error.to_string())?;
    if path.is_empty() {
        return Err("the file's name is missing after `=`".to_owned());
    }
    Ok(OutputFile { format, path: PathBuf::from(path) })
}

/// Refuses two outputs to one file: the second would replace the first.
pub(super) fn check_distinct<F>(outputs: &[OutputFile<F>]) -> Result<(), UsageError> {
    for (index, output) in outputs.iter().enumerate() {
        if outputs[..index].iter().any(|other| other.path == output.path) {
            return Err(UsageError(format!(
                "--output names {} twice; give each format a file of its own",
                output.path.display()
            )));
        }
    }
    Ok(())
}

/// Refuses files that could not be written now, all at once: nobody wants to learn it after the run. The disk may still be
/// full by then.
pub(super) fn check_writable<F>(outputs: &[OutputFile<F>]) -> Result<(), UsageError> {
    let problem = |output: &OutputFile<F>| {
        let error = probe(&output.path).err()?;
        Some(write_problem(&output.path, &error))
    };
    let problems: Vec<String> = outputs.iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(UsageError(problems.join("\n"))) }
}

/// Takes the first step of [`write_file`] and leaves no trace of it.
fn probe(path: &Path) -> io::Result<()> {
    match path.metadata() {
        Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // To open a pipe would wait for its reader, or end what it reads.
        Ok(there) if !there.is_file() => Ok(()),
        _ => beside(&target(path)).map(|_| ()),
    }
}

/// Through a link the file that it names is replaced, not the link.
fn target(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// A temporary file in the folder of another.
fn beside(target: &Path) -> io::Result<tempfile::NamedTempFile> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // The system's umask still applies to these permissions, as for any new file.
    tempfile::Builder::new()
        .prefix(".lintmesh-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

/// Writes a file by way of a temporary one beside it, so that no reader sees half of it and a failure leaves the old
/// one. What is not a regular file (a pipe, a device) is written to directly.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return std::fs::OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let target = target(path);
    let mut file = beside(&target)?;
    file.write_all(bytes)?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
}

/// What a user can do about a file that was not written.
pub(super) fn write_problem(path: &Path, error: &io::Error) -> String {
    let name = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("cannot write {name}: its folder does not exist"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("cannot write {name}: no space left on the device")
        }
        io::ErrorKind::PermissionDenied => format!("cannot write {name}: permission denied"),
        io::ErrorKind::IsADirectory => format!("cannot write {name}: it is a folder"),
        _ => format!("cannot write {name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_has_a_format_and_a_file() {
        let output = parse_output::<u8>("7=a=b.txt").expect("the first `=` splits");
        assert_eq!(output, OutputFile { format: 7, path: "a=b.txt".into() });
        for bad in ["7", "x=a", "7="] {
            assert!(parse_output::<u8>(bad).is_err(), "{bad}");
        }
        let twice = [output.clone(), OutputFile { format: 8, ..output }];
        assert!(check_distinct(&twice).is_err_and(|error| error.to_string().contains("a=b.txt twice")));
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.json");
        write_file(&path, b"old").expect("written");
        write_file(&path, b"new").expect("written");
        assert_eq!(std::fs::read(&path).expect("there"), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    }

    #[test]
    fn a_missing_folder_or_a_folder_in_its_place_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("none/report.json");
        let error = write_file(&path, b"x").expect_err("no folder");
        assert!(write_problem(&path, &error).ends_with("its folder does not exist"));
        let asked = |path: &Path| OutputFile { format: 0_u8, path: path.to_owned() };
        let bad = [asked(&path), asked(folder.path()), asked(&folder.path().join("fine.json"))];
        let told = check_writable(&bad).expect_err("two cannot be written").to_string();
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.contains("folder does not exist") && told.contains("it is a folder"), "{told}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0, "nothing is left");
        let error = write_file(folder.path(), b"x").expect_err("a folder");
        assert!(write_problem(folder.path(), &error).ends_with("it is a folder"));
        write_file(Path::new("/dev/null"), b"x").expect("a device takes bytes");
        let error = write_file(Path::new("/dev/full"), b"x").expect_err("always full");
        assert!(write_problem(Path::new("/dev/full"), &error).contains("no space left"));
    }
}
