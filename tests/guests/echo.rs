//! Answers with what it was given: every kind of field that there is.

use std::collections::BTreeMap;

use dormouse_guest::prelude::*;

/// How loud
#[derive(Input, Output)]
enum Volume {
    Quiet,
    VeryLoud,
}

/// Where
#[derive(Input, Output)]
struct Place {
    #[input(regex = "^[A-Z]{2}$")]
    country: String,
    #[input(ge = -90, le = 90)]
    latitude: Option<f64>,
}

/// Everything
#[derive(Input, Output)]
struct Everything {
    /// Some text
    #[input(default = "hase", min_length = 1, max_length = 8)]
    text: String,
    #[input(default = 7, ge = 1, le = 10)]
    small: u8,
    #[input(default = -5)]
    big: i64,
    #[input(default = 0.5, ge = 0, le = 1)]
    fraction: f32,
    #[input(default = true)]
    flag: bool,
    #[input(default = Volume::Quiet)]
    volume: Volume,
    #[input(default = "m", choices = ["s", "m", "l"])]
    size: String,
    maybe: Option<u32>,
    #[input(default = [], max_length = 2)]
    list: Vec<String>,
    #[input(default = BTreeMap::new())]
    labels: BTreeMap<String, i64>,
    place: Option<Place>,
    #[input(default = Value::Null)]
    anything: Value,
    #[input(default = false)]
    r#type: bool,
}

#[derive(Default)]
struct Echo;

/// Says it again
#[predictor(name = "echo")]
impl Predictor for Echo {
    type Input = Everything;
    type Output = Everything;

    fn predict(&self, input: Everything) -> Result<Everything> {
        Ok(input)
    }
}
