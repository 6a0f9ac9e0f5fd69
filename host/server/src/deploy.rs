//! A deploy from received bytes to a live revision.
//!
//! Bytes are hashed, compiled and described on blocking threads; the blob is synced before the row that
//! names it is committed, and only then is the deploy acknowledged. A crash in between leaves at most
//! a blob that nothing names, which the next start sweeps.
//!
//! `setup` runs once, here, under the revision's settings, and what it leaves becomes an image that its
//! predictions start from. One that fails fails the deploy. The prefixes that it declares are computed and
//! written before the answer, too.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use dormouse_runtime::{Component, Prepared, Setup};
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::{sync::SemaphorePermit, task::spawn_blocking};

use crate::{
    function::{Digest, Effective, Function, FunctionName, Manifest, Predictor, RevisionId, Settings, Start},
    http::{Code, Error},
    prediction::millis,
    residence,
    service::Service,
    store::Pin,
};

/// A deploy that is live on disk and in memory.
pub(crate) struct Deployment {
    pub(crate) function: Arc<Function>,
    /// False when the live revision was these bytes with these settings already.
    pub(crate) is_new: bool,
    pub(crate) timings: Timings,
    /// What did not come to what was asked for, in words.
    pub(crate) warnings: Vec<String>,
}

/// How long a deploy's parts took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Timings {
    /// Receiving the bytes.
    pub(crate) upload: Duration,
    /// Compiling, or mapping what was compiled before; zero when the component is known.
    pub(crate) compile: Duration,
    /// Asking the component for its manifest and checking that.
    pub(crate) describe: Duration,
    /// Running `setup` and making an image of what it left.
    pub(crate) setup: Duration,
    /// Syncing the blob and committing the revision.
    pub(crate) store: Duration,
    /// Computing and writing its prefixes.
    pub(crate) prefill: Duration,
}

/// A place among the deploys, of which a node has so many.
pub(crate) fn admit(service: &Service) -> Result<SemaphorePermit<'_>, Error> {
    let deploys_max = service.config.deploy.deploys_max;
    let full =
        |_| Error::new(Code::Overloaded, format!("{deploys_max} deploys are under way, this node's bound"));
    service.deploys.try_acquire().map_err(full)
}

/// Makes an upload with settings the function's live revision.
pub(crate) async fn deploy(
    service: &Service,
    name: FunctionName,
    upload: NamedTempFile,
    settings: Settings,
) -> Result<Deployment, Error> {
    let mut timings = Timings::default();
    let (upload, digest) = blocking(move || Digest::of_file(upload.path()).map(|d| (upload, d))).await?;
    // From here until the commit, removing another function can't take the blob away.
    let pin = service.store.blobs.pin(&digest);
    let (predictor, component) = match service.store.registry.predictor(&digest) {
        Some(known) => (known, None),
        None => {
            let (predictor, component) =
                inspect(service, digest, upload.path().to_owned(), &mut timings).await?;
            (Arc::new(predictor), Some(component))
        }
    };
    let started = Instant::now();
    let (start, image) = match live_start(service, &name, &predictor, &settings) {
        Some(start) => {
            let pin = start.image().map(|image| service.store.blobs.pin(image));
            (start, pin)
        }
        None => prepare(service, &predictor, &settings, component, upload.path().to_owned()).await?,
    };
    timings.setup = started.elapsed();
    residence::check_prefixes(service, &predictor.manifest, &settings).await?;
    let effective = settings.resolve(&predictor.manifest, &service.config);
    let started = Instant::now();
    let pin = blocking(move || pin.keep(upload).map(|()| pin)).await?;
    let pins = [Some(pin), image].into_iter().flatten().collect();
    let deployed = service.store.deploy(name, predictor, settings, start, SystemTime::now(), pins).await?;
    timings.store = started.elapsed();
    service.release(deployed.freed);
    let started = Instant::now();
    if deployed.is_new {
        residence::apply(service).await;
    }
    // Also when nothing is new: the model may have come since.
    let warnings = residence::keep_prefixes(service, &effective).await;
    timings.prefill = started.elapsed();
    Ok(Deployment { function: deployed.function, is_new: deployed.is_new, timings, warnings })
}

/// Compiles a component and asks it what it is.
async fn inspect(
    service: &Service,
    digest: Digest,
    file: PathBuf,
    timings: &mut Timings,
) -> Result<(Predictor, Component), Error> {
    let started = Instant::now();
    let (component, _) = service.components.compile(move || fs::read(file)).await?;
    timings.compile = started.elapsed();
    let started = Instant::now();
    let limits = dormouse_runtime::Limits {
        timeout: service.config.deploy.describe_timeout,
        memory_bytes: service.config.predict.memory_bytes,
        ..dormouse_runtime::Limits::default()
    };
    let manifest = match service.runtime.describe(&component, &limits).await {
        Ok(manifest) => manifest,
        Err(error @ (dormouse_runtime::Error::Host(_) | dormouse_runtime::Error::Busy { .. })) => {
            return Err(error.into());
        }
        Err(error) => return Err(invalid_component(format!("describe: {error}"))),
    };
    let bounds = service.config.deploy.clone();
    // A large schema takes a while to check.
    let manifest = spawn_blocking(move || Manifest::read(manifest, &bounds)).await;
    let manifest = manifest.map_err(Error::internal)?.map_err(invalid_component)?;
    timings.describe = started.elapsed();
    Ok((Predictor { digest, manifest }, component))
}

/// How the live revision begins, if this deploy is the same.
fn live_start(
    service: &Service,
    name: &FunctionName,
    predictor: &Predictor,
    settings: &Settings,
) -> Option<Arc<Start>> {
    let function = service.store.registry.find(name.as_str())?;
    let live = function.live();
    let is_same = live.id == RevisionId::of(&predictor.digest, settings);
    (is_same && live.start.was_tried(&live.effective)).then(|| live.start.clone())
}

/// Finds what `setup` came to for another revision, or runs it and makes an image. The pin is the
/// image's.
async fn prepare(
    service: &Service,
    predictor: &Predictor,
    settings: &Settings,
    component: Option<Component>,
    file: PathBuf,
) -> Result<(Arc<Start>, Option<Pin>), Error> {
    let effective = settings.resolve(&predictor.manifest, &service.config);
    let blobs = &service.store.blobs;
    let known = service.store.registry.start(&Start::key(&predictor.digest, &effective));
    if let Some(start) = known.filter(|start| start.was_tried(&effective)) {
        let Some(image) = start.image().cloned() else { return Ok((start, None)) };
        let pin = blobs.pin(&image);
        let looked_for = blobs.clone();
        if blocking(move || Ok(looked_for.has(&image))).await? {
            return Ok((start, Some(pin)));
        }
    }
    if let Some(model) = service.missing_models(&effective.models).await.first() {
        return Ok((Arc::new(Start::without(model)), None));
    }
    service.check_fit(&effective.models).await?;
    let wasm: Arc<[u8]> = blocking(move || fs::read(file)).await?.into();
    let component = match component {
        Some(component) => component,
        None => {
            let wasm = wasm.clone();
            service.components.compile(move || Ok(wasm.to_vec())).await?.0
        }
    };
    match service.runtime.prepare(&component, wasm, setup_of(service, &effective)).await {
        Ok(Prepared::Image { wasm, .. }) => {
            let blobs = blobs.clone();
            let kept = blocking(move || {
                let digest = Digest::of(&wasm);
                let pin = blobs.pin(&digest);
                let mut upload = blobs.upload()?;
                upload.write_all(&wasm)?;
                pin.keep(upload).map(|()| (digest, pin))
            });
            let (digest, pin) = kept.await?;
            Ok((Arc::new(Start::Image(digest)), Some(pin)))
        }
        Ok(Prepared::AtStart { reason, .. }) => Ok((Arc::new(Start::Setup(reason)), None)),
        Err(error @ (dormouse_runtime::Error::Host(_) | dormouse_runtime::Error::Busy { .. })) => {
            Err(error.into())
        }
        Err(error) => Err(invalid_component(error.to_string())),
    }
}

fn setup_of(service: &Service, effective: &Effective) -> Setup {
    let limits =
        dormouse_runtime::Limits { timeout: service.config.deploy.setup_timeout, ..effective.limits.clone() };
    Setup { limits, models: effective.models.clone(), env: effective.env.clone() }
}

fn invalid_component(message: String) -> Error {
    Error::new(Code::InvalidComponent, message)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = spawn_blocking(work).await.map_err(Error::internal)?;
    done.map_err(|error| Error::internal(format!("blob: {error}")))
}

impl Serialize for Timings {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = to.serialize_struct("Timings", 6)?;
        fields.serialize_field("upload_ms", &millis(self.upload))?;
        fields.serialize_field("compile_ms", &millis(self.compile))?;
        fields.serialize_field("describe_ms", &millis(self.describe))?;
        fields.serialize_field("setup_ms", &millis(self.setup))?;
        fields.serialize_field("store_ms", &millis(self.store))?;
        fields.serialize_field("prefill_ms", &millis(self.prefill))?;
        fields.end()
    }
}
