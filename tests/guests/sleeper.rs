//! Says that it is awake, then sleeps.

use std::time::Duration;

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    /// How long to sleep
    #[input(default = 600_000)]
    ms: u32,
}

#[derive(Default)]
struct Sleeper;

#[predictor(name = "sleeper")]
impl Predictor for Sleeper {
    type Input = Input;
    type Output = Stream<String>;

    fn predict(&self, input: Input) -> Result<Stream<String>> {
        let mut out = Stream::new();
        out.emit("awake".to_owned())?;
        std::thread::sleep(Duration::from_millis(input.ms.into()));
        out.emit("slept".to_owned())?;
        Ok(out)
    }
}
