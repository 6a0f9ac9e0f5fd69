//! How much memory an instance holds, and how much it may.

use wasmtime::ResourceLimiter;

/// A table element is a pointer.
const ELEMENT_BYTES: usize = size_of::<usize>();
/// Core instances, memories and tables of one store; a CPython component has some 20 of each.
const PARTS_MAX: usize = 256;

/// Meters the linear memories and tables of one store, which only ever grow.
#[derive(Debug)]
pub(crate) struct MemoryMeter {
    limit_bytes: usize,
    memory_bytes: usize,
    table_bytes: usize,
    /// What was granted last, to take back if the allocator then fails.
    granted: Growth,
    /// What the last refused growth would have made it, until another succeeds.
    refused_bytes: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Growth {
    Memory(usize),
    Table(usize),
}

impl MemoryMeter {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, memory_bytes: 0, table_bytes: 0, granted: Growth::Memory(0), refused_bytes: None }
    }

    /// The limit on memories and tables together.
    pub(crate) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Size of the linear memories, which is also the largest they ever were.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// The size that was refused, if the guest has not got by with less since.
    pub(crate) fn refused_bytes(&self) -> Option<usize> {
        self.refused_bytes
    }

    fn grow(&mut self, growth: Growth) -> bool {
        let (Growth::Memory(bytes) | Growth::Table(bytes)) = growth;
        let wanted_bytes = (self.memory_bytes + self.table_bytes).saturating_add(bytes);
        if wanted_bytes > self.limit_bytes {
            self.refused_bytes = Some(wanted_bytes);
            return false;
        }
        match growth {
            Growth::Memory(bytes) => self.memory_bytes += bytes,
            Growth::Table(bytes) => self.table_bytes += bytes,
        }
        self.refused_bytes = None;
        self.granted = growth;
        true
    }

    fn take_back(&mut self) {
        match std::mem::replace(&mut self.granted, Growth::Memory(0)) {
            Growth::Memory(bytes) => self.memory_bytes -= bytes,
            Growth::Table(bytes) => self.table_bytes -= bytes,
        }
    }
}

/// A refusal is the wasm instruction's -1, which a guest may handle; most abort.
impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(Growth::Memory(desired.saturating_sub(current))))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(Growth::Table(desired.saturating_sub(current).saturating_mul(ELEMENT_BYTES))))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(meter: &mut MemoryMeter, from: usize, to: usize) -> bool {
        meter.memory_growing(from, to, None).unwrap()
    }

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut meter = MemoryMeter::new(1000);
        assert!(grow(&mut meter, 0, 600));
        assert!(meter.table_growing(0, 50, None).unwrap(), "600 + 50 * 8 is the limit");
        assert!(!meter.table_growing(50, 51, None).unwrap());
        assert_eq!(meter.refused_bytes(), Some(1008));
        assert_eq!(meter.memory_bytes(), 600);
    }

    #[test]
    fn getting_by_with_less_clears_a_refusal() {
        let mut meter = MemoryMeter::new(1000);
        assert!(!grow(&mut meter, 0, 2000));
        assert_eq!(meter.refused_bytes(), Some(2000));
        assert!(grow(&mut meter, 0, 10));
        assert_eq!(meter.refused_bytes(), None);
    }

    #[test]
    fn growth_that_fails_after_all_is_not_counted() {
        let mut meter = MemoryMeter::new(1000);
        assert!(grow(&mut meter, 0, 900));
        meter.memory_grow_failed(wasmtime::Error::msg("no pages")).unwrap();
        assert_eq!(meter.memory_bytes(), 0);
        assert!(grow(&mut meter, 0, 1000));
    }
}
