//! The components at hand: each compiled once, mapped once, and shared by whoever runs it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use sha2::{Digest, Sha256};
use wasmtime::component::Linker;

use crate::{
    Component, Config, Error, Load,
    cache::{Cache, Lookup},
    component::{self, Linked},
    host,
    state::State,
};

/// Entries of components no longer in use that may stay before they are swept.
const STALE_MAX: usize = 1024;

/// Compiles, maps and links components.
pub(crate) struct Library {
    engine: wasmtime::Engine,
    linker: Linker<State>,
    cache: Cache,
    wasm_bytes_max: usize,
    /// By digest. Holding an entry's lock is the right to load that component, so that callers of one
    /// component wait for one compilation and share its code.
    entries: Mutex<HashMap<String, Entry>>,
}

type Entry = Arc<Mutex<Weak<Linked>>>;

impl Library {
    pub(crate) fn new(config: &Config, engine: wasmtime::Engine) -> Result<Self, Error> {
        let linker = host::linker(&engine)
            .map_err(|error| Error::Host(format!("linking the host interface: {error:#}")))?;
        let cache = Cache::open(&config.cache_dir, compatibility(&engine)).map_err(|error| {
            Error::Host(format!("folder {} of compiled components: {error}", config.cache_dir.display()))
        })?;
        Ok(Self {
            engine,
            linker,
            cache,
            wasm_bytes_max: config.component_bytes_max,
            entries: Mutex::default(),
        })
    }

    /// See [`Runtime::load`](crate::Runtime::load).
    pub(crate) fn load(&self, wasm: &[u8]) -> Result<(Component, Load), Error> {
        let started = Instant::now();
        if wasm.len() > self.wasm_bytes_max {
            let (bytes, max) = (wasm.len(), self.wasm_bytes_max);
            return Err(Error::NotAPredictor(format!("it has {bytes} bytes, the limit is {max}")));
        }
        self.load_image(wasm, started)
    }

    /// Loads what was made here, so that its size has a bound already.
    pub(crate) fn load_image(&self, wasm: &[u8], started: Instant) -> Result<(Component, Load), Error> {
        component::identify(wasm)?;
        let digest = hex(&Sha256::digest(wasm));
        self.once(&digest, || {
            if let Some(component) = self.map(&digest)? {
                return Ok(Some((component, Load::Mapped(started.elapsed()))));
            }
            let component = self.compile(&digest, wasm)?;
            let took = started.elapsed();
            tracing::info!(digest, wasm_bytes = wasm.len(), ?took, "compiled a component");
            Ok(Some((component, Load::Compiled(took))))
        })
        .map(|loaded| loaded.expect("the closure always gives a component"))
    }

    /// See [`Runtime::load_cached`](crate::Runtime::load_cached).
    pub(crate) fn load_cached(&self, digest: &str) -> Result<Option<(Component, Load)>, Error> {
        let started = Instant::now();
        if !is_digest(digest) {
            return Ok(None);
        }
        self.once(digest, || {
            let component = self.map(digest)?;
            Ok(component.map(|component| (component, Load::Mapped(started.elapsed()))))
        })
    }

    /// See [`Runtime::forget`](crate::Runtime::forget).
    pub(crate) fn forget(&self, digest: &str) -> Result<(), Error> {
        if !is_digest(digest) {
            return Ok(());
        }
        self.cache.remove_all(digest).map_err(|error| cannot_remove(digest, &error))
    }

    /// Gives the component that is in use already, or loads it while nobody else does.
    fn once(
        &self,
        digest: &str,
        load: impl FnOnce() -> Result<Option<(Component, Load)>, Error>,
    ) -> Result<Option<(Component, Load)>, Error> {
        let started = Instant::now();
        let entry = self.entry(digest);
        // A compiler's panic leaves the entry as it was: empty.
        let mut entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(linked) = entry.upgrade() {
            return Ok(Some((Component { linked }, Load::Mapped(started.elapsed()))));
        }
        let loaded = load()?;
        if let Some((component, _)) = &loaded {
            *entry = Arc::downgrade(&component.linked);
        }
        Ok(loaded)
    }

    fn entry(&self, digest: &str) -> Entry {
        let mut entries = self.entries.lock().expect("no one panics while holding the entries");
        if let Some(entry) = entries.get(digest) {
            return entry.clone();
        }
        if entries.len() >= STALE_MAX && entries.len().is_power_of_two() {
            entries.retain(|_, entry| {
                // Nobody is loading it, and nobody uses it.
                Arc::strong_count(entry) > 1 || entry.try_lock().is_ok_and(|linked| linked.strong_count() > 0)
            });
        }
        entries.entry(digest.into()).or_default().clone()
    }

    /// Maps a component from the cache; a file that is no good is reported, removed and taken as absent.
    fn map(&self, digest: &str) -> Result<Option<Component>, Error> {
        let reason = match self.cache.find(digest) {
            Lookup::Hit(file) => match component::map(&self.engine, &file) {
                Ok(code) => return component::link(digest, &code, &self.linker).map(Some),
                Err(error) => format!("{error:#}"),
            },
            Lookup::Miss => return Ok(None),
            Lookup::Bad(reason) => reason,
        };
        tracing::warn!(digest, reason, "a compiled component is unusable and will be compiled again");
        self.cache.remove(digest).map_err(|error| cannot_remove(digest, &error))?;
        Ok(None)
    }

    /// Compiles bytes that are used once and not kept.
    pub(crate) fn load_once(&self, wasm: &[u8]) -> Result<Component, Error> {
        let code = component::compile(&self.engine, wasm)?;
        let code = component::copy(&self.engine, &code)
            .map_err(|error| Error::NotAPredictor(format!("it can't be loaded: {error:#}")))?;
        component::link("", &code, &self.linker)
    }

    fn compile(&self, digest: &str, wasm: &[u8]) -> Result<Component, Error> {
        let code = component::compile(&self.engine, wasm)?;
        let code = match self.cache.store(digest, &code) {
            Ok(file) => component::map(&self.engine, &file),
            Err(error) => {
                tracing::warn!(digest, %error, "a compiled component can't be kept on disk");
                component::copy(&self.engine, &code)
            }
        };
        let code = code.map_err(|error| Error::NotAPredictor(format!("it can't be loaded: {error:#}")))?;
        component::link(digest, &code, &self.linker)
    }
}

/// A hash of wasmtime's version and settings. Should the hasher change with a version of Rust, what is
/// cached is compiled again.
fn compatibility(engine: &wasmtime::Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// Only this may become part of a file's name.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn cannot_remove(digest: &str, error: &io::Error) -> Error {
    Error::Host(format!("removing compiled component {digest}: {error}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
