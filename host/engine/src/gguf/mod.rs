//! GGUF, the format of model files (`docs/gguf.md` in the ggml repository), versions 2 and 3.
//!
//! A file is a header, typed key/value metadata, a directory of tensors, and their data. `reader`
//! checks all of it once against the file's length; after that, metadata and tensors are slices of
//! the mapping and nothing is copied.

mod map;
mod metadata;
mod reader;
#[cfg(test)]
pub(crate) mod writer;

use std::{collections::HashMap, path::PathBuf};

pub(crate) use map::Map;
pub(crate) use metadata::{FromValue, Metadata};

use crate::{Error, quant::DType};
use reader::Directory;

/// An open model file. Cheap to open: only the header's pages are read.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    map: Map,
    directory: Directory,
    tensor_of_name: HashMap<String, usize>,
}

/// A tensor of a model file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensor<'a> {
    /// Name in the file.
    pub(crate) name: &'a str,
    /// Block format.
    pub(crate) dtype: DType,
    /// Rows, `N`; 1 for a vector.
    pub(crate) rows: usize,
    /// Columns, `K`; contiguous.
    pub(crate) columns: usize,
    /// `rows * dtype.bytes(columns)` bytes.
    pub(crate) bytes: &'a [u8],
}

impl Gguf {
    /// Maps a file and checks its header. The file must stay unchanged while it is open, see
    /// [`Map`].
    pub(crate) fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let map = Map::open(&path);
        Self::of_map(path, map)
    }

    /// A file that a test made up.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Self::of_map("test.gguf".into(), Map::of_bytes(bytes))
    }

    fn of_map(path: PathBuf, map: std::io::Result<Map>) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadModel { path: path.clone(), reason };
        let map = map.map_err(|e| bad(e.to_string()))?;
        let directory = reader::read(&map).map_err(bad)?;
        let tensor_of_name = directory.tensors.iter().map(|t| t.name.clone()).zip(0..).collect();
        Ok(Self { path, map, directory, tensor_of_name })
    }

    /// The key/value pairs.
    pub(crate) fn metadata(&self) -> Metadata<'_> {
        Metadata::new(&self.path, &self.map, &self.directory.entries)
    }

    /// The tensor of this name; a file without it is [`Error::BadModel`].
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor<'_>, Error> {
        self.find_tensor(name).ok_or_else(|| self.bad(format!("no tensor \"{name}\"")))
    }

    /// The tensor of this name, if the file has it.
    pub(crate) fn find_tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensor_of_name.get(name).map(|&index| self.tensor_at(index))
    }

    /// Every tensor, in the file's order.
    pub(crate) fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        (0..self.directory.tensors.len()).map(|index| self.tensor_at(index))
    }

    /// The format that holds most bytes of the weights; F32 for a file without tensors.
    pub(crate) fn quantization(&self) -> DType {
        let bytes_of = |dtype: &DType| -> u64 {
            self.tensors().filter(|t| t.dtype == *dtype).map(|t| t.bytes.len() as u64).sum()
        };
        // Of equals, the first.
        DType::ALL.into_iter().rev().max_by_key(bytes_of).expect("there are formats")
    }

    /// Bytes of all tensors.
    pub(crate) fn weights_bytes(&self) -> u64 {
        self.tensors().map(|t| t.bytes.len() as u64).sum()
    }

    /// An [`Error::BadModel`] about this file.
    pub(crate) fn bad(&self, reason: impl Into<String>) -> Error {
        Error::BadModel { path: self.path.clone(), reason: reason.into() }
    }

    fn tensor_at(&self, index: usize) -> Tensor<'_> {
        let info = &self.directory.tensors[index];
        Tensor {
            name: &info.name,
            dtype: info.dtype,
            rows: info.rows,
            columns: info.columns,
            bytes: &self.map[info.bytes.clone()],
        }
    }
}

#[cfg(test)]
mod tests;
