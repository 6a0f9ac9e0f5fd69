//! Writes small model files for tests.

use std::path::Path;

use crate::quant::{DType, quantize::quantize};

/// Bytes between multiples of which tensor data starts.
const ALIGNMENT: usize = 32;

/// A model file in the making: metadata first, then tensors.
#[derive(Debug, Clone, Default)]
pub(crate) struct GgufWriter {
    entries: Vec<u8>,
    entry_count: u64,
    headers: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl GgufWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.entry(key, 4, value.to_le_bytes())
    }

    pub(crate) fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.entry(key, 6, value.to_le_bytes())
    }

    pub(crate) fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.entry(key, 7, [u8::from(value)])
    }

    pub(crate) fn str(&mut self, key: &str, value: &str) -> &mut Self {
        let mut bytes = Vec::new();
        put_string(&mut bytes, value.as_bytes());
        self.entry(key, 8, bytes)
    }

    pub(crate) fn strs<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        let mut bytes = array_header(8, values.len());
        values.iter().for_each(|value| put_string(&mut bytes, value.as_ref()));
        self.entry(key, 9, bytes)
    }

    pub(crate) fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        let mut bytes = array_header(5, values.len());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.entry(key, 9, bytes)
    }

    pub(crate) fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        let mut bytes = array_header(6, values.len());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.entry(key, 9, bytes)
    }

    /// A value of any type: its number in the format, and its bytes.
    pub(crate) fn entry(&mut self, key: &str, kind: u32, bytes: impl AsRef<[u8]>) -> &mut Self {
        put_string(&mut self.entries, key.as_bytes());
        self.entries.extend(kind.to_le_bytes());
        self.entries.extend(bytes.as_ref());
        self.entry_count += 1;
        self
    }

    /// A matrix `[rows, columns]` of `weights`, quantised to `dtype`. One row makes a vector.
    pub(crate) fn tensor(&mut self, name: &str, dtype: DType, columns: usize, weights: &[f32]) -> &mut Self {
        assert!(weights.len().is_multiple_of(columns), "whole rows");
        let rows = weights.len() / columns;
        let dimensions = if rows == 1 { vec![columns] } else { vec![columns, rows] };
        let dimensions: Vec<u64> = dimensions.into_iter().map(|d| d as u64).collect();
        self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
        let offset = self.data.len() as u64;
        self.tensor_header(name, &dimensions, dtype.ggml_type(), offset);
        self.data.extend(quantize(dtype, weights));
        self
    }

    /// A line of the directory as given, without data.
    pub(crate) fn tensor_header(
        &mut self,
        name: &str,
        dimensions: &[u64],
        id: u32,
        offset: u64,
    ) -> &mut Self {
        put_string(&mut self.headers, name.as_bytes());
        self.headers.extend((dimensions.len() as u32).to_le_bytes());
        self.headers.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
        self.headers.extend(id.to_le_bytes());
        self.headers.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    /// The file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(self.tensor_count.to_le_bytes());
        file.extend(self.entry_count.to_le_bytes());
        file.extend(&self.entries);
        file.extend(&self.headers);
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(&self.data);
        file
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.to_bytes()).expect("a test can write its file");
    }
}

fn array_header(element: u32, count: usize) -> Vec<u8> {
    let mut bytes = element.to_le_bytes().to_vec();
    bytes.extend((count as u64).to_le_bytes());
    bytes
}

fn put_string(bytes: &mut Vec<u8>, string: &[u8]) {
    bytes.extend((string.len() as u64).to_le_bytes());
    bytes.extend(string);
}
