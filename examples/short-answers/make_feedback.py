#!/usr/bin/env python3
"""Makes feedback.jsonl and held-out.jsonl of this example again.

Every reply is sampled from the model that the example trains. Half of them
answer the plain question; the other half answer it with a request for one
short sentence, and the request is left out of the row. The rule of rule.py
labels both halves alike. Standard library only.

    python3 make_feedback.py --model DIR [--prospect target/release/prospect]
"""

import argparse
import json
import pathlib
import random
import subprocess
import tempfile

from questions import held_out_questions, train_questions
from rule import MAX_TOKENS, is_desirable

HERE = pathlib.Path(__file__).resolve().parent
REQUEST = " Answer in one short sentence."
# Replies that are still going on at MAX_TOKENS are kept up to this length.
CUT = 64


def sample(args, prompts, seed):
    """One reply for each prompt, in order."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for prompt in prompts:
            row = {"prompt": [{"role": "user", "content": prompt}]}
            file.write(json.dumps(row) + "\n")
        file.flush()
        command = [
            args.prospect, "generate", "--model", args.model, "--data", file.name, "--json",
            "--max-new-tokens", str(CUT), "--temperature", "0.7", "--seed", str(seed),
        ]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    replies = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(replies) == len(prompts), "one reply a prompt is expected"
    return replies


def rows(questions, replies):
    for question, reply in zip(questions, replies, strict=True):
        completion = reply["completion"].strip()
        if completion:
            yield {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": completion}],
                "label": is_desirable(reply),
            }


def write(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prospect", default="target/release/prospect")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    questions = train_questions()
    plain = list(rows(questions, sample(args, questions, args.seed)))
    short = list(rows(questions, sample(args, [q + REQUEST for q in questions], args.seed + 1)))
    # Rows that the rule puts into the other class are kept: they are honest feedback too.
    feedback = plain + short
    random.Random(args.seed).shuffle(feedback)
    write(HERE / "feedback.jsonl", feedback)
    write(HERE / "held-out.jsonl", [{"prompt": [{"role": "user", "content": q}]} for q in held_out_questions()])
    desirable = sum(row["label"] for row in feedback)
    print(f"{len(feedback)} rows, {desirable} desirable (ended within {MAX_TOKENS} tokens)")


if __name__ == "__main__":
    main()
