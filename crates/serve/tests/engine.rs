//! Compares answers that the engine computes for many requests at the same time with answers that are computed alone.

use kvant::Model;
use kvant::kernels::{Arithmetic, Backend, Isa, KvFormat, Precision};
use kvant::model::{Finish, LogProbabilities, Sampler, Sampling, Tokenizer, Transformer, Want, generate};
use kvant_serve::{Answer, Engine, Event, Grammar, Grammars, Metrics, Refusal, Request, Settings};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest number of tokens of a request.
const CONTEXT: usize = 176;

/// The random generator SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

fn backend() -> Backend {
    Backend::new(Isa::best(), 2).with(Arithmetic::Integer(Precision::default()))
}

fn demo() -> (Arc<Transformer>, Arc<Tokenizer>) {
    let run = kvant::RunSettings::default();
    let (network, tokenizer) = Model::demo().unwrap().load_speaker(backend(), run).unwrap();
    (Arc::new(network), tokenizer)
}

/// A model of the golden tests, with the tokenizer of the demo model.
fn golden(name: &str, kv: KvFormat) -> (Arc<Transformer>, Arc<Tokenizer>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models").join(name);
    let weights =
        kvant::model::Weights::new(kvant::io::open(&path, &kvant::io::Limits::default()).unwrap()).unwrap();
    let network = Transformer::load(&weights, backend()).unwrap().with_kv_format(kv);
    (Arc::new(network), Arc::new(Model::demo().unwrap().tokenizer().unwrap()))
}

fn engine((network, tokenizer): &(Arc<Transformer>, Arc<Tokenizer>), settings: Settings) -> Engine {
    Engine::start(network.clone(), tokenizer.clone(), settings, Metrics::default()).unwrap()
}

/// A finished answer.
#[derive(Debug, PartialEq)]
struct Done {
    tokens: Vec<u32>,
    text: String,
    finish: Finish,
    cached: usize,
}

/// Waits for the end of an answer.
fn finish(mut answer: Answer) -> Done {
    let (mut tokens, mut all, mut cached) = (Vec::new(), String::new(), 0);
    loop {
        match answer.next_blocking().expect("an end") {
            Event::Started { cached_tokens, .. } => cached = cached_tokens,
            Event::Piece { token, text } => {
                tokens.push(token.id);
                all.push_str(&text);
            }
            Event::Ended { text, finish, .. } => {
                all.push_str(&text);
                return Done { tokens, text: all, finish, cached };
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The answer to a request that is computed alone.
fn alone((network, tokenizer): &(Arc<Transformer>, Arc<Tokenizer>), request: &Request) -> Done {
    let mut sequence = network.sequence(512);
    let mut sampler = Sampler::with_tokenizer(request.sampling.clone(), tokenizer).unwrap();
    let (prompt, stop) = (&request.prompt, &request.stop);
    let limit = request.limit;
    let answer =
        generate(network, tokenizer, &mut sequence, &mut sampler, prompt, limit, stop, &mut |_| true)
            .unwrap();
    Done { tokens: answer.tokens, text: answer.text, finish: answer.finish, cached: 0 }
}

/// Random requests. Half of them begin with one of three common texts.
fn requests(random: &mut Random, vocabulary: usize, count: usize) -> Vec<Request> {
    let mut text =
        |length: usize| -> Vec<u32> { (0..length).map(|_| random.below(vocabulary) as u32).collect() };
    let common: Vec<Vec<u32>> = [20, 70, 100].map(&mut text).to_vec();
    (0..count as u64)
        .map(|seed| {
            let mut prompt = match random.below(2) {
                0 => common[random.below(3)].clone(),
                _ => Vec::new(),
            };
            let own = 1 + random.below(40);
            prompt.extend((0..own).map(|_| random.below(vocabulary) as u32));
            let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
            let sampling = Sampling { seed, repeat_penalty: 1.1, ..sampling };
            let boundaries = vec![prompt.len() / 2];
            Request { boundaries, ..Request::new(prompt, 1 + random.below(24), sampling) }
        })
        .collect()
}

#[test]
fn an_answer_does_not_depend_on_other_requests() {
    let models = [
        ("gqa-tied-bf16", KvFormat::F16),
        ("gqa-tied-bf16", KvFormat::Q8_0),
        ("gqa-tied-bf16", KvFormat::Q4_0),
        ("gemma3-f32", KvFormat::F16),
        ("qwen35-f32", KvFormat::Q8_0),
        ("lfm2-f32", KvFormat::F16),
    ];
    let mut preempted = 0;
    for (name, kv) in models {
        let model = golden(name, kv);
        let mut random = Random(7);
        let requests = requests(&mut random, model.0.spec().vocabulary, 40);
        let expected: Vec<Done> = requests.iter().map(|request| alone(&model, request)).collect();
        for (parallel, share) in [(16, 100), (6, 40)] {
            let full = Settings::new(&model.0, parallel, CONTEXT);
            let one = model.0.sequence(CONTEXT).bytes(CONTEXT) * 2;
            let state_bytes = (full.state_bytes * share / 100).max(one);
            let engine = engine(&model, Settings { state_bytes, ..full });
            let mut open = Vec::new();
            for (index, request) in requests.iter().enumerate() {
                open.push((index, engine.submit(request.clone()).unwrap()));
                if random.below(4) == 0 {
                    std::thread::sleep(Duration::from_micros(random.below(4000) as u64));
                }
                // Clients that leave.
                if random.below(8) == 0 {
                    drop(engine.submit(requests[random.below(requests.len())].clone()).unwrap());
                }
            }
            for (index, answer) in open {
                let done = finish(answer);
                let expected = &expected[index];
                assert_eq!(done.tokens, expected.tokens, "{name} {kv:?} request {index} of {parallel}");
                assert_eq!((&done.text, done.finish), (&expected.text, expected.finish));
            }
            preempted += engine.metrics().preempted();
            assert!(engine.metrics().state_bytes() <= state_bytes as u64);
        }
    }
    assert!(preempted > 0, "the test must reach the limit of the memory");
}

/// Requests with a grammar that wait again when memory ends: their answers fit the grammar, and are those that an engine
/// gives which has one request at a time.
#[test]
fn a_grammar_holds_when_a_request_waits_again() {
    let model = demo();
    let grammars = Grammars::new(&model.1, model.0.spec().vocabulary).unwrap();
    let constraint = grammars.compile(&Grammar::Regex("[a-z]{40,60}:[0-9]{20}".to_owned())).unwrap();
    let mut random = Random(13);
    let requests: Vec<Request> = (0..24)
        .map(|seed| {
            let prompt = (0..30 + random.below(60)).map(|_| 5 + random.below(500) as u32).collect();
            let sampling = Sampling { seed, temperature: 1.5, ..Sampling::default() };
            Request { constraint: Some(constraint.clone()), ..Request::new(prompt, 85, sampling) }
        })
        .collect();
    let one_by_one = engine(&model, Settings::new(&model.0, 1, CONTEXT));
    let expected: Vec<Done> =
        requests.iter().map(|r| finish(one_by_one.submit(r.clone()).unwrap())).collect();
    for done in &expected {
        let (letters, digits) = done.text.split_once(':').unwrap_or_else(|| panic!("{}", done.text));
        assert!((40..=60).contains(&letters.len()) && letters.bytes().all(|b| b.is_ascii_lowercase()));
        assert!(digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()), "{digits}");
    }
    let state_bytes = model.0.sequence(CONTEXT).bytes(CONTEXT) * 3;
    let together = engine(&model, Settings { state_bytes, ..Settings::new(&model.0, 8, CONTEXT) });
    let open: Vec<Answer> = requests.iter().map(|r| together.submit(r.clone()).unwrap()).collect();
    for (answer, expected) in open.into_iter().zip(&expected) {
        let done = finish(answer);
        assert_eq!((&done.tokens, &done.text), (&expected.tokens, &expected.text));
    }
    assert!(together.metrics().preempted() > 0, "the test must reach the limit of the memory");
}

#[test]
fn a_known_beginning_is_not_read_again() {
    let model = demo();
    let engine = engine(&model, Settings::new(&model.0, 4, 512));
    let mut random = Random(3);
    let mut text =
        |length: usize| -> Vec<u32> { (0..length).map(|_| 5 + random.below(500) as u32).collect() };
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let first = text(200);
    let done = finish(engine.submit(Request::new(first.clone(), 8, greedy.clone())).unwrap());
    assert_eq!(done.cached, 0);
    // The same prompt: all but its last token.
    let again = finish(engine.submit(Request::new(first.clone(), 8, greedy.clone())).unwrap());
    assert_eq!((again.cached, &again.tokens), (199, &done.tokens));
    // A conversation goes on: the prompt and the answer, but for the last token, which was not read.
    let mut longer = first.clone();
    longer.extend(&done.tokens);
    longer.extend(text(10));
    let answer = finish(engine.submit(Request::new(longer, 4, greedy.clone())).unwrap());
    assert_eq!(answer.cached, 200 + done.tokens.len() - 1);
    // Another end.
    for shared in [1, 63, 64, 65, 150] {
        let mut other = first[..shared].to_vec();
        other.extend(std::iter::repeat_n(2, 30));
        let request = Request::new(other, 2, greedy.clone());
        let expected = alone(&model, &request);
        let answer = finish(engine.submit(request).unwrap());
        assert_eq!(answer.cached, shared, "to the token");
        assert_eq!(answer.tokens, expected.tokens);
    }
}

#[test]
fn requests_that_arrive_together_read_their_common_beginning_once() {
    for name in ["gqa-tied-bf16", "qwen35-f32"] {
        let model = golden(name, KvFormat::F16);
        let engine = engine(&model, Settings::new(&model.0, 8, CONTEXT));
        let mut random = Random(11);
        let vocabulary = model.0.spec().vocabulary;
        let common: Vec<u32> = (0..120).map(|_| random.below(vocabulary) as u32).collect();
        let requests: Vec<Request> = (0..8)
            .map(|seed| {
                let mut prompt = common.clone();
                prompt.push(seed);
                Request::new(prompt, 4, Sampling::unrestricted(u64::from(seed)))
            })
            .collect();
        let answers: Vec<Answer> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
        let cached: Vec<usize> = answers.into_iter().map(|answer| finish(answer).cached).collect();
        assert_eq!(cached.iter().filter(|cached| **cached == 0).count(), 1, "{name}: {cached:?}");
        assert!(cached.iter().all(|cached| [0, 120].contains(cached)), "{name}: {cached:?}");
    }
}

#[test]
fn work_ends_when_the_client_leaves() {
    let model = demo();
    let engine = engine(&model, Settings { parallel: 1, ..Settings::new(&model.0, 1, 512) });
    let long = || Request { ignore_end: true, ..Request::new(vec![5; 8], 500, Sampling::unrestricted(1)) };
    let mut running = engine.submit(long()).unwrap();
    while !matches!(running.next_blocking(), Some(Event::Piece { .. })) {}
    let waiting = engine.submit(long()).unwrap();
    drop(running);
    drop(waiting);
    let begin = Instant::now();
    while !engine.is_idle() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the work goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_full_queue_is_refused_and_a_deadline_ends_an_answer() {
    let model = demo();
    let settings = Settings { queue: 1, ..Settings::new(&model.0, 1, 512) };
    let engine = engine(&model, settings);
    let long = || Request { ignore_end: true, ..Request::new(vec![5; 8], 500, Sampling::unrestricted(1)) };
    let running = engine.submit(long()).unwrap();
    let waiting = engine.submit(long()).unwrap();
    assert!(matches!(engine.submit(long()), Err(Refusal::Busy { .. })));
    drop((running, waiting));
    while !engine.is_idle() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let late = Request { deadline: Some(Instant::now() + Duration::from_millis(5)), ..long() };
    let mut answer = engine.submit(late).unwrap();
    let last = std::iter::from_fn(|| answer.next_blocking()).last();
    assert!(matches!(last, Some(Event::Failed(kvant_serve::Failure::Deadline))), "{last:?}");
}

#[test]
fn requests_that_cannot_run_are_refused() {
    let model = demo();
    let settings = Settings::new(&model.0, 1, 64);
    let small = Settings { state_bytes: model.0.sequence(64).bytes(10), context: 512, ..settings.clone() };
    let first = engine(&model, settings);
    let of = |prompt: Vec<u32>| Request::new(prompt, 100, Sampling::default());
    assert!(matches!(first.submit(of(vec![])), Err(Refusal::Empty)));
    assert!(matches!(first.submit(of(vec![5; 65])), Err(Refusal::Long { tokens: 65, context: 64 })));
    assert!(matches!(first.submit(of(vec![u32::MAX])), Err(Refusal::Token { .. })));
    let wrong = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(matches!(first.submit(Request::new(vec![5], 1, wrong)), Err(Refusal::Sampling(_))));
    // A prompt that fills the context gets one token.
    let full = finish(first.submit(of(vec![5; 64])).unwrap());
    assert!(full.tokens.len() <= 1);
    assert!(matches!(engine(&model, small).submit(of(vec![5; 300])), Err(Refusal::Memory { .. })));
    first.drain();
    assert!(matches!(first.submit(of(vec![5])), Err(Refusal::Draining)));
}

#[test]
fn log_probabilities_are_those_of_the_network() {
    let model = demo();
    let engine = engine(&model, Settings::new(&model.0, 2, 256));
    let mut random = Random(5);
    let prompt: Vec<u32> = (0..90).map(|_| 5 + random.below(500) as u32).collect();
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Request {
        log_probabilities: Some(2),
        prompt_log_probabilities: Some(3),
        ..Request::new(prompt.clone(), 3, greedy)
    };
    // The second time, states of the prompt are known.
    for _ in 0..2 {
        let mut answer = engine.submit(request.clone()).unwrap();
        let (mut of_prompt, mut of_answer) = (Vec::new(), Vec::new());
        while let Some(event) = answer.next_blocking() {
            match event {
                Event::Prompt(tokens) => of_prompt.extend(tokens),
                Event::Piece { token, .. } => of_answer.push(token),
                _ => {}
            }
        }
        let mut sequence = model.0.sequence(256);
        let mut all = prompt.clone();
        all.extend(of_answer.iter().map(|token| token.id));
        let hidden = model.0.prefill(&mut sequence, &all, Want::All).unwrap();
        let logits = model.0.logits(&hidden);
        assert_eq!(of_prompt.iter().map(|token| token.id).collect::<Vec<_>>(), prompt);
        assert_eq!(of_prompt[0].log_probabilities, None);
        for (position, token) in of_prompt.iter().chain(&of_answer).enumerate().skip(1) {
            let row = &logits[(position - 1) * model.0.spec().vocabulary..][..model.0.spec().vocabulary];
            let top = if position < prompt.len() { 3 } else { 2 };
            let expected = LogProbabilities::new(row, token.id, top).unwrap();
            assert_eq!(token.log_probabilities, Some(expected), "position {position}");
        }
        assert_eq!(of_answer.len(), 3);
    }
}
