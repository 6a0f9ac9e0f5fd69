//! Files that are right, and files that aren't.

use super::{writer::GgufWriter, *};
use crate::{
    quant::dequantize,
    testing::{check_cases, model, mutated},
};

/// Opens a file that must be refused, and checks the reason.
fn check_refused(bytes: &[u8], reason: &str) {
    match Gguf::of_bytes(bytes).map(drop).unwrap_err() {
        Error::BadModel { reason: found, .. } => assert!(found.contains(reason), "{found}"),
        other => panic!("{other}"),
    }
}

/// One of everything.
fn small_file() -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .str("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.rope.freq_base", 1e4)
        .bool("tokenizer.ggml.add_bos_token", true)
        .strs("tokenizer.ggml.tokens", &["a", "", "é"])
        .i32s("tokenizer.ggml.token_type", &[1, -1, 6])
        .f32s("tokenizer.ggml.scores", &[0.5, -1.0, 0.0])
        .entry("byte", 0, [200])
        .entry("long", 11, (-5i64).to_le_bytes())
        .entry("double", 12, 0.25f64.to_le_bytes())
        .tensor("norm", DType::F32, 3, &[1.0, 2.0, 3.0])
        .tensor("matrix", DType::Q8_0, 32, &[0.5; 64])
        .tensor("other", DType::Q4_K, 256, &[0.25; 512]);
    writer
}

/// Reads everything that a file offers: nothing of it may panic.
fn read_all(gguf: &Gguf) {
    for key in gguf.metadata().keys() {
        let metadata = gguf.metadata();
        let _ = metadata.get::<u32>(key);
        let _ = metadata.get::<f32>(key);
        let _ = metadata.get::<bool>(key);
        let _ = metadata.get::<&str>(key);
        let _ = metadata.get::<Vec<i32>>(key);
        let _ = metadata.get::<Vec<f32>>(key);
        let _ = metadata.get::<Vec<&str>>(key);
    }
    for tensor in gguf.tensors() {
        assert_eq!(tensor.bytes.len(), tensor.rows * tensor.dtype.bytes(tensor.columns));
        let mut row = vec![0.0; tensor.columns];
        dequantize(tensor.dtype, &tensor.bytes[..tensor.dtype.bytes(tensor.columns)], &mut row);
    }
    gguf.quantization();
}

#[test]
fn metadata_are_read_as_written() {
    let gguf = Gguf::of_bytes(&small_file().to_bytes()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.require::<&str>("general.architecture").unwrap(), "llama");
    assert_eq!(metadata.require::<u32>("llama.block_count").unwrap(), 2);
    assert_eq!(metadata.require::<usize>("llama.block_count").unwrap(), 2);
    assert_eq!(metadata.require::<f32>("llama.rope.freq_base").unwrap(), 1e4);
    assert!(metadata.require::<bool>("tokenizer.ggml.add_bos_token").unwrap());
    assert_eq!(metadata.require::<Vec<&str>>("tokenizer.ggml.tokens").unwrap(), ["a", "", "é"]);
    assert_eq!(metadata.require::<Vec<i32>>("tokenizer.ggml.token_type").unwrap(), [1, -1, 6]);
    assert_eq!(metadata.require::<Vec<f32>>("tokenizer.ggml.scores").unwrap(), [0.5, -1.0, 0.0]);
    assert_eq!(metadata.require::<u32>("byte").unwrap(), 200);
    assert_eq!(metadata.require::<i32>("long").unwrap(), -5);
    assert_eq!(metadata.require::<f32>("double").unwrap(), 0.25);
    assert_eq!(metadata.get::<u32>("absent").unwrap(), None);
}

#[test]
fn errors_about_metadata_name_the_key() {
    let gguf = Gguf::of_bytes(&small_file().to_bytes()).unwrap();
    let check = |error: Error, expected: &str| {
        assert!(error.to_string().ends_with(expected), "{error}");
    };
    let metadata = gguf.metadata();
    check(metadata.require::<u32>("absent").unwrap_err(), "metadata key \"absent\" is missing");
    check(
        metadata.get::<u32>("general.architecture").unwrap_err(),
        "metadata key \"general.architecture\" is of type string, expected an integer that fits u32",
    );
    check(metadata.get::<u32>("long").unwrap_err(), "is of type i64, expected an integer that fits u32");
    check(
        metadata.get::<&str>("tokenizer.ggml.tokens").unwrap_err(),
        "is an array of 3 string, expected a UTF-8 string",
    );
}

#[test]
fn tensors_are_read_as_written() {
    let gguf = Gguf::of_bytes(&small_file().to_bytes()).unwrap();
    let shapes: Vec<_> = gguf.tensors().map(|t| (t.name, t.dtype, t.rows, t.columns)).collect();
    assert_eq!(
        shapes,
        [("norm", DType::F32, 1, 3), ("matrix", DType::Q8_0, 2, 32), ("other", DType::Q4_K, 2, 256)]
    );
    let norm = gguf.tensor("norm").unwrap();
    let mut weights = [0.0; 3];
    dequantize(norm.dtype, norm.bytes, &mut weights);
    assert_eq!(weights, [1.0, 2.0, 3.0]);
    assert_eq!(gguf.quantization(), DType::Q4_K);
    assert!(gguf.find_tensor("absent").is_none());
    assert!(gguf.tensor("absent").unwrap_err().to_string().ends_with("no tensor \"absent\""));
}

#[test]
fn smollm2_is_read() {
    let gguf = Gguf::open(model()).unwrap();
    assert_eq!(gguf.metadata().require::<u32>("llama.context_length").unwrap(), 8192);
    assert_eq!(gguf.tensors().len(), 272);
    assert_eq!(gguf.quantization(), DType::Q4_1);
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.dtype, embedding.rows, embedding.columns), (DType::Q8_0, 49152, 576));
    read_all(&gguf);
}

#[test]
fn version_2_is_read_and_others_are_refused() {
    let with_version = |version: u32| {
        let mut bytes = small_file().to_bytes();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        bytes
    };
    assert_eq!(Gguf::of_bytes(&with_version(2)).unwrap().tensors().len(), 3);
    check_refused(&with_version(1), "GGUF version 1, only 2 and 3 are read");
    check_refused(&with_version(4), "GGUF version 4");
    check_refused(&with_version(3u32.swap_bytes()), "big-endian");
    check_refused(b"GGML\x03\0\0\0", "doesn't start with \"GGUF\"");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = Gguf::open(empty.path()).map(drop).unwrap_err();
    assert!(empty.to_string().ends_with("file is empty"), "{empty}");
    let missing = Gguf::open("/nonexistent/model.gguf").map(drop).unwrap_err();
    assert!(missing.to_string().starts_with("model file /nonexistent/model.gguf: "), "{missing}");
    let folder = Gguf::open(std::env::temp_dir()).map(drop).unwrap_err();
    assert!(folder.to_string().ends_with("not a regular file"), "{folder}");
}

#[test]
fn impossible_tensors_are_refused() {
    let check = |dimensions: &[u64], id: u32, offset: u64, reason: &str| {
        let mut writer = GgufWriter::new();
        writer.tensor("first", DType::F32, 16, &[0.0; 16]).tensor_header("t", dimensions, id, offset);
        check_refused(&writer.to_bytes(), reason);
    };
    check(&[], 0, 0, "has 0 dimensions");
    check(&[1, 1, 1, 1, 1], 0, 0, "has 5 dimensions");
    check(&[0], 0, 0, "has a dimension of 0");
    check(&[u64::MAX], 0, 0, "has a dimension over");
    check(&[1 << 40, 1 << 40], 0, 0, "ends beyond the file");
    check(&[2, 1 << 40, 1 << 40], 0, 0, "has too many rows");
    check(&[4], 16, 0, "stored as ggml type 16");
    check(&[33], 8, 0, "has 33 columns, Q8_0 needs a multiple of 32");
    check(&[4], 0, 4, "offset 4, not a multiple of 32");
    check(&[4], 0, u64::MAX - 31, "ends beyond the file");
    check(&[17], 0, 0, "ends beyond the file");
    check(&[4], 0, 32, "tensors \"first\" and \"t\" overlap");
    let mut twice = GgufWriter::new();
    twice.tensor("t", DType::F32, 1, &[0.0]).tensor("t", DType::F32, 1, &[0.0]);
    check_refused(&twice.to_bytes(), "tensor \"t\" occurs twice");
}

#[test]
fn impossible_metadata_are_refused() {
    let check = |writer: &mut GgufWriter, reason: &str| check_refused(&writer.to_bytes(), reason);
    check(GgufWriter::new().u32("k", 1).u32("k", 1), "metadata key \"k\" occurs twice");
    check(GgufWriter::new().entry("k", 13, []), "metadata key \"k\": value type 13 is unknown");
    check(GgufWriter::new().u32("", 1), "metadata key at byte 24 has 0 bytes");
    check(GgufWriter::new().u32(&"k".repeat(70_000), 1), "has 70000 bytes, 1 to 65535 are read");
    check(GgufWriter::new().entry("k", 8, u64::MAX.to_le_bytes()), "the file has");
    let array = |element: u32, count: u64| [&element.to_le_bytes()[..], &count.to_le_bytes()].concat();
    check(GgufWriter::new().entry("k", 9, array(9, 0)), "is an array of arrays");
    check(GgufWriter::new().entry("k", 9, array(10, u64::MAX)), "elements");
    check(GgufWriter::new().entry("k", 9, array(0, 1 << 40)), "the file has");
    check(GgufWriter::new().entry("k", 9, array(8, 1 << 60)), "the file has");
    for alignment in [0, 3, 1 << 21] {
        check(GgufWriter::new().u32("general.alignment", alignment), "must be a power of two");
    }
    check(GgufWriter::new().str("general.alignment", "32"), "must be a power of two");
}

#[test]
fn counts_are_claims() {
    let mut bytes = small_file().to_bytes();
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    check_refused(&bytes, "claims 18446744073709551615 tensors");
    let mut bytes = small_file().to_bytes();
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    check_refused(&bytes, "claims 18446744073709551615 metadata entries");
    // As many as are read, in a file that doesn't have them.
    let mut bytes = small_file().to_bytes();
    bytes[8..16].copy_from_slice(&(1u64 << 17).to_le_bytes());
    check_refused(&bytes, "");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let bytes = small_file().to_bytes();
    for len in 1..bytes.len() {
        assert!(Gguf::of_bytes(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
    assert!(Gguf::of_bytes(&bytes).is_ok());
}

#[test]
fn a_wrong_bit_anywhere_is_no_panic() {
    let bytes = small_file().to_bytes();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << bit;
            if let Ok(gguf) = Gguf::of_bytes(&wrong) {
                read_all(&gguf);
            }
        }
    }
}

#[test]
fn mutated_files_are_no_panic() {
    check_cases(10_000, &mutated(small_file().to_bytes()), |bytes| {
        if let Ok(gguf) = Gguf::of_bytes(&bytes) {
            read_all(&gguf);
        }
    });
}
