//! A compiled component: from bytes to something that instantiates in microseconds.

#![expect(unsafe_code, reason = "mapping compiled code is unsafe: wasmtime runs what it is given")]

use std::{path::Path, sync::Arc, time::Duration};

use wasmtime::component::{Component as Code, ComponentExportIndex, InstancePre, Linker};

use crate::{
    Error,
    bindings::PredictorIndices,
    snapshot::{RESTORE, SET_UP},
    state::State,
};

/// A compiled, linked component of the predictor world; cloning shares it.
#[derive(Clone)]
pub struct Component {
    pub(crate) linked: Arc<Linked>,
}

/// How a [`Component`] came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Compiled from wasm in this time, and written to the cache.
    Compiled(Duration),
    /// Mapped from the cache in this time, or found mapped already.
    Mapped(Duration),
}

impl Component {
    /// Hex SHA-256 of the wasm bytes.
    pub fn digest(&self) -> &str {
        &self.linked.digest
    }

    /// Whether it is an image: `setup` has run.
    pub fn is_image(&self) -> bool {
        matches!(self.linked.start, Start::Image { .. })
    }
}

/// What is prepared once for all instances.
pub(crate) struct Linked {
    digest: String,
    pub(crate) pre: InstancePre<State>,
    pub(crate) indices: PredictorIndices,
    pub(crate) start: Start,
}

/// What an instance needs before `predict`.
pub(crate) enum Start {
    /// `setup`.
    Setup,
    /// Nothing, or that its handles are taken again: it begins as `setup` left another.
    Image { restore: Option<ComponentExportIndex> },
}

/// The exports of the world, for messages.
const EXPORTS: [&str; 3] = ["describe", "setup", "predict"];

/// Tells bytes that can't be a component from those that may be, before anything costs time.
pub(crate) fn identify(wasm: &[u8]) -> Result<(), Error> {
    let no = |reason: &str| Err(Error::NotAPredictor(reason.into()));
    match wasm {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            no("this is a core wasm module, not a component; build with --target wasm32-wasip2")
        }
        [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', ..] => no("this is wasm of an unknown version"),
        [] => no("there are no bytes"),
        _ => no("this is not wasm: it does not begin with \\0asm"),
    }
}

/// Compiles a component to the form that [`map`] and [`copy`] take. Up to seconds.
pub(crate) fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<Vec<u8>, Error> {
    engine
        .precompile_component(wasm)
        .map_err(|error| Error::NotAPredictor(format!("it does not compile: {error:#}")))
}

/// Maps a file that [`Cache::find`](crate::cache::Cache::find) has verified or
/// [`Cache::store`](crate::cache::Cache::store) has just written.
pub(crate) fn map(engine: &wasmtime::Engine, file: &Path) -> wasmtime::Result<Code> {
    // SAFETY: the file's checksum was found right, so it is what `compile` made for this very
    // configuration; it lies in a folder only this user can write, and is replaced by rename only, so
    // the mapped pages never change.
    unsafe { Code::deserialize_file(engine, file) }
}

/// Takes compiled code from memory, for when it can't be written.
pub(crate) fn copy(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Code> {
    // SAFETY: `code` comes straight from `compile`.
    unsafe { Code::deserialize(engine, code) }
}

/// Checks a component against the world and resolves its imports.
pub(crate) fn link(digest: &str, code: &Code, linker: &Linker<State>) -> Result<Component, Error> {
    let exported: Vec<_> =
        code.component_type().exports(linker.engine()).map(|(name, _)| name.to_owned()).collect();
    if let Some(missing) = EXPORTS.iter().find(|name| !exported.iter().any(|export| export == *name)) {
        let exported = if exported.is_empty() { "nothing".into() } else { exported.join(", ") };
        return Err(Error::NotAPredictor(format!(
            "it does not export `{missing}` (it exports {exported}); world dormouse:predictor/predictor \
             exports `describe`, `setup` and `predict`"
        )));
    }
    let unfit = |error: wasmtime::Error| Error::NotAPredictor(format!("{error:#}"));
    let pre = linker.instantiate_pre(code).map_err(unfit)?;
    let indices = PredictorIndices::new(&pre).map_err(unfit)?;
    let start = match exported.iter().any(|export| export == SET_UP) {
        true => Start::Image { restore: code.get_export_index(None, RESTORE) },
        false => Start::Setup,
    };
    Ok(Component { linked: Arc::new(Linked { digest: digest.into(), pre, indices, start }) })
}
