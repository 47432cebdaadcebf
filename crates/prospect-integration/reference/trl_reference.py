#!/usr/bin/env python3
"""Writes the numbers that TRL's KTOTrainer gives, for our runs to be held against.

TRL 1.16.0, transformers 5.23.0, torch 2.11.0, fp32 on CPU, batches of 8 rows in
the order of the file, 8 steps, full fine-tune, reference = the initial policy.
One line a step: loss, kl, rewards, logps, grad_norm, before any rounding.

    python trl_reference.py --model CUT_MODEL_DIR
"""

import argparse
import json
import pathlib
import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 8
BATCH = 8
RUNS = {
    "kto": {"loss_type": "kto", "desirable_weight": 1.5, "undesirable_weight": 0.5},
    "apo_zero_unpaired": {"loss_type": "apo_zero_unpaired", "desirable_weight": 1.0, "undesirable_weight": 1.0},
}
KEYS = ["kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"]


class Recorder(KTOTrainer):
    """Keeps every step's values as they are, since the log rounds the loss."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.lines = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        metrics = self._metrics["train"]
        line = {"step": len(self.lines) + 1, "loss": loss.item()}
        line.update({key: metrics[key][-1] for key in KEYS if metrics.get(key)})
        self.lines.append(line)
        return loss

    def log(self, logs, start_time=None):
        if "grad_norm" in logs:
            self.lines[-1]["grad_norm"] = float(logs["grad_norm"])
            self.lines[-1]["learning_rate"] = logs["learning_rate"]
        super().log(logs, start_time)


def run(model_dir, settings):
    torch.manual_seed(0)
    rows = [json.loads(line) for line in (HERE / "rows.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as output:
        config = KTOConfig(
            output_dir=output, max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=1e-4,
            lr_scheduler_type="linear", warmup_steps=2, weight_decay=0.1, adam_epsilon=1e-6, max_grad_norm=1.0,
            beta=0.1, max_length=256, logging_steps=1, logging_first_step=True, bf16=False, gradient_checkpointing=False,
            save_strategy="no", report_to=[], use_cpu=True, seed=0, disable_tqdm=True, dataloader_num_workers=0,
            **settings,
        )
        trainer = Recorder(
            model=AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
            ref_model=AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model_dir),
        )
        trainer.train()
        return trainer.lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    args = parser.parse_args()
    for name, settings in RUNS.items():
        lines = run(args.model, settings)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (HERE / f"{name}.jsonl").write_text(text)
        print(f"{name}: loss {lines[0]['loss']:.6f} -> {lines[-1]['loss']:.6f}, kl {lines[-1]['kl']:.4f}")


if __name__ == "__main__":
    main()
