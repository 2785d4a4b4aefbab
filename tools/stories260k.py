#!/usr/bin/env python3
"""llama2.c's stories260K as a GGUF, for tests only.

    pip install gguf==0.19.0 numpy
    python3 stories260k.py FOLDER OUTPUT.gguf [CONTEXT]

FOLDER holds stories260K.bin (7 int32: dim, hidden, layers, heads, kv heads, vocabulary, context; then f32) and
tok512.bin (int32 longest piece; then per piece f32 score, int32 length, bytes). Every weight stays f32: the MLP's
width of 172 is no whole number of blocks of anything. CONTEXT replaces the context length: llama.cpp's server tests
(suites/llama_server_tests.py) need 2048, which the rotation allows.
"""
import struct
import sys
from pathlib import Path

import gguf
import numpy


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    data = (folder / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("<7i", data[:28])
    context = int(sys.argv[3]) if len(sys.argv) == 4 else context
    numbers, at = numpy.frombuffer(data, numpy.float32, offset=28), 0

    def take(*shape):
        nonlocal at
        count = int(numpy.prod(shape))
        at += count
        return numbers[at - count : at].reshape(shape)

    kv = dim // heads * kv_heads
    tensors = {"token_embd": take(vocabulary, dim)}
    for name, shape in [
        ("attn_norm", (dim,)),
        ("attn_q", (dim, dim)),
        ("attn_k", (kv, dim)),
        ("attn_v", (kv, dim)),
        ("attn_output", (dim, dim)),
        ("ffn_norm", (dim,)),
        ("ffn_gate", (hidden, dim)),
        ("ffn_down", (dim, hidden)),
        ("ffn_up", (hidden, dim)),
    ]:
        stacked = take(layers, *shape)
        tensors.update({f"blk.{i}.{name}": stacked[i] for i in range(layers)})
    tensors["output_norm"] = take(dim)

    writer = gguf.GGUFWriter(output, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    pieces, scores, kinds = vocabulary_of((folder / "tok512.bin").read_bytes(), vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", numpy.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary_of(data, count):
    pieces, scores, kinds, at = [], [], [], 4
    for index in range(count):
        score, length = struct.unpack_from("<fi", data, at)
        text = data[at + 8 : at + 8 + length]
        at += 8 + length
        kind = gguf.TokenType.NORMAL
        if index == 0:
            text, kind = b"<unk>", gguf.TokenType.UNKNOWN
        elif index < 3:
            text, kind = [b"<s>", b"</s>"][index - 1], gguf.TokenType.CONTROL
        elif text.startswith(b"<0x") and len(text) == 6:
            kind = gguf.TokenType.BYTE
        pieces.append(text.replace(b" ", "\u2581".encode()))
        scores.append(score)
        kinds.append(kind)
    return pieces, scores, kinds


main()
