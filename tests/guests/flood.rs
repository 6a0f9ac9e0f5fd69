//! Says more than anybody wants to hear.

use dormouse_guest::prelude::*;

#[derive(Input)]
enum Into {
    /// Elements, without end
    Output,
    /// One answer of 20 MiB
    Answer,
    /// 64 MiB through the log interface
    Log,
    /// 64 MiB on standard output
    Stdout,
    /// 64 MiB on standard output without a line end
    Line,
}

#[derive(Input)]
struct Input {
    #[input(default = Into::Output)]
    into: Into,
}

#[derive(Default)]
struct Flood;

const KIBIBYTE: usize = 1 << 10;
const PIECES: usize = 64 << 10;
/// More than an output may have, and little enough to be written as JSON in an instance's memory.
const ANSWER_PIECES: usize = 20 << 10;

#[predictor(name = "flood")]
impl Predictor for Flood {
    type Input = Input;
    type Output = Value;

    fn predict(&self, input: Input) -> Result<Value> {
        let text = "x".repeat(KIBIBYTE);
        match input.into {
            Into::Output => {
                let mut out = Stream::new();
                loop {
                    out.emit(&text)?;
                }
            }
            Into::Answer => return Ok(json!(text.repeat(ANSWER_PIECES))),
            Into::Log => (0..PIECES).for_each(|_| log::info!("{text}")),
            Into::Stdout => (0..PIECES).for_each(|_| println!("{text}")),
            Into::Line => (0..PIECES).for_each(|_| print!("{text}")),
        }
        Ok(json!("survived"))
    }
}
