#!/usr/bin/env python3
"""Writes a Hugging Face directory with random weights in the shape of a known model, for benchmarks.

    .venv/bin/python benches/random_model.py SHAPE DIR [--dtype bfloat16]

Nothing is fetched: weights are drawn tensor by tensor, so that no more than one of them is in
memory, and the tokenizer, whole words `w0`, `w1`, ..., is made here. Speed and memory depend on
shapes alone; what such a model says means nothing.
"""

import argparse
import json
import math
import pathlib
import struct

LLAMA_3_ROPE = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}
# Shapes as in the models' own config.json.
SHAPES = {
    "small": dict(
        model_type="llama", vocab_size=4096, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_theta=10000.0, max_position_embeddings=2048,
    ),
    "qwen2.5-0.5b": dict(
        model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6,
        rope_theta=1000000.0, max_position_embeddings=32768,
    ),
    "llama-3.2-1b": dict(
        model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_theta=500000.0, max_position_embeddings=131072, rope_scaling={**LLAMA_3_ROPE, "factor": 32.0},
    ),
    "llama-3.1-8b": dict(
        model_type="llama", vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False, rms_norm_eps=1e-5,
        rope_theta=500000.0, max_position_embeddings=131072, rope_scaling={**LLAMA_3_ROPE, "factor": 8.0},
    ),
}
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = {"bfloat16": ("BF16", 2), "float32": ("F32", 4)}


def config(shape, dtype):
    architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[shape["model_type"]]
    common = {"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "torch_dtype": dtype, "use_cache": True}
    if shape["model_type"] == "llama":
        common |= {"attention_bias": False, "mlp_bias": False}
    else:
        common |= {"use_sliding_window": False}
    return {"architectures": [architecture], "attention_dropout": 0.0, "initializer_range": 0.02, **common, **shape}


def tensors(shape):
    """Names and shapes, in the order of the chain."""
    hidden, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    head = shape.get("head_dim", hidden // heads)
    queries, keys = heads * head, shape["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", [shape["vocab_size"], hidden]
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows in [("q", queries), ("k", keys), ("v", keys)]:
            yield f"{prefix}self_attn.{name}_proj.weight", [rows, hidden]
            if shape["model_type"] == "qwen2":
                yield f"{prefix}self_attn.{name}_proj.bias", [rows]
        yield f"{prefix}self_attn.o_proj.weight", [hidden, queries]
        yield f"{prefix}mlp.gate_proj.weight", [inner, hidden]
        yield f"{prefix}mlp.up_proj.weight", [inner, hidden]
        yield f"{prefix}mlp.down_proj.weight", [hidden, inner]
        yield f"{prefix}input_layernorm.weight", [hidden]
        yield f"{prefix}post_attention_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", [shape["vocab_size"], hidden]


def write_weights(path, shape, dtype):
    import torch

    code, size = BYTES[dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dims in tensors(shape):
        end = offset + size * math.prod(dims)
        header[name] = {"dtype": code, "shape": dims, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dims in tensors(shape):
            if "norm" in name:
                values = torch.ones(dims, device=device)
            else:
                values = torch.randn(dims, device=device, generator=generator) * 0.02
            values = values.to(getattr(torch, dtype)).flatten().view(torch.uint8).cpu()
            file.write(memoryview(values.numpy()))
    return offset // size


def write_tokenizer(folder, vocab_size):
    vocab = {token: number for number, token in enumerate(SPECIAL)}
    vocab |= {f"w{word}": word + len(SPECIAL) for word in range(vocab_size - len(SPECIAL))}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": number, "content": token, **flags} for number, token in enumerate(SPECIAL)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>",
        "unk_token": "<unk>", "model_max_length": 4096, "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dtype", choices=BYTES, default="bfloat16")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "config.json").write_text(json.dumps(config(shape, args.dtype), indent=1))
    (args.folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    write_tokenizer(args.folder, shape["vocab_size"])
    # The name is the last to appear: a directory with weights is whole.
    unfinished = args.folder / "model.safetensors.unfinished"
    count = write_weights(unfinished, shape, args.dtype)
    unfinished.rename(args.folder / "model.safetensors")
    print(f"{args.folder}: {count / 1e6:.0f} million parameters in {args.dtype}")


if __name__ == "__main__":
    main()
