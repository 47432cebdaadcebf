"""Loads every model below a directory in transformers and writes its logits to logits.safetensors.

    python compare.py DIRECTORY LENGTH...

A directory that lacks a weight, has one too many or declares another type than it holds fails.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def sequence(length):
    return torch.tensor([[(7 * idx + 3 * length) % 128 for idx in range(length)]])


def main():
    torch.set_num_threads(1)
    directory, lengths = Path(sys.argv[1]), [int(length) for length in sys.argv[2:]]
    logits = {}
    for path in sorted(path for path in directory.iterdir() if path.is_dir()):
        model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        wrong = {key: value for key, value in info.items() if value}
        assert not wrong, f"{path.name}: {wrong}"
        expected = torch.bfloat16 if path.name == "smollm2" else torch.float32
        assert model.dtype == expected, f"{path.name}: {model.dtype}"
        with torch.no_grad():
            model.float()
            rows = [model(sequence(length)).logits[0] for length in lengths]
        logits[path.name] = torch.cat(rows).contiguous()
    save_file(logits, directory / "logits.safetensors")


if __name__ == "__main__":
    main()
