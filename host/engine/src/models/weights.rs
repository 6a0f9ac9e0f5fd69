//! A file's tensors, taken by name with the shape they must have, and brought to a device.

use std::{cell::RefCell, collections::HashSet};

use crate::{
    Error,
    backend::{Backend, Tensor},
    gguf::Gguf,
    ready::{Image, Part},
};

/// Tensors that carry no weights of the forward pass.
const NOT_WEIGHTS: [&str; 1] = ["rope_freqs.weight"];

/// The tensors of a file, which of them a model has taken, and what an image has ready of them.
pub(super) struct Weights<'a> {
    gguf: &'a Gguf,
    image: Option<&'a Image>,
    used: RefCell<HashSet<&'a str>>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(gguf: &'a Gguf, image: Option<&'a Image>) -> Self {
        Self { gguf, image, used: RefCell::default() }
    }

    /// [`Backend::matrix`] of some tensors, or what the image has under this name.
    pub(super) fn place<B: Backend>(
        &self,
        backend: &B,
        name: &str,
        tensors: &[Tensor<'_>],
    ) -> Result<B::Matrix, Error> {
        match self.ready(name, tensors)? {
            Some(parts) => backend.matrix_of(parts, false),
            None => backend.matrix(tensors),
        }
    }

    /// [`Backend::gated_matrix`] of two tensors, or what the image has under this name.
    pub(super) fn place_gated<B: Backend>(
        &self,
        backend: &B,
        name: &str,
        gate: Tensor<'_>,
        up: Tensor<'_>,
    ) -> Result<B::Matrix, Error> {
        match self.ready(name, &[gate, up])? {
            Some(parts) => backend.matrix_of(parts, true),
            None => backend.gated_matrix(&gate, &up),
        }
    }

    /// The image's parts of a matrix, which have as many rows and columns as the tensors.
    fn ready(&self, name: &str, tensors: &[Tensor<'_>]) -> Result<Option<Vec<Part>>, Error> {
        let Some(image) = self.image else { return Ok(None) };
        let parts = image.parts(name);
        let rows = parts.iter().fold(0, |rows, part| part.rows.saturating_add(rows));
        let expected: usize = tensors.iter().map(|tensor| tensor.rows).sum();
        let columns = tensors[0].columns;
        if rows != expected || parts.iter().any(|part| part.columns != columns) {
            let reason = format!("matrix {name} has {rows} rows, expected [{expected}, {columns}]");
            return Err(Error::Invalid(reason));
        }
        Ok(Some(parts))
    }

    /// Whether the file has a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.gguf.find_tensor(name).is_some()
    }

    /// The matrix `[rows, columns]` of this name.
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor<'a>, Error> {
        let tensor = self.gguf.tensor(name)?;
        if (tensor.rows, tensor.columns) != (rows, columns) {
            let found = format!("[{}, {}]", tensor.rows, tensor.columns);
            return Err(self.gguf.bad(format!("tensor {name} is {found}, expected [{rows}, {columns}]")));
        }
        self.used.borrow_mut().insert(tensor.name);
        Ok(tensor)
    }

    /// The matrix of this name, whose rows are for the file to choose.
    pub(super) fn any_rows(&self, name: &str, columns: usize) -> Result<Tensor<'a>, Error> {
        self.matrix(name, self.gguf.tensor(name)?.rows, columns)
    }

    /// The vector of this name.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Tensor<'a>, Error> {
        self.matrix(name, 1, length)
    }

    /// Refuses a file with weights that the forward pass doesn't know: its results would be wrong.
    pub(super) fn check_all_used(&self) -> Result<(), Error> {
        let used = self.used.borrow();
        let is_unused = |name: &&str| !used.contains(name) && !NOT_WEIGHTS.contains(name);
        match self.gguf.tensors().map(|tensor| tensor.name).find(is_unused) {
            Some(name) => Err(self.gguf.bad(format!("tensor {name} is no part of this architecture"))),
            None => Ok(()),
        }
    }
}
