//! Files that clients keep here, such as the requests of a batch and their answers: each a file of its own,
//! named by its id, with a document beside it.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::NamedTempFile;

/// Start of a temporary file's name; no id begins so.
const UPLOAD_PREFIX: &str = "upload.";

/// A folder of files; cloning shares it. Everything here blocks for file operations.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: Arc<Path>,
}

impl Files {
    /// Opens the folder, making it if need be.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.into() })
    }

    /// A file to receive bytes; dropping it removes it.
    pub(crate) fn upload(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(UPLOAD_PREFIX).tempfile_in(&self.dir)
    }

    /// Makes an upload the file of this id. When this returns it outlives a crash.
    pub(crate) fn keep(&self, upload: NamedTempFile, id: &str) -> io::Result<()> {
        upload.as_file().sync_all()?;
        upload.persist(self.path(id)).map_err(|error| error.error)?;
        self.sync()
    }

    /// Opens a file to be read.
    pub(crate) fn read(&self, id: &str) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// Opens a file that grows by lines, and gives those that are there. A line that a crash cut off is
    /// removed.
    pub(crate) fn lines(&self, id: &str) -> io::Result<(File, Vec<String>)> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(self.path(id))?;
        let (mut lines, mut whole_bytes) = (Vec::new(), 0);
        let mut reader = BufReader::new(&file);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            whole_bytes += line.len() as u64;
            line.pop();
            lines.push(std::mem::take(&mut line));
        }
        drop(reader);
        file.set_len(whole_bytes)?;
        file.seek(SeekFrom::Start(whole_bytes))?;
        Ok((file, lines))
    }

    /// Makes a file that grew outlive a crash; answers its length.
    pub(crate) fn seal(&self, id: &str) -> io::Result<u64> {
        let file = File::open(self.path(id))?;
        file.sync_all()?;
        self.sync()?;
        Ok(file.metadata()?.len())
    }

    /// Removes a file; one that is not there is removed already.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes every file but those of `keep`; answers how many. For start-up.
    pub(crate) fn sweep(&self, keep: &HashSet<String>) -> io::Result<usize> {
        let mut swept = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
                fs::remove_file(entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Ids are made here, of letters, digits, `-` and `_`.
    fn path(&self, id: &str) -> PathBuf {
        debug_assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{id}");
        self.dir.join(id)
    }
}

/// Adds a line to a file that grows by lines.
pub(crate) fn add_line(mut file: &File, line: &str) -> io::Result<()> {
    file.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let (file, lines) = files.lines("a").unwrap();
        assert!(lines.is_empty());
        add_line(&file, "one").unwrap();
        (&file).write_all(b"tw").unwrap();
        let (file, lines) = files.lines("a").unwrap();
        assert_eq!(lines, ["one"]);
        add_line(&file, "two").unwrap();
        assert_eq!(files.seal("a").unwrap(), 8);
        assert_eq!(files.lines("a").unwrap().1, ["one", "two"]);
    }

    #[test]
    fn a_sweep_leaves_what_is_to_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        for id in ["a", "b"] {
            files.keep(files.upload().unwrap(), id).unwrap();
        }
        assert_eq!(files.sweep(&HashSet::from(["a".to_owned()])).unwrap(), 1);
        assert!(files.read("a").is_ok() && files.read("b").is_err());
        files.remove("a").unwrap();
        files.remove("a").unwrap();
    }
}
