//! The shapes of the models that `cargo xtask synth` can write.

/// The sizes of a network. The output head is the embedding.
pub struct NetworkShape {
    pub name: &'static str,
    /// The family's name in GGUF.
    pub family: &'static str,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_size: usize,
    /// True if queries and keys have norms.
    pub head_norms: bool,
    /// Elements of a head that the rotary embedding rotates.
    pub rotated: usize,
    pub feed_forward: FeedForwardShape,
    /// Gated delta nets, if the family has them. Its attentions then have a gate.
    pub delta_net: Option<DeltaNetShape>,
    pub vocabulary: usize,
    pub context: usize,
    pub rope_theta: f32,
}

/// The sizes of the feed-forward networks.
#[derive(Clone, Copy)]
pub enum FeedForwardShape {
    /// One network of this inner length.
    Dense(usize),
    /// Experts of this inner length.
    Experts { count: usize, used: usize, length: usize },
}

/// The sizes of gated delta nets.
#[derive(Clone, Copy)]
pub struct DeltaNetShape {
    pub key_heads: usize,
    pub value_heads: usize,
    /// Elements of each head of keys and values.
    pub head_size: usize,
    /// Tokens that a convolution reads.
    pub kernel: usize,
    /// Each block with an index that is a multiple of this distance, counted from 1, has an attention.
    pub attention_each: usize,
}

/// The shape of Llama-3.2-1B, except its vocabulary size of 128256.
const LLAMA_1B: NetworkShape = NetworkShape {
    name: "llama-1b",
    family: "llama",
    hidden: 2048,
    layers: 16,
    heads: 32,
    kv_heads: 8,
    head_size: 64,
    head_norms: false,
    rotated: 64,
    feed_forward: FeedForwardShape::Dense(8192),
    delta_net: None,
    vocabulary: 32000,
    context: 8192,
    rope_theta: 500_000.0,
};

/// Sizes for tests: a few megabytes, and each row consists of whole superblocks.
const LLAMA_TINY: NetworkShape = NetworkShape {
    name: "llama-tiny",
    hidden: 256,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    feed_forward: FeedForwardShape::Dense(768),
    vocabulary: 2048,
    context: 512,
    rope_theta: 10_000.0,
    ..LLAMA_1B
};

/// The shape of Qwen3-0.6B, except its vocabulary.
const QWEN3: NetworkShape = NetworkShape {
    name: "qwen3-0.6b",
    family: "qwen3",
    hidden: 1024,
    layers: 28,
    heads: 16,
    kv_heads: 8,
    head_size: 128,
    head_norms: true,
    rotated: 128,
    feed_forward: FeedForwardShape::Dense(3072),
    rope_theta: 1_000_000.0,
    ..LLAMA_1B
};

/// The shape of Qwen3.5-0.8B, except its vocabulary.
const QWEN35: NetworkShape = NetworkShape {
    name: "qwen35-0.8b",
    family: "qwen35",
    layers: 24,
    heads: 8,
    kv_heads: 2,
    head_size: 256,
    rotated: 64,
    feed_forward: FeedForwardShape::Dense(3584),
    delta_net: Some(DeltaNetShape {
        key_heads: 16,
        value_heads: 16,
        head_size: 128,
        kernel: 4,
        attention_each: 4,
    }),
    ..QWEN3
};

/// All shapes that the command can write.
pub static SHAPES: &[NetworkShape] = &[
    LLAMA_1B,
    QWEN3,
    // The shape of four blocks of Qwen3-30B-A3B, except its vocabulary.
    NetworkShape {
        name: "qwen3moe-4l",
        family: "qwen3moe",
        hidden: 2048,
        layers: 4,
        heads: 32,
        kv_heads: 4,
        feed_forward: FeedForwardShape::Experts { count: 128, used: 8, length: 768 },
        ..QWEN3
    },
    // A dense network with the same multiply-adds for each token as `qwen3moe-4l`.
    NetworkShape {
        name: "qwen3-4l",
        hidden: 2048,
        layers: 4,
        heads: 32,
        kv_heads: 4,
        feed_forward: FeedForwardShape::Dense(6144),
        ..QWEN3
    },
    QWEN35,
    LLAMA_TINY,
    NetworkShape {
        name: "qwen3moe-tiny",
        family: "qwen3moe",
        head_norms: true,
        feed_forward: FeedForwardShape::Experts { count: 4, used: 2, length: 256 },
        ..LLAMA_TINY
    },
    NetworkShape {
        name: "qwen35-tiny",
        family: "qwen35",
        head_norms: true,
        rotated: 16,
        delta_net: Some(DeltaNetShape {
            key_heads: 2,
            value_heads: 4,
            head_size: 64,
            kernel: 4,
            attention_each: 2,
        }),
        ..LLAMA_TINY
    },
];
