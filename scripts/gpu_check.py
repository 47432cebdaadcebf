#!/usr/bin/env python3
"""What scripts/gpu-check needs of Python: made-up rows, and judgements of runs.

    gpu_check.py rows FILE COUNT             word rows for models of benches/random_model.py
    gpu_check.py curve RUN REFERENCE BOUND   losses of two runs agree to a relative bound
    gpu_check.py float64 RUN MODEL ROWS BOUND
                                             the first step's log-probabilities and gradient norm
                                             agree with float64 by transformers

Each prints the greatest relative difference and fails where it is above the bound.
"""

import json
import math
import pathlib
import sys

BETA = 0.1


def rows(path, count):
    lines = []
    for number in range(int(count)):
        word = lambda place: f"w{(number * 7919 + place * 104729 + 12345) % 1000}"
        prompt = " ".join(word(place) for place in range(3 + number % 5))
        completion = " " + " ".join(word(10 + place) for place in range(2 + number * 3 % 7))
        lines.append(json.dumps({"prompt": prompt, "completion": completion, "label": number % 2 == 0}))
    pathlib.Path(path).write_text("\n".join(lines) + "\n")


def metrics(run):
    return [json.loads(line) for line in (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()]


def judge(pairs, bound):
    worst = max(abs(left - right) / max(abs(right), 1e-12) for left, right in pairs)
    print(f"greatest relative difference {worst:.2e}, bound {float(bound):.0e}")
    if not worst <= float(bound):
        sys.exit(1)


def curve(run, reference, bound):
    ours, theirs = metrics(run), metrics(reference)
    if len(ours) != len(theirs) or not ours:
        sys.exit(f"{len(ours)} steps instead of {len(theirs)}")
    judge([(left["loss"], right["loss"]) for left, right in zip(ours, theirs)], bound)


def float64(run, model, data, bound):
    """At the first step all log-ratios are 0, so the gradient of the loss by a log-probability is -+beta/4 of the mean."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    batch = [json.loads(line) for line in pathlib.Path(data).read_text().splitlines()]
    sums, loss = {True: [], False: []}, 0.0
    for row in batch:
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = tokenizer(row["prompt"] + row["completion"])["input_ids"] + [tokenizer.eos_token_id]
        ids = torch.tensor([whole])
        log_probs = policy(ids).logits[0, :-1].log_softmax(-1)
        log_prob = log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()
        sums[row["label"]].append(log_prob.item())
        loss = loss + log_prob * (-1 if row["label"] else 1) * BETA / 4 / len(batch)
    loss.backward()
    norm = math.sqrt(sum((p.grad**2).sum().item() for p in policy.parameters() if p.grad is not None))
    first = metrics(run)[0]
    mean = {label: sum(values) / len(values) for label, values in sums.items()}
    pairs = [(first["logps/chosen"], mean[True]), (first["logps/rejected"], mean[False]), (first["grad_norm"], norm)]
    judge(pairs, bound)


if __name__ == "__main__":
    commands = {"rows": rows, "curve": curve, "float64": float64}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
