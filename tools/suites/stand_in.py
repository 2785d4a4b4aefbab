#!/usr/bin/env python3
"""Writes a tiny Llama with random weights and a SentencePiece vocabulary of 512 tokens, as a GGUF file.

    python3 stand_in.py OUT.gguf

It stands for the model of llama.cpp's server tests, which no package carries: the same shape, BOS and vocabulary size, and
about the same number of tokens a character. Its texts make no sense, and it almost never ends an answer.
"""
import string
import sys

import gguf
import numpy

WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY, CONTEXT = 64, 5, 8, 4, 192, 512, 32768
# Frequent pairs of letters in English; the underscore is a space.
PAIRS = ("he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic ne ea ra "
         "ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly nc et ut ss so rs un lo wa ge ie wh "
         "ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir su id os iv ia am fi ci vi pl ig tu ev ld ry mp fe bl ab gh "
         "ty op wo sa ay ex ke fr oo av ag if ap gr od bo sp rd do uc bu ei ov by rm ep tt oc fa ef cu rn sc gi da yo cr cl du ga "
         "qu ue ff ba ey ls va um pp ua up lu go ht ru ug ds lt pi rc rr eg au ck ew mu br bi pt ak pu ui rg ib tl ny ki rk ys").split()
STARTS = "t a s w o i b c h m f l d p n r g e".split()


def vocabulary():
    """Returns the pieces with their scores and types."""
    pieces = [("<unk>", 0.0, gguf.TokenType.UNKNOWN), ("<s>", 0.0, gguf.TokenType.CONTROL),
              ("</s>", 0.0, gguf.TokenType.CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, gguf.TokenType.BYTE) for byte in range(256)]
    characters = list(string.ascii_letters + string.digits + string.punctuation) + ["\u2581"]
    pairs = ["\u2581" + start for start in STARTS] + PAIRS
    room = VOCABULARY - len(pieces) - len(characters)
    # Pairs go first when a text is divided: their scores are higher.
    for rank, piece in enumerate(pairs[:room] + characters):
        pieces.append((piece, -float(rank), gguf.TokenType.NORMAL))
    return pieces


def main(path):
    random = numpy.random.default_rng(30)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    pieces = vocabulary()
    assert len(pieces) == VOCABULARY, len(pieces)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _, _ in pieces])
    writer.add_token_scores([score for _, score, _ in pieces])
    writer.add_token_types([kind for _, _, kind in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def add(name, *shape):
        scale = shape[-1] ** -0.5
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(numpy.float32))

    writer.add_tensor("token_embd.weight", random.standard_normal((VOCABULARY, WIDTH)).astype(numpy.float32))
    kv_width = WIDTH // HEADS * KV_HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{name}.weight", numpy.ones(WIDTH, numpy.float32))
        add(f"{block}.attn_q.weight", WIDTH, WIDTH)
        add(f"{block}.attn_k.weight", kv_width, WIDTH)
        add(f"{block}.attn_v.weight", kv_width, WIDTH)
        add(f"{block}.attn_output.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        add(f"{block}.ffn_up.weight", FEED_FORWARD, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, numpy.float32))
    head = (random.standard_normal((VOCABULARY, WIDTH)) * 0.2).astype(numpy.float32)
    # Neither the unknown token, nor control tokens, nor bytes are likely: an answer is a text of letters.
    head[:259] *= 0.05
    writer.add_tensor("output.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
