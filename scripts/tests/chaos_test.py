"""What scripts/chaos makes of its arguments, the tests' report and the times."""

import importlib.machinery
import importlib.util
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "chaos"


def load():
    loader = importlib.machinery.SourceFileLoader("chaos", str(SCRIPT))
    spec = importlib.util.spec_from_loader("chaos", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


chaos = load()

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite name="prospect-integration::chaos">
  <testcase name="freeze::f9_frozen" time="2.5"><system-out>ok</system-out></testcase>
  <testcase name="partition::f7_cut_off" time="0.1">
    <system-out>SKIPPED partition::f7_cut_off: no namespaces on this machine: not permitted
    </system-out>
  </testcase>
  <testcase name="worker_death::f10_slow" time="3"><failure/></testcase>
</testsuite></testsuites>
"""


class Chaos(unittest.TestCase):
    def test_faults_become_a_filter_without_the_long_soak(self):
        self.assertEqual(
            chaos.selection("F7,f9"),
            "binary_id(prospect-integration::chaos) & test(/::(f7_|f9_)/)"
            " & not test(f27_a_hundred_random_faults)",
        )
        with self.assertRaises(SystemExit):
            chaos.selection("everything")

    def test_the_report_tells_equal_skipped_and_failed(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "junit.xml")
            path.write_text(REPORT)
            results = chaos.read_report(path)
        self.assertEqual(results["freeze::f9_frozen"], ("held", 2.5))
        skipped, _ = results["partition::f7_cut_off"]
        self.assertEqual(skipped, "skipped: no namespaces on this machine: not permitted")
        self.assertEqual(results["worker_death::f10_slow"][0], "FAILED")

    def test_the_table_is_in_the_order_of_faults_and_shows_medians(self):
        results = {
            "a::f10_slow_worker": [("held", 1.0)],
            "b::f9_frozen": [("held", 2.0), ("FAILED", 4.0)],
        }
        times = [
            {"test": "a::f10_slow_worker", "detect_seconds": None, "back_seconds": seconds}
            for seconds in (1.0, 2.0, 9.0)
        ]
        head, first, second = chaos.table(results, times).splitlines()
        self.assertEqual(
            head.split(), ["fault", "what", "result", "detect", "back", "faults", "seconds"]
        )
        self.assertEqual(first.split(), ["F9", "frozen", "FAILED", "-", "-", "0", "3.00"])
        self.assertEqual(
            second.split(), ["F10", "slow", "worker", "held", "-", "2.00", "3", "1.00"]
        )


if __name__ == "__main__":
    unittest.main()
