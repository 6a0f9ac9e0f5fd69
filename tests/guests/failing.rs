//! Fails, in `predict` or, where its environment says so, in `setup`.

use std::env;

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    #[input(default = 3)]
    number: u32,
}

struct Failing;

#[predictor(name = "failing", timeout_ms = 5_000, memory_bytes = 33_554_432)]
impl Predictor for Failing {
    type Input = Input;
    type Output = ();

    fn setup() -> Result<Self> {
        match env::var("FAIL_SETUP") {
            Ok(reason) => bail!("told to: {reason}"),
            Err(_) => Ok(Self),
        }
    }

    fn predict(&self, input: Input) -> Result<()> {
        log::info!("about to fail");
        "many".parse::<u32>().map(drop).with_context(|| format!("wanted {}", input.number))
    }
}
