//! The imports of world `dormouse:predictor/predictor`, one file for each interface. Each converts,
//! keeps to the limits and calls the engine; nothing is computed here.

mod convert;
pub(crate) mod llm;
pub(crate) mod output;
pub(crate) mod stdio;

use wasmtime::component::Linker;

use crate::{bindings::dormouse::predictor, state::State};

/// Everything that a predictor may import.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    predictor::llm::add_to_linker::<_, llm::HasLlm>(&mut linker, State::llm)?;
    predictor::output::add_to_linker::<_, output::Output>(&mut linker, |state| &mut state.output)?;
    Ok(linker)
}
