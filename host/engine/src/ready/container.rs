//! A file of sections, written once, then mapped and checked.
//!
//! ```text
//! 0     magic, version u32, length of the header u32, CRC-32 of the header u32
//! 20    header, JSON: what it holds, and where each section lies
//!       zeros up to a page
//! page  section, zeros up to a page, section, ...
//! ```

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Bytes;
use crate::gguf::Map;

const MAGIC: &[u8; 8] = b"dormouse";
/// Changes with anything in this file that others must not take for what it was.
const VERSION: u32 = 1;
/// What stands before the header.
const PREFIX_BYTES: usize = 20;
/// Longer than any header.
const HEADER_BYTES_MAX: usize = 64 << 20;
/// Where sections begin.
const PAGE: usize = 4096;
/// What one thread checks at a time.
const CHECK_BYTES: usize = 4 << 20;

/// A mapped file; `T` tells what its sections are.
#[derive(Debug)]
pub(super) struct Container<T> {
    pub(super) about: T,
    sections: Vec<Section>,
    bytes: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header<T> {
    about: T,
    file_bytes: usize,
    sections: Vec<Section>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Section {
    start: usize,
    bytes: usize,
    /// CRC-32 of each [`CHECK_BYTES`] of it.
    checks: Vec<u32>,
}

impl<T: DeserializeOwned + Sync> Container<T> {
    /// Maps a file; its header is checked, its sections are not yet. The text says what is wrong.
    pub(super) fn open(path: &Path) -> io::Result<Result<Self, String>> {
        let bytes = Bytes::of_file(Map::open(path)?);
        Ok(read_header(&bytes).map(|header| Self { about: header.about, sections: header.sections, bytes }))
    }

    /// Number of sections.
    pub(super) fn sections(&self) -> usize {
        self.sections.len()
    }

    /// Bytes of all sections.
    pub(super) fn len(&self) -> usize {
        self.sections.iter().map(|section| section.bytes).sum()
    }

    /// A section's bytes.
    pub(super) fn section(&self, index: usize) -> Bytes {
        let Section { start, bytes, .. } = self.sections[index];
        self.bytes.slice(start..start + bytes)
    }

    /// Whether a section is as it was written.
    pub(super) fn is_whole(&self, index: usize) -> bool {
        self.sections[index].chunks().all(|chunk| chunk.is_whole(&self.bytes))
    }

    /// Checks every section, which brings the file into memory too; `read` is told bytes as they are done.
    pub(super) fn check_all(&self, threads: usize, read: &(dyn Fn(usize) + Sync)) -> Result<(), String> {
        let chunks: Vec<_> = self.sections.iter().flat_map(Section::chunks).collect();
        let next = AtomicUsize::new(0);
        let is_broken = AtomicBool::new(false);
        let work = || {
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !chunk.is_whole(&self.bytes) {
                    is_broken.store(true, Ordering::Relaxed);
                }
                read(chunk.end - chunk.start);
            }
        };
        thread::scope(|scope| {
            (1..threads.min(chunks.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        match is_broken.into_inner() {
            true => Err("its checksums are wrong".into()),
            false => Ok(()),
        }
    }
}

/// Writes sections to a file and syncs it. Gives up between two of them when told to.
pub(super) fn write<T: Serialize>(
    file: &mut File,
    about: T,
    sections: &[&[u8]],
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut header = Header { about, file_bytes: 0, sections: Vec::with_capacity(sections.len()) };
    for bytes in sections {
        go_on(stop)?;
        let checks = bytes.chunks(CHECK_BYTES).map(crc32fast::hash).collect();
        header.sections.push(Section { start: 0, bytes: bytes.len(), checks });
    }
    let text = header.place();
    file.write_all(MAGIC)?;
    for number in [VERSION, text.len() as u32, crc32fast::hash(&text)] {
        file.write_all(&number.to_le_bytes())?;
    }
    file.write_all(&text)?;
    let mut written = PREFIX_BYTES + text.len();
    for (bytes, section) in sections.iter().zip(&header.sections) {
        go_on(stop)?;
        file.write_all(&[0; PAGE][..section.start - written])?;
        file.write_all(bytes)?;
        written = section.start + section.bytes;
    }
    file.sync_all()
}

fn go_on(stop: &AtomicBool) -> io::Result<()> {
    match stop.load(Ordering::Relaxed) {
        true => Err(io::Error::new(io::ErrorKind::Interrupted, "it is no longer wanted")),
        false => Ok(()),
    }
}

impl<T: Serialize> Header<T> {
    /// Says where each section begins, and gives the header's text. The header is as long as its numbers
    /// are, and these depend on how long it is; so it is written until it fits before the sections.
    fn place(&mut self) -> Vec<u8> {
        let mut room = PAGE;
        loop {
            let mut end = room;
            for section in &mut self.sections {
                section.start = end.next_multiple_of(PAGE);
                end = section.start + section.bytes;
            }
            self.file_bytes = if self.sections.is_empty() { 0 } else { end };
            let text = serde_json::to_vec(&self).expect("a header is plain data");
            if PREFIX_BYTES + text.len() <= room {
                return text;
            }
            room = (PREFIX_BYTES + text.len()).next_multiple_of(PAGE);
        }
    }
}

fn read_header<T: DeserializeOwned>(file: &[u8]) -> Result<Header<T>, String> {
    let (prefix, rest) = file.split_at_checked(PREFIX_BYTES).ok_or("it is cut short")?;
    if &prefix[..8] != MAGIC {
        return Err("it is no file of this engine".into());
    }
    let number = |at: usize| u32::from_le_bytes(*prefix[at..].first_chunk().expect("the prefix has it"));
    let (version, len, check) = (number(8), number(12) as usize, number(16));
    if version != VERSION {
        return Err(format!("it has version {version}, this engine writes {VERSION}"));
    }
    if len > HEADER_BYTES_MAX {
        return Err(format!("its header has {len} bytes, at most {HEADER_BYTES_MAX} are read"));
    }
    let text = rest.get(..len).ok_or("it is cut short")?;
    if crc32fast::hash(text) != check {
        return Err("its header's checksum is wrong".into());
    }
    let header: Header<T> = serde_json::from_slice(text).map_err(|error| format!("its header: {error}"))?;
    if !header.sections.is_empty() && header.file_bytes != file.len() {
        return Err(format!("it has {} bytes, expected {}", file.len(), header.file_bytes));
    }
    match header.sections.iter().all(|section| section.is_within(file.len())) {
        true => Ok(header),
        false => Err("a section lies beyond its end".into()),
    }
}

/// A part of a section that has a checksum of its own.
struct Chunk {
    start: usize,
    end: usize,
    check: u32,
}

impl Chunk {
    fn is_whole(&self, file: &[u8]) -> bool {
        crc32fast::hash(&file[self.start..self.end]) == self.check
    }
}

impl Section {
    fn is_within(&self, file_bytes: usize) -> bool {
        self.start.is_multiple_of(PAGE)
            && self.start.checked_add(self.bytes).is_some_and(|end| end <= file_bytes)
            && self.checks.len() == self.bytes.div_ceil(CHECK_BYTES)
    }

    fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let end = self.start + self.bytes;
        let starts = (self.start..end).step_by(CHECK_BYTES);
        let chunk = move |(start, &check)| Chunk { start, end: end.min(start + CHECK_BYTES), check };
        starts.zip(&self.checks).map(chunk)
    }
}
