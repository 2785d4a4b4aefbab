//! Compares a KV cache that drops the pages behind a window with one that keeps all pages.

use kvant_kernels::{AttentionShape, Backend, Isa, KeyValues, KvFormat, PagePool, Qkv, Ragged, attention};

const HEADS: usize = 2;
const KV_HEADS: usize = 1;
const HEAD_SIZE: usize = 32;

/// The random generator SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

fn shape(window: usize) -> AttentionShape {
    AttentionShape {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_size: HEAD_SIZE,
        scale: 0.5,
        causal: true,
        window: Some(window),
        softcap: None,
        sinks: None,
    }
}

fn run(
    backend: &Backend,
    shape: &AttentionShape,
    qkv: &Qkv,
    tokens: usize,
    states: &mut KeyValues,
) -> Vec<f32> {
    let mut out = vec![0.0; tokens * HEADS * HEAD_SIZE];
    attention(backend, shape, qkv, &mut [Ragged { states, tokens }], &mut out);
    out
}

/// A prompt that is prepared as a whole and appended in pieces. Returns the results of both caches.
fn append_prompt(
    backend: &Backend,
    random: &mut Random,
    shape: &AttentionShape,
    [whole, kept]: [&mut KeyValues; 2],
    pieces: &[usize],
    pool: &PagePool,
    place: &str,
) {
    let (count, longest) = (pieces.iter().sum(), pieces.iter().copied().max().unwrap_or(0));
    let (held, missing) = (pool.held(), kept.missing(count, longest));
    kept.prepare(count, longest).unwrap();
    assert_eq!(pool.held() - held, missing, "{place}: announced memory is taken");
    let announced = pool.held();
    for &tokens in pieces {
        let key = random.floats(tokens * KV_HEADS * HEAD_SIZE);
        let value = random.floats(tokens * KV_HEADS * HEAD_SIZE);
        let qkv = Qkv { query: random.floats(tokens * HEADS * HEAD_SIZE), key, value };
        let expected = run(backend, shape, &qkv, tokens, whole);
        let found = run(backend, shape, &qkv, tokens, kept);
        assert!(found == expected, "{place}");
        assert!(pool.held() <= announced, "{place}: announced memory suffices");
    }
    kept.give_back([0; 2]);
}

/// Appends prompts in pieces of random length. Between prompts, the cache is cloned, truncated or exchanged with a clone.
/// The results are those of a cache without a window.
#[test]
fn dropped_pages_change_no_result() {
    for &format in KvFormat::ALL {
        for window in [1, 17, 64, 65, 130, 300] {
            let (mut random, shape) = (Random(window as u64), shape(window));
            let backend = Backend::new(Isa::best(), 1);
            let pool = PagePool::unlimited();
            let mut whole = KeyValues::new(format, KV_HEADS, HEAD_SIZE);
            let empty = KeyValues::in_pool(format, KV_HEADS, HEAD_SIZE, &pool);
            let mut kept = empty.with_window(Some(window));
            // `longest`: the largest number of positions before an append, which decides what is dropped.
            let (mut longest, mut most) = (0, 0);
            let mut clone: Option<(KeyValues, KeyValues, usize)> = None;
            for step in 0..120 {
                let place = format!("{format:?}, window {window}, step {step}");
                match random.below(8) {
                    0 => clone = Some((whole.clone(), kept.clone(), longest)),
                    1 => clone = None,
                    2 => {
                        if let Some((other_whole, other_kept, other_longest)) = &mut clone {
                            std::mem::swap(&mut whole, other_whole);
                            std::mem::swap(&mut kept, other_kept);
                            std::mem::swap(&mut longest, other_longest);
                        }
                    }
                    3 => {
                        let to = kept.len() - random.below(200).min(kept.len());
                        let end = kept.end_within(to);
                        let nearest = if format == KvFormat::Q4_0 { whole.end_within(to) } else { to };
                        assert!(to + 64 < longest || end == nearest, "{place}: {end} of {to}");
                        kept.truncate(to);
                        assert_eq!(kept.len(), end, "{place}");
                        whole.truncate(end);
                        assert_eq!(whole.len(), end, "{place}");
                    }
                    _ => {}
                }
                let at_most = [1, 2, 40, 200][random.below(4)];
                let pieces: Vec<usize> =
                    (0..1 + random.below(4)).map(|_| 1 + random.below(at_most)).collect();
                longest = longest.max(kept.len() + pieces[..pieces.len() - 1].iter().sum::<usize>());
                append_prompt(&backend, &mut random, &shape, [&mut whole, &mut kept], &pieces, &pool, &place);
                most = most.max(kept.len());
            }
            assert!(most > 1000, "{most} positions");
            drop((kept, clone));
            assert_eq!(pool.held(), 0);
        }
    }
}

/// The memory of a long sequence does not depend on its length, and a pool of exactly this size suffices, wherever pieces
/// begin.
#[test]
fn memory_is_bounded_by_the_window() {
    for &format in KvFormat::ALL {
        for first_piece in [50, 1, 14, 49] {
            let empty = KeyValues::new(format, KV_HEADS, HEAD_SIZE).with_window(Some(100));
            let bytes = empty.bytes(10_000, 50);
            assert!(bytes <= 8 * empty.bytes(64, 64), "{format:?}: {bytes} for all positions");
            assert_eq!(bytes, empty.bytes(20_000, 50), "{format:?}");
            let pool = PagePool::new(bytes);
            let in_pool = || KeyValues::in_pool(format, KV_HEADS, HEAD_SIZE, &pool);
            let mut kept = in_pool().with_window(Some(100));
            kept.prepare(10_000, 50).unwrap();
            assert_eq!(pool.held(), bytes, "{format:?}");
            let rows = vec![0.5; 50 * KV_HEADS * HEAD_SIZE];
            let first = &rows[..first_piece * KV_HEADS * HEAD_SIZE];
            kept.append(first, first);
            for _ in 0..198 {
                kept.append(&rows, &rows);
            }
            assert_eq!(kept.len(), first_piece + 9_900);
            assert!(kept.read_bytes(kept.len()) < bytes, "{format:?}");
            // A query behind the dropped pages has no answer, so the cache becomes empty.
            kept.truncate(5_000);
            assert_eq!((kept.len(), pool.held()), (0, 0), "{format:?}");
        }
    }
}
