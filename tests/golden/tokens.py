"""Token ids that llama.cpp gives, for many vocabularies.

What it writes under `tokens/` beside this script:

  strings.json    short texts, all written for this purpose: scripts, spaces, digits, code, oddities
  <vocabulary>.json   the ids of each of them (see below)
  texts.json      count and SHA-256 of the ids of whole files of shared/data, for machines that have it

In <vocabulary>.json, `plain` has one list of ids a string, without special tokens added or parsed.
`parsed` has the strings whose ids differ when control tokens in the text are recognised
(parse_special), by the string's index. `prefix` and `suffix` are what add_special puts around
every string (checked for each; `added` holds exceptions by index). `pieces_sha256` is over the
bytes of every token in order, each preceded by its length as a little-endian u32; control tokens
count by their name.

    pip install numpy; llama-cpp-python 0.3.36 and its libllama.so (see README.md)
    python tokens.py --llama-bin DIR [--llama-python DIR] --models DIR --vocabularies DIR [DIR …] --shared DIR

`--models` holds smollm2-135m-f16.gguf, `--vocabularies` ggml-vocab-*.gguf, `--shared` data/text.
"""

import argparse
import hashlib
import json
import pathlib
import struct

import numpy

import llama

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "tokens"

STRINGS = {
    "empty": "",
    "space": " ",
    "two_spaces": "  ",
    "three_spaces": "   ",
    "tab": "\t",
    "newline": "\n",
    "newlines": "\n\n\n",
    "carriage_returns": "one\r\ntwo\r\n\r\nthree\rfour",
    "word": "hello",
    "space_word": " hello",
    "word_space": "hello ",
    "sentence": "The small boat left the harbour before sunrise, and nobody saw it go.",
    "capitals": "NASA and UNESCO met in iPhone-shaped McHouses; eBay didn't care.",
    "contractions": "I'm sure they've said we'll see it's what he'd do; don't, can't, won't, you're.",
    "contractions_upper": "I'M SURE THEY'VE SAID WE'LL SEE IT'S WHAT HE'D DO; DON'T, YOU'RE.",
    "curly_quotes": "\u201cIt\u2019s fine,\u201d she said \u2013 \u2018really\u2019 \u2014 and left\u2026",
    "digits_short": "1 12 123 1234 12345 123456 1234567 12345678 123456789",
    "digits_long": "3141592653589793238462643383279502884197169399375105820974944592",
    "numbers": "In 2024, 3.5% of 1,000,000 is 35,000.00; -7e-3 + 0x1F = 30.993 (v1.2.3-rc4)",
    "other_digits": "\u0661\u0662\u0663 \u0967\u0968\u0969 \uff11\uff12\uff13 \u00bd \u2167 x\u00b2 \u2460\u2461",
    "spaces_between": "a b  c   d    e     f      g",
    "leading_spaces": "    four spaces first",
    "trailing_spaces": "four spaces last    ",
    "space_before_newline": "end  \n  start \n\n next\t\n\tindented",
    "tabs": "name\tvalue\t\tnote\n\t\tdeep",
    "punctuation": "Wait... what?! (Yes; no: maybe.) [a] {b} <c> \"d\" 'e' `f` ~g~ *h* _i_ #j @k $l ^m &n |o \\p /q",
    "punctuation_runs": "!!!!! ????? ..... ----- ===== ##### ***** >>>>> ''''' \"\"\"\"\"",
    "python_code": "def area(radius):\n    \"\"\"Area of a circle.\"\"\"\n    return 3.14159 * radius ** 2\n\nprint(f\"{area(2):.2f}\")\n",
    "rust_code": "fn main() {\n    let xs: Vec<u32> = (0..10).filter(|x| x % 3 != 0).collect();\n    println!(\"{xs:?}\");\n}\n",
    "c_code": "#include <stdio.h>\nint main(void){for(int i=0;i<3;++i)printf(\"%d\\n\",i);return 0;}",
    "json": "{\"name\": \"kv\", \"sizes\": [1, 2.5, -3e7], \"ok\": true, \"none\": null}",
    "html": "<p class=\"note\">5 &lt; 7 &amp; <b>bold</b><br/></p>",
    "url": "See https://example.org/a/b_c-d?q=1&r=two%20words#part or mail me+you@example.org.",
    "path": "/usr/local/lib/libfoo.so.1.2 C:\\Temp\\new folder\\file.txt ../a/./b",
    "latex": "$\\frac{\\partial L}{\\partial w_{ij}} = \\sum_{k=1}^{n} x_k^2$",
    "camel_snake": "camelCaseName snake_case_name SCREAMING_SNAKE kebab-case-name HTTPServer2Go",
    "korean": "작은 배가 해 뜨기 전에 항구를 떠났고 아무도 그것을 보지 못했다.",
    "korean_no_spaces": "아버지가방에들어가신다",
    "korean_jamo": "ㅋㅋㅋㅋ ㅠㅠ ㄱㄴㄷ 진짜?ㅎㅎ 뷁 힣 가",
    "korean_decomposed": "\u1112\u1161\u11ab\u1100\u1173\u11af \ud55c\uae00",
    "korean_english": "GPU에서 4-bit 양자화(quantization)를 하면 8GB RAM으로도 충분해요!",
    "japanese": "今日は天気がいいので、カフェでコーヒーを飲みました。",
    "chinese": "小船在日出前离开了港口，没有人看见它。价格是３５元。",
    "russian": "Маленькая лодка ушла до рассвета, и никто её не видел.",
    "greek": "Το μικρό καράβι έφυγε πριν την ανατολή· κανείς δεν το είδε;",
    "arabic": "غادر القارب الصغير الميناء قبل الفجر ولم يره أحد.",
    "hebrew": "הסירה הקטנה יצאה לפני הזריחה.",
    "hindi": "छोटी नाव सूर्योदय से पहले चली गई।",
    "thai": "เรือลำเล็กออกจากท่าก่อนรุ่งสาง",
    "german": "Die Größe der Tür ließ über Öffnungsmaße staunen: 12,5 m².",
    "turkish": "İstanbul'da ılık bir ışık; IĞDIR, iğne, ŞİŞE.",
    "vietnamese": "Chiếc thuyền nhỏ rời bến trước bình minh.",
    "mixed_scripts": "naïve 바보 дурак 愚か fool μωρός غبي",
    "emoji": "Good \U0001f600 morning \U0001f305\U0001f305! \u2764\ufe0f \u263a",
    "emoji_joined": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1f0\U0001f1f7 \U0001f3f3\ufe0f\u200d\U0001f308 1\ufe0f\u20e3",
    "combining": "e\u0301 n\u0303 a\u0308 o\u0302\u0323 Z\u0335\u0341\u0327a\u0322l\u0334g\u0337o\u0336",
    "composed_pair": "caf\u00e9 cafe\u0301 \u212b \u00c5 A\u030a \ufb01 fi",
    "unicode_spaces": "a\u00a0b\u2003c\u3000d\u200be\u2028f\u2029g\u0085h\ufeffi",
    "right_to_left_marks": "abc \u202eright to left\u202c \u200fdef\u200e",
    "control_characters": "a\u0001b\u0007c\u001bd\u007fe",
    "nul": "before\u0000after",
    "mathematical": "\U0001d4d7\U0001d4ee\U0001d4f5\U0001d4f5\U0001d4f8 \u2200x\u2208\u211d: x\u00b2 \u2265 0 \u21d2 \u221ax \u2248 \u00b11",
    "rare_planes": "\U00020000\U0002a6d6 \U00010330\U00010331 \U0001f9ff \U000e0041 \U0010fffd \ufffd",
    "private_use": "\ue000\uf8ff",
    "chatml": "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "end_of_text": "one<|endoftext|>two <|endoftext|> three",
    "llama_controls": "<s>[INST] Hi [/INST] there</s><unk> <0x0A> <s>",
    "llama3_controls": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "phi_controls": "<|user|>\nHi<|end|>\n<|assistant|>",
    "gemma_controls": "<bos><start_of_turn>user\nHi<end_of_turn>\n",
    "broken_control": "<|im_start|user|> <|im_ start|> <|im_end| > <|>",
    "spm_marks": "a\u2581b \u2581 \u2581\u2581c \u0120d \u010ae",
    "repeated_letters": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "long_word": "pneumonoultramicroscopicsilicovolcanoconiosis Donaudampfschifffahrtsgesellschaft",
    "repeated_spaces_long": "x" + " " * 70 + "y",
    "chat_question": "What is the capital of France?",
}

TEXTS = [
    "wikitext2/wiki.test.raw",
    "klue/klue-nli-v1.1_dev.json", "klue/klue-sts-v1.1_dev.json", "klue/klue-dp-v1.1_dev.tsv",
    "kornlu/xnli.test.ko.tsv", "kornlu/sts-dev.tsv", "kornlu/sts-test.tsv",
    "nsmc/nsmc_raw_sample.jsonl",
]
# The other vocabularies see fewer of them.
SHORT_TEXTS = ["wikitext2/wiki.test.raw", "klue/klue-sts-v1.1_dev.json", "nsmc/nsmc_raw_sample.jsonl"]


def ids_digest(ids):
    return {"count": len(ids), "sha256": hashlib.sha256(numpy.array(ids, dtype="<u4").tobytes()).hexdigest()}


def around(plain, added):
    """What add_special put before and after; None where it changed the ids themselves."""
    for start in range(len(added) - len(plain) + 1):
        if added[start:start + len(plain)] == plain:
            return added[:start], added[start + len(plain):]
    return None


def describe(model, source):
    texts = [text.encode() for text in STRINGS.values()]
    plain = [model.tokenize(text) for text in texts]
    parsed = [model.tokenize(text, parse_special=True) for text in texts]
    added = [model.tokenize(text, add_special=True) for text in texts]
    longest = max(range(len(texts)), key=lambda index: len(plain[index]))
    prefix, suffix = around(plain[longest], added[longest])
    pieces = hashlib.sha256()
    for token in range(model.vocab_size()):
        piece = model.piece(token)
        pieces.update(struct.pack("<I", len(piece)) + piece)
    return {
        "source": source,
        "vocab_size": model.vocab_size(),
        "pieces_sha256": pieces.hexdigest(),
        "prefix": prefix,
        "suffix": suffix,
        "plain": plain,
        "parsed": {str(index): ids for index, ids in enumerate(parsed) if ids != plain[index]},
        "added": {str(index): ids for index, ids in enumerate(added) if ids != prefix + plain[index] + suffix},
    }


def compact(description):
    """JSON with one string's ids a line."""
    lines = []
    for key, value in description.items():
        if key == "plain":
            rows = ",\n  ".join(json.dumps(ids, separators=(",", ":")) for ids in value)
            lines.append(f' "plain": [\n  {rows}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama.add_flags(parser)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--vocabularies", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--shared", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    llama.load(arguments)
    OUT.mkdir(exist_ok=True)

    sources = {"smollm2": arguments.models / "smollm2-135m-f16.gguf"}
    for folder in arguments.vocabularies:
        for path in sorted(folder.glob("ggml-vocab-*.gguf")):
            sources.setdefault(path.stem.removeprefix("ggml-vocab-"), path)

    rows = ",\n ".join(json.dumps([name, text]) for name, text in STRINGS.items())
    (OUT / "strings.json").write_text(f"[\n {rows}\n]\n")

    texts = {}
    for name, path in sources.items():
        model = llama.Model(path, vocab_only=True)
        description = describe(model, path.name)
        (OUT / f"{name}.json").write_text(compact(description))
        texts[name] = {}
        for file in TEXTS if name == "smollm2" else SHORT_TEXTS:
            data = (arguments.shared / "data" / "text" / file).read_bytes()
            plain, added = model.tokenize(data), model.tokenize(data, add_special=True)
            texts[name][file] = {**ids_digest(plain), "added": ids_digest(added)}
        model.close()
        print(name, description["prefix"], description["suffix"], len(description["parsed"]), len(description["added"]),
              texts[name]["wikitext2/wiki.test.raw"]["count"])
    (OUT / "texts.json").write_text(json.dumps(texts, indent=1) + "\n")


if __name__ == "__main__":
    main()
