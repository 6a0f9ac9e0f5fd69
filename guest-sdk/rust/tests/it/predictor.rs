//! Whole predictors: the manifest, and predictions run without a host.

use dormouse_guest::{prelude::*, testing};

#[derive(Input)]
struct Input {
    /// How far to count
    #[input(default = 3, le = 10)]
    to: u32,
    #[input(default = false)]
    fail: bool,
}

struct Count {
    from: u32,
}

/// Counts
#[predictor(models = ["small", "large"], name = "count", timeout_ms = 1_000)]
impl Predictor for Count {
    type Input = Input;
    type Output = Stream<u32>;

    fn setup() -> Result<Self> {
        log::debug!("setting up");
        Ok(Self { from: 1 })
    }

    fn predict(&self, input: Input) -> Result<Stream<u32>> {
        ensure!(!input.fail, "told to fail at {}", input.to);
        let mut out = Stream::new();
        for count in self.from..=input.to {
            out.emit(count)?;
            progress(count as f32 / input.to as f32, "counting");
            metric("counted", count.into());
        }
        log::info!("counted to {}", input.to);
        Ok(out)
    }
}

#[derive(Input)]
struct Nothing {}

#[derive(Default)]
struct Plain;

#[predictor]
impl Predictor for Plain {
    type Input = Nothing;
    type Output = Vec<Option<bool>>;

    fn predict(&self, _: Nothing) -> Result<Self::Output> {
        Ok(vec![Some(true), None])
    }
}

struct Needy;

#[predictor(models = ["small"])]
impl Predictor for Needy {
    type Input = Nothing;
    type Output = ();

    fn setup() -> Result<Self> {
        Model::open("small").context("needs a model")?;
        Ok(Self)
    }

    fn predict(&self, _: Nothing) -> Result<()> {
        Ok(())
    }
}

#[test]
fn the_manifest_tells_all_that_the_attribute_and_the_types_say() {
    let manifest = testing::describe::<Count>();
    let properties = &manifest["input"]["properties"];
    assert_eq!(properties["to"]["description"], "How far to count");
    assert_eq!(
        json!({
            "interface": "dormouse:predictor@0.1.0",
            "name": "count",
            "description": "Counts",
            "input": manifest["input"],
            "output": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
                "x-cog-array-type": "iterator"},
            "streaming": true,
            "models": ["small", "large"],
            "limits": {"timeout_ms": 1000},
        }),
        manifest
    );
}

#[test]
fn name_and_description_come_from_the_crate_when_nothing_else_says_them() {
    let manifest = testing::describe::<Plain>();
    assert_eq!(manifest["name"], env!("CARGO_PKG_NAME"));
    assert_eq!(manifest["description"], env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(manifest["streaming"], false);
    assert_eq!(manifest["models"], json!([]));
}

#[test]
fn a_stream_emits_as_it_goes_and_returns_null() {
    let prediction = testing::predict::<Count>(r#"{"to": 2}"#).unwrap();
    assert_eq!(prediction.output, Value::Null);
    assert_eq!(prediction.emitted, [1, 2]);
    assert_eq!(prediction.progress, [(0.5, "counting".into()), (1.0, "counting".into())]);
    assert_eq!(prediction.metrics, [("counted".into(), 2.0)]);
    assert_eq!(
        prediction.logs,
        [(log::Level::Debug, "setting up".into()), (log::Level::Info, "counted to 2".into())]
    );
}

#[test]
fn a_value_is_returned_whole() {
    let prediction = testing::predict::<Plain>("{}").unwrap();
    assert_eq!(prediction.output, json!([true, null]));
    assert!(prediction.emitted.is_empty());
}

#[test]
fn an_integer_may_be_written_with_a_point() {
    assert_eq!(testing::predict::<Count>(r#"{"to": 1.0}"#).unwrap().emitted, [1]);
    let error = testing::predict::<Count>(r#"{"to": 1.5}"#).unwrap_err();
    assert!(error.contains("floating point `1.5`, expected u32"), "{error}");
}

#[test]
fn an_error_is_its_message_with_its_causes() {
    assert_eq!(testing::predict::<Count>(r#"{"fail": true}"#).unwrap_err(), "told to fail at 3");
    assert_eq!(
        testing::predict::<Needy>("{}").unwrap_err(),
        r#"needs a model: no host to open model "small" in"#
    );
}
