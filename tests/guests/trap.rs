//! Traps, in a way of the caller's choice.

use std::hint::black_box;

use dormouse_guest::prelude::*;

#[derive(Input)]
enum How {
    Panic,
    Unreachable,
    OutOfBounds,
}

#[derive(Input)]
struct Input {
    #[input(default = How::Panic)]
    how: How,
}

#[derive(Default)]
struct Trap;

#[predictor(name = "trap")]
impl Predictor for Trap {
    type Input = Input;
    type Output = ();

    fn predict(&self, input: Input) -> Result<()> {
        match input.how {
            How::Panic => panic!("panicked on purpose"),
            How::Unreachable => std::process::abort(),
            How::OutOfBounds => {
                let nothing: &[u8] = black_box(&[]);
                log::info!("{}", nothing[black_box(1)]);
                Ok(())
            }
        }
    }
}
