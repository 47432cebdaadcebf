"""What gpu-check judges: curves, goals, and the end of a long run."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "gpu_check.py"
STEP = {
    "loss": 0.5, "grad_norm": 2.0, "kl_raw": 0.01, "logps/chosen": -40.0, "logps/rejected": -50.0,
    "step_seconds": 0.1, "peak_memory_bytes": 1000, "waiting": 0.02, "tokens_per_second": 100.0,
}


def write_run(folder, steps):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**STEP, **step}) + "\n" for step in steps))
    return str(folder)


class GpuCheck(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.root = Path(root.name)

    def check(self, status, text, *arguments):
        ended = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
        self.assertEqual(ended.returncode, status, ended)
        self.assertIn(text, ended.stdout + ended.stderr)

    def test_curves_differ_where_any_of_their_numbers_does(self):
        reference = write_run(self.root / "reference", [{}, {}])
        self.check(0, "greatest relative difference 0.00e+00", "curve", reference, reference, "1e-5")
        for key, value in [("loss", 0.51), ("grad_norm", 2.5), ("kl_raw", 1.0), ("logps/rejected", -51.0)]:
            run = write_run(self.root / key.replace("/", "-"), [{}, {key: value}])
            self.check(1, "bound 1e-05", "curve", run, reference, "1e-5")
        shorter = write_run(self.root / "shorter", [{}])
        self.check(1, "1 steps instead of 2", "curve", shorter, reference, "1e-5")

    def test_a_run_tells_what_it_waited(self):
        run = write_run(self.root / "run", [{"waiting": 0.9}, {"mfu": 0.5}, {"mfu": 0.5}])
        self.check(0, "waiting 2.0 % of a step, 100 tokens/s, MFU 50.0 %", "spent", run)

    def test_a_run_that_slows_down_or_grows_is_not_steady(self):
        self.check(0, "1.000 times the time", "steady", write_run(self.root / "run", [{}] * 8), "1.1")
        for key, value in [("step_seconds", 0.2), ("peak_memory_bytes", 2000)]:
            run = write_run(self.root / key, [{}] * 6 + [{key: value}] * 2)
            self.check(1, "2.000 times", "steady", run, "1.1")

    def test_goals_are_reached_or_not(self):
        means = {"flops_per_second": 45.0, "useful_tokens_per_second": 10.0, "peak_memory_bytes": 2e9}
        settings = {"dtype": "bfloat16", "recompute": "none"}
        steps = [{"settings": settings, "first_epoch": {**means, "flops_per_second": 20.0}, "later_epochs": means}]
        engine = self.root / "engine.json"
        engine.write_text(json.dumps({"rates": [{"dtype": "bfloat16", "data_sheet": 100.0, "square": 80.0}], "steps": steps}))
        self.check(0, "45.0 % MFU, 10 tokens/s, 2.0 GB, bfloat16, recompute none, later epochs; goal 45: reached", "engine", engine, "45")
        self.check(3, "goal 50: not reached", "engine", engine, "50")
        self.check(0, "no goal", "engine", engine, "0")

        found = {"tokens": 100, "seconds": 1.0, "reference_seconds": 1.0, "peak_bytes": 4, "how": "sdpa"}
        trl = self.root / "trl.json"
        trl.write_text(json.dumps({"trl-best": [found], "prospect": [{**found, "seconds": 0.0, "peak_bytes": 1}]}))
        self.check(0, "2.00 times TRL's best, 25 % of its memory, TRL: sdpa; goal 2: reached", "trl", trl, "2")
        self.check(3, "not reached", "trl", trl, "2.1")


if __name__ == "__main__":
    unittest.main()
