//! The arrays of a step, used again for the next.

use crate::{
    backend::{Batch, BlockId, Span},
    scheduler::{Plan, Scheduler},
};

/// A plan's rows in the form that a device takes.
#[derive(Debug, Default)]
pub(super) struct BatchArrays {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    spans: Vec<Span>,
    blocks: Vec<BlockId>,
}

impl BatchArrays {
    /// Replaces the arrays by those of a plan.
    pub(super) fn fill(&mut self, plan: &Plan, scheduler: &Scheduler) {
        self.tokens.clear();
        self.positions.clear();
        self.spans.clear();
        self.blocks.clear();
        for entry in &plan.entries {
            let sequence = scheduler.running(entry.id).expect("a planned sequence runs");
            let (row, block) = (self.tokens.len(), self.blocks.len());
            let range = entry.start..entry.start + entry.tokens;
            self.tokens.extend(&sequence.tokens()[range.clone()]);
            self.positions.extend(range.map(|position| position as u32));
            self.blocks.extend(sequence.blocks());
            self.spans.push(Span { rows: row..self.tokens.len(), blocks: block..self.blocks.len() });
        }
    }

    /// The step's batch.
    pub(super) fn view(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, positions: &self.positions, spans: &self.spans, blocks: &self.blocks }
    }
}
