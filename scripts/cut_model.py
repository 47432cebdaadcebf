#!/usr/bin/env python3
"""Cuts a Llama-like Hugging Face model down to its first blocks, in fp32.

The result is a real model, only shorter: embedding, final norm, head and
tokenizer stay. Tests that compare whole training runs use it.

    python cut_model.py MODEL_DIR OUT_DIR --layers 2
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import tempfile

import torch
from safetensors.torch import load_file, save_file

LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def cut(source, target, layers):
    weights = {}
    for file in sorted(source.glob("*.safetensors")):
        weights.update(load_file(file))
    kept = {}
    for name, tensor in weights.items():
        match = LAYER.match(name)
        if match is None or int(match.group(1)) < layers:
            kept[name] = tensor.to(torch.float32).contiguous()
    config = json.loads((source / "config.json").read_text())
    config["num_hidden_layers"] = layers
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        draft = pathlib.Path(name) / "model"
        draft.mkdir()
        save_file(kept, draft / "model.safetensors", metadata={"format": "pt"})
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for file in source.iterdir():
            if file.suffix in (".json", ".jinja", ".txt", ".model") and not (draft / file.name).exists():
                shutil.copyfile(file, draft / file.name)
        (draft / "model.safetensors.index.json").unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    cut(args.source, args.target, args.layers)
    print(f"{args.target}: {args.layers} blocks, fp32")


if __name__ == "__main__":
    main()
