//! Formats against another program's numbers, and the quantisers against the formats.

use serde::Deserialize;

use super::{quantize::quantize, *};

#[derive(Deserialize)]
struct Golden {
    dtype: String,
    ggml_type: u32,
    blocks: String,
    weights: String,
}

fn golden() -> Vec<Golden> {
    serde_json::from_str(include_str!("../../tests/data/dequantize.json")).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// `len` weights spread over -1..1, the same in every run.
fn weights(len: usize) -> Vec<f32> {
    // Weyl's sequence: multiples of the golden ratio.
    (0..len).map(|i| (i as f64 * 0.618_033_988_749_895).fract() as f32 * 2.0 - 1.0).collect()
}

fn round_trip(dtype: DType, weights: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; weights.len()];
    dequantize(dtype, &quantize(dtype, weights), &mut out);
    out
}

#[test]
fn blocks_mean_the_weights_that_ggml_reads_in_them() {
    let golden = golden();
    assert_eq!(golden.len() + 1, DType::ALL.len(), "every format but F32");
    for case in golden {
        let dtype = DType::from_ggml_type(case.ggml_type).unwrap();
        assert_eq!(dtype.name(), case.dtype);
        let (blocks, expected) = (unhex(&case.blocks), floats(&unhex(&case.weights)));
        assert_eq!(dtype.bytes(expected.len()), blocks.len(), "{dtype}");
        let mut out = vec![f32::NAN; expected.len()];
        dequantize(dtype, &blocks, &mut out);
        assert_eq!(out, expected, "{dtype}");
    }
}

#[test]
fn numbers_and_names_of_formats_are_one_to_one() {
    for dtype in DType::ALL {
        assert_eq!(DType::from_ggml_type(dtype.ggml_type()), Some(dtype));
        assert_eq!(dtype.to_string(), format!("{dtype:?}"));
    }
    assert_eq!(DType::from_ggml_type(16), None);
}

#[test]
fn quantised_weights_are_near() {
    // Half a step where the range is spanned; a whole one where a symmetric format ends early.
    // K-quants round their scales, too.
    let tolerance = |dtype| match dtype {
        DType::F32 => 0.0,
        DType::F16 => 1.0 / 2048.0,
        DType::BF16 => 1.0 / 256.0,
        DType::Q8_0 => 0.51 / 127.0,
        DType::Q4_0 => 1.01 / 8.0,
        DType::Q5_0 => 1.01 / 16.0,
        DType::Q4_1 => 1.01 / 15.0,
        DType::Q5_1 => 1.01 / 31.0,
        DType::Q4_K => 1.5 / 15.0,
        DType::Q5_K => 1.5 / 31.0,
        DType::Q6_K => 0.6 / 31.0,
    };
    let weights = weights(1024);
    for dtype in DType::ALL {
        let out = round_trip(dtype, &weights);
        let worst = out.iter().zip(&weights).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance(dtype), "{dtype}: {worst} over {}", tolerance(dtype));
    }
}

#[test]
fn zeros_stay_zeros_and_a_constant_stays_near() {
    for dtype in DType::ALL {
        assert_eq!(round_trip(dtype, &[0.0; 256]), [0.0; 256], "{dtype}");
        for constant in [0.7, -0.7] {
            let out = round_trip(dtype, &[constant; 256]);
            assert!(out.iter().all(|w| (w - constant).abs() < 0.05), "{dtype}: {}", out[0]);
        }
    }
}

#[test]
#[should_panic(expected = "bytes of 32 weights of Q4_0")]
fn a_block_of_another_length_is_a_programmers_error() {
    dequantize(DType::Q4_0, &[0; 17], &mut [0.0; 32]);
}
