//! Uses every way to tell something beside its answer.

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    #[input(default = 3, ge = 1, le = 1000)]
    count: u32,
}

#[derive(Default)]
struct Reporter;

#[predictor(name = "reporter")]
impl Predictor for Reporter {
    type Input = Input;
    type Output = Stream<u32>;

    fn predict(&self, input: Input) -> Result<Stream<u32>> {
        log::debug!("counting to {}", input.count);
        println!("on stdout");
        eprintln!("on stderr");
        let mut out = Stream::new();
        for count in 1..=input.count {
            out.emit(count)?;
            progress(count as f32 / input.count as f32, "counting");
            metric("counted", count.into());
        }
        log::warn!("line separators \u{2028} and \u{85} stay inside");
        print!("no line end");
        Ok(out)
    }
}
