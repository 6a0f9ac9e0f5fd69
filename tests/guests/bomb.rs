//! Calls itself until the stack is used up.

use std::hint::black_box;

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {}

#[derive(Default)]
struct Bomb;

#[predictor(name = "bomb")]
impl Predictor for Bomb {
    type Input = Input;
    type Output = u64;

    fn predict(&self, _: Input) -> Result<u64> {
        Ok(sink(1))
    }
}

/// The array stays alive across the call, so it can't become a loop.
#[expect(unconditional_recursion, reason = "it is what this guest is for")]
fn sink(depth: u64) -> u64 {
    let frame = black_box([depth; 4]);
    let deeper = sink(depth + 1);
    deeper + black_box(frame)[0]
}
