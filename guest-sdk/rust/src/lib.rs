//! What the author of a Rust predictor imports.
//!
//! A predictor is a type, what it takes, what it answers, and two functions:
//!
//! ```
//! use dormouse_guest::prelude::*;
//!
//! #[derive(Input)]
//! struct Input {
//!     /// Who to greet
//!     #[input(default = "world", min_length = 1, max_length = 80)]
//!     name: String,
//! }
//!
//! #[derive(Default)]
//! struct Hello;
//!
//! /// Greets someone
//! #[predictor]
//! impl Predictor for Hello {
//!     type Input = Input;
//!     type Output = String;
//!
//!     fn predict(&self, input: Input) -> Result<String> {
//!         Ok(format!("Hello, {}!", input.name))
//!     }
//! }
//!
//! assert_eq!(dormouse_guest::testing::predict::<Hello>(r#"{"name": "dormouse"}"#).unwrap().output,
//!     "Hello, dormouse!");
//! ```
//!
//! From the types come the manifest and its JSON Schema ([`Input`], [`Output`]); a predictor that
//! answers piece by piece has a [`Stream`] as its output; [`llm`] is the way to models. What is
//! logged by the `log` macros or printed becomes the prediction's logs; [`metric`] and [`progress`]
//! report numbers.

#![warn(missing_docs)]
#![deny(unsafe_code)]

mod host;
mod input;
pub mod llm;
mod output;
mod predictor;
mod report;
mod schema;
mod stream;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use anyhow::{Context, Error, Result, bail, ensure};
pub use input::{Input, Length, Number};
pub use output::{Answer, Output};
pub use predictor::{About, Predictor};
pub use report::{metric, progress};
pub use stream::Stream;

/// What a predictor's file imports in one line.
pub mod prelude {
    pub use crate::{
        Context, Error, Input, Output, Predictor, Result, Stream, bail, ensure, llm,
        llm::{Completion, Model, assistant, system, user},
        metric, progress,
    };
    pub use dormouse_guest_macros::{Input, Output, predictor};
    pub use log;
    pub use serde_json::{Value, json};
}

/// What the macros' code names; not for authors.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        bindings,
        predictor::{describe, predict, setup},
        schema::{Property, enumeration, object},
    };
    pub use serde;
    pub use serde_json::Value;
}

#[doc(hidden)]
#[allow(missing_docs, unsafe_code, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "predictor",
        pub_export_macro: true,
        export_macro_name: "export_predictor",
        default_bindings_module: "::dormouse_guest::__private::bindings",
    });
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
