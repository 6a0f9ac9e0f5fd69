//! The SDK's face, as authors meet it: types to schemas, JSON to values, predictions without a host.

#![allow(dead_code)]

mod input;
mod output;
mod predictor;
