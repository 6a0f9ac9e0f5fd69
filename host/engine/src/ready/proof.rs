//! What a model said when it was first awake, to compare with what it says when it wakes.

use std::{fs::File, io, path::Path, sync::atomic::AtomicBool};

use serde::{Deserialize, Serialize};

use super::container::{self, Container};

#[derive(Debug, Serialize, Deserialize)]
struct About {
    /// Names what besides weights decides it: how the cache is kept.
    kind: String,
    /// Tokens and the bits of numbers.
    said: Vec<u32>,
}

/// What a model of this kind said; the text says why that can't be told.
pub(super) fn read(path: &Path, kind: &str) -> io::Result<Result<Vec<u32>, String>> {
    let check = |file: Container<About>| match file.about.kind == kind {
        true => Ok(file.about.said),
        false => Err(format!("it is of kind \"{}\"", file.about.kind)),
    };
    Ok(Container::open(path)?.and_then(check))
}

/// Writes what a model of this kind says to a file and syncs it.
pub(super) fn write(file: &mut File, kind: &str, said: &[u32]) -> io::Result<()> {
    let about = About { kind: kind.to_owned(), said: said.to_vec() };
    container::write(file, about, &[], &AtomicBool::new(false))
}
