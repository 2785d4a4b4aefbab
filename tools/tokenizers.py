"""Compares kvant's token ids with those of `tokenizers` and `sentencepiece`.

Vocabularies: those of DIR/data/tokenizers, and some trained on the spot on the texts of this repository. Each stands in
a folder of its own (tokenizer.json, vocab.json with merges.txt, or tokenizer.model, beside a tiny Llama's weights), and
is compared there and, where kvant converts it, after `kvant convert` to GGUF. Texts: the first 300 kB of wiki.test.raw,
Korean and mixed ones of DIR/data, and oddities. A GGUF says less than a folder: where kvant notes a difference,
one that is found is printed and does not count.

    pip install numpy tokenizers sentencepiece
    python tools/tokenizers.py --kvant target/release/kvant --shared DIR [--work DIR] [NAME ...]
    python tools/tokenizers.py --kvant target/release/kvant --shared DIR --xtask target/release/xtask --random 10000

The second line also compares this many random strings in each folder, all in one run of `xtask tokens --ids`.

One line a vocabulary, container and text; exit status 1 where ids differ.
"""

import argparse
import io
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unicodedata

# This script is called as the package that it compares with.
sys.path = [path for path in sys.path if pathlib.Path(path).resolve() != pathlib.Path(__file__).resolve().parent]

import numpy
import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH = 256
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ODD = [
    " ", "   ", "\n", "\n\n\n a\r\n\r\n b", "\t\tx", "a" * 400, "  leading and trailing  ", " " * 1000 + "x",
    "I'm I'M WE'LL we'd don't 'S 's ſ'ſ", "1 12 123 1234 12345 ½ ² Ⅷ ٣٤٥", "e\u0301a\u0308 \u1112\u1161\u11ab ﬁ ％ ™ Ⓐ",
    "🦊👩\u200d👩\u200d👧 🇰🇷 😶\u200d🌫️", "\u00a0nbsp\u3000wide\u200bzero\ufeffbom\x00nul\x7f", "हिन्दी ภาษาไทย עברית مرحبا",
    "#include <x.h>\n\tint main() { return a->b; } // ok", "▁▁ a▁b ▁", "x<|im_end|>\n <|im_start|> y", "<s>a</s> <unk> b",
]


def bf16(array):
    return (array.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()


def model(folder, vocabulary):
    """A Llama of one block with this many tokens."""
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=WIDTH, intermediate_size=WIDTH,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, vocab_size=vocabulary,
        max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
        tie_word_embeddings=True, torch_dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"model.embed_tokens.weight": (vocabulary, WIDTH), "model.norm.weight": (WIDTH,)}
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"model.layers.0.{name}.weight"] = (WIDTH,)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                 "mlp.up_proj", "mlp.down_proj"):
        tensors[f"model.layers.0.{name}.weight"] = (WIDTH, WIDTH)
    header, data = {}, io.BytesIO()
    for name, shape in tensors.items():
        start = data.tell()
        data.write(bf16(numpy.ones(shape)))
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[start, data.tell()])
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data.getvalue())


def texts(data):
    """Name and text."""
    raw = (data / "text/wikitext2/wiki.test.raw").read_bytes()[:300_000].decode(errors="ignore")
    korean = [json.loads(line) for line in (data / "text/nsmc/nsmc_raw_sample.jsonl").open(encoding="utf-8")]
    korean = "\n".join(str(value) for entry in korean for value in entry.values())[:150_000]
    mixed = (data / "text/kornlu/sts-test.tsv").read_text(encoding="utf-8")[:100_000]
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "crates/model/src").rglob("*.rs")))
    yield "wiki", raw
    yield "korean", korean
    yield "mixed", mixed + raw[:20_000] + code[:80_000]
    for number, text in enumerate(ODD):
        yield f"odd {number}", text


def corpus():
    files = sorted((ROOT / "assets").rglob("*.txt")) + sorted((ROOT / "docs").rglob("*.md"))
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines(keepends=True)]


def fast(folder, tokenizer):
    """A folder with a tokenizer.json; ids as the library gives them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    size = 1 + max(tokenizer.get_vocab(True).values())
    return size, lambda text: tokenizer.encode(text, add_special_tokens=True).ids


def byte_level(pre, normalizer=None, size=3000, **settings):
    def make(folder):
        tokenizer = tokenizers.Tokenizer(models.BPE(**settings))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False)
        tokenizer.train_from_iterator(corpus(), trainer)
        return fast(folder, tokenizer)
    return make


def split(expression):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(expression), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def added(folder):
    """Added tokens of every kind."""
    size, _ = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    token = tokenizers.AddedToken
    tokenizer.add_tokens([
        token("the", single_word=True), token("<mask>", lstrip=True), token("Über", normalized=True), token("  ", normalized=False),
        token("of the", normalized=False), token("a\u0308", normalized=True)])
    tokenizer.add_special_tokens([token("</x>", rstrip=True), token("이", lstrip=True, rstrip=True, special=True)])
    return fast(folder, tokenizer)


def word_piece(folder):
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=3000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return fast(folder, tokenizer)


def unigram(folder):
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=8000, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return fast(folder, tokenizer)


def marks(scheme, normalizer):
    """BPE of characters with bytes for the rest, as Llama 2's."""
    def make(folder):
        tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        if normalizer:
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
        special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(corpus(), trainer)
        made = json.loads(tokenizer.to_str())
        # Bytes are tokens of the model and no added ones; the whole text is one word.
        made["added_tokens"] = made["added_tokens"][:3]
        if normalizer:
            made["pre_tokenizer"] = None
        else:
            made["pre_tokenizer"]["split"] = False
        return fast(folder, tokenizers.Tokenizer.from_str(json.dumps(made)))
    return make


def vocabulary_and_merges(klass, expression=None):
    def make(folder):
        tokenizer = tokenizers.Tokenizer(models.BPE())
        pre = split(expression) if expression else pre_tokenizers.ByteLevel(add_prefix_space=False)
        normalizer = normalizers.NFC() if expression else None
        byte_level(pre, normalizer)(folder)
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.model.save(str(folder))
        (folder / "tokenizer.json").unlink()
        again = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
        again.pre_tokenizer, again.normalizer = pre, normalizer
        again.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        decoder = {str(i): dict(content=text, special=True, normalized=False)
                   for i, text in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
        settings = dict(tokenizer_class=klass, eos_token="<|im_end|>", added_tokens_decoder=decoder)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return again.get_vocab_size(), lambda text: again.encode(text).ids
    return make


def trained(**settings):
    def make(folder):
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line.strip() for line in corpus() if line.strip()]), model_writer=out, minloglevel=2,
            **settings)
        (folder / "tokenizer.model").write_bytes(out.getvalue())
        return processor(folder)
    return make


def processor(folder):
    judge = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="LlamaTokenizer", add_bos_token=False)))
    return judge.vocab_size(), judge.encode


def copied(file, name):
    def make(folder):
        shutil.copy(file, folder / name)
        if name == "tokenizer.model":
            return processor(folder)
        made = json.loads((folder / name).read_text(encoding="utf-8"))
        tokens = made["model"]["vocab"]
        if "merges" in made["model"]:
            made["model"]["type"] = "BPE"
            # A file with merges of tokens that it lacks: the library refuses it, and so does kvant.
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in made["model"]["merges"])
            made["model"]["merges"] = [pair for pair in pairs if {pair[0], pair[1], "".join(pair)} <= tokens.keys()]
        return fast(folder, tokenizers.Tokenizer.from_str(json.dumps(made)))
    return make


def vocabularies(data):
    """Name and what makes its folder."""
    for path in sorted((data / "tokenizers/hf").glob("*.tokenizer.json")):
        yield path.name.split(".")[0], copied(path, "tokenizer.json")
    yield "llama2c", copied(data / "tokenizers/llama2c/tokenizer.model", "tokenizer.model")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    yield "gpt2 split", byte_level(plain)
    yield "gpt2 split with a space", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    yield "llama3 split", byte_level(split(LLAMA3), ignore_merges=True)
    yield "llama3 split, merges kept", byte_level(split(LLAMA3))
    yield "qwen2 split", byte_level(split(QWEN2), normalizers.NFC())
    yield "qwen35 split", byte_level(split(QWEN35), normalizers.NFC())
    yield "gpt4o split", byte_level(split(GPT4O))
    yield "smollm split", byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]))
    yield "added tokens", added
    yield "word pieces", word_piece
    yield "unigram", unigram
    yield "marks, first", marks("first", False)
    yield "marks, always", marks("always", False)
    yield "marks, never", marks("never", False)
    yield "marks, prepended", marks("always", True)
    yield "vocab.json as GPT-2's", vocabulary_and_merges("GPT2Tokenizer")
    yield "vocab.json as Qwen 2's", vocabulary_and_merges("Qwen2TokenizerFast", QWEN2)
    bpe = dict(model_type="bpe", vocab_size=2000, character_coverage=0.99)
    yield "sentencepiece bpe, bytes", trained(byte_fallback=True, normalization_rule_name="identity",
                                              remove_extra_whitespaces=False, split_digits=True, **bpe)
    yield "sentencepiece bpe, rules", trained(user_defined_symbols=["<sep>", "the", "  "], **bpe)
    yield "sentencepiece bpe, suffix", trained(treat_whitespace_as_suffix=True, add_dummy_prefix=False, **bpe)
    uni = dict(model_type="unigram", vocab_size=2000, character_coverage=0.99)
    yield "sentencepiece unigram", trained(user_defined_symbols=["<sep>", "이"], **uni)
    yield "sentencepiece unigram, bytes", trained(byte_fallback=True, normalization_rule_name="nmt_nfkc_cf", **uni)


def golden(out):
    """Tiny vocabularies and the libraries' ids of the strings in tests/golden/tokens, for a test without Python."""
    out.mkdir(parents=True, exist_ok=True)
    calibration = [ROOT / "assets/calibration" / name for name in ("prose.txt", "encyclopaedia.txt", "code.txt")]
    lines = [line for path in calibration for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    strings = [text for _, text in json.loads((ROOT / "tests/golden/tokens/strings.json").read_text(encoding="utf-8"))]
    strings = [text for text in strings + ODD if text]
    result = dict(texts=ODD)
    rules = out / "rules.tsv"
    rules.write_text("41\t61\n FB01\t66 69\n".replace(" FB", "FB") + "3000\t20\n9\t20\n2122\t54 4D\n61 308\tE4\n")
    common = dict(character_coverage=0.99, minloglevel=2, num_threads=1)
    spm = dict(
        bpe=dict(model_type="bpe", vocab_size=480, byte_fallback=True, normalization_rule_name="identity",
                 remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "the"]),
        unigram=dict(model_type="unigram", vocab_size=400, normalization_rule_tsv=str(rules),
                     user_defined_symbols=["<sep>"]))
    for name, settings in spm.items():
        made = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=made, **common, **settings)
        (out / f"{name}.model").write_bytes(made.getvalue())
        judge = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
        result[name] = [judge.encode(text) for text in strings]
    rules.unlink()
    token = tokenizers.AddedToken

    def save(name, tokenizer, patch=lambda made: None):
        made = json.loads(tokenizer.to_str())
        patch(made)
        (out / f"{name}.json").write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        judge = tokenizers.Tokenizer.from_file(str(out / f"{name}.json"))
        result[name] = [judge.encode(text).ids for text in strings]

    added = tokenizers.Tokenizer(models.BPE())
    added.normalizer, added.pre_tokenizer = normalizers.NFC(), split(GPT4O)
    added.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    added.add_tokens([token("the", single_word=True), token("<mask>", lstrip=True), token("a\u0308", normalized=True),
                      token("  ", normalized=False), token("a", single_word=True)])
    added.add_special_tokens([token("<|im_end|>", rstrip=True), token("<|im_start|>", lstrip=True), token("</s>")])
    save("added", added)
    first = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    first.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    first.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=480, special_tokens=special, limit_alphabet=60, show_progress=False))

    def patch(made):
        made["added_tokens"] = made["added_tokens"][:3]
        made["pre_tokenizer"]["split"] = False

    save("first", first, patch)
    pieces = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(lines, trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], limit_alphabet=60, show_progress=False))
    pieces.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    save("pieces", pieces)
    uni = tokenizers.Tokenizer(models.Unigram())
    uni.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    uni.pre_tokenizer = pre_tokenizers.Metaspace()
    few = [line for line in lines if line.isascii()]
    uni.train_from_iterator(few, trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False))
    save("one", uni)
    entries = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}" for key, value in result.items())
    (out / "ids.json").write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")


def ids(kvant, model, text, work, flags):
    file = work / "text"
    file.write_text(text, encoding="utf-8", newline="")
    done = subprocess.run([kvant, "tokenize", model, "--file", file, "--json", *flags], capture_output=True, check=False)
    if done.returncode:
        return done.stderr.decode(errors="replace").strip()
    return json.loads(done.stdout)["ids"]


def random_texts(count):
    """Strings of characters that rules treat differently, and of all assigned characters."""
    source = random.Random(7)
    codes = (code for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assigned = [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"]
    odd = list("    \t\n\r\u00a0\u3000\u0085asStTrReElLvVmMdDſÉé한글字あ。１½٣123'.,!?_-/#@<>|$~^\"()[]{}\u0301\u0308🦊\u200d\0\ufeffǅʰ▁Ｋßσ")
    odd += ["'s", "'LL", "12345", " the", "camelCase", "\r\n", "    ", "</s>", "<|im_end|>"]
    for _ in range(count):
        share = source.choice([0, 0.4, 1])
        yield "".join(source.choice(assigned if source.random() < share else odd) for _ in range(source.randrange(1, 40)))


def compare_random(name, xtask, model, judge, count):
    lines = list(random_texts(count))
    flags = [] if "sentencepiece" in name or name == "llama2c" else ["--special"]
    done = subprocess.run([xtask, "tokens", "--ids", model, *flags], capture_output=True, text=True, check=True,
                          input="".join(json.dumps(text) + "\n" for text in lines))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    bad = [text for text, ids in zip(lines, found, strict=True) if ids != judge(text)]
    print(f"{'FAIL ' if bad else 'equal'} {name}, {len(lines) - len(bad)} of {len(lines)} random strings", ascii(bad[:3]) if bad else "")
    return len(bad)


def compare(name, container, kvant, model, judge, data, work, forgiven):
    differ = 0
    # SentencePiece itself finds no control tokens in a text.
    flags = ["--no-special"] if "sentencepiece" in name or name == "llama2c" else []
    for kind, text in texts(data):
        expected, found = judge(text), ids(kvant, model, text, work, flags)
        if found == expected:
            continue
        differ += 1
        if isinstance(found, str):
            print(f"{'noted' if forgiven else 'FAIL '} {name}, {container}, {kind}: {found}")
            continue
        at = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
        print(f"{'noted' if forgiven else 'FAIL '} {name}, {container}, {kind}: {len(expected)} tokens, first difference at {at}: "
              f"expected {expected[at:at + 4]}, found {found[at:at + 4]}")
    if not differ:
        print(f"equal {name}, {container}")
    return 0 if forgiven else differ


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvant")
    parser.add_argument("--shared", type=pathlib.Path)
    parser.add_argument("--golden", type=pathlib.Path, help="write the golden files of tests/golden/tokenizers instead")
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--xtask", help="the program xtask, for --random")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.golden:
        return golden(arguments.golden)
    if not (arguments.kvant and arguments.shared):
        parser.error("--kvant and --shared are needed")
    work = arguments.work or pathlib.Path(tempfile.mkdtemp())
    data, kvant = arguments.shared / "data", str(pathlib.Path(arguments.kvant).resolve())
    failed = 0
    for name, make in vocabularies(data):
        if arguments.names and name not in arguments.names:
            continue
        folder = work / "".join(c if c.isalnum() else "-" for c in name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        size, judge = make(folder)
        model(folder, size)
        failed += compare(name, "folder", kvant, folder, judge, data, work, False)
        if arguments.random and arguments.xtask:
            failed += compare_random(name, arguments.xtask, folder, judge, arguments.random)
        gguf = folder / "model.gguf"
        done = subprocess.run([kvant, "convert", folder, "-o", gguf], capture_output=True, text=True, check=False)
        for line in done.stderr.splitlines():
            print(f"      {line}")
        if done.returncode == 0:
            failed += compare(name, "GGUF", kvant, gguf, judge, data, work, "note:" in done.stderr)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
