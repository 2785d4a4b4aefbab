"""Checks an exported folder with transformers: logits against our own model, the chat template, and samples.

    python verify.py ../../assets/demo
"""

import re
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from model import CONFIG, Llama

CHATS = ["Tell me a short story about a brave fox.", "고양이 이야기를 들려줘.", "What colour is the sky?", "Hello!",
         "What is three plus four?", "안녕하세요!", "하늘은 무슨 색이에요?", "Tell me a story about a lost kite.",
         "The key is in the drawer. The cup is on the table. Where is the key?", "무엇을 할 수 있어?"]
STARTS = ["Once upon a time", "Mia and", "옛날 옛날에", "어느 날"]


def main():
    folder = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = Llama()
    ours.load_state_dict({name: tensor.float() for name, tensor in load_file(f"{folder}/model.safetensors").items()})
    assert theirs.config.vocab_size == CONFIG["vocab_size"] == len(tokenizer)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == sum(parameter.numel() for parameter in ours.parameters())

    with open(f"{folder}/heldout.txt", encoding="utf-8") as file:
        text = file.read()
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 0 and tokenizer.decode(ids[1:]) == text, "the tokenizer does not give the text back"
    window = torch.tensor([ids[:512]])
    with torch.no_grad():
        difference = (theirs(window).logits - ours(window)).abs().max().item()
    print(f"largest difference of a logit over 512 tokens: {difference:.2e}")
    assert difference < 2e-3

    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(1, len(ids) - 511, 511):
            rows = torch.tensor([[0] + ids[start : start + 511]])
            total += ours.loss(rows, reduction="sum").item()
            count += 511
    print(f"heldout.txt in windows of 512: {total / count:.4f} nats/token over {count} tokens")

    rendered = tokenizer.apply_chat_template(
        [{"role": "system", "content": "S"}, {"role": "user", "content": " U "}, {"role": "assistant", "content": "A"},
         {"role": "user", "content": "V"}], tokenize=False, add_generation_prompt=True)
    assert rendered == "<s><|system|>S<|end|><|user|>U<|end|><|assistant|>A<|end|><|user|>V<|end|><|assistant|>", rendered

    torch.manual_seed(1)
    ended = 0
    for question in CHATS:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = theirs.generate(**prompt, max_new_tokens=320, pad_token_id=1)[0]
        answer = tokenizer.decode(output[prompt["input_ids"].shape[1]:])
        ended += answer.endswith("<|end|>")
        print(f"> {question}\n{answer}\n")
    print(f"{ended} of {len(CHATS)} answers end with <|end|>")
    for start in STARTS:
        output = theirs.generate(**tokenizer(start, return_tensors="pt", return_token_type_ids=False), max_new_tokens=250, pad_token_id=1)[0]
        print(f"* {re.sub(r'^<s>', '', tokenizer.decode(output))}\n")


if __name__ == "__main__":
    main()
