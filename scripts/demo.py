#!/usr/bin/env python3
"""The demonstration: KTO on bundled feedback, judged on questions never trained on.

Asks the model held-out questions, trains it with one coordinator and two
workers, asks again, and shows the most likely replies side by side.
Standard library only.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "short-answers"
sys.path.insert(0, str(EXAMPLE))

from rule import MAX_TOKENS, is_desirable  # noqa: E402


def sample(args, model):
    """The most likely reply to each held-out question, in order."""
    command = [
        str(args.prospect), "generate", "--model", str(model), "--data", str(EXAMPLE / "held-out.jsonl"),
        "--max-new-tokens", str(MAX_TOKENS), "--temperature", "0", "--json",
    ]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if result.returncode != 0:
        sys.exit(result.returncode)
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def question(reply):
    prompt = reply["prompt"]
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def share(replies):
    good = sum(is_desirable(reply) for reply in replies)
    return f"{good} of {len(replies)} ({100 * good / len(replies):.0f} %)"


def mean_tokens(replies):
    return f"{sum(reply['num_tokens'] for reply in replies) / len(replies):.1f}"


def show_pair(before, after):
    print(f"\n  {question(before)}")
    for name, reply in (("before", before), ("after", after)):
        text = " ".join(reply["completion"].split()) + ("" if reply["finished"] else " ...")
        indent = " " * 12
        print(textwrap.fill(text, width=100, initial_indent=f"    {name:7} ", subsequent_indent=indent))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prospect", type=pathlib.Path, default=ROOT / "target/release/prospect")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / ".cache/models/smollm2-135m-instruct")
    parser.add_argument("--run-dir", type=pathlib.Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to prospect train")
    args = parser.parse_args()
    run_dir = args.run_dir or ROOT / "runs" / time.strftime("short-answers-%Y%m%d-%H%M%S")

    print("1/3  Asking the untrained model the held-out questions", flush=True)
    before = sample(args, args.model)
    print("2/3  Training on thumbs up, thumbs down: one coordinator, two workers", flush=True)
    command = [str(args.prospect), "train", str(EXAMPLE / "run.toml"), "--workers", "2", "--run-dir", str(run_dir)]
    for entry in [f"model.path={args.model}", *args.set]:
        command += ["--set", entry]
    start = time.monotonic()
    code = subprocess.run(command, cwd=ROOT).returncode
    if code != 0:
        sys.exit(code)
    seconds = time.monotonic() - start
    print("3/3  Asking the trained model the same questions", flush=True)
    after = sample(args, run_dir / "final")

    print(f"\nMost likely replies to {len(before)} questions that were not trained on\n")
    print(f"  {'':44} {'before':>18} {'after':>18}")
    print(f"  {f'desirable: ended within {MAX_TOKENS} tokens':44} {share(before):>18} {share(after):>18}")
    print(f"  {f'tokens a reply (cut at {MAX_TOKENS})':44} {mean_tokens(before):>18} {mean_tokens(after):>18}")
    for idx in range(0, len(before), max(1, len(before) // 4)):
        show_pair(before[idx], after[idx])
    print(f"\nTraining took {seconds:.0f} s. The trained model, a Hugging Face directory: {run_dir / 'final'}")
    print(f"Plots of the run: {run_dir / 'reports' / 'report.html'}")


if __name__ == "__main__":
    main()
