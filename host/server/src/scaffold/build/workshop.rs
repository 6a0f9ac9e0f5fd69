//! Folders with the tools of a guest language: an SDK's sources and what they run on, installed once for
//! each version of them and used by every build after that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::scaffold::{Error, write};

/// Written last: the folder is whole.
const READY: &str = "ready";
/// The SDK's sources.
const SDK: &str = "sdk";

/// Bytes of what an installer says that are shown when it fails.
const LAST_WORDS_BYTES: usize = 2000;

/// What a workshop is made of.
pub(super) struct Plan<'a> {
    /// Name of the language, which workshops of other versions share.
    pub(super) language: &'a str,
    /// The SDK's files by path.
    pub(super) sources: &'a [(&'a str, &'a str)],
    /// Whatever else a workshop depends on, such as the interpreter's version.
    pub(super) depends_on: &'a str,
}

/// A workshop that is ready; it stays while this is held.
pub(super) struct Workshop {
    path: PathBuf,
    /// Shared by everybody who works here.
    _lock: File,
}

impl Workshop {
    /// The workshop of a plan below `parent`. Where there is none, its folder gets the SDK's sources and
    /// `furnish` installs the rest. Others that want it at the same time wait.
    pub(super) fn open(
        parent: &Path,
        plan: &Plan<'_>,
        furnish: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        fs::create_dir_all(parent).map_err(Error::file(parent))?;
        let name = plan.name();
        let path = parent.join(&name);
        let lock = open_lock(&path)?;
        lock.lock().map_err(Error::file(&path))?;
        if !path.join(READY).is_file() {
            sweep(parent, plan.language, &name);
            remove(&path)?;
            for (file, text) in plan.sources {
                write(&path.join(SDK).join(file), text)?;
            }
            furnish(&path)?;
            write(&path.join(READY), "")?;
        }
        lock.unlock().and_then(|()| lock.lock_shared()).map_err(Error::file(&path))?;
        Ok(Self { path, _lock: lock })
    }

    /// A file of the workshop.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file of the SDK.
    pub(super) fn sdk(&self, name: &str) -> PathBuf {
        self.path.join(SDK).join(name)
    }
}

impl Plan<'_> {
    /// The folder's name: another for every change of what it depends on.
    fn name(&self) -> String {
        let mut hash = Sha256::new();
        for part in self.sources.iter().flat_map(|(path, text)| [*path, *text]).chain([self.depends_on]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", self.language)
    }
}

/// Runs an installer; its last words are the error when it fails.
pub(super) fn install(mut command: Command) -> Result<(), Error> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(Error::file(&program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let start = said.len().saturating_sub(LAST_WORDS_BYTES);
    let words = command.get_args().map(|word| word.to_string_lossy());
    Err(Error::Install {
        command: [program.to_string_lossy()].into_iter().chain(words).collect::<Vec<_>>().join(" "),
        said: String::from_utf8_lossy(&said[start..]).trim().to_owned(),
    })
}

/// Removes workshops of other versions that nobody works in. What can't be removed stays.
fn sweep(parent: &Path, language: &str, keep: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_other = name.starts_with(&format!("{language}-")) && name != keep && entry.path().is_dir();
        if is_other && open_lock(&entry.path()).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let lock = path.with_extension("lock");
    File::options().create(true).append(true).open(&lock).map_err(Error::file(&lock))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan<'a>(depends_on: &'a str) -> Plan<'a> {
        Plan { language: "test", sources: &[("a/b.txt", "text")], depends_on }
    }

    #[test]
    fn a_workshop_is_furnished_once() {
        let parent = tempfile::tempdir().unwrap();
        let mut times = 0;
        for _ in 0..2 {
            let workshop = Workshop::open(parent.path(), &plan("1"), |path| {
                times += 1;
                write(&path.join("tool"), "")
            });
            let workshop = workshop.unwrap();
            assert_eq!(fs::read_to_string(workshop.sdk("a/b.txt")).unwrap(), "text");
            assert!(workshop.file("tool").is_file());
        }
        assert_eq!(times, 1);
    }

    #[test]
    fn one_that_could_not_be_furnished_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let broken = Workshop::open(parent.path(), &plan("1"), |path| {
            write(&path.join("half"), "")?;
            Err(Error::NoTarget)
        });
        assert!(broken.is_err());
        let workshop = Workshop::open(parent.path(), &plan("1"), |_| Ok(())).unwrap();
        assert!(!workshop.file("half").exists());
    }

    #[test]
    fn other_versions_are_removed_unless_someone_works_there() {
        let parent = tempfile::tempdir().unwrap();
        let open = |version| Workshop::open(parent.path(), &plan(version), |_| Ok(())).unwrap();
        let (first, second) = (open("1"), open("2"));
        let (first_path, second_path) = (first.path.clone(), second.path.clone());
        drop(second);
        let _third = open("3");
        assert!(first_path.is_dir() && !second_path.exists());
    }

    #[test]
    fn an_installer_that_fails_has_the_last_word() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such package >&2; exit 1"]);
        assert!(install(command).unwrap_err().to_string().contains("no such package"));
    }
}
