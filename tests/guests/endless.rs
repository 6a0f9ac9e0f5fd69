//! Never comes back.

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {}

#[derive(Default)]
struct Endless;

#[predictor(name = "endless")]
impl Predictor for Endless {
    type Input = Input;
    type Output = ();

    #[expect(clippy::empty_loop, reason = "it is what this guest is for")]
    fn predict(&self, _: Input) -> Result<()> {
        loop {}
    }
}
