#!/usr/bin/env python3
"""Writes a BERT of sentence-transformers as GGUF: bert-gguf.py FOLDER OUT.gguf

FOLDER has config.json, tokenizer.json, model.safetensors and 1_Pooling/config.json. Matrices become F16,
vectors F32. Names and keys are those of llama.cpp. Needs nothing but Python.
"""
import json
import pathlib
import struct
import sys

F32, F16 = 0, 1
NORMAL, UNKNOWN, CONTROL, UNUSED = 1, 2, 3, 5
CONTROL_TOKENS = {"[CLS]", "[SEP]", "[PAD]", "[MASK]"}
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def tensors(path):
    """Name, shape and f32 bytes of each tensor of a safetensors file."""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] == "F32":
            start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            yield name, entry["shape"], data[start:end]


def gguf_name(name):
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    parts = name.split(".")
    if parts[:2] == ["encoder", "layer"]:
        part, kind = ".".join(parts[3:-1]), parts[-1]
        return f"blk.{parts[2]}.{LAYER[part]}.{kind}"
    return None  # The pooler, which sentence-transformers leave out.


def to_f16(data):
    count = len(data) // 4
    return struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", data))


def spelling(piece):
    """Pieces that begin a word begin with U+2581; others lose their ##."""
    return piece[2:] if piece.startswith("##") else "\u2581" + piece


def vocabulary(path):
    ids = json.loads(path.read_text())["model"]["vocab"]
    texts, kinds = [], []
    for piece, _ in sorted(ids.items(), key=lambda entry: entry[1]):
        if piece == "[UNK]":
            text, kind = piece, UNKNOWN
        elif piece in CONTROL_TOKENS:
            text, kind = piece, CONTROL
        elif piece.startswith("[unused"):
            text, kind = piece, UNUSED
        else:
            text, kind = spelling(piece), NORMAL
        texts.append(text)
        kinds.append(kind)
    return texts, kinds, ids


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(x):
    """A metadata value: its type's number and its bytes."""
    match x:
        case bool():
            return struct.pack("<I?", 7, x)
        case int():
            return struct.pack("<II", 4, x)
        case float():
            return struct.pack("<If", 6, x)
        case str():
            return struct.pack("<I", 8) + string(x)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(string, x))
        case [int(), *_]:
            return struct.pack("<IIQ", 9, 5, len(x)) + struct.pack(f"<{len(x)}i", *x)
    raise TypeError(x)


def main(folder, out):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    texts, kinds, ids = vocabulary(folder / "tokenizer.json")
    metadata = {
        "general.architecture": "bert",
        "general.name": config.get("_name_or_path", "bert"),
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": config["layer_norm_eps"],
        "bert.attention.causal": False,
        "bert.pooling_type": 2 if pooling["pooling_mode_cls_token"] else 1,
        "general.file_type": 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": ids["[UNK]"],
        "tokenizer.ggml.bos_token_id": ids["[CLS]"],
        "tokenizer.ggml.cls_token_id": ids["[CLS]"],
        "tokenizer.ggml.eos_token_id": ids["[SEP]"],
        "tokenizer.ggml.seperator_token_id": ids["[SEP]"],
        "tokenizer.ggml.padding_token_id": ids["[PAD]"],
        "tokenizer.ggml.mask_token_id": ids["[MASK]"],
    }
    infos, data = [], bytearray()
    for name, shape, raw in tensors(folder / "model.safetensors"):
        name = gguf_name(name)
        if name is None:
            continue
        is_matrix = len(shape) == 2 and name not in ("token_types.weight", "position_embd.weight")
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(string(name) + dimensions + struct.pack("<IQ", F16 if is_matrix else F32, len(data)))
        data += to_f16(raw) if is_matrix else raw
        data += bytes(-len(data) % 32)
    with open(out, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(metadata)))
        for key, x in metadata.items():
            file.write(string(key) + value(x))
        file.write(b"".join(infos))
        file.write(bytes(-file.tell() % 32))
        file.write(data)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
