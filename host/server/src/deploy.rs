//! A deploy from received bytes to a live revision.
//!
//! Bytes are hashed, compiled and described on blocking threads; the blob is synced before the row that
//! names it is committed, and only then is the deploy acknowledged. A crash in between leaves at most
//! a blob that nothing names, which the next start sweeps.

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;

use crate::{
    function::{Digest, Function, FunctionName, Manifest, Predictor, Settings},
    http::{Code, Error},
    prediction::millis,
    service::Service,
};

/// A deploy that is live on disk and in memory.
pub(crate) struct Deployment {
    pub(crate) function: Arc<Function>,
    /// False when the live revision was these bytes with these settings already.
    pub(crate) is_new: bool,
    pub(crate) timings: Timings,
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
    /// Syncing the blob and committing the revision.
    pub(crate) store: Duration,
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
    let predictor = match service.store.registry.predictor(&digest) {
        Some(known) => known,
        None => Arc::new(inspect(service, digest, upload.path().to_owned(), &mut timings).await?),
    };
    let started = Instant::now();
    let pin = blocking(move || pin.keep(upload).map(|()| pin)).await?;
    let deployed = service.store.deploy(name, predictor, settings, SystemTime::now(), pin).await?;
    timings.store = started.elapsed();
    service.release(deployed.freed);
    Ok(Deployment { function: deployed.function, is_new: deployed.is_new, timings })
}

/// Compiles a component and asks it what it is.
async fn inspect(
    service: &Service,
    digest: Digest,
    file: PathBuf,
    timings: &mut Timings,
) -> Result<Predictor, Error> {
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
    Ok(Predictor { digest, manifest })
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
        let mut fields = to.serialize_struct("Timings", 4)?;
        fields.serialize_field("upload_ms", &millis(self.upload))?;
        fields.serialize_field("compile_ms", &millis(self.compile))?;
        fields.serialize_field("describe_ms", &millis(self.describe))?;
        fields.serialize_field("store_ms", &millis(self.store))?;
        fields.end()
    }
}
