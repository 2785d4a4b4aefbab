"""A compact Llama in plain torch: Hugging Face's mathematics and parameter names, nothing else."""

import torch
import torch.nn.functional as functional
from torch import nn

CONFIG = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}


def rotary_tables(config, length):
    dimension = config["head_dim"]
    inverse = 1.0 / (config["rope_theta"] ** (torch.arange(0, dimension, 2, dtype=torch.float32) / dimension))
    angles = torch.outer(torch.arange(length, dtype=torch.float32), inverse)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(states, cosine, sine):
    """Rotates the first half of every head against its second half, as transformers does."""
    cosine, sine = cosine.to(states.dtype), sine.to(states.dtype)
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine


class RmsNorm(nn.Module):
    def __init__(self, width, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, states):
        return functional.rms_norm(states.float(), self.weight.shape, self.weight.float(), self.epsilon).to(states.dtype)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, head = config["hidden_size"], config["head_dim"]
        self.heads, self.key_heads, self.head = config["num_attention_heads"], config["num_key_value_heads"], head
        self.q_proj = nn.Linear(width, self.heads * head, bias=False)
        self.k_proj = nn.Linear(width, self.key_heads * head, bias=False)
        self.v_proj = nn.Linear(width, self.key_heads * head, bias=False)
        self.o_proj = nn.Linear(self.heads * head, width, bias=False)

    def forward(self, states, cosine, sine):
        batch, length, _ = states.shape

        def split(projected, heads):
            return projected.view(batch, length, heads, self.head).transpose(1, 2)

        query = rotate(split(self.q_proj(states), self.heads), cosine, sine)
        key = rotate(split(self.k_proj(states), self.key_heads), cosine, sine)
        value = split(self.v_proj(states), self.key_heads)
        repeats = self.heads // self.key_heads
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, states):
        return self.down_proj(functional.silu(self.gate_proj(states)) * self.up_proj(states))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, epsilon = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = RmsNorm(width, epsilon)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(width, epsilon)
        self.mlp = Mlp(config)

    def forward(self, states, cosine, sine):
        states = states + self.self_attn(self.input_layernorm(states), cosine, sine)
        return states + self.mlp(self.post_attention_layernorm(states))


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RmsNorm(config["hidden_size"], config["rms_norm_eps"])


class Llama(nn.Module):
    """Names under `model.` are those of LlamaForCausalLM with tied embeddings."""

    def __init__(self, config=None):
        super().__init__()
        self.config = config or CONFIG
        self.model = Backbone(self.config)
        cosine, sine = rotary_tables(self.config, self.config["max_position_embeddings"])
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        residual_scale = (2 * self.config["num_hidden_layers"]) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Maps that write into the residual stream start smaller, so that depth does not add variance.
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 * (residual_scale if writes else 1.0))

    def forward(self, tokens):
        length = tokens.shape[1]
        states = self.model.embed_tokens(tokens)
        cosine, sine = self.cosine[:length], self.sine[:length]
        for layer in self.model.layers:
            states = layer(states, cosine, sine)
        return functional.linear(self.model.norm(states), self.model.embed_tokens.weight)

    def loss(self, tokens, reduction="mean"):
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), tokens[:, 1:].reshape(-1), reduction=reduction)
