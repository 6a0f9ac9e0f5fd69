//! Reads and checks a header. What it returns can be indexed without further checks.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::metadata::{Entry, Kind};
use crate::quant::DType;

/// The most key/value pairs of a file; real ones have under 100.
const ENTRIES_MAX: u64 = 1 << 16;
/// The most tensors of a file; the largest models have a few thousand.
const TENSORS_MAX: u64 = 1 << 17;
/// The most bytes of a key, the specification's bound.
const KEY_BYTES_MAX: usize = (1 << 16) - 1;
/// The most bytes of a tensor's name; the specification says 64.
const TENSOR_NAME_BYTES_MAX: usize = 256;
/// The most dimensions of a tensor.
const DIMENSIONS_MAX: u32 = 4;
/// The largest alignment of tensor data in bytes.
const ALIGNMENT_MAX: u32 = 1 << 20;
/// Alignment where the file names none.
const ALIGNMENT_DEFAULT: u32 = 32;

const ALIGNMENT_KEY: &str = "general.alignment";

/// Why a file isn't a usable GGUF.
type Reason = String;

/// What a header says, every range inside the file.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: HashMap<String, Entry>,
    pub(super) tensors: Vec<TensorInfo>,
}

/// A tensor's place.
#[derive(Debug)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Of the file.
    pub(super) bytes: Range<usize>,
}

/// Reads the header of a file.
pub(super) fn read(file: &[u8]) -> Result<Directory, Reason> {
    let mut cursor = Cursor { file, at: 0 };
    check_magic_and_version(&mut cursor)?;
    let tensor_count = cursor.u64("tensor count")?;
    let entry_count = cursor.u64("metadata count")?;
    if tensor_count > TENSORS_MAX {
        return Err(format!("claims {tensor_count} tensors, at most {TENSORS_MAX} are read"));
    }
    if entry_count > ENTRIES_MAX {
        return Err(format!("claims {entry_count} metadata entries, at most {ENTRIES_MAX} are read"));
    }

    let entries = read_entries(&mut cursor, entry_count)?;
    let alignment = read_alignment(file, &entries)?;
    // Grown as read, not reserved: the count is the file's claim.
    let mut headers = Vec::new();
    for _ in 0..tensor_count {
        headers.push(read_tensor_header(&mut cursor)?);
    }
    let data = cursor.at.checked_next_multiple_of(alignment).ok_or("header is too long")?;
    let tensors = headers
        .into_iter()
        .map(|header| place(header, data, alignment, file.len()))
        .collect::<Result<Vec<_>, _>>()?;
    check_distinct(&tensors)?;
    Ok(Directory { entries, tensors })
}

fn check_magic_and_version(cursor: &mut Cursor<'_>) -> Result<(), Reason> {
    let magic = cursor.take(4, "magic")?;
    if magic != b"GGUF" {
        return Err("not a GGUF file: it doesn't start with \"GGUF\"".into());
    }
    match cursor.u32("version")? {
        2 | 3 => Ok(()),
        version if version.swap_bytes() <= 3 => Err("GGUF is big-endian, only little-endian is read".into()),
        version => Err(format!("GGUF version {version}, only 2 and 3 are read")),
    }
}

fn read_entries(cursor: &mut Cursor<'_>, count: u64) -> Result<HashMap<String, Entry>, Reason> {
    let mut entries = HashMap::new();
    for _ in 0..count {
        let key = cursor.short_string("metadata key", KEY_BYTES_MAX)?;
        let kind = Kind::read(cursor.u32(key)?).map_err(|e| format!("metadata key \"{key}\": {e}"))?;
        let entry = read_value(cursor, key, kind)?;
        if entries.insert(key.to_owned(), entry).is_some() {
            return Err(format!("metadata key \"{key}\" occurs twice"));
        }
    }
    Ok(entries)
}

/// Steps over a value and remembers its place.
fn read_value(cursor: &mut Cursor<'_>, key: &str, kind: Kind) -> Result<Entry, Reason> {
    match kind {
        Kind::String => {
            let bytes = cursor.string(key)?;
            Ok(Entry { kind, element: kind, count: 1, bytes })
        }
        Kind::Array => {
            let element = Kind::read(cursor.u32(key)?).map_err(|e| format!("metadata key \"{key}\": {e}"))?;
            let claimed = cursor.u64(key)?;
            let count = usize::try_from(claimed)
                .map_err(|_| format!("metadata key \"{key}\" claims {claimed} elements"))?;
            let start = cursor.at;
            match element.size() {
                Some(size) => {
                    let bytes = count
                        .checked_mul(size)
                        .ok_or_else(|| format!("metadata key \"{key}\" claims {count} elements"))?;
                    cursor.take(bytes, key)?;
                }
                // Each takes 8 bytes at least, so the file's length bounds the loop.
                None if element == Kind::String => {
                    for _ in 0..count {
                        cursor.string(key)?;
                    }
                }
                None => return Err(format!("metadata key \"{key}\" is an array of arrays")),
            }
            Ok(Entry { kind, element, count, bytes: start..cursor.at })
        }
        _ => {
            let start = cursor.at;
            cursor.take(kind.size().expect("scalars have a size"), key)?;
            Ok(Entry { kind, element: kind, count: 1, bytes: start..cursor.at })
        }
    }
}

fn read_alignment(file: &[u8], entries: &HashMap<String, Entry>) -> Result<usize, Reason> {
    let alignment = match entries.get(ALIGNMENT_KEY) {
        None => ALIGNMENT_DEFAULT,
        Some(entry) => entry.value(file).unsigned().and_then(|a| u32::try_from(a).ok()).unwrap_or(0),
    };
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return Err(format!("{ALIGNMENT_KEY} must be a power of two up to {ALIGNMENT_MAX}"));
    }
    Ok(alignment as usize)
}

/// A tensor as the directory describes it, offset from the start of the data.
struct TensorHeader {
    name: String,
    dtype: DType,
    rows: usize,
    columns: usize,
    offset: u64,
}

fn read_tensor_header(cursor: &mut Cursor<'_>) -> Result<TensorHeader, Reason> {
    let name = cursor.short_string("tensor name", TENSOR_NAME_BYTES_MAX)?.to_owned();
    let dimensions = cursor.u32(&name)?;
    if dimensions == 0 || dimensions > DIMENSIONS_MAX {
        return Err(format!("tensor \"{name}\" has {dimensions} dimensions, 1 to {DIMENSIONS_MAX} are read"));
    }
    let columns = dimension(cursor, &name)?;
    let mut rows = 1usize;
    for _ in 1..dimensions {
        rows = rows
            .checked_mul(dimension(cursor, &name)?)
            .ok_or_else(|| format!("tensor \"{name}\" has too many rows"))?;
    }
    let id = cursor.u32(&name)?;
    let dtype = DType::from_ggml_type(id).ok_or_else(|| {
        let known: Vec<_> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        format!("tensor \"{name}\" is stored as ggml type {id}, this engine reads {}", known.join(", "))
    })?;
    if !columns.is_multiple_of(dtype.block_len()) {
        let block = dtype.block_len();
        return Err(format!("tensor \"{name}\" has {columns} columns, {dtype} needs a multiple of {block}"));
    }
    let offset = cursor.u64(&name)?;
    Ok(TensorHeader { name, dtype, rows, columns, offset })
}

fn dimension(cursor: &mut Cursor<'_>, name: &str) -> Result<usize, Reason> {
    match usize::try_from(cursor.u64(name)?) {
        Ok(0) => Err(format!("tensor \"{name}\" has a dimension of 0")),
        // An element takes more than half a bit, and a file fewer than 2^63 bytes.
        Ok(size) if size <= isize::MAX as usize => Ok(size),
        _ => Err(format!("tensor \"{name}\" has a dimension over {}", isize::MAX)),
    }
}

/// Finds a tensor's bytes in the file.
fn place(header: TensorHeader, data: usize, alignment: usize, file_len: usize) -> Result<TensorInfo, Reason> {
    let TensorHeader { name, dtype, rows, columns, offset } = header;
    if !offset.is_multiple_of(alignment as u64) {
        return Err(format!("tensor \"{name}\" is at offset {offset}, not a multiple of {alignment}"));
    }
    let row_bytes = (columns / dtype.block_len()).checked_mul(dtype.block_bytes());
    let bytes = row_bytes.and_then(|row| row.checked_mul(rows));
    let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
    let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
    match start.zip(end) {
        Some((start, end)) if end <= file_len => {
            Ok(TensorInfo { name, dtype, rows, columns, bytes: start..end })
        }
        _ => Err(format!(
            "tensor \"{name}\" ({rows} x {columns} {dtype} at offset {offset}) ends beyond the file's \
             {file_len} bytes"
        )),
    }
}

/// No two tensors share a name or a byte.
fn check_distinct(tensors: &[TensorInfo]) -> Result<(), Reason> {
    let mut names = HashSet::new();
    if let Some(tensor) = tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        return Err(format!("tensor \"{}\" occurs twice", tensor.name));
    }
    let mut by_place: Vec<_> = tensors.iter().collect();
    by_place.sort_by_key(|tensor| tensor.bytes.start);
    match by_place.windows(2).find(|pair| pair[0].bytes.end > pair[1].bytes.start) {
        Some(pair) => Err(format!("tensors \"{}\" and \"{}\" overlap", pair[0].name, pair[1].name)),
        None => Ok(()),
    }
}

/// A place in the file. Every read is checked; `what` names it in the error.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], Reason> {
        let rest = &self.file[self.at..];
        let taken = rest.get(..len).ok_or_else(|| {
            format!("\"{what}\" at byte {} takes {len} bytes, the file has {} more", self.at, rest.len())
        })?;
        self.at += len;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Reason> {
        Ok(u32::from_le_bytes(self.take(4, what)?.try_into().expect("4 bytes were taken")))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Reason> {
        Ok(u64::from_le_bytes(self.take(8, what)?.try_into().expect("8 bytes were taken")))
    }

    /// Steps over a string and returns its place.
    fn string(&mut self, what: &str) -> Result<Range<usize>, Reason> {
        let len = self.u64(what)?;
        // A length over the address space is over the file's, too.
        let start = self.at;
        self.take(usize::try_from(len).unwrap_or(usize::MAX), what)?;
        Ok(start..self.at)
    }

    /// A name: UTF-8, of at least 1 and at most `max` bytes.
    fn short_string(&mut self, what: &str, max: usize) -> Result<&'a str, Reason> {
        let start = self.at;
        let len = self.u64(what)?;
        if len == 0 || len > max as u64 {
            return Err(format!("{what} at byte {start} has {len} bytes, 1 to {max} are read"));
        }
        let bytes = self.take(len as usize, what)?;
        std::str::from_utf8(bytes).map_err(|_| format!("{what} at byte {start} is not UTF-8"))
    }
}
