//! The tokenizer against other implementations' ids, and small vocabularies of its own.

use serde::Deserialize;
use tokenizers::{
    Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    models::bpe::BPE,
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits},
};

use super::*;
use crate::{
    gguf::writer::GgufWriter,
    template::ChatTemplate,
    testing::{cached, check_cases, model, mutated, texts},
};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

fn smollm2() -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(model()).unwrap()).unwrap()
}

fn build(writer: &GgufWriter) -> Result<Tokenizer, Error> {
    Tokenizer::from_gguf(&Gguf::of_bytes(&writer.to_bytes()).unwrap())
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, one user-defined token, bytes, and `pieces`
/// with scores that fall in their order.
fn spm(pieces: &[&str]) -> GgufWriter {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec!["<unk>", "<s>", "</s>", "[tool]"];
    tokens.extend(bytes.iter().map(String::as_str));
    tokens.extend(pieces);
    let mut kinds = vec![UNKNOWN, CONTROL, CONTROL, USER_DEFINED];
    kinds.resize(4 + 256, BYTE);
    kinds.resize(tokens.len(), NORMAL);
    let scores: Vec<f32> =
        (0..tokens.len()).map(|id| if id < 260 { 0.0 } else { 260.0 - id as f32 }).collect();
    let mut writer = GgufWriter::new();
    writer
        .str("tokenizer.ggml.model", "llama")
        .strs("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &kinds)
        .f32s("tokenizer.ggml.scores", &scores)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    writer
}

/// The texts of tokens, to read a test's expectation.
fn spell(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap()).into_owned()).collect()
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    #[serde(default)]
    special: bool,
    ids: Vec<u32>,
}

fn golden(json: &str) -> Vec<Case> {
    let golden: Golden = serde_json::from_str(json).unwrap();
    golden.cases
}

#[test]
fn smollm2_finds_the_ids_that_llama_cpp_finds() {
    let cases = golden(include_str!("../../tests/data/tokenizer_smollm2.json"));
    assert_eq!(cases.len(), 84);
    let tokenizer = smollm2();
    for Case { text, special, ids } in cases {
        assert_eq!(tokenizer.encode(&text, special).unwrap(), ids, "{text:?}, special {special}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "round trip, special {special}");
    }
}

#[test]
fn gemma_3_finds_the_ids_that_llama_cpp_finds() {
    let gguf = Gguf::open(cached("gemma-3-270m-q4_k_m.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let cases = golden(include_str!("../../tests/data/tokenizer_gemma3.json"));
    assert_eq!(cases.len(), 84);
    for Case { text, special, ids } in cases {
        assert_eq!(tokenizer.encode(&text, special).unwrap(), ids, "{text:?}, special {special}");
    }
}

#[test]
fn minilm_finds_the_ids_that_its_training_tokenizer_finds() {
    let gguf = Gguf::open(cached("all-MiniLM-L6-v2.F16.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let cases = golden(include_str!("../../tests/data/tokenizer_minilm.json"));
    assert!(cases.len() > 40, "{} cases", cases.len());
    for Case { text, ids, .. } in cases {
        assert_eq!(tokenizer.encode_prompt(&text, false).unwrap(), ids, "{text:?}");
    }
    let ids = tokenizer.encode("An unaffable CAT.", false).unwrap();
    assert_eq!(spell(&tokenizer, &ids), [" an", " una", "ffa", "ble", " cat", " ."]);
}

#[test]
fn smollm2_finds_the_ids_that_its_training_tokenizer_finds() {
    let gguf = Gguf::open(model()).unwrap();
    let ours = Tokenizer::from_gguf(&gguf).unwrap();
    let tokens: Vec<&str> = gguf.metadata().require("tokenizer.ggml.tokens").unwrap();
    let merges: Vec<&str> = gguf.metadata().require("tokenizer.ggml.merges").unwrap();
    let vocabulary = tokens.iter().map(|token| token.to_string()).zip(0..);
    let merges = merges.iter().map(|line| line.split_once(' ').unwrap());
    let theirs = BPE::new(vocabulary.collect(), merges.map(|(a, b)| (a.to_owned(), b.to_owned())).collect());
    let (digits, byte_level) = (Digits::new(true), ByteLevel::new(false, false, true));

    check_cases(2000, &texts(), |text| {
        let mut pieces = PreTokenizedString::from(text.as_str());
        digits.pre_tokenize(&mut pieces).unwrap();
        byte_level.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let expected: Vec<u32> = pieces
            .iter()
            .flat_map(|(piece, _, _)| theirs.tokenize(piece).unwrap())
            .map(|token| token.id)
            .collect();
        assert_eq!(ours.encode(&text, false).unwrap(), expected, "{text:?}");
        assert_eq!(ours.decode(&expected).unwrap(), text);
    });
}

#[test]
fn smollm2_ends_at_the_end_of_a_turn_and_of_the_text() {
    let tokenizer = smollm2();
    let special = |text| tokenizer.encode(text, true).unwrap()[0];
    assert!(tokenizer.is_end(special("<|im_end|>")));
    assert!(tokenizer.is_end(special("<|endoftext|>")));
    assert!(!tokenizer.is_end(special("<|im_start|>")));
    assert!(!tokenizer.is_end(special("Hello")));
    assert_eq!(tokenizer.bos(), Some(special("<|im_start|>")));
    assert_eq!(tokenizer.eos(), Some(special("<|im_end|>")));
    assert!(!tokenizer.add_bos);
    assert_eq!(tokenizer.vocabulary(), 49152);
}

#[test]
fn long_runs_take_time_in_proportion() {
    // Quadratic code would need minutes for any of these.
    let tokenizer = smollm2();
    for part in ["a", " ", "\n", "!", "é", "1", "ab", " a", "<|im_start"] {
        let text = part.repeat((1 << 20) / part.len());
        let ids = tokenizer.encode(&text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{part:?}");
    }
}

#[test]
fn a_token_beyond_the_vocabulary_is_refused() {
    let refusal = smollm2().decode(&[49152]).unwrap_err();
    assert_eq!(refusal.to_string(), "token 49152 is beyond the vocabulary of 49152");
}

#[test]
fn a_text_over_the_limit_is_refused() {
    let text = "a".repeat(TEXT_BYTES_MAX + 1);
    assert!(matches!(smollm2().encode(&text, false), Err(Error::Invalid(_))));
}

#[test]
fn spm_merges_the_highest_score_first() {
    let tokenizer = build(&spm(&["▁", "a", "b", "c", "bc", "ab", "▁a", "abc"])).unwrap();
    // "bc" goes before "ab" and "▁a"; "a" is then left to "▁a".
    let ids = tokenizer.encode("abc", false).unwrap();
    assert_eq!(spell(&tokenizer, &ids), [" a", "bc"]);
}

#[test]
fn spm_spells_what_it_lacks_in_bytes() {
    let tokenizer = build(&spm(&["▁", "a"])).unwrap();
    let ids = tokenizer.encode("aé", false).unwrap();
    assert_eq!(ids, [260, 261, 4 + 0xC3, 4 + 0xA9]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "aé");
}

#[test]
fn spm_puts_a_space_before_text_and_takes_it_off_again() {
    let tokenizer = build(&spm(&["▁", "a", "▁a"])).unwrap();
    for text in ["a", " a", "a a", "  ", "<s>a</s>", "<s> a", "[tool]a", "a[tool][tool] a"] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert_eq!(spell(&tokenizer, &tokenizer.encode("<s>a", true).unwrap()), ["<s>", " a"]);

    let tokenizer = build(spm(&["▁", "a", "▁a"]).bool("tokenizer.ggml.add_space_prefix", false)).unwrap();
    assert_eq!(spell(&tokenizer, &tokenizer.encode("a a", false).unwrap()), ["a", " a"]);
}

#[test]
fn spm_merges_as_the_plain_definition_does() {
    let pieces = [
        "▁", "a", "b", "th", "t", "h", "e", "▁t", "he", "▁the", "aa", "in", "i", "n", "g", "ing", "▁▁", "aaa",
    ];
    let tokenizer = build(&spm(&pieces)).unwrap();
    check_cases(500, &texts(), |text| {
        let text = text.replace("</s>", "");
        let ids = tokenizer.encode(&text, false).unwrap();
        assert_eq!(spell(&tokenizer, &ids), merge_plainly(&tokenizer, &pieces, &text), "{text:?}");
    });
}

/// SentencePiece's merges by rescanning the text for each.
fn merge_plainly(tokenizer: &Tokenizer, pieces: &[&str], text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut symbols: Vec<String> = format!("▁{text}").replace(' ', "▁").chars().map(String::from).collect();
    loop {
        let best = (1..symbols.len())
            .filter_map(|at| {
                let joined = symbols[at - 1].clone() + &symbols[at];
                pieces.iter().position(|piece| *piece == joined).map(|order| (order, at))
            })
            .min();
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at);
        symbols[at - 1].push_str(&right);
    }
    let known = |symbol: &str| pieces.contains(&symbol);
    let bytes = |symbol: &str| -> Vec<String> {
        let tokens: Vec<u32> = symbol.bytes().map(|byte| 4 + u32::from(byte)).collect();
        spell(tokenizer, &tokens)
    };
    symbols
        .iter()
        .flat_map(|symbol| if known(symbol) { vec![symbol.replace('▁', " ")] } else { bytes(symbol) })
        .collect()
}

#[test]
fn control_tokens_are_text_unless_asked_for() {
    let tokenizer = build(&spm(&["▁", "<", "s", ">", "</", "/", "</s"])).unwrap();
    let ids = tokenizer.encode("</s>", false).unwrap();
    assert_eq!(spell(&tokenizer, &ids), [" ", "</s", ">"]);
    assert!(!ids.contains(&2));
    assert_eq!(tokenizer.encode("</s>", true).unwrap(), [2]);
    // User-defined tokens are text that is always one token.
    assert!(tokenizer.encode("s[tool]s", false).unwrap().contains(&3));
}

#[test]
fn a_prompt_begins_with_the_begin_token_once() {
    let tokenizer = build(&spm(&["▁", "a"])).unwrap();
    assert!(tokenizer.add_bos);
    assert_eq!(tokenizer.encode_prompt("a", true).unwrap(), [1, 260, 261]);
    assert_eq!(tokenizer.encode_prompt("<s>a", true).unwrap(), [1, 260, 261]);
    assert_eq!(tokenizer.encode_prompt("", true).unwrap(), [1]);
    let ends = build(spm(&["▁", "a"]).bool("tokenizer.ggml.add_eos_token", true)).unwrap();
    assert_eq!(ends.encode_prompt("a", true).unwrap(), [1, 260, 261, 2]);
}

#[test]
fn a_stream_of_tokens_gives_whole_characters() {
    let tokenizer = build(&spm(&["a"])).unwrap();
    let mut stream = Detokenizer::new();
    let mut push = |byte: u8| stream.push(&tokenizer, 4 + u32::from(byte));
    assert_eq!("🙂".bytes().map(&mut push).collect::<Vec<_>>(), ["", "", "", "🙂"]);
    // A continuation byte alone, a lead byte that isn't continued, a byte that never occurs.
    assert_eq!([0x80, 0xC3, b'a', 0xFF].map(&mut push), ["\u{FFFD}", "", "\u{FFFD}a", "\u{FFFD}"]);
    assert_eq!([0xF0, 0x9F, 0x99].map(&mut push), ["", "", ""]);
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_stream_has_no_control_tokens_and_keeps_its_spaces() {
    let tokenizer = build(&spm(&["▁", "a", "▁a"])).unwrap();
    let mut stream = Detokenizer::new();
    let text: String = [262, 1, 3, 261, 2].map(|id| stream.push(&tokenizer, id)).concat();
    assert_eq!(text, " a[tool]a");
}

#[test]
fn a_stream_of_any_text_gives_the_text() {
    let tokenizer = smollm2();
    check_cases(500, &texts(), |text| {
        let ids = tokenizer.encode(&text, false).unwrap();
        let mut stream = Detokenizer::new();
        let streamed: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        assert_eq!(streamed + &stream.finish(), text);
    });
}

/// A byte-level vocabulary of the letters a, b and c, with `merges`.
fn bpe(merges: &[&str]) -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strs("tokenizer.ggml.tokens", &["a", "b", "c", "Ġ", "ab", "bc", "Ġa"])
        .strs("tokenizer.ggml.merges", merges);
    writer
}

#[test]
fn bpe_merges_the_first_of_the_list_first() {
    let tokenizer = build(&bpe(&["b c", "a b", "Ġ a"])).unwrap();
    assert_eq!(
        spell(&tokenizer, &tokenizer.encode("abc abab", false).unwrap()),
        ["a", "bc", " ", "ab", "ab"]
    );
    let tokenizer = build(&bpe(&["a b", "b c", "Ġ a"])).unwrap();
    assert_eq!(spell(&tokenizer, &tokenizer.encode("abc", false).unwrap()), ["ab", "c"]);
}

#[test]
fn bpe_leaves_bytes_without_a_token_out_and_merges_nothing_across() {
    let tokenizer = build(&bpe(&["a b"])).unwrap();
    assert_eq!(spell(&tokenizer, &tokenizer.encode("axb", false).unwrap()), ["a", "b"]);
}

#[test]
fn llama3_takes_whole_words_before_merges() {
    let mut writer = GgufWriter::new();
    writer
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "llama-bpe")
        .strs("tokenizer.ggml.tokens", &["a", "b", "c", "ab", "abc"])
        .strs("tokenizer.ggml.merges", &["a b"]);
    let tokenizer = build(&writer).unwrap();
    assert_eq!(spell(&tokenizer, &tokenizer.encode("abc", false).unwrap()), ["abc"]);
    assert!(tokenizer.add_bos);
}

#[test]
fn metadata_that_make_no_tokenizer_are_refused() {
    let check = |writer: &GgufWriter, problem: &str| {
        let error = build(writer).unwrap_err();
        assert!(matches!(error, Error::BadModel { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    };
    check(&GgufWriter::new(), "\"tokenizer.ggml.model\" is missing");
    check(GgufWriter::new().str("tokenizer.ggml.model", "t5"), "names tokenizer \"t5\"");
    check(&bpe(&["a x"]), "\"a x\" at 0, which joins no two tokens to one");
    check(&bpe(&["ab"]), "\"ab\" at 0");
    check(bpe(&[]).u32("tokenizer.ggml.eos_token_id", 7), "is 7, the vocabulary has 7 tokens");
    check(bpe(&[]).i32s("tokenizer.ggml.token_type", &[1]), "has 1 elements for 7 tokens");
    check(bpe(&[]).i32s("tokenizer.ggml.token_type", &[9; 7]), "has unknown type 9");
    check(bpe(&[]).i32s("tokenizer.ggml.token_type", &[BYTE; 7]), "has byte token \"a\"");
}

/// Uses all that a file's vocabulary and template offer: nothing of it may panic.
fn use_all(gguf: &Gguf) {
    let Ok(tokenizer) = Tokenizer::from_gguf(gguf) else { return };
    for text in ["a bc ab\u{2581}é\n", "<s>[tool]</s><unk>", ""] {
        for special in [false, true] {
            let ids = tokenizer.encode_prompt(text, special).unwrap();
            tokenizer.decode(&ids).unwrap();
            let mut stream = Detokenizer::new();
            ids.iter().for_each(|&id| drop(stream.push(&tokenizer, id)));
        }
    }
    let message = crate::Message { role: "user".to_owned(), content: "a".to_owned() };
    if let Ok(Some(template)) = ChatTemplate::from_gguf(gguf, &tokenizer) {
        let _ = template.render(&[message], &[], true);
    }
}

#[test]
fn mutated_vocabularies_are_no_panic() {
    let template = "{% for m in messages %}{{ bos_token ~ m['role'] + m.content[0:2] | trim }}{% endfor %}";
    let key = "tokenizer.chat_template";
    for file in
        [spm(&["▁", "a", "b", "ab", "▁a"]).str(key, template), bpe(&["a b", "b c"]).str(key, template)]
    {
        let file = file.to_bytes();
        use_all(&Gguf::of_bytes(&file).unwrap());
        check_cases(4000, &mutated(file), |file| {
            if let Ok(gguf) = Gguf::of_bytes(&file) {
                use_all(&gguf);
            }
        });
    }
}
