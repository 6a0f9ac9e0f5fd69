//! Leaves instead of answering.

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    #[input(default = 3)]
    status: i32,
}

#[derive(Default)]
struct Exit;

#[predictor(name = "exit")]
impl Predictor for Exit {
    type Input = Input;
    type Output = ();

    fn predict(&self, input: Input) -> Result<()> {
        std::process::exit(input.status)
    }
}
