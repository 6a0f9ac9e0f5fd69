//! Sorts a support ticket into a category.
//!
//! A small model is a poor judge when it is asked once: it leans towards some labels, and towards the
//! label of the last example. So it is asked in several orders of the examples, each time beside a
//! blank ticket, all at once; what the blank ticket gets is taken off (contextual calibration,
//! <https://arxiv.org/abs/2102.09690>), and the orders are averaged.

mod prompt;
mod score;

use dormouse_guest::prelude::*;
use score::{Category, Scores};

const MODEL: &str = "smollm2";
/// Most alternatives a host reports.
const ALTERNATIVES: u8 = 20;

#[derive(Input)]
struct Input {
    /// What the customer wrote
    #[input(min_length = 1, max_length = 4_000)]
    ticket: String,
}

#[derive(Output)]
struct Sorted {
    /// The likeliest category
    category: Category,
    /// Its probability, from 0 to 1
    confidence: f64,
    /// What speaks for it, and how far
    reasons: Vec<String>,
}

struct Triage {
    model: Model,
    /// The token that each category's label starts with.
    labels: [u32; Category::ALL.len()],
}

#[predictor(models = ["smollm2"])]
impl Predictor for Triage {
    type Input = Input;
    type Output = Sorted;

    fn setup() -> Result<Self> {
        let model = Model::open(MODEL)?;
        let mut labels = [0; Category::ALL.len()];
        for (label, category) in labels.iter_mut().zip(Category::ALL) {
            let tokens = model.tokenize(&format!(" {category}"))?;
            *label = *tokens.first().context("a label without tokens")?;
        }
        Ok(Self { model, labels })
    }

    fn predict(&self, input: Input) -> Result<Sorted> {
        let ticket = prompt::one_line(&input.ticket);
        let asked = self.ask(&ticket)?;
        let blanks = self.ask(prompt::BLANK)?;
        // All of them are running by now; reading waits.
        let verdict = score::decide(&self.read(asked)?, &self.read(blanks)?);

        let [(category, confidence), (second, second_confidence)] = verdict.ranking;
        metric("confidence", confidence);
        let agreeing = verdict.winners.iter().filter(|winner| **winner == category).count();
        let reasons = vec![
            format!("the problem, in the model's words: {}", self.problem(&ticket, category)?),
            format!("{agreeing} of {} orders of the examples put {category} first", prompt::ORDERS),
            format!("next likeliest is {second}, at {second_confidence:.2}"),
        ];
        Ok(Sorted { category, confidence, reasons })
    }
}

impl Triage {
    /// Starts one completion of a single token for each order of the examples.
    fn ask(&self, ticket: &str) -> Result<Vec<Completion>, llm::Error> {
        let prompts = (0..prompt::ORDERS).map(|order| prompt::category(ticket, order));
        prompts
            .map(|prompt| self.model.complete(prompt).max_tokens(1).logprobs(ALTERNATIVES).start())
            .collect()
    }

    /// The labels' log-probabilities in each completion.
    fn read(&self, asked: Vec<Completion>) -> Result<Vec<Scores>> {
        asked.into_iter().map(|completion| self.read_one(completion)).collect()
    }

    fn read_one(&self, mut completion: Completion) -> Result<Scores> {
        while let Some(chunk) = completion.chunk()? {
            if let Some(token) = chunk.logprobs.first() {
                return Ok(score::of_labels(&self.labels, &token.top));
            }
        }
        bail!("the model gave no log-probabilities")
    }

    /// What is wrong, in the model's words.
    fn problem(&self, ticket: &str, category: Category) -> Result<String, llm::Error> {
        let prompt = prompt::problem(ticket, category);
        let text = self.model.complete(prompt).max_tokens(24).stop("\n").text()?;
        Ok(text.trim().to_owned())
    }
}
