#!/usr/bin/env python3
"""Trains the same rows with TRL's KTOTrainer and with Prospect, side by side.

One call runs, one after the other and each as a process of its own:
  trl-defaults  TRL as it comes: fp32 weights, bf16 autocast, gradient checkpointing
  trl-best      bf16 weights, no checkpointing, precomputed reference log-probabilities
  prospect-bf16 one worker, bf16 compute with fp32 master weights, reference computed in the run
  prospect      the same at its default on a CPU: fp32
on the same model, rows, global batch, number of steps and threads. It prints
useful tokens a second (tokens of the rows trained on, padding and mismatched
pairs not counted; TRL's precomputation counts as training time), the highest
resident memory of any process, and Prospect's ratios. Needs TRL:

    scripts/setup reference
    .venv/bin/python benches/compare_trl.py --model DIR --data FILE [--steps 4] [--repeat 1]
"""

import argparse
import gzip
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SYSTEMS = ["trl-defaults", "trl-best", "prospect-bf16", "prospect"]


def read_rows(path, count):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(count), file)]
    if len(rows) < count:
        sys.exit(f"{path} has {len(rows)} rows, but {count} are needed: lower --steps or --batch")
    return rows


def run_trl(args, rows, best):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    torch.set_num_threads(args.threads)
    weights = torch.bfloat16 if best else torch.float32
    settings = {"gradient_checkpointing": False, "precompute_ref_log_probs": True} if best else {}
    with tempfile.TemporaryDirectory() as output:
        config = KTOConfig(
            output_dir=output, max_steps=args.steps, per_device_train_batch_size=args.batch, max_length=args.max_length,
            learning_rate=1e-6, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
            **settings,
        )
        start = time.monotonic()
        trainer = KTOTrainer(
            model=AutoModelForCausalLM.from_pretrained(args.model, dtype=weights),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(args.model),
        )
        prepared = time.monotonic() - start
        start = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - start
        tokens = int(trainer._total_train_tokens)
    return {"tokens": tokens, "seconds": seconds + (prepared if best else 0.0)}


def run_prospect(args, rows, dtype):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "run.toml").write_text(
            f'[model]\npath = "{pathlib.Path(args.model).resolve()}"\ndtype = "{dtype}"\n'
            f'[data]\ntrain = ["{data}"]\nmax_length = {args.max_length}\norder = "sequential"\noverlong = "drop"\n'
            f"[train]\nglobal_batch_size = {args.batch}\nsteps = {args.steps}\nlearning_rate = 1e-6\n"
            f"threads = {args.threads}\nmicrobatch_tokens = {args.microbatch_tokens}\n"
            "[checkpoint]\nevery_steps = 0\n"
        )
        command = [args.prospect, "train", folder / "run.toml", "--workers", "1", "--run-dir", folder / "run"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == args.steps, "one line a step is expected"
    return {"tokens": lines[-1]["num_tokens"], "seconds": sum(line["step_seconds"] for line in lines)}


def child(args, system):
    rows = read_rows(args.data, args.steps * args.batch + args.spare)
    ours = {"prospect": "auto", "prospect-bf16": "bfloat16"}
    result = run_prospect(args, rows, ours[system]) if system in ours else run_trl(args, rows, system == "trl-best")
    # The workers of Prospect are descendants; TRL runs in this very process.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if system not in ours else 0
    result["peak_bytes"] = 1024 * max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print("RESULT " + json.dumps(result))


def measure(args, system):
    command = [sys.executable, __file__, *sys.argv[1:], "--child", system]
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads), TOKENIZERS_PARALLELISM="false")
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / ".cache/models/smollm2-135m-instruct"))
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "examples/short-answers/feedback.jsonl")
    parser.add_argument("--prospect", default=str(ROOT / "target/release/prospect"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--microbatch-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=1, help="rounds over all systems; medians are printed")
    parser.add_argument("--spare", type=int, default=0, help="rows beyond those needed, for data with overlong prompts")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args, args.child)

    results = {system: [] for system in args.systems.split(",")}
    for _ in range(args.repeat):
        for system, rounds in results.items():
            rounds.append(measure(args, system))
            print(f"{system}: {rounds[-1]}", file=sys.stderr)

    print(f"{platform.machine()}, {args.threads} threads, batch {args.batch}, {args.steps} steps, median of {args.repeat}")
    rate = {s: statistics.median(r["tokens"] / r["seconds"] for r in rounds) for s, rounds in results.items()}
    peak = {s: statistics.median(r["peak_bytes"] for r in rounds) for s, rounds in results.items()}
    print(f"{'system':14} {'tokens/s':>9} {'peak GB':>8}   speed and memory of prospect in relation to it")
    for system in results:
        ratios = ""
        if "prospect" in results:
            speed, memory = rate["prospect"] / rate[system], 100 * peak["prospect"] / peak[system]
            ratios = f"{speed:.2f} times the speed, {memory:.0f} % of the memory"
        print(f"{system:14} {rate[system]:9.1f} {peak[system] / 1e9:8.2f}   {ratios}")


if __name__ == "__main__":
    main()
