//! Ready images: a model's weights as a device wants them, to be mapped when it wakes.

use std::{fs::File, io, path::Path, sync::atomic::AtomicBool};

use serde::{Deserialize, Serialize};

use super::{
    Bytes,
    container::{self, Container},
};
use crate::{catalog::Digest, quant::DType};

/// Rows of a matrix in one format, as they lie in a device's memory.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bytes: Bytes,
}

/// The matrices of a model, by name.
pub(crate) type Matrices = Vec<(String, Vec<Part>)>;

/// A mapped image.
#[derive(Debug)]
pub(crate) struct Image(Container<About>);

#[derive(Debug, Serialize, Deserialize)]
struct About {
    /// Of the model's own file.
    digest: Digest,
    /// What the device calls the way its bytes lie.
    layout: String,
    /// One for each section.
    parts: Vec<PartOf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PartOf {
    matrix: String,
    /// As in `enum ggml_type`.
    dtype: u32,
    rows: usize,
    columns: usize,
}

impl Image {
    /// Maps an image; its header is checked, its weights are not yet. The text says what is wrong.
    pub(super) fn open(path: &Path, digest: &Digest, layout: &str) -> io::Result<Result<Self, String>> {
        let check = |file: Container<About>| {
            let About { digest: found, layout: laid_out, parts } = &file.about;
            if found != digest {
                return Err(format!("it is of another model, {found}"));
            }
            if laid_out != layout {
                return Err(format!("its layout is \"{laid_out}\", this device's is \"{layout}\""));
            }
            match parts.len() == file.sections() {
                true => Ok(Self(file)),
                false => Err("its header tells of other sections than it has".into()),
            }
        };
        Ok(Container::open(path)?.and_then(check))
    }

    /// Bytes of all weights.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Checks all weights, which brings them into memory too; `read` is told bytes as they are done. The
    /// text says what is wrong.
    pub(crate) fn check(&self, threads: usize, read: &(dyn Fn(usize) + Sync)) -> Result<(), String> {
        self.0.check_all(threads, read)
    }

    /// The parts of a matrix; none if the image doesn't have it.
    pub(crate) fn parts(&self, matrix: &str) -> Vec<Part> {
        let parts = self.0.about.parts.iter().enumerate().filter(|(_, part)| part.matrix == matrix);
        let part = |(index, part): (usize, &PartOf)| {
            let dtype = DType::from_ggml_type(part.dtype)?;
            Some(Part { dtype, rows: part.rows, columns: part.columns, bytes: self.0.section(index) })
        };
        parts.filter_map(part).collect()
    }
}

/// Writes an image to a file and syncs it. Gives up when told to.
pub(super) fn write(
    file: &mut File,
    digest: &Digest,
    layout: &str,
    matrices: &[(String, Vec<Part>)],
    stop: &AtomicBool,
) -> io::Result<()> {
    let (mut parts, mut sections) = (Vec::new(), Vec::new());
    for (matrix, part) in matrices.iter().flat_map(|(name, parts)| parts.iter().map(move |part| (name, part)))
    {
        let Part { dtype, rows, columns, bytes } = part;
        let dtype = dtype.ggml_type();
        parts.push(PartOf { matrix: matrix.clone(), dtype, rows: *rows, columns: *columns });
        sections.push(&**bytes);
    }
    let about = About { digest: digest.clone(), layout: layout.to_owned(), parts };
    container::write(file, about, &sections, stop)
}
