//! Byte pair encoding's loop: merge the neighbours that come first in the model's order, until none
//! are left.

use std::{cmp::Reverse, collections::BinaryHeap};

/// A symbol that is no token, such as a byte the vocabulary lacks.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// Index of a symbol that isn't there.
const NO_SYMBOL: u32 = u32::MAX;

/// A run of the text's bytes that is, or may become, a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// First byte in the text.
    pub(super) start: u32,
    /// Byte after the last.
    pub(super) end: u32,
    /// [`NO_TOKEN`] if none.
    pub(super) token: u32,
    previous: u32,
    next: u32,
}

/// What two neighbours become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower goes first.
    pub(super) rank: u32,
    /// The token they make.
    pub(super) token: u32,
}

/// A merge that was possible when it was queued: lowest rank first, then leftmost.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    token: u32,
    /// The neighbours' tokens; if they changed since, the candidate is stale.
    pair: (u32, u32),
}

/// Merges one run of symbols at a time, reusing its memory.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Adds a symbol after the others.
    pub(super) fn push(&mut self, start: usize, end: usize, token: Option<u32>) {
        let index = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        self.symbols.push(Symbol {
            start: start as u32,
            end: end as u32,
            token: token.unwrap_or(NO_TOKEN),
            previous: index.checked_sub(1).unwrap_or(NO_SYMBOL),
            next: NO_SYMBOL,
        });
    }

    /// Merges the symbols, hands what is left to `each`, and forgets them. `merge` says whether two
    /// neighbours can be one; it depends on their tokens and bytes only.
    pub(super) fn run(
        &mut self,
        merge: impl Fn(Symbol, Symbol) -> Option<Merge>,
        mut each: impl FnMut(Symbol),
    ) {
        for left in 0..self.symbols.len() as u32 {
            self.enqueue(left, &merge);
        }
        while let Some(Reverse(candidate)) = self.queue.pop() {
            if self.is_stale(&candidate) {
                continue;
            }
            self.join(&candidate);
            self.enqueue(candidate.left, &merge);
            self.enqueue(self.symbols[candidate.left as usize].previous, &merge);
        }
        let mut index = if self.symbols.is_empty() { NO_SYMBOL } else { 0 };
        while let Some(symbol) = self.symbols.get(index as usize) {
            each(*symbol);
            index = symbol.next;
        }
        self.symbols.clear();
    }

    /// Queues the merge of a symbol and its right neighbour, if both exist and can merge.
    fn enqueue(&mut self, left: u32, merge: impl Fn(Symbol, Symbol) -> Option<Merge>) {
        let Some(&symbol) = self.symbols.get(left as usize) else { return };
        let Some(&next) = self.symbols.get(symbol.next as usize) else { return };
        if let Some(Merge { rank, token }) = merge(symbol, next) {
            let pair = (symbol.token, next.token);
            self.queue.push(Reverse(Candidate { rank, left, token, pair }));
        }
    }

    /// Whether one of the two symbols has been merged since. A symbol that was merged into its left
    /// neighbour is empty.
    fn is_stale(&self, candidate: &Candidate) -> bool {
        let left = self.symbols[candidate.left as usize];
        let right = self.symbols.get(left.next as usize);
        left.start == left.end || right.is_none_or(|right| (left.token, right.token) != candidate.pair)
    }

    fn join(&mut self, candidate: &Candidate) {
        let index = self.symbols[candidate.left as usize].next as usize;
        let right = self.symbols[index];
        self.symbols[index].end = right.start;
        let left = &mut self.symbols[candidate.left as usize];
        left.end = right.end;
        left.next = right.next;
        left.token = candidate.token;
        if let Some(after) = self.symbols.get_mut(right.next as usize) {
            after.previous = candidate.left;
        }
    }
}
