"""Trains a small network with experts (Qwen3-MoE) on the text of the demo model, to judge the quantization of experts.

    python train_moe.py --out DIR --work DIR --minutes 20

It needs torch, transformers and tokenizers. The model is not shipped: 8 M parameters, eight experts, of which a token uses two.
"""

import argparse
import pathlib
import time

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import corpus
from train import rate_factor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--work", required=True, help="folder for the text and the tokenizer")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=4, help="rows of 512 tokens in a step")
    options = parser.parse_args()
    pathlib.Path(options.work).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    tokenizer, rows, held_out = corpus.prepare(options.work, 1, options.documents, options.threads)
    config = Qwen3MoeConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=256, intermediate_size=256, moe_intermediate_size=256,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=True, max_position_embeddings=512, tie_word_embeddings=True, output_router_logits=True,
        router_aux_loss_coef=0.01, bos_token_id=0, eos_token_id=1)
    model = Qwen3MoeForCausalLM._from_config(config, experts_implementation="eager")
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    started = printed = time.time()
    step = 0
    while (progress := (time.time() - started) / (60 * options.minutes)) < 1.0:
        order = torch.randint(len(rows), (options.batch,), generator=torch.Generator().manual_seed(step))
        batch = rows[order].long()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate_factor(progress)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if time.time() - printed > 30:
            print(f"{(time.time() - started) / 60:5.1f} min  step {step}  loss {loss.item():.3f}", flush=True)
            printed = time.time()
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save(str(pathlib.Path(options.out) / "tokenizer.json"))
    pathlib.Path(options.out, "heldout.txt").write_text("\n".join(text for _, text in held_out))
    print(f"{step} steps of {options.batch * corpus.ROW} tokens", flush=True)


if __name__ == "__main__":
    main()
