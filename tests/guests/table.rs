//! Builds a large table in `setup`: how many steps each number takes to come to 1.

use dormouse_guest::prelude::*;

/// Numbers in the table.
const NUMBERS: usize = 1 << 20;

#[derive(Input)]
struct Input {
    #[input(default = 27, ge = 1, le = 1_048_575)]
    start: u32,
}

struct Table {
    steps: Vec<u16>,
}

#[predictor(name = "table")]
impl Predictor for Table {
    type Input = Input;
    type Output = u32;

    fn setup() -> Result<Self> {
        Ok(Self { steps: (0..NUMBERS as u64).map(steps).collect() })
    }

    fn predict(&self, input: Input) -> Result<u32> {
        Ok(u32::from(self.steps[input.start as usize]))
    }
}

/// Steps of the Collatz sequence.
fn steps(mut number: u64) -> u16 {
    let mut steps = 0;
    while number > 1 {
        number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
        steps += 1;
    }
    steps
}
