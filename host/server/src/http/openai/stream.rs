//! A request's completions as one stream of events.

use std::pin::Pin;

use dormouse_engine::Usage;
use futures_util::{Stream, StreamExt, stream};

use super::{
    Failure,
    generation::{OfChoice, Piece, Running, pieces},
};

/// Writes what happens as events of one of the dialect's kinds.
pub(in crate::http) trait Writer: Send + Unpin + 'static {
    /// Before the first piece.
    fn begin(&mut self) -> Vec<String>;

    /// A piece of a choice.
    fn piece(&mut self, choice: usize, piece: Piece) -> Vec<String>;

    /// After the last piece; the usages of the choices, in order.
    fn end(&mut self, usages: &[Usage]) -> Vec<String>;

    /// In place of everything that would have come.
    fn failed(&mut self, failure: &Failure) -> Vec<String>;
}

/// The events of completions. Dropping it ends them.
pub(in crate::http) fn events(
    running: Vec<Running>,
    writer: impl Writer,
) -> impl Stream<Item = String> + Send {
    let usages = vec![Usage::default(); running.len()];
    let state = State { pieces: Box::pin(pieces(running)), usages, writer, phase: Phase::Begin };
    let batches = stream::unfold(state, |mut state| async move {
        let events = state.next().await?;
        Some((stream::iter(events), state))
    });
    batches.flatten()
}

struct State<W> {
    pieces: Pin<Box<dyn Stream<Item = OfChoice> + Send>>,
    usages: Vec<Usage>,
    writer: W,
    phase: Phase,
}

enum Phase {
    Begin,
    Run,
    Ended,
}

impl<W: Writer> State<W> {
    async fn next(&mut self) -> Option<Vec<String>> {
        match self.phase {
            Phase::Begin => {
                self.phase = Phase::Run;
                Some(self.writer.begin())
            }
            Phase::Run => Some(self.run().await),
            Phase::Ended => None,
        }
    }

    async fn run(&mut self) -> Vec<String> {
        match self.pieces.next().await {
            Some((choice, Ok(piece))) => {
                if let Piece::End(_, usage) = &piece {
                    self.usages[choice] = *usage;
                }
                self.writer.piece(choice, piece)
            }
            Some((_, Err(failure))) => {
                self.phase = Phase::Ended;
                self.writer.failed(&failure)
            }
            None => {
                self.phase = Phase::Ended;
                self.writer.end(&self.usages)
            }
        }
    }
}
