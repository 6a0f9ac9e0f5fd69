//! A loaded model as its callers see it.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    Caller, Completion, Error, Message, Pooling, Prefix, Prompt, Request, Usage,
    backend::BLOCK_TOKENS,
    engine::Handle,
    loader::Loaded,
    models,
    residency::{Lease, Opened, Tier},
    template::ChatTemplate,
    worker::{Generation, Score, Work},
};

/// Facts about a model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ModelInfo {
    /// The name it was opened by.
    pub name: String,
    /// Architecture as the file names it.
    pub architecture: String,
    /// How most weights are stored.
    pub quantization: String,
    /// `sha256:` and the file's hex digest.
    pub digest: String,
    /// The most tokens of a sequence.
    pub context_length: usize,
    /// Length of an embedding.
    pub dimension: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Bytes of weights.
    pub weights_bytes: u64,
}

/// A model that is ready to be used, and stays so while there are handles on it or completions under
/// way; cloning shares it. Tokenizing runs on the caller's thread, everything else on the engine's.
#[derive(Clone, Debug)]
pub struct Model {
    handle: Arc<Handle>,
    loaded: Arc<Loaded>,
    lease: Arc<Lease>,
    info: Arc<ModelInfo>,
    caller: Caller,
    pooling: Option<Pooling>,
    from: Tier,
    wake: Duration,
}

impl Model {
    pub(crate) fn new(handle: Arc<Handle>, opened: Opened, name: String, wake: Duration) -> Self {
        let Opened { loaded, lease, from } = opened;
        let info = Arc::new(ModelInfo { name, ..loaded.info.clone() });
        let (caller, pooling) = (Caller::default(), None);
        Self { handle, loaded, lease: Arc::new(lease), info, caller, pooling, from, wake }
    }

    /// The same model, whose work counts as a caller's.
    pub fn on_behalf_of(self, caller: Caller) -> Self {
        Self { caller, ..self }
    }

    /// The same model, whose embeddings are pooled otherwise than its file says.
    pub fn pooled(self, pooling: Pooling) -> Self {
        Self { pooling: Some(pooling), ..self }
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// How long [`Engine::open`](crate::Engine::open) waited for it to wake; zero when it was awake.
    pub fn wake(&self) -> Duration {
        self.wake
    }

    /// The tier that it was woken from for this handle; [`Tier::Awake`] when it was that.
    pub fn woken_from(&self) -> Tier {
        self.from
    }

    /// The tokens of a text. `special` reads control tokens spelled in it as such.
    pub fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        self.loaded.tokenizer.encode(text, special)
    }

    /// The text of tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<String, Error> {
        self.check_vocabulary(tokens)?;
        self.loaded.tokenizer.decode(tokens)
    }

    /// The bytes that a token stands for, which need not be UTF-8 by themselves; `None` beyond the
    /// vocabulary.
    pub fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        self.loaded.tokenizer.token_bytes(token)
    }

    /// A chat as the model's template writes it, up to the assistant's turn.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no template, or it refuses the messages.
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
        self.template()?.render(messages, &[], true)
    }

    /// [`Model::render`] of turns as JSON objects, which may have more fields than a role and a content,
    /// and with tools, JSON objects as OpenAI's chats list them. `transformers` documents both.
    ///
    /// # Errors
    /// As [`Model::render`].
    pub fn render_with_tools(&self, messages: &[Value], tools: &[Value]) -> Result<String, Error> {
        self.template()?.render(messages, tools, true)
    }

    /// Whether the chat template tells the model of tools.
    pub fn template_takes_tools(&self) -> bool {
        self.loaded.template.as_ref().is_some_and(ChatTemplate::takes_tools)
    }

    /// Starts a completion and returns at once. Tokenizes on the calling thread, and compiles the
    /// format there: for prompts over some kilobytes, or with a format, call it from a blocking
    /// context.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field that is out of bounds, [`Error::TooLong`] the context,
    /// [`Error::Overloaded`] the bound that is met.
    pub fn generate(&self, request: Request) -> Result<Completion, Error> {
        request.check()?;
        let config = self.handle.config();
        let guess_tokens = request.guess_tokens.or(self.caller.guess_tokens).unwrap_or(config.guess_tokens);
        config.check_guesses(guess_tokens)?;
        self.check_generates()?;
        let prompt = self.prompt_tokens(&request.prompt)?;
        self.check_length(prompt.len(), request.max_tokens)?;
        let format = match &request.format {
            Some(schema) => Some(self.loaded.formats()?.compile(schema)?),
            None => None,
        };
        let (writer, completion) = Completion::new();
        let request = Request { guess_tokens: Some(guess_tokens), ..request };
        let generation = Generation::new(request, prompt.len(), format, (self.from, self.wake), writer);
        self.submit(prompt, Work::Generate(Box::new(generation)))?;
        Ok(completion)
    }

    /// Computes a prefix, so that prompts that begin with it find it cached. Dropping the future cancels.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub async fn prefill(&self, prefix: &Prefix) -> Result<Usage, Error> {
        let prompt = Prompt::Tokens(self.loaded.prefix_tokens(prefix)?);
        let mut completion = self.generate(Request::new(prompt, 1))?;
        while completion.next().await?.is_some() {}
        Ok(completion.usage())
    }

    /// The number of a prefix's tokens.
    ///
    /// # Errors
    /// Those for which [`Model::prefill`] could never compute it.
    pub fn check_prefix(&self, prefix: &Prefix) -> Result<usize, Error> {
        let tokens = self.loaded.prefix_tokens(prefix)?;
        self.check_generates()?;
        self.check_prompt(&tokens)?;
        self.check_length(tokens.len(), 1)?;
        Ok(tokens.len())
    }

    /// Writes what [`Engine::declare_prefixes`](crate::Engine::declare_prefixes) named of the model and
    /// [`Model::prefill`] computed to disk; when this returns it survives a crash. Gives the tokens that
    /// are not there, as the cache or its bound on disk was too small for them. Dropping the future doesn't
    /// stop it.
    ///
    /// # Errors
    /// [`Error::Failed`] when it can't be written.
    pub async fn keep_prefixes(&self) -> Result<usize, Error> {
        let missing = self.handle.keep_prefixes(self.loaded.clone()).await?;
        Ok(missing * BLOCK_TOKENS)
    }

    /// Unit-length embeddings, one for each input, pooled as the model's file says (the mean if it doesn't)
    /// or as [`Model::pooled`] does. Dropping the future cancels.
    ///
    /// # Errors
    /// As [`Model::generate`]; the first that an input meets.
    pub async fn embed(&self, inputs: Vec<String>) -> Result<Vec<Vec<f32>>, Error> {
        let tokens = inputs.iter().map(|input| self.loaded.tokenizer.encode_prompt(input, false));
        self.embed_tokens(tokens.collect::<Result<_, _>>()?).await
    }

    /// [`Model::embed`] of inputs that are tokens already.
    ///
    /// # Errors
    /// As [`Model::generate`]; the first that an input meets.
    pub async fn embed_tokens(&self, inputs: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, Error> {
        let mut embeddings = Vec::with_capacity(inputs.len());
        // A batch at a time, so that many inputs don't fill the queue.
        for inputs in inputs.chunks(self.handle.config().sequences_max) {
            let started = inputs.iter().map(|input| self.start_embedding(input.clone()));
            for embedding in started.collect::<Result<Vec<_>, _>>()? {
                embeddings.push(answer(embedding).await?);
            }
        }
        Ok(embeddings)
    }

    /// The `top` largest logits after each of the tokens, teacher-forced: element `i` tells what
    /// follows `tokens[..=i]`. Dropping the future cancels.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub async fn score(&self, tokens: Vec<u32>, top: usize) -> Result<Vec<Vec<(u32, f32)>>, Error> {
        self.run_score(tokens, Score::Top(top)).await
    }

    /// The natural logarithm of each token's probability after those before it, from the second token
    /// on. Dropping the future cancels.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub async fn logprobs(&self, tokens: Vec<u32>) -> Result<Vec<f32>, Error> {
        let rows = self.run_score(tokens, Score::Next).await?;
        Ok(rows.into_iter().flatten().map(|(_, logprob)| logprob).collect())
    }

    fn template(&self) -> Result<&ChatTemplate, Error> {
        let missing = || Error::Invalid(format!("model \"{}\" has no chat template", self.info.name));
        self.loaded.template.as_ref().ok_or_else(missing)
    }

    async fn run_score(&self, tokens: Vec<u32>, score: Score) -> Result<Vec<Vec<(u32, f32)>>, Error> {
        self.check_generates()?;
        self.check_prompt(&tokens)?;
        self.check_length(tokens.len(), 0)?;
        let (reply, scores) = oneshot::channel();
        self.submit(tokens, Work::Score { score, reply })?;
        answer(scores).await
    }

    fn start_embedding(&self, tokens: Vec<u32>) -> Result<oneshot::Receiver<Result<Vec<f32>, Error>>, Error> {
        self.check_prompt(&tokens)?;
        self.check_length(tokens.len(), 0)?;
        let (reply, embedding) = oneshot::channel();
        self.submit(tokens, Work::Embed { pooling: self.pooling, reply })?;
        Ok(embedding)
    }

    fn submit(&self, prompt: Vec<u32>, work: Work) -> Result<(), Error> {
        self.handle.submit(&self.loaded, self.lease.clone(), self.caller.clone(), prompt, work)
    }

    /// The tokens of a prompt as [`Model::generate`] sees them, those that the model wants first
    /// included.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are none, one is beyond the vocabulary, or the chat template
    /// refuses the messages.
    pub fn prompt_tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        let tokens = match prompt {
            Prompt::Text(text) => self.loaded.tokenizer.encode_prompt(text, false)?,
            Prompt::Messages(messages) => {
                self.loaded.tokenizer.encode_prompt(&self.render(messages)?, true)?
            }
            Prompt::Rendered(text) => self.loaded.tokenizer.encode_prompt(text, true)?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        self.check_prompt(&tokens)?;
        Ok(tokens)
    }

    fn check_prompt(&self, tokens: &[u32]) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::Invalid("prompt has no tokens".into()));
        }
        self.check_vocabulary(tokens)
    }

    fn check_generates(&self) -> Result<(), Error> {
        let ModelInfo { name, architecture, .. } = &*self.info;
        match models::generates(architecture) {
            true => Ok(()),
            false => Err(Error::Invalid(format!(
                "model \"{name}\" ({architecture}) embeds texts, it doesn't continue them"
            ))),
        }
    }

    fn check_vocabulary(&self, tokens: &[u32]) -> Result<(), Error> {
        let ModelInfo { name, vocabulary, .. } = &*self.info;
        match tokens.iter().find(|token| **token as usize >= *vocabulary) {
            Some(token) => Err(Error::Invalid(format!(
                "token {token} is not below {vocabulary}, the vocabulary of \"{name}\""
            ))),
            None => Ok(()),
        }
    }

    fn check_length(&self, prompt_tokens: usize, max_tokens: usize) -> Result<(), Error> {
        let ModelInfo { name, context_length, .. } = &*self.info;
        if prompt_tokens.saturating_add(max_tokens) > *context_length {
            let (model, context_tokens) = (name.clone(), *context_length);
            return Err(Error::TooLong { prompt_tokens, max_tokens, model, context_tokens });
        }
        Ok(())
    }
}

/// What the engine thread answers; it answers unless it was shut down.
async fn answer<T>(reply: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    reply.await.unwrap_or(Err(Error::Cancelled))
}
