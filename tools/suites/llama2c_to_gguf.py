#!/usr/bin/env python3
"""Converts a model of llama2.c (version 0, f32) with its tokenizer to GGUF.

    pip install gguf==0.19.0 numpy
    python3 llama2c_to_gguf.py stories260K.bin tok512.bin OUT.gguf

llama.cpp's server tests run on stories260K; with this file their texts and counts of tokens agree.
"""
import struct
import sys

import gguf
import numpy


def tokens(path):
    """Returns pieces and scores. The format: the longest length, then a score, a length and the bytes of each piece."""
    data = open(path, "rb").read()
    found, place = [], 4
    while place < len(data):
        score, length = struct.unpack_from("<fi", data, place)
        found.append((data[place + 8:place + 8 + length].decode("utf-8"), score))
        place += 8 + length
    return found


def main(model, tokenizer, out):
    data = open(model, "rb").read()
    width, feed_forward, layers, heads, kv_heads, vocabulary, context = struct.unpack_from("<7i", data)
    shared, vocabulary = vocabulary > 0, abs(vocabulary)
    values = numpy.frombuffer(data, numpy.float32, offset=28)
    place = 0

    def take(*shape):
        nonlocal place
        size = int(numpy.prod(shape))
        place += size
        return values[place - size:place].reshape(shape)

    head_width = width // heads
    kv_width = head_width * kv_heads
    tensors = {"token_embd.weight": take(vocabulary, width)}
    for name, shape in [("attn_norm", (width,)), ("attn_q", (width, width)), ("attn_k", (kv_width, width)),
                        ("attn_v", (kv_width, width)), ("attn_output", (width, width)), ("ffn_norm", (width,)),
                        ("ffn_gate", (feed_forward, width)), ("ffn_down", (width, feed_forward)),
                        ("ffn_up", (feed_forward, width))]:
        for layer, tensor in enumerate(take(layers, *shape)):
            tensors[f"blk.{layer}.{name}.weight"] = tensor
    tensors["output_norm.weight"] = take(width)
    take(context, head_width)  # Tables of the rotation, which readers compute.
    tensors["output.weight"] = tensors["token_embd.weight"] if shared else take(vocabulary, width)

    writer = gguf.GGUFWriter(out, "llama")
    # The file that the tests download says the same; the rotation has no limit of its own.
    writer.add_context_length(max(context, 2048))
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_width)
    writer.add_vocab_size(vocabulary)
    pieces = tokens(tokenizer)
    kinds = [gguf.TokenType.UNKNOWN] + 2 * [gguf.TokenType.CONTROL] + 256 * [gguf.TokenType.BYTE]
    kinds += (len(pieces) - len(kinds)) * [gguf.TokenType.NORMAL]
    special = ["<unk>", "<s>", "</s>"]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    # llama2.c writes spaces where SentencePiece has U+2581.
    names = [piece.replace(" ", "\u2581") for piece, _ in pieces]
    writer.add_token_list(special + names[3:])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
