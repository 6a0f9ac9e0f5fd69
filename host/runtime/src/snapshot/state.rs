//! What an instance holds after `setup`.

use std::collections::BTreeMap;

use super::handles::Held;

/// A page of linear memory.
pub(super) const PAGE_BYTES: u64 = 64 << 10;

/// State of a component's modules, by index, and of its handles, by number.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) modules: BTreeMap<u32, ModuleState>,
    pub(super) handles: BTreeMap<u32, Held>,
}

#[derive(Debug, Default)]
pub(super) struct ModuleState {
    /// For each memory that it defines.
    pub(super) memories: Vec<MemoryState>,
    /// Bits of the globals that it defines and that can change, by their place among those it defines.
    pub(super) globals: BTreeMap<usize, u64>,
}

#[derive(Debug, Default)]
pub(super) struct MemoryState {
    pub(super) bytes: u64,
    /// Where it is not zero: address and content, in order, no two of them adjoining.
    pub(super) parts: Vec<(u64, Vec<u8>)>,
}

impl MemoryState {
    /// Adds the next page.
    pub(super) fn add(&mut self, page: &[u8]) {
        let at = self.bytes;
        self.bytes += page.len() as u64;
        let Some(first) = page.iter().position(|byte| *byte != 0) else { return };
        let end = page.iter().rposition(|byte| *byte != 0).map_or(page.len(), |last| last + 1);
        let start = at + first as u64;
        match self.parts.last_mut() {
            Some((before, content)) if *before + content.len() as u64 == start => {
                content.extend_from_slice(&page[first..end]);
            }
            _ => self.parts.push((start, page[first..end].to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_is_kept_without_the_zeros_around_it() {
        let mut memory = MemoryState::default();
        memory.add(&[0, 0, 1, 0, 2, 0]);
        memory.add(&[0; 6]);
        memory.add(&[0, 0, 0, 0, 0, 3]);
        memory.add(&[4, 0, 0, 0, 0, 0]);
        assert_eq!(memory.bytes, 24);
        assert_eq!(memory.parts, [(2, vec![1, 0, 2]), (17, vec![3, 4])]);
    }
}
