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
    generated: usize,
}

impl BatchArrays {
    /// Replaces the arrays by those of a plan.
    pub(super) fn fill(&mut self, plan: &Plan, scheduler: &Scheduler) {
        self.tokens.clear();
        self.positions.clear();
        self.spans.clear();
        self.blocks.clear();
        self.generated = plan.generated;
        for entry in &plan.entries {
            let sequence = scheduler.running(entry.id).expect("a planned sequence runs");
            let (row, block) = (self.tokens.len(), self.blocks.len());
            let end = entry.start + entry.tokens;
            self.tokens.extend(&sequence.tokens()[entry.start..end - entry.guesses]);
            self.tokens.extend(&sequence.guesses()[..entry.guesses]);
            self.positions.extend((entry.start..end).map(|position| position as u32));
            self.blocks.extend(sequence.blocks());
            self.spans.push(Span { rows: row..self.tokens.len(), blocks: block..self.blocks.len() });
        }
    }

    /// The step's batch.
    pub(super) fn view(&self) -> Batch<'_> {
        let Self { tokens, positions, spans, blocks, generated } = self;
        Batch { tokens, positions, spans, blocks, generated: *generated }
    }
}
