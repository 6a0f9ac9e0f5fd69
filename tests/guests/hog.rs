//! Takes memory and keeps it.

use std::{hint::black_box, mem};

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    /// How much to take
    #[input(default = 4096)]
    mebibytes: u32,
}

#[derive(Default)]
struct Hog;

#[predictor(name = "hog")]
impl Predictor for Hog {
    type Input = Input;
    type Output = u32;

    fn predict(&self, input: Input) -> Result<u32> {
        for _ in 0..input.mebibytes {
            mem::forget(black_box(vec![1_u8; 1 << 20]));
        }
        Ok(input.mebibytes)
    }
}
