//! Components that are ready to run, by digest: mapped on first use, the least recently used let go.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dormouse_runtime::{Component, Load, Runtime};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    function::{Digest, InputSchema, Predictor, Revision, Start},
    store::Blobs,
};

/// A component and the schema that its inputs are checked against.
pub(crate) struct Ready {
    pub(crate) component: Component,
    pub(crate) input: InputSchema,
}

/// Where a component's code came from for one prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ColdStart {
    /// It was at hand.
    #[default]
    None,
    /// It was mapped from the cache.
    Mapped,
    /// It was compiled.
    Compiled,
}

/// The components at hand; cloning shares them.
#[derive(Clone)]
pub(crate) struct Components {
    runtime: Runtime,
    blobs: Blobs,
    slots: Arc<Mutex<LruCache<Digest, Slot>>>,
}

/// What makes a component of its bytes.
type Loader = fn(&Runtime, &[u8]) -> Result<(Component, Load), dormouse_runtime::Error>;

/// A component that is being loaded by one task for all who want it, or has been.
type Slot = Shared<BoxFuture<'static, Result<(Arc<Ready>, ColdStart), dormouse_runtime::Error>>>;

impl Components {
    /// At most `components_max` stay at hand.
    pub(crate) fn new(runtime: Runtime, blobs: Blobs, components_max: usize) -> Self {
        let components_max = NonZeroUsize::new(components_max).unwrap_or(NonZeroUsize::MIN);
        Self { runtime, blobs, slots: Arc::new(Mutex::new(LruCache::new(components_max))) }
    }

    /// A revision's component, or its image, loaded if need be; tells how and for how long the caller
    /// waited for that. Dropping the future leaves the loading to go on.
    pub(crate) async fn get(
        &self,
        revision: &Revision,
    ) -> Result<(Arc<Ready>, ColdStart, Duration), dormouse_runtime::Error> {
        let key = revision.start.image().unwrap_or(&revision.predictor.digest);
        let slot = {
            let mut slots = self.slots.lock().expect("no panic holds this lock");
            match slots.get(key) {
                Some(slot) => slot.clone(),
                None => {
                    let slot = self.load(key.clone(), revision.predictor.clone(), revision.start.clone());
                    slots.put(key.clone(), slot.clone());
                    slot
                }
            }
        };
        if let Some(Ok((ready, _))) = slot.peek() {
            return Ok((ready.clone(), ColdStart::None, Duration::ZERO));
        }
        let started = Instant::now();
        let (ready, cold) = slot.await?;
        Ok((ready, cold, started.elapsed()))
    }

    /// Compiles a component, or maps it when it was compiled before. Its bytes are read when its turn
    /// has come, so that few are in memory at once.
    pub(crate) async fn compile(
        &self,
        read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static,
    ) -> Result<(Component, Load), dormouse_runtime::Error> {
        let _turn = self.runtime.compile_turn().await;
        let runtime = self.runtime.clone();
        blocking(move || {
            let wasm = read().map_err(|error| dormouse_runtime::Error::Host(format!("blob: {error}")))?;
            runtime.load(&wasm)
        })
        .await
    }

    /// Lets go of a component that no function has any more.
    pub(crate) fn forget(&self, digest: &Digest) {
        self.slots.lock().expect("no panic holds this lock").pop(digest);
    }

    /// Number of components at hand.
    pub(crate) fn len(&self) -> usize {
        self.slots.lock().expect("no panic holds this lock").len()
    }

    /// Starts loading in a task of its own, so that whoever asked first may leave.
    fn load(&self, key: Digest, predictor: Arc<Predictor>, start: Arc<Start>) -> Slot {
        let this = self.clone();
        let task = tokio::spawn(async move {
            let loaded = this.load_now(&predictor, &start).await;
            if loaded.is_err() {
                // The next caller tries again.
                this.forget(&key);
            }
            loaded
        });
        async move { task.await.unwrap_or_else(|ended| Err(dormouse_runtime::Error::Host(ended.to_string()))) }
            .boxed()
            .shared()
    }

    async fn load_now(
        &self,
        predictor: &Arc<Predictor>,
        start: &Start,
    ) -> Result<(Arc<Ready>, ColdStart), dormouse_runtime::Error> {
        let image = match start.image() {
            Some(image) => self.load_image(image).await,
            None => None,
        };
        let (component, load) = match image {
            Some(image) => image,
            None => self.load_blob(&predictor.digest, Runtime::load).await?,
        };
        let input = InputSchema::compile(&predictor.manifest.input).map_err(dormouse_runtime::Error::Host)?;
        let cold = match load {
            Load::Mapped(_) => ColdStart::Mapped,
            Load::Compiled(_) => ColdStart::Compiled,
        };
        Ok((Arc::new(Ready { component, input }), cold))
    }

    /// Maps what was compiled before; else reads the blob and compiles it when its turn has come.
    async fn load_blob(
        &self,
        digest: &Digest,
        load: Loader,
    ) -> Result<(Component, Load), dormouse_runtime::Error> {
        let (runtime, key) = (self.runtime.clone(), digest.clone());
        if let Some(cached) = blocking(move || runtime.load_cached(key.as_str())).await? {
            return Ok(cached);
        }
        let _turn = self.runtime.compile_turn().await;
        let (runtime, blobs, key) = (self.runtime.clone(), self.blobs.clone(), digest.clone());
        blocking(move || {
            let wasm =
                blobs.read(&key).map_err(|error| dormouse_runtime::Error::Host(format!("blob: {error}")))?;
            load(&runtime, &wasm)
        })
        .await
    }

    /// An image; without it `setup` runs again, so that what is wrong with one is for the log.
    async fn load_image(&self, digest: &Digest) -> Option<(Component, Load)> {
        match self.load_blob(digest, Runtime::load_image).await {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                tracing::warn!(%digest, %error, "an image can't be loaded; setup runs at the start instead");
                None
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, dormouse_runtime::Error> + Send + 'static,
) -> Result<T, dormouse_runtime::Error> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|ended| Err(dormouse_runtime::Error::Host(ended.to_string())))
}
