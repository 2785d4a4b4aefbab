//! Tests `kvant serve` with several models, and the paths that llama.cpp's, Jina's and Ollama's clients use.

mod server;

use serde_json::{Value as Json, json};
use server::{DEMO, Server, TEMPLATE, chat, with};

const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/encoders/bert-words-f16");

/// A copy of the demo model with this chat template.
fn variant(template: &str) -> tempfile::TempDir {
    let folder = Server::copy(DEMO);
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

fn state(server: &Server, name: &str) -> Json {
    let models: Json = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    let models = models["data"].as_array().unwrap().clone();
    models.into_iter().find(|model| model["id"] == name).unwrap()["status"]["value"].clone()
}

#[test]
fn models_are_loaded_on_demand_and_leave() {
    let (first, second) = (variant(TEMPLATE), variant("The dragon and the king: "));
    let models = [
        format!("first={}", first.path().display()),
        format!("second={}", second.path().display()),
        format!("vectors={ENCODER}"),
    ];
    // The demo model has 11 MB of weights: two of them do not fit.
    let flags = ["--memory", "4MiB", "--models-memory", "20MiB"];
    let server = Server::with(&[&models.each_ref().map(String::as_str)[..], &flags].concat());
    assert_eq!([state(&server, "first"), state(&server, "second")], ["loaded", "unloaded"]);

    let ask = |name: &str| {
        let answer = server.post("/v1/chat/completions", &with(chat("Hello"), json!({ "model": name })));
        assert_eq!(answer["model"], name);
        answer["choices"][0]["message"]["content"].clone()
    };
    let one = ask("first");
    let other = ask("second");
    assert_ne!(one, other, "the templates differ");
    assert_eq!([state(&server, "first"), state(&server, "second")], ["unloaded", "loaded"]);
    let vectors = server.post("/v1/embeddings", &json!({ "model": "vectors", "input": "a cat" }));
    assert_eq!(vectors["model"], "vectors");
    assert_eq!(state(&server, "vectors"), "loaded", "it fits beside the other one");

    // Under load from all sides every answer comes from the right model.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ask, one, other) = (&ask, &one, &other);
            scope.spawn(move || {
                for turn in 0..6 {
                    let (name, wanted) =
                        if (thread + turn) % 2 == 0 { ("first", one) } else { ("second", other) };
                    assert_eq!(&ask(name), wanted, "{name}");
                }
            });
        }
    });
    assert_eq!(server.send("/v1/chat/completions", br#"{"model": "third", "messages": []}"#).0, 404);
    assert_eq!(server.get("/v1/models/third").0, 404);
    assert_eq!(server.get("/v1/models/second").0, 200);
    let shown = server.post("/api/show", &json!({ "model": "vectors" }));
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    let metrics = server.get("/metrics").1;
    assert!(metrics.contains("kvant_requests_finished_total{model=\"second\"}"), "{metrics}");
    assert_eq!(metrics.matches("# TYPE kvant_steps counter").count(), 1, "{metrics}");
}

#[test]
fn a_slow_client_does_not_stop_other_models() {
    let (first, second) = (variant(TEMPLATE), variant("The dragon and the king: "));
    let models = [format!("first={}", first.path().display()), format!("second={}", second.path().display())];
    let flags = ["--memory", "4MiB", "--models-memory", "20MiB", "--ctx", "512"];
    let server = Server::with(&[&models.each_ref().map(String::as_str)[..], &flags].concat());
    // Clients ask for models in turns and leave at once. Nobody waits for what they asked for.
    for turn in 0..40 {
        let name = if turn % 2 == 0 { "second" } else { "first" };
        drop(server.open("/v1/chat/completions", &with(chat("x"), json!({ "model": name, "stream": true }))));
    }
    let begin = std::time::Instant::now();
    let answer = server.post("/v1/chat/completions", &with(chat("x"), json!({ "model": "second" })));
    assert_eq!(answer["model"], "second");
    assert!(begin.elapsed() < std::time::Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn a_long_query_is_refused_before_its_documents_are_read() {
    let server = Server::of(with_no(), &[]);
    let body = json!({ "query": "cat ".repeat(10_000), "documents": vec!["a"; 1024] });
    let (status, _, text) = server.send("/v1/rerank", body.to_string().as_bytes());
    assert!(status == 400 && text.contains("exceed_context_size_error"), "{status} {text}");
    let body = json!({ "query": "x".repeat(70_000), "documents": ["a"] });
    assert_eq!(server.send("/v1/rerank", body.to_string().as_bytes()).0, 400);
}

#[test]
fn bad_sets_of_models_are_refused() {
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kvant"));
        let output = command.arg("serve").args(arguments).args(["--port", "0"]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, text) = run(&["demo", "demo"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("`demo`") && text.contains("NAME=MODEL"), "{text}");
    let (status, text) = run(&["demo", "--models-memory", "1MiB"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("limit"), "{text}");
    let (status, text) = run(&["a=demo", "b=demo", "--alias", "c"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("--alias"), "{text}");
    let (status, text) = run(&["a=demo", "b=demo", "--memory", "1GiB", "--models-memory", "100MiB"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("--models-memory"), "{text}");
    let (status, text) = run(&[]);
    assert_eq!(status, Some(2));
    assert!(text.contains("MODEL"), "{text}");
    let (status, text) = run(&["a=demo", "b=no-such-model"]);
    assert_ne!(status, Some(0));
    assert!(text.contains("no-such-model"), "{text}");
}

#[test]
fn the_native_path_completes_texts() {
    // A context that is longer than the model's is cut: a server can have several models.
    let server = Server::start(&["--ctx", "1000000"]);
    let props: Json = serde_json::from_str(&server.get("/props").1).unwrap();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 512);
    let body = json!({ "prompt": "The cat", "n_predict": 12, "temperature": 0, "n_probs": 2, "return_tokens": true });
    let whole = server.post("/completion", &body);
    assert_eq!(whole["stop"], true);
    assert_eq!(
        whole["tokens"].as_array().unwrap().len(),
        whole["tokens_predicted"].as_u64().unwrap() as usize
    );
    let plain = server.post("/v1/completions", &with(body.clone(), json!({ "max_tokens": 12 })));
    assert_eq!(whole["content"], plain["choices"][0]["text"], "the same text as OpenAI's form");

    // Probabilities after sampling: one token is certain at temperature 0, three share the rest with `top_k`.
    let after = with(body.clone(), json!({ "post_sampling_probs": true, "n_probs": 5 }));
    for (changes, most) in
        [(json!({}), 1), (json!({ "temperature": 1, "top_k": 3, "top_p": 1, "min_p": 0 }), 3)]
    {
        let answer = server.post("/completion", &with(after.clone(), changes));
        for token in answer["completion_probabilities"].as_array().unwrap() {
            let top = token["top_probs"].as_array().unwrap();
            assert_eq!(top.len(), most, "{token}");
            let sum: f64 = top.iter().map(|entry| entry["prob"].as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-5, "{token}");
            assert!(top.iter().any(|entry| entry["id"] == token["id"] && entry["prob"] == token["prob"]));
        }
    }

    let streamed =
        with(body.clone(), json!({ "stream": true, "return_progress": true, "timings_per_token": true }));
    let (status, _, text) = server.send("/completion", streamed.to_string().as_bytes());
    assert_eq!(status, 200);
    let events: Vec<Json> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    let content: String = events.iter().filter_map(|event| event["content"].as_str()).collect();
    assert_eq!(content, whole["content"].as_str().unwrap());
    let progress: Vec<&Json> = events.iter().filter_map(|event| event.get("prompt_progress")).collect();
    let total = &progress[0]["total"];
    assert_eq!(progress[0]["processed"], progress[0]["cache"], "nothing was read before the first event");
    assert_eq!(&progress.last().unwrap()["processed"], total);
    assert_eq!(events.last().unwrap()["timings"]["predicted_n"], whole["tokens_predicted"]);

    // Ids and texts make one prompt; a list of them makes several.
    let ids =
        server.post("/tokenize", &json!({ "content": "The cat", "add_special": true }))["tokens"].clone();
    let same = server.post("/completion", &with(body.clone(), json!({ "prompt": ids })));
    assert_eq!(same["content"], whole["content"]);
    let both = server.post("/completion", &with(body.clone(), json!({ "prompt": [ids, "The cat"] })));
    assert_eq!([&both[0]["content"], &both[1]["content"]], [&whole["content"], &whole["content"]]);
    let fields = json!({ "response_fields": ["content", "generation_settings/n_predict", "no/such"] });
    let fields = server.post("/completion", &with(body.clone(), fields));
    assert_eq!(fields, json!({ "content": whole["content"], "generation_settings/n_predict": 12 }));

    // A text stands for its tokens.
    let first = whole["completion_probabilities"][0]["token"].as_str().unwrap();
    let without = json!({ "logit_bias": [[first, false]] });
    let without = server.post("/completion", &with(body, without));
    assert_ne!(without["completion_probabilities"][0]["token"], first);
}

/// A copy of the demo model whose last token is `no`. It has `yes` already.
fn with_no() -> tempfile::TempDir {
    let folder = variant(TEMPLATE);
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
    let last = merges.last_mut().unwrap();
    let name: String = match &*last {
        Json::String(pair) => pair.replace(' ', ""),
        pair => pair.as_array().unwrap().iter().filter_map(Json::as_str).collect(),
    };
    *last = if last.is_string() { json!("n o") } else { json!(["n", "o"]) };
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let id = vocabulary.shift_remove(&name).unwrap();
    vocabulary.insert("no".to_owned(), id);
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    folder
}

#[test]
fn documents_are_ordered_by_the_probability_of_yes() {
    let refused = Server::start(&[]).send("/v1/rerank", br#"{"query": "x", "documents": ["y"]}"#);
    assert!(refused.0 == 400 && refused.2.contains("`no`"), "no single token: {}", refused.2);
    let server = Server::of(with_no(), &[]);
    let documents = ["The cat sleeps.", "A ship sails.", "Bread is warm."];
    let body = json!({ "query": "Where is the cat?", "documents": documents, "return_documents": true });
    let answer = server.post("/v1/rerank", &body);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    let scores: Vec<f64> = results.iter().map(|result| result["relevance_score"].as_f64().unwrap()).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{scores:?}");

    // The judge: the log probabilities of both words after the same prompt, where a bias forces each of them.
    let word = |text: &str| server.post("/tokenize", &json!({ "content": text }))["tokens"].clone();
    let (yes, no) = (word("yes"), word("no"));
    for result in results {
        let document = documents[result["index"].as_u64().unwrap() as usize];
        assert_eq!(result["document"]["text"], document);
        let system = "Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
                      Note that the answer can only be \"yes\" or \"no\".";
        let instruction = "Given a web search query, retrieve relevant passages that answer the query";
        let user = format!("<Instruct>: {instruction}\n<Query>: Where is the cat?\n<Document>: {document}");
        let messages = json!([{ "role": "system", "content": system }, { "role": "user", "content": user }]);
        let prompt = server.post("/apply-template", &json!({ "messages": messages }))["prompt"].clone();
        let value = |token: &Json| {
            let prompt = server.post("/tokenize", &json!({ "content": prompt }))["tokens"].clone();
            let bias = json!([[token[0], 1000.0]]);
            let body = json!({ "prompt": prompt, "n_predict": 1, "n_probs": 1, "temperature": 0, "logit_bias": bias });
            server.post("/completion", &body)["completion_probabilities"][0]["logprob"].as_f64().unwrap()
        };
        let wanted = 1.0 / (1.0 + (value(&no) - value(&yes)).exp());
        let found = result["relevance_score"].as_f64().unwrap();
        assert!((found - wanted).abs() < 1e-4, "{document}: {found}, expected {wanted}");
    }
    let two = server.post("/rerank", &with(body, json!({ "top_n": 2 })));
    assert_eq!(two["results"].as_array().unwrap().len(), 2);
    let list = server.post("/rerank", &json!({ "query": "x", "texts": ["a", "b"], "return_text": true }));
    assert!(list[0]["score"].is_number() && list[0]["text"].is_string(), "{list}");
    assert_eq!(server.send("/v1/rerank", br#"{"query": "x", "documents": []}"#).0, 400);
    assert_eq!(server.send("/v1/rerank", br#"{"documents": ["x"]}"#).0, 400);
}

#[test]
fn the_description_names_all_paths() {
    let server = Server::start(&[]);
    let document: Json = serde_json::from_str(&server.get("/openapi.json").1).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 35);
    for (path, methods) in paths {
        let path = path.replace("{name}", "small");
        for method in methods.as_object().unwrap().keys() {
            let status = match method.as_str() {
                "get" => server.get(&path).0,
                "post" => server.send(&path, b"{}").0,
                other => panic!("{path}: {other}"),
            };
            // An empty object is a request, or it is a bad one; a model that writes text gives no vectors.
            assert!(
                status == 200 || status == 400 || (path == "/api/show" && status == 404),
                "{path}: {status}"
            );
        }
    }
    // Every schema that is named is there.
    let text = document.to_string();
    for name in text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[test]
fn requests_have_ids_and_only_named_origins_are_allowed() {
    let server = Server::start(&["--cors-origins", "https://app.example"]);
    let header = |request: ureq::RequestBuilder<ureq::typestate::WithoutBody>, name: &str| {
        let response = request.call().unwrap();
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    let get = |path: &str| server.agent().get(format!("{}{path}", server.address));
    let id = header(get("/health"), "x-request-id").unwrap();
    assert_ne!(Some(id), header(get("/health"), "x-request-id"));
    assert_eq!(
        header(get("/health").header("x-request-id", "mine-1"), "x-request-id").as_deref(),
        Some("mine-1")
    );
    let long = "x".repeat(129);
    assert_ne!(header(get("/health").header("x-request-id", &long), "x-request-id"), Some(long));
    let allowed =
        |origin: &str| header(get("/health").header("origin", origin), "access-control-allow-origin");
    assert_eq!(allowed("https://app.example").as_deref(), Some("https://app.example"));
    assert_eq!(allowed("https://other.example"), None);
    assert_eq!(allowed("null"), None);
}

#[test]
fn texts_that_are_too_long_for_a_vector_are_not_cut_silently() {
    let server = Server::with(&[ENCODER]);
    let long = "cat ".repeat(2000);
    let body = json!({ "input": long });
    let (status, _, text) = server.send("/v1/embeddings", body.to_string().as_bytes());
    assert_eq!(status, 400);
    assert!(text.contains("too large") && text.contains("truncate"), "{text}");
    let (status, warnings, _) =
        server.send("/v1/embeddings", with(body.clone(), json!({ "truncate": true })).to_string().as_bytes());
    assert_eq!(status, 200);
    assert!(warnings.contains("too long"), "{warnings}");
    let ids = json!({ "input": vec![5; 4000], "truncate": true });
    assert_eq!(server.post("/v1/embeddings", &ids)["data"].as_array().unwrap().len(), 1);
    // Ollama's form cuts by default.
    assert_eq!(server.post("/api/embed", &body)["embeddings"].as_array().unwrap().len(), 1);
    // Ids, texts and parts of a text give the same vector.
    let text = server.post("/v1/embeddings", &json!({ "input": "a cat" }))["data"][0]["embedding"].clone();
    let parts = json!({ "content": [{ "type": "text", "text": "a " }, { "type": "text", "text": "cat" }] });
    let parts = server.post("/v1/embeddings", &json!({ "input": ["b", parts] }));
    assert_eq!(parts["data"][1]["embedding"], text);
    let native = server.post("/embeddings", &json!({ "content": "a cat" }));
    assert_eq!(native[0]["embedding"][0], text);
    let older = server.post("/api/embeddings", &json!({ "prompt": "a cat" }));
    assert_eq!(older["embedding"], text);
}
