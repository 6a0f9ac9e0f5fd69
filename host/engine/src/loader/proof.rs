//! Proof that a woken model is the one that slept: what it says is what it said when it was first awake.
//!
//! Checksums see a file that changed since it was written; this sees one that was written wrong, and
//! memory that went bad. It costs a few tokens at each wake, so it is asked for (`residency.probe`).

use super::{Asleep, Loader, Move};
use crate::{
    Config, Error,
    residency::DeviceId,
    worker::{Cached, Parts, Resident, probe},
};

impl Loader {
    /// A prepared model that says what it said before. One that doesn't is made from its own file again,
    /// without its ready image.
    pub(super) fn proven(
        &mut self,
        wake: &Move<'_>,
        device: DeviceId,
        asleep: Asleep,
    ) -> Result<Asleep, Error> {
        let digest = &wake.origin.digest;
        let Some(layout) = self.makers[device.0].layout() else { return Ok(asleep) };
        let (asleep, said) = probed(asleep, &self.config)?;
        let kind = asleep.network.cache_layout().unwrap_or_default();
        let stored = self.store.proof(digest, &layout, &kind);
        if stored.as_ref() == Some(&said) {
            return Ok(asleep);
        }
        let (asleep, said) = match stored {
            None => (asleep, said),
            Some(_) => {
                let reason =
                    "it says something else than it did; its ready image is discarded and made again";
                tracing::warn!(model = %wake.origin.source, reason, "a woken model is not what it was");
                drop(asleep);
                if self.writer.is_writing(digest) {
                    self.writer.stop();
                }
                self.store.remove_images(digest).map_err(|error| {
                    Error::Failed(format!("can't remove the ready image of {}: {error}", wake.origin.source))
                })?;
                let mut again = self.load(wake, device)?;
                again.network.prepare()?;
                probed(again, &self.config)?
            }
        };
        if let Err(error) = self.store.write_proof(digest, &layout, &kind, &said) {
            tracing::warn!(model = %wake.origin.source, %error, "can't keep what a model says");
        }
        Ok(asleep)
    }
}

/// A prepared model, and what it says.
fn probed(asleep: Asleep, config: &Config) -> Result<(Asleep, Vec<u32>), Error> {
    let Asleep { loaded, network, capacity } = asleep;
    let mut resident = Resident::new(loaded.clone(), network, capacity, Cached::default(), config);
    let said = probe(&mut resident)?;
    let Parts { network, capacity, .. } = resident.into_parts();
    Ok((Asleep { loaded, network, capacity }, said))
}
