#!/usr/bin/env python3
"""Trains the same rows with TRL's KTOTrainer and with Prospect, side by side.

One call runs, one after the other and each as a process of its own:
  trl-defaults  TRL as it comes: fp32 weights, bf16 autocast, gradient checkpointing
  trl-best      bf16 weights, no checkpointing, precomputed reference log-probabilities, its fused
                head; on a GPU the fastest attention that is installed, and the Hub's kernels, or
                else Liger's, where they are; if training fails with them, it is PyTorch alone
  prospect-bf16 one worker, bf16 compute with fp32 master weights
  prospect      the same at its default: fp32 on a CPU, bf16 on a GPU
on the same model, rows, global batch, number of steps and threads. It prints
useful tokens a second (tokens of the rows trained on, padding and mismatched
pairs not counted), with the time for reference values counted and without it,
the highest memory (resident on a CPU, allocated on a GPU), and Prospect's ratios:
medians over --repeat rounds. The first --warm-up steps are not counted.

TRL takes a batch in one pass or, with --trl-rows-per-pass, in several whose
gradients it accumulates; its memory is that of such a pass. On a CPU the default
is 8 rows: a batch of 32 rows of up to 1,024 tokens does not fit into 24 GB otherwise.

--reference run: Prospect computes the reference in its steps, as in a first epoch.
--reference filled: `prospect score` fills the cache ahead, and its time is counted as TRL's is.
--set KEY=VALUE, any number of times: settings of Prospect's runs, as of its command.
--rows made-up writes word rows with lengths as in dialogue data, for models of
random_model.py. Needs TRL:

    scripts/setup reference
    .venv/bin/python benches/compare_trl.py --model DIR --data FILE [--batch 32] [--steps 4] [--repeat 3]
"""

import argparse
import gzip
import json
import math
import os
import pathlib
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SYSTEMS = ["trl-defaults", "trl-best", "prospect-bf16", "prospect"]
# Mean tokens of a made-up row and the prompt's share; spread of the logarithm of lengths.
ROW_TOKENS, PROMPT_SHARE, PROMPT_SPREAD, COMPLETION_SPREAD = 256, 0.6, 0.7, 0.8


def read_rows(args):
    count = args.batch * (args.warm_up + args.steps) + args.spare
    if args.rows == "made-up":
        return [made_up_row(number, args.max_length) for number in range(count)]
    opener = gzip.open if args.data.suffix == ".gz" else open
    with opener(args.data, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(count), file)]
    if len(rows) < count:
        sys.exit(f"{args.data} has {len(rows)} rows, but {count} are needed: lower --steps or --batch")
    return rows


def made_up_row(number, max_length):
    numbers = random.Random(number)

    def words(mean, spread, most):
        length = round(numbers.lognormvariate(math.log(mean) - spread * spread / 2, spread))
        return " ".join(f"w{numbers.randrange(1000)}" for _ in range(min(max(length, 2), most)))

    prompt = words(ROW_TOKENS * PROMPT_SHARE, PROMPT_SPREAD, 3 * max_length // 4)
    completion = words(ROW_TOKENS * (1 - PROMPT_SHARE), COMPLETION_SPREAD, max_length)
    return {"prompt": prompt, "completion": " " + completion, "label": number % 3 == 0}


def best_settings(args):
    """TRL's settings and its attention."""
    import importlib.util

    settings = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
    attention = "sdpa"
    if args.device == "cuda" and not args.torch_alone:
        if importlib.util.find_spec("flash_attn"):
            attention = "flash_attention_2"
        if importlib.util.find_spec("liger_kernel"):
            settings["use_liger_kernel"] = True
    return settings, attention


def load_for_trl(args, best, attention):
    """The model, and whether it has the Hub's kernels, which TRL recommends; they are fetched when it is loaded."""
    import importlib.util

    import torch
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.bfloat16 if best else torch.float32, "attn_implementation": attention}
    if best and args.device == "cuda" and not args.torch_alone and importlib.util.find_spec("kernels"):
        try:
            return AutoModelForCausalLM.from_pretrained(args.model, use_kernels=True, **options), True
        except Exception as error:
            print(f"without the Hub's kernels: {error}", file=sys.stderr)
    return AutoModelForCausalLM.from_pretrained(args.model, **options), False


def run_trl(args, rows, best):
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import KTOConfig, KTOTrainer

    is_cuda = args.device == "cuda"
    if not is_cuda:
        torch.set_num_threads(args.threads)
    settings, attention = best_settings(args) if best else ({}, "sdpa")
    per_pass = min(args.batch, args.trl_rows_per_pass or args.batch)
    if args.batch % per_pass:
        sys.exit(f"--trl-rows-per-pass {per_pass} does not divide --batch {args.batch}")
    moments = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_, **__):
            if is_cuda:
                torch.cuda.synchronize()
            moments.append((time.monotonic(), int(trainer._total_train_tokens)))

    model, has_kernels = load_for_trl(args, best, attention)
    if has_kernels:
        settings.pop("use_liger_kernel", None)
    kernels = "the Hub's kernels" if has_kernels else "Liger" if settings.get("use_liger_kernel") else "no other kernels"
    with tempfile.TemporaryDirectory() as output:
        config = KTOConfig(
            output_dir=output, max_steps=args.warm_up + args.steps, per_device_train_batch_size=per_pass,
            gradient_accumulation_steps=args.batch // per_pass, max_length=args.max_length, learning_rate=1e-6,
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=not is_cuda, disable_tqdm=True, **settings,
        )
        start = time.monotonic()
        trainer = KTOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(args.model),
            callbacks=[Watch()],
        )
        prepared = time.monotonic() - start
        moments.append((time.monotonic(), 0))
        trainer.train()
    (start, before), (end, after) = moments[args.warm_up], moments[-1]
    # Tokenisation is counted with it and is small; the share is that of the steps that are measured.
    share = args.steps / (args.warm_up + args.steps)
    return {
        "tokens": after - before,
        "seconds": end - start,
        "reference_seconds": share * prepared if best else 0.0,
        "peak_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
        "how": f"{per_pass} rows a pass, {attention}, {kernels}",
    }


def run_prospect(args, rows, dtype):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = folder / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        threads = f"threads = {args.threads}\n" if args.device == "cpu" else ""
        (folder / "run.toml").write_text(
            f'[model]\npath = "{pathlib.Path(args.model).resolve()}"\ndtype = "{dtype}"\n'
            f'[data]\ntrain = ["{data}"]\nmax_length = {args.max_length}\norder = "sequential"\noverlong = "drop"\n'
            f"[train]\nglobal_batch_size = {args.batch}\nsteps = {args.warm_up + args.steps}\nlearning_rate = 1e-6\n"
            f'{threads}microbatch_tokens = {args.microbatch_tokens}\nrecompute = "{args.recompute}"\n'
            "[checkpoint]\nevery_steps = 0\n"
        )
        where = [folder / "run.toml", "--workers", "1", "--run-dir", folder / "run", "--device", args.device]
        where += [word for setting in args.set for word in ("--set", setting)]
        start = time.monotonic()
        if args.reference == "filled":
            subprocess.run([args.prospect, "score", *where], check=True, stdout=sys.stderr)
        prepared = time.monotonic() - start
        subprocess.run([args.prospect, "train", *where], check=True, stdout=sys.stderr)
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    total = args.warm_up + args.steps
    assert len(lines) == total, "one line a step is expected"
    before = lines[args.warm_up - 1]["num_tokens"] if args.warm_up else 0
    counted = lines[args.warm_up:]
    mfu = [line["mfu"] for line in counted if line.get("mfu")]
    return {
        "tokens": lines[-1]["num_tokens"] - before,
        "seconds": sum(line["step_seconds"] for line in counted),
        "reference_seconds": prepared * args.steps / total if args.reference == "filled" else 0.0,
        "peak_bytes": lines[-1]["peak_memory_bytes"] if args.device == "cuda" else None,
        "mfu": statistics.median(mfu) if mfu else None,
        "how": ", ".join(
            [f"{args.microbatch_tokens} tokens a pass", f"reference {args.reference}", f"recompute {args.recompute}", *args.set]
        ),
    }


def child(args, system):
    rows = read_rows(args)
    ours = {"prospect": "auto", "prospect-bf16": "bfloat16"}
    result = run_prospect(args, rows, ours[system]) if system in ours else run_trl(args, rows, system == "trl-best")
    if result["peak_bytes"] is None:
        # The workers of Prospect are descendants; TRL runs in this very process.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if system not in ours else 0
        result["peak_bytes"] = 1024 * max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print("RESULT " + json.dumps(result))


def measure(args, system):
    command = [sys.executable, __file__, *sys.argv[1:], "--child", system]
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false")
    if args.device == "cpu":
        environment["OMP_NUM_THREADS"] = str(args.threads)
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if ended.returncode and system == "trl-best" and args.device == "cuda":
        print("trl-best failed and is tried with PyTorch's own kernels", file=sys.stderr)
        command.append("--torch-alone")
        ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    ended.check_returncode()
    line = next(line for line in ended.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def print_table(args, results):
    device = f"{args.threads} threads" if args.device == "cpu" else "one GPU"
    print(
        f"{pathlib.Path(args.model).name} on {platform.machine()}, {device}, batch {args.batch}, {args.steps} steps after "
        f"{args.warm_up}, median of {args.repeat}"
    )

    def median(of):
        return {system: statistics.median(of(r) for r in rounds) for system, rounds in results.items()}

    whole = median(lambda r: r["tokens"] / (r["seconds"] + r["reference_seconds"]))
    alone = median(lambda r: r["tokens"] / r["seconds"])
    peak = median(lambda r: r["peak_bytes"])
    ours = "prospect" if "prospect" in results else None
    mfu = results[ours][0].get("mfu") if ours else None
    print(f"{'':14} {'tokens a second':^21} {'':8} {'':6}   prospect in relation to it")
    print(f"{'system':14} {'with ref.':>10} {'without':>10} {'peak GB':>8} {'MFU':>6}   how")
    for system, rounds in results.items():
        # The same FLOPs a useful token for all.
        used = f"{100 * mfu * alone[system] / alone[ours]:.1f} %" if mfu else "-"
        ratios = ""
        if ours:
            speed, lone = whole[ours] / whole[system], alone[ours] / alone[system]
            ratios = f"{speed:.2f} ({lone:.2f} without) times the speed, {100 * peak[ours] / peak[system]:.0f} % of the memory; "
        print(
            f"{system:14} {whole[system]:10.1f} {alone[system]:10.1f} {peak[system] / 1e9:8.2f} {used:>6}   "
            f"{ratios}{rounds[0]['how']}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / ".cache/models/smollm2-135m-instruct"))
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "examples/short-answers/feedback.jsonl")
    parser.add_argument("--rows", choices=["data", "made-up"], default="data")
    parser.add_argument("--prospect", default=str(ROOT / "target/release/prospect"))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--reference", choices=["run", "filled"], default="run")
    parser.add_argument("--recompute", choices=["none", "blocks", "selective"], default="selective")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of Prospect's runs")
    parser.add_argument("--steps", type=int, default=4, help="steps that are measured")
    parser.add_argument("--warm-up", type=int, help="steps before them (0 on a CPU, 3 on a GPU)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--trl-rows-per-pass", type=int, help="rows of a TRL pass (8 on a CPU, all on a GPU)")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--microbatch-tokens", type=int, help="tokens of a Prospect pass (1024 on a CPU, 16384 on a GPU)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=1, help="rounds over all systems; medians are printed")
    parser.add_argument("--spare", type=int, default=0, help="rows beyond those needed, for data with overlong prompts")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--json", type=pathlib.Path, help="file for all rounds with all digits")
    parser.add_argument("--torch-alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    is_cuda = args.device == "cuda"
    args.warm_up = (3 if is_cuda else 0) if args.warm_up is None else args.warm_up
    args.microbatch_tokens = args.microbatch_tokens or (16384 if is_cuda else 1024)
    args.trl_rows_per_pass = args.trl_rows_per_pass or (args.batch if is_cuda else 8)
    if args.child:
        return child(args, args.child)

    results = {system: [] for system in args.systems.split(",")}
    for _ in range(args.repeat):
        for system, rounds in results.items():
            rounds.append(measure(args, system))
            print(f"{system}: {rounds[-1]}", file=sys.stderr)
    print_table(args, results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
