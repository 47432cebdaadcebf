"""Reads what a GGUF file (version 2 or 3) says and holds: fields, and tensors
in float32 out of the encodings F32, Q4_1 and Q8_0. Needs numpy only."""

import struct

import numpy as np

# struct's letters for the value types of a field.
SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

# Values that share one scale, in the quantised encodings.
BLOCK = 32
Q4_1 = np.dtype([("scale", "<f2"), ("low", "<f2"), ("nibbles", "u1", BLOCK // 2)])
Q8_0 = np.dtype([("scale", "<f2"), ("steps", "i1", BLOCK)])


class GgufError(Exception):
    """The bytes are not a GGUF file of the kind that is understood here."""


class GgufFile:
    """A GGUF file in memory: `fields` by name, and its tensors."""

    def __init__(self, data):
        self._data = data
        self._at = 0
        try:
            self._read_header()
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise GgufError(f"the GGUF header is damaged near byte {self._at}: {error}") from error

    def tensor_names(self):
        return list(self._tensors)

    def tensor(self, name):
        """The tensor's values in float32, rows first."""
        shape, encoding, begin = self._tensors[name]
        count = int(np.prod(shape))
        decode = {0: self._plain, 3: self._four_bits, 8: self._eight_bits}.get(encoding)
        if decode is None:
            raise GgufError(f"tensor {name} has encoding {encoding}, which is not supported")
        try:
            return decode(count, begin).reshape(shape)
        except ValueError as error:
            raise GgufError(f"tensor {name} does not fit into the file: {error}") from error

    def _plain(self, count, begin):
        return np.frombuffer(self._data, "<f4", count, begin)

    def _four_bits(self, count, begin):
        blocks = np.frombuffer(self._data, Q4_1, count // BLOCK, begin)
        # The low halves are the first 16 values of a block, the high halves the rest.
        steps = np.hstack((blocks["nibbles"] & 0xF, blocks["nibbles"] >> 4)).astype(np.float32)
        scale, low = (blocks[part].astype(np.float32)[:, None] for part in ("scale", "low"))
        return steps * scale + low

    def _eight_bits(self, count, begin):
        blocks = np.frombuffer(self._data, Q8_0, count // BLOCK, begin)
        return blocks["steps"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]

    def _read_header(self):
        magic, version = self._unpack("4sI")
        if magic != b"GGUF" or version not in (2, 3):
            raise GgufError(f"expected GGUF version 2 or 3, found {magic!r} version {version}")
        num_tensors, num_fields = self._unpack("QQ")
        self.fields = dict(self._field() for _ in range(num_fields))
        places = [self._tensor_place() for _ in range(num_tensors)]
        alignment = self.fields.get("general.alignment", 32)
        start = -(-self._at // alignment) * alignment
        self._tensors = {
            name: (shape, encoding, start + offset) for name, shape, encoding, offset in places
        }

    def _field(self):
        name = self._string()
        return name, self._value(self._one("I"))

    def _tensor_place(self):
        name = self._string()
        dims = self._unpack(f"{self._one('I')}Q")
        encoding, offset = self._unpack("IQ")
        return name, dims[::-1], encoding, offset

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            item_kind, length = self._unpack("IQ")
            return [self._value(item_kind) for _ in range(length)]
        return self._one(SCALAR_FORMATS[kind])

    def _string(self):
        length = self._one("Q")
        return self._one(f"{length}s").decode()

    def _one(self, format):
        return self._unpack(format)[0]

    def _unpack(self, format):
        values = struct.unpack_from(f"<{format}", self._data, self._at)
        self._at += struct.calcsize(f"<{format}")
        return values
