//! `cargo xtask load`: sends requests to a server and measures times.
//!
//! Closed loop: a number of clients, each of which sends its next request after its last answer. Open loop: requests
//! arrive at random times with a given rate, whether or not earlier ones were answered. Each prompt is other text, so that
//! no request finds its beginning in a cache. Only a server on this machine is loaded.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Largest number of requests.
const MOST_REQUESTS: usize = 100_000;
/// Largest number of clients.
const MOST_CLIENTS: usize = 512;

/// The command's arguments.
#[derive(clap::Args)]
pub struct Load {
    /// Address of the server
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Number of requests
    #[arg(long, default_value_t = 32)]
    requests: usize,
    /// Closed loop: number of clients
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    clients: usize,
    /// Open loop: requests a second
    #[arg(long)]
    rate: Option<f64>,
    /// Words of a prompt
    #[arg(long, default_value_t = 64)]
    words: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Seed of the prompts and of the arrivals
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use /v1/completions, for a model without a chat template
    #[arg(long)]
    completions: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// The times of one answer.
struct Times {
    first_token: Duration,
    between: Vec<Duration>,
    whole: Duration,
    prompt_tokens: u64,
    answer_tokens: u64,
}

/// Runs the command. Returns the faults as texts.
pub fn run(arguments: &Load) -> Vec<String> {
    let local = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
    if !local.iter().any(|prefix| arguments.url.starts_with(prefix)) {
        return vec![format!("{}: only a server on this machine is loaded", arguments.url)];
    }
    let count = arguments.requests.min(MOST_REQUESTS);
    let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
    let prompts: Vec<String> = (0..count).map(|_| prompt(&mut random, arguments.words)).collect();
    let arrivals = arguments.rate.map(|rate| arrivals(&mut random, rate, count));
    let clients = match arrivals {
        Some(_) => count.min(MOST_CLIENTS),
        None => arguments.clients.clamp(1, MOST_CLIENTS),
    };
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::new());
    let faults = Mutex::new(Vec::new());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let agent = ureq::Agent::new_with_defaults();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(prompt) = prompts.get(index) else { return };
                    if let Some(arrivals) = &arrivals {
                        std::thread::sleep(arrivals[index].saturating_sub(begin.elapsed()));
                    }
                    match ask(&agent, arguments, prompt) {
                        Ok(times) => lock(&answers).push(times),
                        Err(fault) => lock(&faults).push(format!("request {index}: {fault}")),
                    }
                }
            });
        }
    });
    let elapsed = begin.elapsed();
    let answers = answers.into_inner().unwrap_or_default();
    report(arguments, &answers, elapsed);
    faults.into_inner().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Random words.
fn prompt(random: &mut ChaCha8Rng, words: usize) -> String {
    let word = |random: &mut ChaCha8Rng| -> String {
        let length = 2 + random.next_u32() as usize % 7;
        (0..length).map(|_| char::from(b'a' + (random.next_u32() % 26) as u8)).collect()
    };
    (0..words).map(|_| word(random)).collect::<Vec<_>>().join(" ")
}

/// Times of a Poisson process.
fn arrivals(random: &mut ChaCha8Rng, rate: f64, count: usize) -> Vec<Duration> {
    let mut at = 0.0;
    let mut next = || {
        let uniform = (f64::from(random.next_u32()) + 0.5) / (f64::from(u32::MAX) + 1.0);
        at -= uniform.ln() / rate.max(1e-6);
        Duration::from_secs_f64(at)
    };
    (0..count).map(|_| next()).collect()
}

/// Sends one request and reads its stream.
fn ask(agent: &ureq::Agent, arguments: &Load, prompt: &str) -> Result<Times, Box<dyn std::error::Error>> {
    let mut body = json!({
        "model": "default",
        "max_tokens": arguments.tokens,
        "ignore_eos": true,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let path = if arguments.completions {
        body["prompt"] = prompt.into();
        "/v1/completions"
    } else {
        body["messages"] = json!([{ "role": "user", "content": prompt }]);
        "/v1/chat/completions"
    };
    let begin = Instant::now();
    let response = agent.post(format!("{}{path}", arguments.url)).send_json(body)?;
    let mut times = Times {
        first_token: Duration::ZERO,
        between: Vec::new(),
        whole: Duration::ZERO,
        prompt_tokens: 0,
        answer_tokens: 0,
    };
    let mut last = None;
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else { continue };
        let event: Value = serde_json::from_str(data)?;
        if let Some(error) = event.get("error") {
            return Err(error.to_string().into());
        }
        if let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) {
            times.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or_default();
            times.answer_tokens = usage["completion_tokens"].as_u64().unwrap_or_default();
        }
        let choice = &event["choices"][0];
        let texts = [&choice["delta"]["content"], &choice["delta"]["reasoning_content"], &choice["text"]];
        if texts.iter().any(|text| text.as_str().is_some_and(|text| !text.is_empty())) {
            let now = Instant::now();
            match last.replace(now) {
                None => times.first_token = now - begin,
                Some(last) => times.between.push(now - last),
            }
        }
    }
    times.whole = begin.elapsed();
    if last.is_none() { Err("no text".into()) } else { Ok(times) }
}

fn report(arguments: &Load, answers: &[Times], elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let answer_tokens: u64 = answers.iter().map(|times| times.answer_tokens).sum();
    let prompt_tokens: u64 = answers.iter().map(|times| times.prompt_tokens).sum();
    let rows = [
        ("time_to_first_token_seconds", answers.iter().map(|times| times.first_token).collect()),
        ("between_tokens_seconds", answers.iter().flat_map(|times| times.between.clone()).collect()),
        ("request_seconds", answers.iter().map(|times| times.whole).collect::<Vec<_>>()),
    ];
    let mut result = json!({
        "requests": answers.len(),
        "seconds": seconds,
        "requests_per_second": answers.len() as f64 / seconds,
        "answer_tps": answer_tokens as f64 / seconds,
        "prompt_tps": prompt_tokens as f64 / seconds,
    });
    for (name, mut times) in rows {
        times.sort_unstable();
        let quantile = |q: f64| {
            let index = ((times.len() as f64 * q).ceil() as usize).clamp(1, times.len().max(1)) - 1;
            times.get(index).map_or(0.0, Duration::as_secs_f64)
        };
        let mean = times.iter().map(Duration::as_secs_f64).sum::<f64>() / times.len().max(1) as f64;
        result[name] = json!({ "mean": mean, "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "max": quantile(1.0) });
    }
    if arguments.json {
        println!("{result}");
        return;
    }
    println!(
        "{} requests in {seconds:.2} s: {:.2} a second, {:.1} answer tokens a second, {:.1} prompt tokens a second",
        answers.len(),
        answers.len() as f64 / seconds,
        answer_tokens as f64 / seconds,
        prompt_tokens as f64 / seconds
    );
    println!("{:30}{:>10}{:>10}{:>10}{:>10}{:>10}", "milliseconds", "mean", "p50", "p90", "p99", "max");
    for name in ["time_to_first_token_seconds", "between_tokens_seconds", "request_seconds"] {
        print!("{:30}", name.trim_end_matches("_seconds").replace('_', " "));
        for column in ["mean", "p50", "p90", "p99", "max"] {
            print!("{:>10.1}", 1e3 * result[name][column].as_f64().unwrap_or_default());
        }
        println!();
    }
}
