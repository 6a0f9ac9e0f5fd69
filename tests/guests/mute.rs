//! Has the right exports and a manifest that is none.

use dormouse_guest::__private::bindings::{Guest, export_predictor};

struct Mute;

impl Guest for Mute {
    fn describe() -> String {
        "I'd rather not say".to_owned()
    }

    fn setup() -> Result<(), String> {
        Ok(())
    }

    fn predict(_: String) -> Result<String, String> {
        Ok("null".to_owned())
    }
}

export_predictor!(Mute with_types_in dormouse_guest::__private::bindings);
