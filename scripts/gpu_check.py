#!/usr/bin/env python3
"""What scripts/gpu-check needs of Python: made-up rows, and judgements of runs.

    gpu_check.py rows FILE COUNT             word rows for models of benches/random_model.py
    gpu_check.py curve RUN REFERENCE BOUND   the curves of two runs agree to a relative bound
    gpu_check.py spent RUN                   waiting, speed and MFU of a run after its first step
    gpu_check.py steady RUN BOUND            the last quarter of a run took at most BOUND times as long as the
                                             second, and no more memory than 1.02 times
    gpu_check.py engine JSON GOAL            best MFU of the engine's benchmark, in per cent
    gpu_check.py trl JSON GOAL               how much faster than TRL, with the time for reference values
    gpu_check.py float64 RUN MODEL ROWS BOUND
                                             the first step's log-probabilities and gradient norm
                                             agree with float64 by transformers

The last line says what was found. The status is 1 where a bound is not kept and 3 where a goal, if it is
not 0, is not reached.
"""

import json
import math
import pathlib
import statistics
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
    pairs = []
    for left, right in zip(ours, theirs):
        pairs += [(left[key], right[key]) for key in ("loss", "logps/chosen", "logps/rejected") if key in right]
        # The norm is of gradients that cancel; the KL is a difference of log-probabilities.
        pairs.append((1 + (left["grad_norm"] / right["grad_norm"] - 1) / 10, 1))
        scale = abs(right.get("logps/chosen", right.get("logps/rejected")))
        pairs.append((1 + (left["kl_raw"] - right["kl_raw"]) / scale, 1))
    judge(pairs, bound)


def spent(run):
    steps = metrics(run)[1:]

    def median(key):
        values = [step[key] for step in steps if step.get(key) is not None]
        return statistics.median(values) if values else None

    waiting, speed, mfu = median("waiting"), median("tokens_per_second"), median("mfu")
    print(
        f"waiting {100 * waiting:.1f} % of a step, {speed:.0f} tokens/s" + (f", MFU {100 * mfu:.1f} %" if mfu else "")
        if waiting is not None and speed is not None
        else sys.exit(f"{run} tells no waiting")
    )


def steady(run, bound):
    steps = metrics(run)
    quarter = len(steps) // 4
    second, last = steps[quarter : 2 * quarter], steps[-quarter:]
    slower, larger = (
        statistics.median(step[key] for step in last) / statistics.median(step[key] for step in second)
        for key in ("step_seconds", "peak_memory_bytes")
    )
    print(f"{len(steps)} steps: at the end {slower:.3f} times the time and {larger:.3f} times the memory")
    if slower > float(bound) or larger > 1.02:
        sys.exit(1)


def reach(found, goal, text):
    """Says whether a goal is reached; goal 0 is none."""
    goal = float(goal)
    if not goal:
        print(f"{text}; no goal")
    elif found >= goal:
        print(f"{text}; goal {goal:g}: reached")
    else:
        print(f"{text}; goal {goal:g}: not reached")
        sys.exit(3)


def engine(path, goal):
    found = json.loads(pathlib.Path(path).read_text())
    rates = {rate["dtype"]: rate for rate in found["rates"]}
    best = None
    for step in found["steps"]:
        rate = rates[step["settings"]["dtype"]]
        for name in ("first_epoch", "later_epochs"):
            share = 100 * step[name]["flops_per_second"] / (rate["data_sheet"] or rate["square"])
            if best is None or share > best[0]:
                best = share, rate, step["settings"], step[name], name
    share, rate, settings, means, name = best
    of = "MFU" if rate["data_sheet"] else "of the measured matrix rate"
    reach(
        share,
        goal,
        f"{share:.1f} % {of}, {means['useful_tokens_per_second']:.0f} tokens/s, {means['peak_memory_bytes'] / 1e9:.1f} GB, "
        f"{settings['dtype']}, recompute {settings['recompute']}, {name.replace('_', ' ')}",
    )


def trl(path, goal):
    rounds = json.loads(pathlib.Path(path).read_text())

    def median(system, of):
        return statistics.median(of(found) for found in rounds[system])

    speed = {name: median(name, lambda found: found["tokens"] / (found["seconds"] + found["reference_seconds"])) for name in rounds}
    peak = {name: median(name, lambda found: found["peak_bytes"]) for name in rounds}
    ratio = speed["prospect"] / speed["trl-best"]
    memory = 100 * peak["prospect"] / peak["trl-best"]
    reach(ratio, goal, f"{ratio:.2f} times TRL's best, {memory:.0f} % of its memory, TRL: {rounds['trl-best'][0]['how']}")


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
    commands = {"rows": rows, "curve": curve, "spent": spent, "steady": steady, "engine": engine, "trl": trl, "float64": float64}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
