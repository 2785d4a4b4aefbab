"""Golden vectors for the number formats: bytes in, values out, and the reverse.

What it writes, all under `formats/` beside this script:

  <type>.decode.bin / .f32    random blocks (valid, finite scales) and the values they stand for
  <type>.edge.bin / .f32      a few blocks whose scales are infinite, NaN or overflow
  inputs.f32, importance.f32  what was encoded, and the importance of each column
  <type>.encode.bin               upstream's encoding of inputs.f32 without importance
  <type>.encode_importance.bin    the same with importance.f32
  codebooks.json              the points of the iq formats' codebooks, as the gguf package has them
  manifest.json               shapes, offsets, digests and upstream's errors

Types that kvant only reads have no encodings.

Decoded values come from the `gguf` package and must equal libggml's bit for bit (for types that the
package does not decode, they are libggml's alone); encodings come
from libggml-base's `ggml_quantize_chunk`, built without FMA (its ordinary x86-64 build). The
script stops when the two decoders differ, when encoding depends on what the output buffer held
before, or when libggml-base holds fused multiply-adds (their rounding differs).

    pip install gguf==0.19.0 numpy
    python formats.py --llama-bin DIR      # DIR holds libggml-base.so
"""

import argparse
import ctypes
import hashlib
import json
import pathlib
import shutil
import subprocess

import gguf
import numpy

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "formats"
SEED = 20251124
COLS = 512
DECODE_ELEMENTS = 64 * 256
EDGE_ELEMENTS = 4 * 256

TYPES = {
    "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7,
    "iq4_nl": 20, "mxfp4": 39, "q4_k": 12, "q5_k": 13, "q6_k": 14, "iq4_xs": 23,
}

READ_ONLY_TYPES = {
    "q2_k": 10, "q3_k": 11, "iq1_s": 19, "iq1_m": 29, "iq2_xxs": 16, "iq2_xs": 17, "iq2_s": 22, "iq3_xxs": 18,
    "iq3_s": 21, "tq1_0": 34, "tq2_0": 35, "nvfp4": 40, "q1_0": 41, "q2_0": 42,
}

# The package does not decode these.
ONLY_IN_LIBRARY = ["q1_0", "q2_0"]

CODEBOOKS = ["iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"]

# Byte offsets of the f16 fields in one block: those that scale codes, and those that shift them.
HALF_FIELDS = {
    "q8_0": [0], "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2],
    "iq4_nl": [0], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_xs": [0],
    "q2_k": [80, 82], "q3_k": [108], "iq1_s": [0], "iq1_m": [], "iq2_xxs": [0], "iq2_xs": [0], "iq2_s": [0],
    "iq3_xxs": [0], "iq3_s": [0], "tq1_0": [52], "tq2_0": [64], "nvfp4": [], "q1_0": [0], "q2_0": [0],
}
SHIFT_FIELDS = {"q4_1": 2, "q5_1": 2, "q4_k": 2, "q5_k": 2, "q2_k": 82}

# E8M0 bytes above this overflow f32 at the largest code, 12 * 2^(e - 128).
MXFP4_LARGEST_FINITE = 252


class TypeTraits(ctypes.Structure):
    """The head of upstream's `ggml_type_traits`."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("block_elements", ctypes.c_int64),
        ("block_interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


class Upstream:
    """libggml-base through ctypes."""

    def __init__(self, folder):
        path = folder / "libggml-base.so"
        refuse_fused_multiply_add(path)
        self.ggml = ctypes.CDLL(str(path))
        self.ggml.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
        self.ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
        self.ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.ggml.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]

    def traits(self, number):
        return self.ggml.ggml_get_type_traits(number).contents

    def decode(self, number, data):
        traits = self.traits(number)
        count = len(data) // traits.block_bytes * traits.block_elements
        values = numpy.empty(count, dtype=numpy.float32)
        source = numpy.ascontiguousarray(data)
        traits.to_float(source.ctypes.data, values.ctypes.data, count)
        return values

    def encode(self, number, rows, importance):
        """Encodes (rows, cols); twice over differently filled memory, which must not show."""
        traits = self.traits(number)
        rows = numpy.ascontiguousarray(rows, dtype=numpy.float32)
        size = rows.size // traits.block_elements * traits.block_bytes
        results = []
        for fill in (0x00, 0xA5):
            data = numpy.full(size, fill, dtype=numpy.uint8)
            written = self.ggml.ggml_quantize_chunk(
                number, rows.ctypes.data, data.ctypes.data, 0, rows.shape[0], rows.shape[1],
                None if importance is None else importance.ctypes.data,
            )
            assert written == size, (number, written, size)
            results.append(data)
        assert numpy.array_equal(*results), f"type {number}: output depends on the buffer's old bytes"
        return results[0]


def refuse_fused_multiply_add(path):
    """Upstream's k-quant search rounds differently with FMA; the vectors are those without."""
    if shutil.which("objdump") is None:
        raise SystemExit("objdump is needed to check that libggml-base has no FMA")
    listing = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True)
    if "vfmadd" in listing.stdout or "fmadd" in listing.stdout:
        raise SystemExit(f"{path} was built with fused multiply-add")


# ---- decode vectors -------------------------------------------------------------------------

def finite_halves(random, count):
    """f16 bit patterns: random finite ones, with the extremes dealt in at fixed places."""
    bits = random.integers(0, 1 << 16, count, dtype=numpy.uint16)
    infinite = (bits & 0x7C00) == 0x7C00
    bits[infinite] ^= 0x4000
    special = [
        0x0000, 0x8000,                  # zeros of both signs
        0x0001, 0x8001, 0x03FF, 0x83FF,  # smallest and largest subnormals
        0x0400, 0x8400,                  # smallest normals
        0x7BFF, 0xFBFF,                  # largest values
        0x3C00, 0xBC00,                  # one
    ]
    for place, value in enumerate(special):
        bits[place * 5 % count] = value
    return bits


def ordinary_halves(random, count):
    """f16 bit patterns of the sizes that weights' scales have, of both signs."""
    values = numpy.exp(random.uniform(numpy.log(1e-4), numpy.log(10.0), count))
    values *= random.choice([-1.0, 1.0], count)
    return values.astype(numpy.float16).view(numpy.uint16)


def set_iq1_m_scale(blocks, bits):
    """Writes the f16 scale: four bits in the high half of every second byte of the last eight."""
    for place in range(4):
        part = (bits >> numpy.uint16(4 * place) & numpy.uint16(15)).astype(numpy.uint8)
        blocks[:, 49 + 2 * place] = blocks[:, 49 + 2 * place] & 15 | part << 4


def decode_blocks(name, block_bytes, block_elements, random):
    count = DECODE_ELEMENTS // block_elements
    if name == "f16":
        return finite_halves(random, count).view(numpy.uint8)
    if name == "bf16":
        bits = random.integers(0, 1 << 16, count, dtype=numpy.uint16)
        bits[(bits & 0x7F80) == 0x7F80] ^= 0x4000
        bits[:6] = [0x0000, 0x8000, 0x0001, 0x807F, 0x7F7F, 0xFF7F]
        return bits.view(numpy.uint8)
    blocks = random.integers(0, 256, (count, block_bytes), dtype=numpy.uint8)
    if name == "mxfp4":
        # Every finite scale once, the rest of the size that weights have.
        every = numpy.arange(MXFP4_LARGEST_FINITE + 1)
        usual = random.integers(110, 130, count - len(every))
        blocks[:, 0] = random.permutation(numpy.concatenate([every, usual]))
        return blocks.reshape(-1)
    if name == "nvfp4":
        # Every scale byte, twice as often as a block has scales.
        blocks[:, :4] = random.permutation(numpy.tile(numpy.arange(256), count * 4 // 256)).reshape(-1, 4)
        return blocks.reshape(-1)
    if name == "iq1_m":
        half = count // 2
        bits = numpy.concatenate([finite_halves(random, count - half), ordinary_halves(random, half)])
        set_iq1_m_scale(blocks, bits)
        return blocks.reshape(-1)
    for offset in HALF_FIELDS[name]:
        half = count // 2
        bits = numpy.concatenate([finite_halves(random, count - half), ordinary_halves(random, half)])
        # Scale and minimum get their extremes in different blocks, except for the first block.
        bits = numpy.roll(bits, offset)
        blocks[:, offset:offset + 2] = bits.view(numpy.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def edge_blocks(name, block_bytes, block_elements, random):
    """Blocks with scales that are infinite, NaN or overflow: for totality, not for values."""
    count = EDGE_ELEMENTS // block_elements
    if name in ("f16", "bf16"):
        exponent, mantissa = (0x7C00, 0x03FF) if name == "f16" else (0x7F80, 0x007F)
        bits = random.integers(0, 1 << 16, count, dtype=numpy.uint16) | numpy.uint16(exponent)
        bits[::3] &= numpy.uint16(0xFFFF ^ mantissa)
        return bits.view(numpy.uint8)
    blocks = random.integers(0, 256, (count, block_bytes), dtype=numpy.uint8)
    if name == "mxfp4":
        blocks[:, 0] = random.integers(MXFP4_LARGEST_FINITE + 1, 256, count)
        blocks[:3, 0] = [253, 254, 255]
        return blocks.reshape(-1)
    if name == "nvfp4":
        # No scale is infinite or NaN: the bytes whose meaning is upstream's own.
        blocks[:, :4] = random.choice([0x00, 0x7F, 0x80, 0xFF, 0x7E, 0xFE], (count, 4))
        return blocks.reshape(-1)
    special = numpy.array([0x7C00, 0xFC00, 0x7E00, 0xFE01], dtype=numpy.uint16)
    if name == "iq1_m":
        set_iq1_m_scale(blocks, special[random.integers(0, len(special), count)])
        return blocks.reshape(-1)
    for offset in HALF_FIELDS[name]:
        bits = special[random.integers(0, len(special), count)]
        if offset == SHIFT_FIELDS.get(name):
            bits[::2] = ordinary_halves(random, len(bits[::2]))  # a good minimum beside a bad scale
        blocks[:, offset:offset + 2] = bits.view(numpy.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def canonical_bits(values):
    """Bit patterns with every NaN made the same: its sign and payload are nobody's promise."""
    bits = values.view(numpy.uint32).copy()
    bits[numpy.isnan(values)] = 0x7FC00000
    return bits


def package_decode(number, data):
    kind = gguf.GGMLQuantizationType(number)
    if kind == gguf.GGMLQuantizationType.F16:
        return data.view(numpy.float16).astype(numpy.float32)
    with numpy.errstate(all="ignore"):
        return gguf.quants.dequantize(data.reshape(1, -1), kind).reshape(-1)


def codebook(name):
    """A type's codebook as JSON: its levels, and its points in the order of their indices. A digit of a
    point is the index of a level; the first digit belongs to the first value."""
    kind = gguf.quants._type_traits[gguf.GGMLQuantizationType[name.upper()]]
    kind.init_grid()
    levels = [int(level) for level in kind.grid_map]
    points = kind.grid.reshape(kind.grid_shape)
    digits = [json.dumps("".join(str(levels.index(int(value))) for value in point)) for point in points]
    rows = ["   " + ", ".join(digits[at:at + 8]) for at in range(0, len(digits), 8)]
    return f' "{name}": {{\n  "levels": {levels},\n  "points": [\n' + ",\n".join(rows) + "\n  ]\n }"


# ---- encode inputs --------------------------------------------------------------------------

def input_tensors(random):
    """Named (rows, COLS) tensors, each a kind of statistics that an encoder meets or fears."""
    normal = random.standard_normal
    column = numpy.arange(COLS)

    outliers = normal((8, COLS)) * 0.05
    outliers[random.random(outliers.shape) < 0.01] *= 30

    # From 1e-5 down to 1e-8: block scales pass through f16's subnormals to zero.
    tiny = normal((8, COLS)) * numpy.logspace(-5, -8, 8)[:, None]

    large = normal((8, COLS)) * 8000
    large = numpy.clip(large, -60000, 60000)

    constant = numpy.repeat([[0.5], [-1.25], [0.001], [3.1415927]], COLS, axis=1)

    sparse = normal((8, COLS))
    sparse[random.random(sparse.shape) < numpy.linspace(0.7, 0.99, 8)[:, None]] = 0

    slow = numpy.stack([
        numpy.sin(column / COLS * (row + 1)) * 0.3 + column / COLS * (row - 4) * 0.1
        for row in range(8)
    ])

    # Multiples of a power of two: many values lie exactly between two codes.
    ties = random.integers(-32, 33, (8, COLS)) * numpy.exp2(numpy.arange(-6, 2))[:, None]

    weights = (normal((8, COLS)) * 0.04).astype(numpy.float32).view(numpy.uint32)
    weights = (weights & numpy.uint32(0xFFFF0000)).view(numpy.float32)

    return {
        "gaussian": normal((12, COLS)) * 0.02,
        "heavy_tailed": random.standard_t(2.5, (12, COLS)) * 0.02,
        "outliers": outliers,
        "tiny": tiny,
        "large": large,
        "constant": constant,
        "zero": numpy.zeros((2, COLS)),
        "sparse": sparse,
        "slowly_varying": slow,
        "positive": numpy.exp(normal((8, COLS)) * 0.7) * 0.05,
        "negative": -numpy.abs(normal((2, COLS))) * 0.5 - 0.1,
        "ties": ties,
        "bf16_weights": weights,
    }


def errors(source, decoded, importance):
    """Three sums of squared errors, in f64: plain, weighted by x², weighted by importance."""
    source = source.astype(numpy.float64)
    square = (source - decoded.astype(numpy.float64).reshape(source.shape)) ** 2
    return {
        "plain": float(square.sum()),
        "x_squared": float((source * source * square).sum()),
        "importance": float((importance.astype(numpy.float64) * square).sum()),
    }


def digest(data):
    return hashlib.sha256(data.tobytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bin", type=pathlib.Path, required=True, help="folder of libggml-base.so")
    arguments = parser.parse_args()
    upstream = Upstream(arguments.llama_bin.resolve())
    OUT.mkdir(exist_ok=True)

    random = numpy.random.default_rng(SEED)
    tensors = {name: rows.astype(numpy.float32) for name, rows in input_tensors(random).items()}
    importance = (10.0 ** random.uniform(-2, 1, COLS)).astype(numpy.float32)
    inputs = numpy.concatenate(list(tensors.values()))
    assert numpy.isfinite(inputs).all()
    inputs.astype("<f4").tofile(OUT / "inputs.f32")
    importance.astype("<f4").tofile(OUT / "importance.f32")

    described, row = [], 0
    for name, rows in tensors.items():
        described.append({"name": name, "rows": len(rows), "cols": COLS, "row": row, "offset_bytes": row * COLS * 4})
        row += len(rows)

    manifest = {
        "seed": SEED,
        "gguf_package": "0.19.0",
        "byte_order": "little",
        "inputs": {
            "file": "inputs.f32", "rows": row, "cols": COLS, "sha256": digest(inputs), "tensors": described,
        },
        "importance": {"file": "importance.f32", "cols": COLS, "sha256": digest(importance)},
        "types": {},
    }
    for index, (name, number) in enumerate((TYPES | READ_ONLY_TYPES).items()):
        random = numpy.random.default_rng([SEED, index])  # a new type must not move the others
        traits = upstream.traits(number)
        elements, size = traits.block_elements, traits.block_bytes
        entry = {"ggml_type": number, "block_elements": elements, "block_bytes": size}

        for kind, make in (("decode", decode_blocks), ("edge", edge_blocks)):
            data = make(name, size, elements, random)
            library = upstream.decode(number, data)
            package = library if name in ONLY_IN_LIBRARY else package_decode(number, data)
            differing = int((canonical_bits(package) != canonical_bits(library)).sum())
            if differing:
                raise SystemExit(f"{name} {kind}: gguf package and libggml differ in {differing} values")
            if kind == "decode" and not numpy.isfinite(package).all():
                raise SystemExit(f"{name}: a value of the main set is not finite")
            values = canonical_bits(library)
            data.tofile(OUT / f"{name}.{kind}.bin")
            values.astype("<u4").tofile(OUT / f"{name}.{kind}.f32")
            entry[kind] = {
                "blocks": len(data) // size, "values": len(values),
                "sha256": digest(data), "values_sha256": digest(values),
            }

        manifest["types"][name] = entry
        print(f"{name:7} {entry['decode']['blocks']:5} blocks of {size} bytes")
        if name in READ_ONLY_TYPES:
            continue
        for kind, weights in (("encode", None), ("encode_importance", importance)):
            data = numpy.concatenate([upstream.encode(number, rows, weights) for rows in tensors.values()])
            data.tofile(OUT / f"{name}.{kind}.bin")
            decoded = upstream.decode(number, data).reshape(-1, COLS)
            entry[kind] = {"row_bytes": COLS // elements * size, "sha256": digest(data), "errors": {}}
            for tensor in described:
                span = slice(tensor["row"], tensor["row"] + tensor["rows"])
                entry[kind]["errors"][tensor["name"]] = errors(inputs[span], decoded[span], importance)

    (OUT / "codebooks.json").write_text("{\n" + ",\n".join(map(codebook, CODEBOOKS)) + "\n}\n")
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
