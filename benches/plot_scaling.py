#!/usr/bin/env python3
"""Draws docs/scaling-*.svg and prints the tables of docs/performance.md from `prospect plan --json`.

Nothing is measured here: every figure is the cost model's, with the rates that it assumes or that are
given. Needs the program and the Python standard library alone.

  benches/plot_scaling.py --prospect target/release/prospect
  benches/plot_scaling.py --flops-per-second 5.2e14 --link-gb-per-second 310
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import random_model

EIGHT = random_model.SHAPES["llama-3.1-8b"]

# Llama-3.2-1B, Llama-3.1-8B, a 30B between (as LLaMA-30B, with grouped keys) and Llama-3.1-70B.
SHAPES = {
    "1B": random_model.SHAPES["llama-3.2-1b"],
    "8B": EIGHT,
    "30B": EIGHT
    | dict(hidden_size=6656, intermediate_size=17920, num_hidden_layers=60, num_attention_heads=52, num_key_value_heads=4),
    "70B": EIGHT
    | dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8),
}

GPUS = [8, 16, 32, 64, 128, 256, 512, 1024]
# From the least memory-saving to the most: the first that fits with the highest rate is drawn.
LAYOUTS = [
    (mode, recompute)
    for mode in ("replicated", "sharded_optimizer", "fully_sharded")
    for recompute in ("none", "selective", "blocks")
]
ROWS_PER_GPU = 16
FIXED_ROWS = 1024
COLOURS = ["#1b6ca8", "#d1495b", "#3a7d44", "#8d5fb8"]


def write_shape(folder, name):
    config = random_model.config(SHAPES[name], "bfloat16")
    model = Path(folder) / name
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    run = Path(folder) / f"{name}.toml"
    run.write_text(f'[model]\npath = "{model}"\n[data]\ntrain = ["none"]\n[train]\nsteps = 1\n')
    return run


def plan(args, run, gpus, rows, layout):
    mode, recompute = layout
    command = [args.prospect, "plan", run, "--json", "--gpus", str(gpus), "--gpu", args.gpu]
    command += ["--prompt-tokens", str(args.prompt), "--completion-tokens", str(args.completion)]
    settings = {
        "train.mode": mode,
        "train.recompute": recompute,
        "train.global_batch_size": rows,
        "train.microbatch_tokens": "auto",
    }
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    for option in ("flops_per_second", "link_gb_per_second"):
        if getattr(args, option) is not None:
            command += ["--" + option.replace("_", "-"), str(getattr(args, option))]
    # Without a worker program: nothing here looks at this machine.
    environment = os.environ | {"PROSPECT_WORKER": "/nowhere/prospect-worker"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 64) or not done.stdout:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def best(args, run, gpus, rows):
    """The fastest layout that fits, with its plan; None where none does."""
    plans = [(layout, plan(args, run, gpus, rows, layout)) for layout in LAYOUTS]
    fitting = [(layout, found) for layout, found in plans if found["refusal"] is None]
    return max(fitting, key=lambda pair: pair[1]["time"]["mfu"], default=None)


def curves(args, folder, rows_of):
    found = {}
    for name in SHAPES:
        run = Path(folder) / f"{name}.toml"
        if not run.exists():
            run = write_shape(folder, name)
        found[name] = {gpus: best(args, run, gpus, rows_of(gpus)) for gpus in GPUS}
    return found


def svg(title, found):
    """MFU over the number of GPUs, one line a model."""
    left, top, width, height = 60, 50, 560, 300
    x = lambda gpus: left + width * GPUS.index(gpus) / (len(GPUS) - 1)
    y = lambda mfu: top + height * (1 - mfu / 0.6)
    text = lambda at, words, more="": f'<text x="{at[0]:.0f}" y="{at[1]:.0f}" {more}>{words}</text>'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {top + height + 60}"',
        ' font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>',
        text((left, 25), title, 'font-size="15" font-weight="bold"'),
    ]
    for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        line = f'x1="{left}" x2="{left + width}" y1="{y(share):.1f}" y2="{y(share):.1f}"'
        parts.append(f'<line {line} stroke="#ddd"/>')
        parts.append(text((left - 8, y(share) + 4), f"{share:.0%}", 'text-anchor="end"'))
    for gpus in GPUS:
        parts.append(text((x(gpus), top + height + 20), gpus, 'text-anchor="middle"'))
    parts.append(text((left + width / 2, top + height + 42), "GPUs", 'text-anchor="middle"'))
    for colour, (name, line) in zip(COLOURS, found.items()):
        points = [(x(g), y(pair[1]["time"]["mfu"])) for g, pair in line.items() if pair]
        if not points:
            continue
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>' for px, py in points]
        parts.append(text((points[-1][0] + 10, points[-1][1] + 4), name, f'fill="{colour}"'))
    return "\n".join(parts) + "\n</svg>\n"


def table(found):
    print("| model | " + " | ".join(f"{gpus}" for gpus in GPUS) + " |")
    print("| --- |" + " --- |" * len(GPUS))
    short = {"replicated": "R", "sharded_optimizer": "O", "fully_sharded": "F"}
    again = {"none": "", "selective": "s", "blocks": "b"}
    for name, line in found.items():
        cells = []
        for pair in line.values():
            if pair is None:
                cells.append("does not fit")
                continue
            (mode, recompute), figures = pair
            time = figures["time"]
            rate = time["tokens_per_second"]
            cells.append(f"{time['mfu']:.1%} {short[mode]}{again[recompute]}, {rate / 1e3:,.0f}k")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prospect", default="target/release/prospect")
    parser.add_argument("--out", default="docs", type=Path)
    parser.add_argument("--gpu", default="H100")
    parser.add_argument("--prompt", default=512, type=int, help="tokens of a prompt")
    parser.add_argument("--completion", default=512, type=int, help="tokens of a completion")
    parser.add_argument("--flops-per-second", type=float, help="measured rate of a GPU's passes")
    parser.add_argument("--link-gb-per-second", type=float, help="measured rate of collectives")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        views = {
            "weak": (f"MFU, {ROWS_PER_GPU} rows a GPU and step", lambda gpus: ROWS_PER_GPU * gpus),
            "strong": (f"MFU, {FIXED_ROWS} rows a step", lambda _: FIXED_ROWS),
        }
        for name, (title, rows_of) in views.items():
            found = curves(args, folder, rows_of)
            (args.out / f"scaling-{name}.svg").write_text(svg(f"{title}, {args.gpu}, bf16", found))
            print(f"{title}: MFU, layout, tokens a second\n")
            table(found)


if __name__ == "__main__":
    main()
