//! Starts several completions at once, and drops one.

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    #[input(min_length = 1, max_length = 8)]
    prompts: Vec<String>,
    #[input(default = 16, ge = 1, le = 64)]
    max_tokens: u32,
}

#[derive(Output)]
struct Answers {
    /// One for each prompt
    texts: Vec<String>,
    completion_tokens: u32,
    /// The prompts' tokens, turned back into text
    round_trips: Vec<String>,
    /// Cosine of the first and the last prompt's embeddings
    similarity: f32,
}

struct Several {
    model: Model,
}

#[predictor(name = "several", models = ["smollm2"])]
impl Predictor for Several {
    type Input = Input;
    type Output = Answers;

    fn setup() -> Result<Self> {
        Ok(Self { model: Model::open("smollm2")? })
    }

    fn predict(&self, input: Input) -> Result<Answers> {
        let start = |prompt: &String| self.model.complete(prompt).max_tokens(input.max_tokens).start();
        let dropped = start(&input.prompts[0])?;
        let mut running = input.prompts.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        drop(dropped);
        let mut texts = Vec::new();
        let mut completion_tokens = 0;
        for completion in &mut running {
            texts.push(completion.by_ref().collect::<Result<String, _>>()?);
            completion_tokens += completion.usage().completion_tokens;
        }
        let round_trip = |prompt: &String| self.model.detokenize(&self.model.tokenize(prompt)?);
        let embeddings = self.model.embed(input.prompts.iter().cloned())?;
        let (first, last) = (&embeddings[0], &embeddings[embeddings.len() - 1]);
        Ok(Answers {
            texts,
            completion_tokens,
            round_trips: input.prompts.iter().map(round_trip).collect::<Result<_, _>>()?,
            similarity: first.iter().zip(last).map(|(a, b)| a * b).sum(),
        })
    }
}
