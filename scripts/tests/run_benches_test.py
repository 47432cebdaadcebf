"""The benchmarks' runner says so when there is nothing to run."""

import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "run-benches"


class RunBenches(unittest.TestCase):
    def test_a_workspace_without_benchmarks_is_an_error(self):
        with tempfile.TemporaryDirectory() as root:
            scripts = Path(root, "scripts")
            scripts.mkdir()
            copy = shutil.copy(SCRIPT, scripts)
            ended = subprocess.run([copy], capture_output=True, text=True, check=False)
        self.assertEqual(ended.returncode, 1, ended)
        self.assertIn("no crate has a benchmark", ended.stderr)


if __name__ == "__main__":
    unittest.main()
