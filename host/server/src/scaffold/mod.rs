//! Predictor projects: started from a template with the SDK's sources, built into a component.

mod build;
mod new;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use build::{Built, Told, build, check_component, is_project};
pub use new::new;

/// The target that a predictor is built for.
pub const TARGET: &str = "wasm32-wasip2";

/// Why a project could not be made or built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a name that a function can have.
    #[error(
        "\"{0}\" is no function name: want 1 to 63 of a-z, 0-9 and -, with a letter first and no - at the end"
    )]
    BadName(String),
    /// The folder for a new project has something in it.
    #[error("{} is there already and not empty: choose another folder with --path", .0.display())]
    NotEmpty(PathBuf),
    /// The folder to build is no project.
    #[error("no project at {} (want Cargo.toml, predict.py, cog.yaml or package.json): `dormouse new NAME` starts one", .0.display())]
    NoProject(PathBuf),
    /// There is no cargo.
    #[error("cargo is not installed: a Rust project needs it (install Rust with rustup)")]
    NoCargo,
    /// There is no standard library for the target.
    #[error("Rust has no {TARGET} here: run `rustup target add {TARGET}`")]
    NoTarget,
    /// Cargo says why on its own.
    #[error("cargo {0} failed; its own message stands above")]
    Cargo(&'static str),
    /// The package makes no component.
    #[error("package \"{0}\" makes no .wasm: its Cargo.toml needs [lib] crate-type = [\"cdylib\"]")]
    NoArtifact(String),
    /// A guest language's own program is missing or too old.
    #[error("{0}")]
    NoTool(String),
    /// The tools of a guest language could not be installed.
    #[error("`{command}` failed: {said}")]
    Install {
        /// What was run.
        command: String,
        /// Its last words.
        said: String,
    },
    /// The project can't be built as it is.
    #[error("{}{message}{}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default(),
        .advice.as_ref().map(|advice| format!("\n{advice}")).unwrap_or_default())]
    Build {
        /// File and line, if it has a place.
        place: Option<String>,
        /// What is wrong.
        message: String,
        /// What to do about it.
        advice: Option<String>,
    },
    /// A build ended without saying why.
    #[error("the build broke off: {0}")]
    BuildBroke(String),
    /// A file that the service could only refuse.
    #[error("{} is {what}: push what `dormouse build` makes", path.display())]
    NotComponent {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// A file can't be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

impl Error {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File { path: path.to_owned(), error }
    }
}

/// Writes a file and the folders above it.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let folder = path.parent().expect("a file is in a folder");
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    fs::write(path, text).map_err(Error::file(path))
}
