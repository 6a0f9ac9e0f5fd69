//! Greets someone by name.

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    /// Who to greet
    #[input(min_length = 1, max_length = 80)]
    name: String,
}

#[derive(Default)]
struct Hello;

#[predictor]
impl Predictor for Hello {
    type Input = Input;
    type Output = String;

    fn predict(&self, input: Input) -> Result<String> {
        Ok(format!("Hello, {}!", input.name))
    }
}
