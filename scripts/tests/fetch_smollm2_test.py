"""The conversion of the demo's model: encodings, orders, and what is refused."""

import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SCRIPTS))

import fetch_smollm2  # noqa: E402
import gguf_reader  # noqa: E402
import numpy as np  # noqa: E402


def gguf(fields=b"", num_fields=0, tensors=b"", num_tensors=0, data=b""):
    header = struct.pack("<4sIQQ", b"GGUF", 3, num_tensors, num_fields) + fields + tensors
    return header + b"\0" * (-len(header) % 32) + data


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def one_tensor(encoding, shape, data):
    place = string("t") + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    place += struct.pack("<IQ", encoding, 0)
    return gguf_reader.GgufFile(gguf(tensors=place, num_tensors=1, data=data)).tensor("t")


class Reader(unittest.TestCase):
    def test_fields_of_all_kinds(self):
        fields = string("name") + struct.pack("<I", 8) + string("smol")
        fields += string("ids") + struct.pack("<IIQ3i", 9, 5, 3, 1, -2, 3)
        fields += string("scale") + struct.pack("<If", 6, 0.5)
        read = gguf_reader.GgufFile(gguf(fields, 3)).fields
        self.assertEqual(read, {"name": "smol", "ids": [1, -2, 3], "scale": 0.5})

    def test_four_bits_are_scale_and_minimum(self):
        nibbles = bytes(low | (15 - low) << 4 for low in range(16))
        block = np.float16(0.5).tobytes() + np.float16(-1).tobytes() + nibbles
        expected = [step * 0.5 - 1 for step in [*range(16), *range(15, -1, -1)]]
        self.assertEqual(one_tensor(3, (1, 32), block).tolist(), [expected])

    def test_eight_bits_are_signed(self):
        block = np.float16(0.25).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()
        expected = [step * 0.25 for step in range(-16, 16)]
        self.assertEqual(one_tensor(8, (1, 32), block).tolist(), [expected])

    def test_damage_is_refused(self):
        for data in (b"", b"GGML" + b"\0" * 40, gguf()[:20], gguf(num_fields=1)):
            with self.assertRaises(gguf_reader.GgufError):
                gguf_reader.GgufFile(data)
        with self.assertRaisesRegex(gguf_reader.GgufError, "does not fit"):
            one_tensor(0, (4, 4), b"\0" * 8)
        with self.assertRaisesRegex(gguf_reader.GgufError, "encoding 14"):
            one_tensor(14, (1, 32), b"")


class Conversion(unittest.TestCase):
    def test_rows_of_a_head_are_put_in_halves(self):
        rows = np.arange(8).reshape(8, 1)
        ordered = fetch_smollm2.halves_apart(rows, num_heads=2)
        self.assertEqual(ordered.ravel().tolist(), [0, 2, 1, 3, 4, 6, 5, 7])

    def test_rounding_goes_to_the_nearest_and_to_even(self):
        bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F80C000], np.uint32)
        rounded = fetch_smollm2.rounded_to_bf16(bits.view(np.float32))
        self.assertEqual([hex(value) for value in rounded], ["0x3f80", "0x3f80", "0x3f82", "0x3f81"])

    def test_unknown_tensors_are_refused(self):
        name = fetch_smollm2.checkpoint_name("blk.7.attn_q.weight")
        self.assertEqual(name, "model.layers.7.self_attn.q_proj.weight")
        with self.assertRaises(gguf_reader.GgufError):
            fetch_smollm2.checkpoint_name("blk.7.attn_q.bias")


class Command(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def call(self, *arguments):
        command = [sys.executable, SCRIPTS / "fetch_smollm2.py", *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        return result.returncode, result.stdout + result.stderr

    def test_the_whole_model_is_written_once(self):
        out = Path(self.folder.name, "model")
        self.assertEqual(self.call(out)[0], 0)
        self.assertEqual(sorted(os.listdir(out)), sorted(fetch_smollm2.FILES_SHA256["bf16"]))
        self.assertEqual(os.listdir(self.folder.name), ["model"])
        code, said = self.call(out)
        self.assertEqual((code, said), (0, f"{out} is complete\n"))
        with open(out / "config.json", "a") as file:
            file.write(" ")
        code, said = self.call(out)
        self.assertEqual(code, 64)
        self.assertIn("config.json has SHA-256", said)
        self.assertEqual(self.call(out, "--force")[0], 0)

    def test_another_source_is_refused(self):
        source = Path(self.folder.name, "other.gguf")
        source.write_bytes(gguf())
        out = Path(self.folder.name, "model")
        code, said = self.call(out, "--source", source)
        self.assertEqual(code, 65)
        self.assertIn("expected b179c9523d0e", said)
        self.assertFalse(out.exists())

    def test_a_directory_of_something_else_is_left_alone(self):
        out = Path(self.folder.name, "home")
        out.mkdir()
        (out / "letter.txt").write_text("dear")
        code, said = self.call(out, "--force")
        self.assertEqual(code, 64)
        self.assertIn("letter.txt", said)


if __name__ == "__main__":
    unittest.main()
