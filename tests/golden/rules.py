"""Token ids that llama.cpp gives for tiny vocabularies of our own, under every name of a pre-tokenizer.

The script writes these files under `tokens_rules/` beside itself:

  merged.gguf       byte-level BPE, trained on random strings that no rule split, so that merges cross every border
  marks.gguf        BPE of characters with byte tokens and ▁ (model gemma4), from tokens_folder/first.json
  word_pieces.gguf  WordPiece (model bert), from tokens_folder/pieces.json
  unigram.gguf      Unigram with normalization rules (model t5), from tokens_folder/unigram.model
  ids.json          `texts`: random strings of the same kind. `rules`: names of pre-tokenizers for merged.gguf that give
                    the same ids. `others`: the other files. Each has one hash a text: FNV-1a of 32 bits over the ids as
                    little-endian u32, in hexadecimal; first the strings of tokens/strings.json, then `texts`.

    pip install numpy gguf tokenizers sentencepiece; llama-cpp-python 0.3.36 and its libllama.so (see README.md)
    python rules.py --llama-bin DIR [--llama-python DIR]
"""

import argparse
import json
import pathlib
import random
import re
import tempfile

import gguf
import llama
import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "tokens_rules"
CHARACTERS = (
    list("   \n\n\r\t\u00a0\u3000\u0085aasSeErRlLvVdDmMtTzZſéÉ한글字あ。，１！½٣123450''.,!?_-/#@<>|$+~^`\"()[]{}")
    + ["\u0301", "\u0308", "\u0e19", "\u0e34", "🦊", "\u200d", "\0", "\ufeff", "ǅ", "ʰ", "§", "  ", "    ", "'s", "'LL", "12345", " a", "\r\n"])
# Names that llama.cpp reads with models of their own.
OWN_MODELS = {"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"}


def strings(count, seed):
    source = random.Random(seed)
    return ["".join(source.choice(CHARACTERS) for _ in range(source.randrange(1, 30))) for _ in range(count)]


def writer(path, model):
    out = gguf.GGUFWriter(path, "llama")
    out.add_tokenizer_model(model)
    return out


def close(out):
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.close()


def lines_of(merges):
    return [" ".join(merge) if isinstance(merge, list) else merge for merge in merges]


def merged(path, pre):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.ByteLevel()
    tokenizer.train_from_iterator(strings(6000, 1), trainers.BpeTrainer(
        vocab_size=1100, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    out = writer(path, "gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(tokens)
    out.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    out.add_token_merges(lines_of(model["merges"]))
    for add in (out.add_bos_token_id, out.add_eos_token_id):
        add(0)
    close(out)


def marks(path):
    made = json.loads((HERE / "tokens_folder/first.json").read_text(encoding="utf-8"))
    model = made["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    byte = re.compile("<0x[0-9A-F]{2}>")
    out = writer(path, "gemma4")
    out.add_token_list(tokens)
    out.add_token_types([3 if token in ("<s>", "</s>", "<unk>") else 6 if byte.fullmatch(token) else 1 for token in tokens])
    out.add_token_merges(lines_of(model["merges"]))
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    close(out)


def word_pieces(path):
    made = json.loads((HERE / "tokens_folder/pieces.json").read_text(encoding="utf-8"))
    vocabulary = made["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    special = {"[UNK]": 2, "[CLS]": 3, "[SEP]": 3}
    out = writer(path, "bert")
    out.add_token_list([token if token in special else token[2:] if token.startswith("##") else "▁" + token for token in tokens])
    out.add_token_types([special.get(token, 1) for token in tokens])
    out.add_bos_token_id(vocabulary["[CLS]"])
    out.add_sep_token_id(vocabulary["[SEP]"])
    out.add_unk_token_id(vocabulary["[UNK]"])
    close(out)


def unigram(path):
    from sentencepiece import sentencepiece_model_pb2
    file = sentencepiece_model_pb2.ModelProto.FromString((HERE / "tokens_folder/unigram.model").read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_proto=file.SerializeToString())
    out = writer(path, "t5")
    out.add_token_list([piece.piece for piece in file.pieces])
    out.add_token_scores([piece.score for piece in file.pieces])
    out.add_token_types([piece.type for piece in file.pieces])
    out.add_precompiled_charsmap(file.normalizer_spec.precompiled_charsmap)
    out.add_add_space_prefix(True)
    out.add_remove_extra_whitespaces(True)
    out.add_bos_token_id(processor.bos_id())
    out.add_eos_token_id(processor.eos_id())
    out.add_unk_token_id(processor.unk_id())
    close(out)


def fnv(ids):
    value = 0x811C9DC5
    for one in ids:
        for byte in int(one).to_bytes(4, "little"):
            value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value:08x}"


def hashes(path, texts):
    model = llama.Model(path, vocab_only=True)
    found = " ".join(fnv(model.tokenize(text.encode())) for text in texts)
    model.close()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama.add_flags(parser)
    arguments = parser.parse_args()
    llama.load(arguments)
    OUT.mkdir(exist_ok=True)
    known = (HERE.parent.parent / "crates/model/src/tokenizer/pre_tokenizer.rs").read_text(encoding="utf-8")
    names = [name for part in re.findall(r"names: &\[([^\]]*)\]", known) for name in re.findall(r'"([^"]+)"', part)]
    names = [name for name in dict.fromkeys(names) if name not in OWN_MODELS]
    own = [text for _, text in json.loads((HERE / "tokens/strings.json").read_text(encoding="utf-8"))]
    more = strings(120, 2)
    merged(OUT / "merged.gguf", "default")
    marks(OUT / "marks.gguf")
    word_pieces(OUT / "word_pieces.gguf")
    unigram(OUT / "unigram.gguf")
    rules = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = pathlib.Path(folder) / f"{name}.gguf"
            merged(path, name)
            rules.setdefault(hashes(path, own + more), []).append(name)
    others = {name: hashes(OUT / f"{name}.gguf", own + more) for name in ("marks", "word_pieces", "unigram")}
    result = dict(texts=more, rules=[dict(names=names, ids=ids) for ids, names in rules.items()], others=others)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    (OUT / "ids.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(len(names), "names,", len(rules), "different rules")


if __name__ == "__main__":
    main()
