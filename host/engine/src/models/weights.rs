//! A file's tensors, taken by name with the shape they must have.

use std::{cell::RefCell, collections::HashSet};

use crate::{Error, backend::Tensor, gguf::Gguf};

/// Tensors that carry no weights of the forward pass.
const NOT_WEIGHTS: [&str; 1] = ["rope_freqs.weight"];

/// The tensors of a file, and which of them a model has taken.
pub(super) struct Weights<'a> {
    gguf: &'a Gguf,
    used: RefCell<HashSet<&'a str>>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(gguf: &'a Gguf) -> Self {
        Self { gguf, used: RefCell::default() }
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
