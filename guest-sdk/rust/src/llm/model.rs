//! A model, and what it can be asked.

use super::{Error, Message, ModelInfo, Request};
use crate::bindings::dormouse::predictor::llm as host;

/// A model that is ready to be used.
#[derive(Debug)]
pub struct Model {
    handle: host::Model,
}

impl Model {
    /// Opens a model by name, loading or waking it if need be. Its name must be declared in
    /// `#[predictor(models = [..])]` or in the deployment's settings.
    pub fn open(name: &str) -> Result<Self, Error> {
        if cfg!(not(target_family = "wasm")) {
            return Err(Error::UnknownModel(format!("no host to open model {name:?} in")));
        }
        Ok(Self { handle: host::Model::open(name)? })
    }

    /// A request to answer a chat, rendered by the model's own template.
    pub fn chat(&self, messages: impl IntoIterator<Item = Message>) -> Request<'_> {
        Request::new(&self.handle, host::Prompt::Messages(messages.into_iter().collect()))
    }

    /// A request to continue raw text.
    pub fn complete(&self, text: impl Into<String>) -> Request<'_> {
        Request::new(&self.handle, host::Prompt::Text(text.into()))
    }

    /// A request to continue tokens of this model's vocabulary.
    pub fn complete_tokens(&self, tokens: impl Into<Vec<u32>>) -> Request<'_> {
        Request::new(&self.handle, host::Prompt::Tokens(tokens.into()))
    }

    /// The tokens of a text. Control tokens spelled in it stay text.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.handle.tokenize(text)?)
    }

    /// The tokens of a text in which control tokens are spelled, such as one that [`Model::render`] wrote.
    /// A caller's words don't belong in it unchecked: they could spell the end of their turn.
    pub fn tokenize_rendered(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.handle.tokenize_rendered(text)?)
    }

    /// A chat as the model's own template writes it, up to the assistant's turn.
    pub fn render(&self, messages: impl IntoIterator<Item = Message>) -> Result<String, Error> {
        let messages: Vec<Message> = messages.into_iter().collect();
        Ok(self.handle.render(&messages)?)
    }

    /// The text of tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<String, Error> {
        Ok(self.handle.detokenize(tokens)?)
    }

    /// One embedding of unit length for each input.
    pub fn embed<S: Into<String>>(
        &self,
        inputs: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let inputs: Vec<String> = inputs.into_iter().map(Into::into).collect();
        Ok(self.handle.embed(&inputs)?)
    }

    /// What the model is: context length, vocabulary, quantization.
    pub fn info(&self) -> ModelInfo {
        self.handle.info()
    }
}
