//! Which device a model wakes on, and what it may have there.

use std::cmp::Reverse;

use super::{DeviceId, Footprint, Machine, Model, ModelKey, Refusal};

impl Machine {
    /// [`Refusal::TooLarge`] for a model of these footprints that no device could ever hold beside those that are
    /// pinned there.
    pub(crate) fn check_size(&self, footprints: &[Footprint]) -> Result<(), Refusal> {
        let fits = |device| self.check_fit(footprints, device, None);
        let results: Vec<_> = self.devices().map(fits).collect();
        match results.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(self.nearest(results)),
        }
    }

    /// The same for a model that is known: one that has memory already needs that much where it is.
    pub(crate) fn check_size_of(&self, key: ModelKey) -> Result<(), Refusal> {
        self.place(key, &[]).map(drop)
    }

    fn devices(&self) -> impl Iterator<Item = DeviceId> {
        (0..self.bounds.devices.len()).map(DeviceId)
    }

    fn check_fit(
        &self,
        footprints: &[Footprint],
        device: DeviceId,
        except: Option<ModelKey>,
    ) -> Result<(), Refusal> {
        let pinned = |(index, model): &(usize, &Model)| {
            model.pinned && model.device == device && except != Some(ModelKey(*index))
        };
        let pinned = self.models.iter().enumerate().filter(pinned);
        let pinned_bytes: u64 = pinned.map(|(_, model)| model.footprints[device.0].awake_bytes).sum();
        let wanted_bytes = footprints[device.0].awake_bytes;
        let memory_bytes_max = self.bounds.devices[device.0].memory_bytes_max;
        match pinned_bytes.saturating_add(wanted_bytes) <= memory_bytes_max {
            true => Ok(()),
            false => Err(Refusal::TooLarge { device, wanted_bytes, pinned_bytes, memory_bytes_max }),
        }
    }

    /// Of refusals by all devices, the one of the largest.
    fn nearest(&self, refusals: Vec<Result<(), Refusal>>) -> Refusal {
        let refusals = refusals.into_iter().filter_map(Result::err).enumerate();
        let largest =
            refusals.max_by_key(|(index, _)| (self.bounds.devices[*index].memory_bytes_max, Reverse(*index)));
        largest.expect("there is a device").1
    }

    /// Where a model wakes: where it has memory or is pinned, or else where it fits best, and on `taken` devices,
    /// which others wait for, only if there are none but them; where it has just failed to wake, after all others.
    pub(super) fn place(&self, key: ModelKey, taken: &[DeviceId]) -> Result<DeviceId, Refusal> {
        let model = &self.models[key.0];
        let fits = |device| self.check_fit(&model.footprints, device, Some(key));
        if model.charge() > 0 || model.pinned {
            return fits(model.device).map(|()| model.device);
        }
        let results: Vec<_> = self.devices().map(fits).collect();
        let holding = self.devices().filter(|device| results[device.0].is_ok());
        let best = holding.min_by_key(|&device| {
            let last = (model.failed_on == Some(device), self.bounds.devices[device.0].is_fallback);
            let missing = self.short(key, device).saturating_sub(self.coming(device));
            let (used, max) = self.memory_of(device);
            (last, taken.contains(&device), missing, Reverse(max - used), device)
        });
        best.ok_or_else(|| self.nearest(results))
    }

    /// Bytes that a device lacks for a model to be awake there.
    pub(super) fn short(&self, key: ModelKey, device: DeviceId) -> u64 {
        let model = &self.models[key.0];
        let (used, max) = self.memory_of(device);
        let own = if model.device == device { model.charge() } else { 0 };
        (used + model.footprints[device.0].awake_bytes - own).saturating_sub(max)
    }

    /// Bytes that actions in flight will free on a device.
    pub(super) fn coming(&self, device: DeviceId) -> u64 {
        self.models.iter().filter(|model| model.device == device).map(Model::coming).sum()
    }

    /// Bytes that models have in a device's memory, and their bound.
    pub(crate) fn memory_of(&self, device: DeviceId) -> (u64, u64) {
        let models = self.models.iter().filter(|model| model.device == device);
        (models.map(Model::charge).sum(), self.bounds.devices[device.0].memory_bytes_max)
    }
}
