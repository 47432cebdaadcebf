"""Log-probabilities of completions by transformers, under each of the model
directories on the command line: one object a row, with a list over the models."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert len(AutoTokenizer.from_pretrained(directory)) == model.config.vocab_size
    return model


def score(model, row):
    start = len(row["prompt_ids"])
    ids = torch.tensor(row["prompt_ids"] + row["completion_ids"])
    with torch.no_grad():
        logits = model(ids[None]).logits[0, start - 1 : -1].double()
    assert torch.isfinite(logits).all()
    log_probs = torch.log_softmax(logits, dim=-1)
    return log_probs.gather(1, ids[start:, None]).sum().item()


def main():
    torch.set_num_threads(1)
    models = [load(directory) for directory in sys.argv[1:]]
    for line in sys.stdin:
        row = json.loads(line)
        print(json.dumps({"log_probs": [score(model, row) for model in models]}))


main()
