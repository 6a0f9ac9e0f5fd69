//! Answers a prompt through a language model, word by word.

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    /// What to answer
    #[input(min_length = 1, max_length = 32_000)]
    prompt: String,
    /// What the model is told about its part, instead of what it is told by default
    #[input(max_length = 8_000)]
    system: Option<String>,
    /// The most tokens to generate
    #[input(default = 256, ge = 1, le = 4096)]
    max_tokens: u32,
    /// 0 always takes the likeliest token; higher is more varied
    #[input(default = 0.0, ge = 0, le = 2)]
    temperature: f32,
    /// Draw only from the likeliest tokens whose probabilities sum to this much
    #[input(default = 1.0, ge = 0.01, le = 1)]
    top_p: f32,
    /// The same seed gives the same answer
    seed: Option<u32>,
    /// End the answer before any of these
    #[input(default = [], max_length = 16)]
    stop: Vec<String>,
}

struct Chat {
    model: Model,
}

#[predictor(models = ["smollm2"])]
impl Predictor for Chat {
    type Input = Input;
    type Output = Stream<String>;

    fn setup() -> Result<Self> {
        Ok(Chat { model: Model::open("smollm2")? })
    }

    fn predict(&self, input: Input) -> Result<Stream<String>> {
        let mut request = self
            .model
            .chat(input.system.map(system).into_iter().chain([user(input.prompt)]))
            .max_tokens(input.max_tokens)
            .temperature(input.temperature)
            .top_p(input.top_p);
        if let Some(seed) = input.seed {
            request = request.seed(seed.into());
        }
        for text in input.stop {
            request = request.stop(text);
        }
        let mut out = Stream::new();
        out.emit_all(request.start()?)?;
        Ok(out)
    }
}
