//! Opens models that it has not declared.

use dormouse_guest::prelude::*;

#[derive(Input)]
struct Input {
    model: String,
}

#[derive(Default)]
struct Poacher;

#[predictor(name = "poacher")]
impl Predictor for Poacher {
    type Input = Input;
    type Output = String;

    fn predict(&self, input: Input) -> Result<String> {
        match Model::open(&input.model) {
            Ok(model) => Ok(format!("opened {}", model.info().name)),
            Err(llm::Error::UnknownModel(_)) => Ok("unknown model".to_owned()),
            Err(error) => Err(error.into()),
        }
    }
}
