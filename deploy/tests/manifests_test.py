"""The manifests: rendered by kubectl, held against the schemas of Kubernetes and
against what schemas do not say."""

import copy
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

import yaml
from semantics import problems

BASE = Path(__file__).resolve().parent.parent / "base"
KUBERNETES = "1.36"


def render():
    command = ["kubectl", "kustomize", str(BASE)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def schema_complaints(text):
    """What kubernetes-validate says about YAML text; a warning counts, since an
    unknown kind is only that to it."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        command = ["kubernetes-validate", "-k", KUBERNETES, "--strict", "--quiet", file.name]
        result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout + result.stderr + ("" if result.returncode == 0 else "refused")


class Base(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = render()
        cls.objects = list(yaml.safe_load_all(cls.text))

    def job(self, name):
        return next(o for o in self.objects if (o["kind"], o["metadata"]["name"]) == ("Job", name))

    def test_schemas_accept_it(self):
        self.assertEqual(schema_complaints(self.text), "")

    def test_nothing_is_wrong_beyond_schemas(self):
        self.assertEqual(list(problems(self.objects)), [])

    def test_the_world_has_one_size(self):
        workers = self.job("prospect-worker")["spec"]
        config = tomllib.loads((BASE / "run.toml").read_text())
        sizes = {workers["completions"], workers["parallelism"], config["coordinator"]["workers"]}
        self.assertEqual(len(sizes), 1, sizes)

    def test_workers_dial_the_port_that_the_coordinator_listens_on(self):
        args = self.job("prospect-worker")["spec"]["template"]["spec"]["containers"][0]["args"]
        service = next(o for o in self.objects if o["kind"] == "Service")
        port = service["spec"]["ports"][0]["port"]
        self.assertIn(f"--coordinator=http://{service['metadata']['name']}:{port}", args)
        args = self.job("prospect-coordinator")["spec"]["template"]["spec"]["containers"][0]["args"]
        self.assertIn(f"--listen=0.0.0.0:{port}", args)


class Wrong(unittest.TestCase):
    """Each mistake is found by the schemas or by the checks beyond them."""

    @classmethod
    def setUpClass(cls):
        cls.good = list(yaml.safe_load_all(render()))

    def check(self, change, expected):
        objects = copy.deepcopy(self.good)
        job = next(o for o in objects if o["metadata"]["name"] == "prospect-worker")
        pod = job["spec"]["template"]["spec"]
        change(job, job["spec"], pod, pod["containers"][0])
        found = [*problems(objects), schema_complaints(yaml.safe_dump(job))]
        self.assertTrue(any(expected in problem for problem in found), f"{expected!r}: {found}")

    def test_types(self):
        self.check(lambda job, spec, pod, box: pod.update(hostNetwork="two"), "hostNetwork")

    def test_unknown_fields(self):
        self.check(lambda job, spec, pod, box: box.update(imagePolicy="Always"), "imagePolicy")

    def test_removed_versions(self):
        self.check(lambda job, spec, pod, box: job.update(apiVersion="batch/v1beta1"), "schema")

    def test_completion_modes(self):
        self.check(lambda job, spec, pod, box: spec.update(completionMode="Indexd"), "'Indexd'")

    def test_restart_policies(self):
        self.check(lambda job, spec, pod, box: pod.update(restartPolicy="Always"), "'Always'")

    def test_completions(self):
        self.check(lambda job, spec, pod, box: spec.pop("completions"), "needs completions")

    def test_container_names(self):
        self.check(lambda job, spec, pod, box: box.update(name="Worker_1"), "'Worker_1'")

    def test_images(self):
        self.check(lambda job, spec, pod, box: box.pop("image"), "has no image")

    def test_mounts(self):
        self.check(lambda job, spec, pod, box: pod["volumes"].pop(), "mounts 'shm'")

    def test_labels_that_no_selector_finds(self):
        objects = copy.deepcopy(self.good)
        names = [(o["kind"], o["metadata"]["name"]) for o in objects]
        job = objects[names.index(("Job", "prospect-coordinator"))]
        del job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        self.assertIn(
            "Service prospect-coordinator selects the pods of 0 Jobs, expected one",
            list(problems(objects)),
        )


if __name__ == "__main__":
    unittest.main()
