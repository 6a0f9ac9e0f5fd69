//! Does what `tests/behaviour/cases.json` asks of a predictor in every language.

use dormouse_guest::{llm, prelude::*};
use serde_json::json;

const MODEL: &str = "smollm2";

#[derive(Input)]
enum Act {
    Echo,
    Count,
    Tell,
    Fail,
    FailLate,
    Forever,
    Complete,
    Several,
    Open,
}

#[derive(Input)]
struct Input {
    /// What to do
    act: Act,
    #[input(default = "hase", max_length = 200_000)]
    text: String,
    #[input(default = 3, ge = 0, le = 1000)]
    count: u32,
    #[input(default = 0.5, ge = 0.125, le = 0.875)]
    ratio: f64,
    #[input(default = false)]
    flag: bool,
    #[input(default = [])]
    tags: Vec<String>,
    maybe: Option<String>,
}

#[derive(Default)]
struct Behaviour;

#[predictor(models = ["smollm2"])]
impl Predictor for Behaviour {
    type Input = Input;
    type Output = Stream<Value>;

    fn predict(&self, input: Input) -> Result<Stream<Value>> {
        let mut out = Stream::new();
        let Input { act, text, count, ratio, flag, tags, maybe } = input;
        match act {
            Act::Echo => out.emit(json!({
                "text": text, "count": count, "ratio": ratio, "flag": flag, "tags": tags, "maybe": maybe,
            }))?,
            Act::Count => (0..count).try_for_each(|i| out.emit(i.into()))?,
            Act::Tell => {
                println!("printed");
                log::warn!("warned 日本 🐭");
                progress(0.5, "half");
                metric("answer", 42.5);
                out.emit("told".into())?;
            }
            Act::Fail => bail!("the sky is falling 🌧"),
            Act::FailLate => {
                (0..count).try_for_each(|i| out.emit(i.into()))?;
                bail!("the sky is falling 🌧");
            }
            Act::Forever => (0_u64..).try_for_each(|i| out.emit(i.into()))?,
            Act::Complete => {
                let completion = Model::open(MODEL)?.complete(text).max_tokens(count).start()?;
                completion.into_iter().try_for_each(|piece| out.emit(piece?.into()))?;
            }
            Act::Several => {
                let model = Model::open(MODEL)?;
                let asked =
                    tags.iter().map(|tag| model.chat([system(&text), user(tag)]).max_tokens(count).start());
                llm::join(asked)?.into_iter().try_for_each(|text| out.emit(text.into()))?;
            }
            Act::Open => match Model::open(&text) {
                Err(llm::Error::UnknownModel(_)) => out.emit("unknown".into())?,
                other => out.emit(format!("{other:?}").into())?,
            },
        }
        Ok(out)
    }
}
