//! Models that live in the host.
//!
//! ```no_run
//! # use dormouse_guest::{llm, prelude::*};
//! # fn predict() -> Result<()> {
//! let model = Model::open("smollm2")?;
//!
//! // Text as it is generated.
//! for text in model.chat([user("Why do dormice sleep?")]).max_tokens(100).start()? {
//!     print!("{}", text?);
//! }
//!
//! // Several at once: `start` returns at once, and they share batches.
//! let names = ["Hazel", "Edible"].map(|name| model.complete(format!("The {name} dormouse")).start());
//! let texts = llm::join(names)?;
//! # Ok(())
//! # }
//! ```

mod completion;
mod error;
mod model;
mod request;

pub use crate::bindings::dormouse::predictor::llm::{Chunk, Finish, Message, ModelInfo, TokenLogprob, Usage};
pub use completion::{Completion, join};
pub use error::Error;
pub use model::Model;
pub use request::Request;

/// What the model is told about its part.
pub fn system(content: impl Into<String>) -> Message {
    message("system", content)
}

/// What the user says.
pub fn user(content: impl Into<String>) -> Message {
    message("user", content)
}

/// What the model said before.
pub fn assistant(content: impl Into<String>) -> Message {
    message("assistant", content)
}

fn message(role: &str, content: impl Into<String>) -> Message {
    Message { role: role.to_owned(), content: content.into() }
}
