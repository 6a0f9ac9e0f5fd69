//! Interface `llm`: models that live in the host. A call checks what the function may use, hands over
//! to the engine, and waits for it on the instance's own stack.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use dormouse_engine::{self as engine, Caller, Completion, Engine, KeepAlive, Model, Open, Phase, Tier};
use tokio::{runtime::Handle, sync::oneshot};
use wasmtime::component::{HasData, Resource, ResourceTable, ResourceTableError};

use super::convert;
use crate::{
    Limits, Metrics, Wake,
    bindings::dormouse::predictor::llm::{self, Host, HostCompletion, HostModel},
    outbox::Outbox,
    state::{Grants, State},
};

/// Least time between two tellings of a wake's progress.
const WAKE_INTERVAL: Duration = Duration::from_millis(100);
/// Text up to this long is tokenized (at some MB/s) on the instance's own thread; more would hold the
/// thread longer than a scheduling tick.
const INLINE_BYTES_MAX: usize = 8 << 10;
/// Opened models whose names are remembered.
const OPENED_MAX: usize = 1024;
/// A token id, as charged against `prompt_bytes`.
const TOKEN_BYTES: usize = size_of::<u32>();

/// What one instance may do with models, and what it has done.
pub(crate) struct Models {
    engine: Engine,
    caller: Caller,
    outbox: Outbox,
    declared: Arc<[String]>,
    keep_alive: Option<KeepAlive>,
    prompt_bytes_max: usize,
    embed_inputs_max: usize,
    completions_max: usize,
    account: Arc<Account>,
}

impl Models {
    pub(crate) fn new(engine: Engine, grants: &Grants, outbox: Outbox) -> Self {
        let limits: &Limits = &grants.limits;
        Self {
            engine,
            caller: grants.caller.clone(),
            outbox,
            declared: grants.models.clone(),
            keep_alive: grants.keep_alive,
            prompt_bytes_max: limits.prompt_bytes,
            embed_inputs_max: limits.embed_inputs_max,
            completions_max: limits.completions_max,
            account: Arc::default(),
        }
    }

    /// What the completions cost; complete when the store is gone.
    pub(crate) fn account(&self) -> Arc<Account> {
        self.account.clone()
    }

    /// Opens a model; while it wakes, the caller is told how far that is.
    async fn open(&self, name: &str) -> Result<Model, Fault> {
        let mut residency = self.engine.watch_residency();
        let open = Open { keep_alive: self.keep_alive, ..Open::default() };
        let mut opened = pin!(self.engine.open_with(name, open));
        let mut told = None;
        loop {
            tokio::select! {
                biased;
                model = &mut opened => {
                    let model = model?;
                    if model.woken_from() != Tier::Awake && told.is_none() {
                        // It went faster than its news.
                        self.outbox.wake(woken(&model));
                        self.outbox.flush().await.map_err(|stop| Fault::Host(stop.into()))?;
                    }
                    return Ok(model);
                }
                Ok(()) = residency.changed() => {}
            }
            let Some(wake) = Wake::of(&residency.borrow_and_update(), name) else { continue };
            let is_news = told
                .is_none_or(|(phase, at): (_, Instant)| phase != wake.phase || at.elapsed() >= WAKE_INTERVAL);
            if is_news {
                told = Some((wake.phase, Instant::now()));
                self.outbox.wake(wake);
                self.outbox.flush().await.map_err(|stop| Fault::Host(stop.into()))?;
            }
        }
    }

    fn check_bytes(&self, what: &str, bytes: usize) -> Result<(), Fault> {
        let max = self.prompt_bytes_max;
        if bytes > max {
            return Err(Fault::invalid(format!("{what} has {bytes} bytes, the limit is {max}")));
        }
        Ok(())
    }
}

/// The cost of an instance's completions, added up as each is dropped.
#[derive(Default)]
pub(crate) struct Account(Mutex<Cost>);

#[derive(Default)]
struct Cost {
    completions_open: usize,
    /// Names of models in the order in which they were opened.
    opened: Vec<String>,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    wake: Duration,
    woken_from: Option<Tier>,
    device: Duration,
}

impl Account {
    /// Writes the sums into an invocation's metrics.
    pub(crate) fn report(&self, metrics: &mut Metrics) {
        let cost = self.cost();
        metrics.prompt_tokens = cost.prompt_tokens;
        metrics.cached_tokens = cost.cached_tokens;
        metrics.completion_tokens = cost.completion_tokens;
        metrics.wake = cost.wake;
        metrics.woken_from = cost.woken_from;
        metrics.device = cost.device;
    }

    /// Names of the first models that were opened, in order.
    pub(crate) fn opened(&self) -> Vec<String> {
        self.cost().opened.clone()
    }

    fn cost(&self) -> MutexGuard<'_, Cost> {
        self.0.lock().expect("no one panics while holding the account")
    }
}

/// A completion that the guest holds. Dropping it cancels the completion and books its cost.
#[expect(unreachable_pub, reason = "the generated module re-exports it, which takes `pub`")]
pub struct Running {
    completion: Completion,
    account: Arc<Account>,
}

impl Running {
    fn new(completion: Completion, account: Arc<Account>) -> Self {
        account.cost().completions_open += 1;
        Self { completion, account }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let usage = self.completion.usage();
        let mut cost = self.account.cost();
        cost.completions_open -= 1;
        cost.prompt_tokens += u64::from(usage.prompt_tokens);
        cost.cached_tokens += u64::from(usage.cached_tokens);
        cost.completion_tokens += u64::from(usage.completion_tokens);
        cost.wake = cost.wake.max(usage.wake);
        cost.device += usage.device;
    }
}

/// A call's view of the store.
pub(crate) struct Llm<'a> {
    models: &'a Models,
    table: &'a mut ResourceTable,
}

impl State {
    pub(crate) fn llm(&mut self) -> Llm<'_> {
        Llm { models: &self.models, table: &mut self.table }
    }
}

/// Marks [`Llm`] as the data of the interface's functions.
pub(crate) struct HasLlm;

impl HasData for HasLlm {
    type Data<'a> = Llm<'a>;
}

impl Host for Llm<'_> {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<llm::Error> {
        match fault {
            Fault::Guest(error) => Ok(error),
            Fault::Host(error) => Err(error),
        }
    }
}

impl HostModel for Llm<'_> {
    async fn open(&mut self, name: String) -> Result<Resource<Model>, Fault> {
        if !self.models.declared.contains(&name) {
            return Err(Fault::Guest(llm::Error::UnknownModel(format!(
                "model \"{name}\" is not declared by this function; name it in the manifest's models"
            ))));
        }
        let model = self.models.open(&name).await?.on_behalf_of(self.models.caller.clone());
        let (wake, woken_from) = (model.wake(), model.woken_from());
        let handle = self.table.push(model)?;
        let mut cost = self.models.account.cost();
        cost.wake = cost.wake.max(wake);
        cost.woken_from = cost.woken_from.max(Some(woken_from));
        if cost.opened.len() < OPENED_MAX {
            cost.opened.push(name);
        }
        drop(cost);
        Ok(handle)
    }

    fn info(&mut self, model: Resource<Model>) -> wasmtime::Result<llm::ModelInfo> {
        Ok(convert::model_info(self.table.get(&model)?.info()))
    }

    async fn tokenize(&mut self, model: Resource<Model>, text: String) -> Result<Vec<u32>, Fault> {
        self.models.check_bytes("text", text.len())?;
        let model = self.table.get(&model)?.clone();
        tokenizing(text.len(), move || model.tokenize(&text, false)).await
    }

    async fn tokenize_rendered(&mut self, model: Resource<Model>, text: String) -> Result<Vec<u32>, Fault> {
        self.models.check_bytes("text", text.len())?;
        let model = self.table.get(&model)?.clone();
        tokenizing(text.len(), move || model.tokenize(&text, true)).await
    }

    async fn render(&mut self, model: Resource<Model>, messages: Vec<llm::Message>) -> Result<String, Fault> {
        let bytes = message_bytes(&messages);
        self.models.check_bytes("chat", bytes)?;
        let model = self.table.get(&model)?.clone();
        let messages = convert::messages(messages);
        tokenizing(bytes, move || model.render(&messages)).await
    }

    async fn detokenize(&mut self, model: Resource<Model>, tokens: Vec<u32>) -> Result<String, Fault> {
        let bytes = tokens.len() * TOKEN_BYTES;
        self.models.check_bytes("token list", bytes)?;
        let model = self.table.get(&model)?.clone();
        tokenizing(bytes, move || model.detokenize(&tokens)).await
    }

    async fn generate(
        &mut self,
        model: Resource<Model>,
        request: llm::Request,
    ) -> Result<Resource<Running>, Fault> {
        let bytes = request_bytes(&request);
        self.models.check_bytes("request", bytes)?;
        let (open, max) = (self.models.account.cost().completions_open, self.models.completions_max);
        if open >= max {
            return Err(Fault::invalid(format!("{open} completions are open, the limit is {max}")));
        }
        let model = self.table.get(&model)?.clone();
        let request = convert::request(request);
        let completion = tokenizing(bytes, move || model.generate(request)).await?;
        Ok(self.table.push(Running::new(completion, self.models.account()))?)
    }

    async fn embed(&mut self, model: Resource<Model>, inputs: Vec<String>) -> Result<Vec<Vec<f32>>, Fault> {
        let (count, max) = (inputs.len(), self.models.embed_inputs_max);
        if count > max {
            return Err(Fault::invalid(format!("{count} inputs to embed, the limit is {max}")));
        }
        let bytes = inputs.iter().map(String::len).sum();
        self.models.check_bytes("embedding input", bytes)?;
        embed(self.table.get(&model)?.clone(), inputs, bytes).await
    }

    async fn drop(&mut self, model: Resource<Model>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        Ok(())
    }
}

impl HostCompletion for Llm<'_> {
    async fn next(&mut self, running: Resource<Running>) -> Result<Option<llm::Chunk>, Fault> {
        let chunk = self.table.get_mut(&running)?.completion.next().await?;
        Ok(chunk.map(convert::chunk))
    }

    fn finish(&mut self, running: Resource<Running>) -> wasmtime::Result<Option<llm::Finish>> {
        Ok(self.table.get(&running)?.completion.finish().map(convert::finish))
    }

    fn usage(&mut self, running: Resource<Running>) -> wasmtime::Result<llm::Usage> {
        Ok(convert::usage(self.table.get(&running)?.completion.usage()))
    }

    async fn drop(&mut self, running: Resource<Running>) -> wasmtime::Result<()> {
        self.table.delete(running)?;
        Ok(())
    }
}

/// What there is to tell of a wake that is over.
fn woken(model: &Model) -> Wake {
    let info = model.info();
    Wake {
        model: info.name.clone(),
        phase: Phase::Preparing,
        from: model.woken_from(),
        bytes: info.weights_bytes,
        bytes_total: info.weights_bytes,
        remaining: Some(Duration::ZERO),
    }
}

/// Everything in a request that a guest decides the size of.
fn request_bytes(request: &llm::Request) -> usize {
    let prompt = match &request.prompt {
        llm::Prompt::Text(text) => text.len(),
        llm::Prompt::Messages(messages) => message_bytes(messages),
        llm::Prompt::Tokens(tokens) => tokens.len() * TOKEN_BYTES,
    };
    let stop: usize = request.stop.iter().map(String::len).sum();
    prompt + stop + request.format.as_ref().map_or(0, String::len)
}

fn message_bytes(messages: &[llm::Message]) -> usize {
    messages.iter().map(|message| message.role.len() + message.content.len()).sum()
}

/// Runs what tokenizes `bytes` of text, off the async workers where that takes long.
async fn tokenizing<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, engine::Error> + Send + 'static,
) -> Result<T, Fault> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(work()?);
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(lost) => Err(Fault::Guest(llm::Error::Failed(format!("tokenizing: {lost}")))),
    }
}

/// Embeds inputs of `bytes` in all. As the engine tokenizes them between waits, all of it runs off the
/// async workers where there is much; dropping the future still ends it.
async fn embed(model: Model, inputs: Vec<String>, bytes: usize) -> Result<Vec<Vec<f32>>, Fault> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(model.embed(inputs).await?);
    }
    let (_wanted, unwanted) = oneshot::channel::<()>();
    let runtime = Handle::current();
    tokenizing(bytes, move || {
        runtime.block_on(async {
            tokio::select! {
                embeddings = model.embed(inputs) => embeddings,
                _ = unwanted => Err(engine::Error::Cancelled),
            }
        })
    })
    .await
}

/// Why a call failed: something to tell the guest, or something that ends it.
pub(crate) enum Fault {
    Guest(llm::Error),
    Host(wasmtime::Error),
}

impl Fault {
    fn invalid(reason: String) -> Self {
        Self::Guest(llm::Error::Invalid(reason))
    }
}

impl From<engine::Error> for Fault {
    fn from(error: engine::Error) -> Self {
        Self::Guest(convert::error(error))
    }
}

impl From<ResourceTableError> for Fault {
    fn from(error: ResourceTableError) -> Self {
        match error {
            ResourceTableError::Full => Self::invalid("too many handles are open".into()),
            error => Self::Host(error.into()),
        }
    }
}
