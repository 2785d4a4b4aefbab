//! Tests `kvant serve` over HTTP, on the demo model with a chat template.

mod server;

use serde_json::{Value as Json, json};
use server::{DEMO, Server, chat, with};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_conversation_is_answered_whole_and_as_a_stream() {
    let server = Server::start(&[]);
    let body = chat("Once upon a time");
    let whole = server.post("/v1/chat/completions", &body);
    let choice = &whole["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("small")));
    assert_eq!(whole["usage"]["completion_tokens"], 12);
    assert_eq!(choice["finish_reason"], "length");
    // The same as the program writes alone, on the rendered prompt.
    let prompt = server.post("/apply-template", &body)["prompt"].as_str().unwrap().to_owned();
    let bos = server.get("/props").1;
    let bos: Json = serde_json::from_str(&bos).unwrap();
    let bos = bos["bos_token"].as_str().unwrap();
    let prompt = prompt.strip_prefix(bos).unwrap();
    assert_eq!(prompt, "user: Once upon a time\nassistant:");
    let alone = Command::new(env!("CARGO_BIN_EXE_kvant"))
        .args(["run", "demo", "-p", prompt, "-n", "12", "--temp", "0", "--json"])
        .output()
        .unwrap();
    let alone: Json = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!(alone["text"], text);
    let usage = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = server.events("/v1/chat/completions", &with(body.clone(), usage));
    let pieces: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(pieces, text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let ends: Vec<&Json> = events
        .iter()
        .map(|event| &event["choices"][0]["finish_reason"])
        .filter(|end| !end.is_null())
        .collect();
    assert_eq!(ends, ["length"], "one reason of the end");
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], whole["usage"]["total_tokens"]);
    // All but the last token of the prompt were read before.
    let prompt_tokens = whole["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], prompt_tokens - 1);
    // A stop text ends the answer before it.
    let stop: String = text.chars().skip(5).take(3).collect();
    let stopped = server.post("/v1/chat/completions", &with(body.clone(), json!({ "stop": [stop] })));
    let before = &text[..text.find(&stop).unwrap()];
    assert_eq!(stopped["choices"][0]["message"]["content"], before);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    // Several answers have seeds that follow each other.
    let several = json!({ "n": 3, "temperature": 1, "seed": 5 });
    let several = server.post("/v1/chat/completions", &with(body.clone(), several));
    for index in 0..3 {
        let one = json!({ "temperature": 1, "seed": 5 + index });
        let one = server.post("/v1/chat/completions", &with(body.clone(), one));
        assert_eq!(several["choices"][index]["message"], one["choices"][0]["message"]);
    }
    // The model continues its own message.
    let own = json!({ "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Once" }] });
    let prompt = server.post("/apply-template", &own);
    assert_eq!(prompt["prompt"], format!("{bos}user: Hi\nassistant: Once"));
}

#[test]
fn log_probabilities_of_a_prompt_are_given() {
    let server = Server::start(&[]);
    let body = json!({
        "prompt": "Once upon a time", "max_tokens": 1, "echo": true, "logprobs": 2, "temperature": 0,
    });
    let answer = server.post("/v1/completions", &body);
    let values = &answer["choices"][0]["logprobs"];
    let texts: Vec<&str> =
        values["tokens"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let prompt = server.post("/tokenize", &json!({ "content": "Once upon a time", "add_special": true }));
    let prompt = prompt["tokens"].as_array().unwrap().len();
    assert_eq!(texts.len(), prompt + 1, "the prompt and one token");
    for name in ["token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(values[name].as_array().unwrap().len(), texts.len(), "{name}");
    }
    assert!(values["token_logprobs"][0].is_null(), "nothing predicts the first token");
    let last = values["token_logprobs"][prompt].as_f64().unwrap();
    let best = values["top_logprobs"][prompt].as_object().unwrap().values().filter_map(Json::as_f64);
    assert_eq!(best.fold(f64::NEG_INFINITY, f64::max), last, "temperature 0 takes the most probable token");
    // Token ids are a prompt, too, and several prompts have an answer each.
    let ids = server.post("/tokenize", &json!({ "content": "Once upon a time", "add_special": true }));
    let again = server
        .post("/v1/completions", &with(body.clone(), json!({ "prompt": [ids["tokens"], ids["tokens"]] })));
    for index in 0..2 {
        assert_eq!(&again["choices"][index]["logprobs"], values);
    }
    // A stream has the same values.
    let events = server.events("/v1/completions", &with(body, json!({ "stream": true })));
    let text = |events: &[Json]| -> String {
        events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect()
    };
    assert_eq!(text(&events), answer["choices"][0]["text"]);
    let streamed: Vec<f64> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["token_logprobs"].as_array())
        .flatten()
        .filter_map(Json::as_f64)
        .collect();
    let whole: Vec<f64> =
        values["token_logprobs"].as_array().unwrap().iter().filter_map(Json::as_f64).collect();
    assert_eq!(streamed, whole);
}

/// Each token stands at its place in the text, also if a character has several tokens, whole and in a stream.
#[test]
fn places_of_tokens_are_those_in_the_text() {
    let server = Server::start(&[]);
    for (prompt, echo) in [("Once 옛날에 🐻 upon", true), ("옛날", false)] {
        let body = json!({
            "prompt": prompt, "max_tokens": 40, "echo": echo, "logprobs": 0, "temperature": 1.3, "seed": -5,
        });
        let whole = server.post("/v1/completions", &body);
        let whole = &whole["choices"][0];
        assert_eq!(
            server.post("/v1/completions", &body)["choices"][0],
            *whole,
            "a negative seed repeats, too"
        );
        let text: Vec<char> = whole["text"].as_str().unwrap().chars().collect();
        let list = |name: &str| whole["logprobs"][name].as_array().unwrap().clone();
        let mut found = 0;
        for (token, offset) in list("tokens").iter().zip(list("text_offset")) {
            let token = token.as_str().unwrap();
            // A control token has no text, and a part of a character is not readable. The text begins without a space.
            if !token.contains(['<', '\u{fffd}']) {
                let from = offset.as_u64().unwrap() as usize;
                let place: String =
                    text[from..].iter().take(token.trim_start().chars().count() + 1).collect();
                assert!(place.trim_start().starts_with(token.trim_start()), "{token} at {from}: {place}");
                found += 1;
            }
        }
        assert!(found > 5, "{found} of {}", list("tokens").len());
        let events = server.events("/v1/completions", &with(body, json!({ "stream": true })));
        for name in ["tokens", "text_offset"] {
            let streamed: Vec<Json> = events
                .iter()
                .filter_map(|event| event["choices"][0]["logprobs"][name].as_array())
                .flatten()
                .cloned()
                .collect();
            assert_eq!(streamed, list(name), "{name}");
        }
    }
}

#[test]
fn answers_have_the_wanted_form() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object",
        "properties": { "name": { "type": "string", "maxLength": 8 }, "age": { "type": "integer", "maximum": 99, "minimum": 0 } },
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let json_schema = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    for seed in 0..10 {
        let more =
            json!({ "response_format": json_schema, "temperature": 1.5, "seed": seed, "max_tokens": 100 });
        let answer = server.post("/v1/chat/completions", &with(chat("Tell me"), more.clone()));
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(value["name"].is_string() && value["age"].is_u64(), "{text}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        // Both answers of one request have the form.
        let both = server.post("/v1/chat/completions", &with(chat("Tell me"), with(more, json!({ "n": 2 }))));
        assert_eq!(both["choices"][0]["message"]["content"], text);
        let second = both["choices"][1]["message"]["content"].as_str().unwrap();
        serde_json::from_str::<Json>(second).unwrap();
    }
    for (form, expected) in [
        (json!({ "grammar": "root ::= \"yes\" | \"no\"" }), &["yes", "no"][..]),
        (json!({ "regex": "a{3}|b{2}" }), &["aaa", "bb"]),
        (json!({ "guided_choice": ["left.", "right."] }), &["left.", "right."]),
        (json!({ "structured_outputs": { "choice": ["in", "out"] } }), &["in", "out"]),
    ] {
        let answer = server.post("/v1/completions", &with(json!({ "prompt": "Well," }), form.clone()));
        let text = answer["choices"][0]["text"].as_str().unwrap();
        assert!(expected.contains(&text), "{form}: {text}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn tools_are_called() {
    let server = Server::start(&[]);
    let tool = |name: &str, field: &str, kind: &str| {
        let parameters = json!({
            "type": "object",
            "properties": { field: { "type": kind, "maxLength": 12, "maximum": 1000, "minimum": 0 } },
            "required": [field],
            "additionalProperties": false,
        });
        json!({ "type": "function", "function": { "name": name, "description": "A tool.", "parameters": parameters } })
    };
    let tools = json!([tool("weather", "city", "string"), tool("clock", "zone", "integer")]);
    for seed in 0..6 {
        let more = json!({
            "tools": tools, "tool_choice": "required", "parallel_tool_calls": false, "temperature": 2, "min_p": 0,
            "seed": seed, "max_tokens": 120,
        });
        let body = with(chat("Tell me"), more);
        let whole = server.post("/v1/chat/completions", &body);
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
        assert!(choice["message"]["content"].is_null());
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        let function = &calls[0]["function"];
        let arguments: Json = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        match function["name"].as_str().unwrap() {
            "weather" => assert!(arguments["city"].is_string()),
            "clock" => assert!(arguments["zone"].is_u64()),
            other => panic!("{other} is no tool"),
        }
        // The stream gives the same call.
        let events = server.events("/v1/chat/completions", &with(body, json!({ "stream": true })));
        let (mut name, mut streamed) = (String::new(), String::new());
        for call in events.iter().filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0)) {
            assert_eq!(call["index"], 0);
            name.push_str(call["function"]["name"].as_str().unwrap_or_default());
            streamed.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
        }
        assert_eq!(name, function["name"]);
        assert_eq!(streamed, function["arguments"].as_str().unwrap());
    }
    // A call that is cut is no call that a client can run.
    let cut = json!({ "tools": tools, "tool_choice": "required", "max_tokens": 16 });
    let answer = server.post("/v1/chat/completions", &with(chat("Tell me"), cut.clone()));
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    let events = server
        .events("/v1/chat/completions", &with(chat("Tell me"), with(cut.clone(), json!({ "stream": true }))));
    let ends: Vec<&Json> =
        events.iter().map(|e| &e["choices"][0]["finish_reason"]).filter(|end| !end.is_null()).collect();
    assert_eq!(ends, ["length"]);
    let flat: Vec<Json> = tools
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| with(tool["function"].clone(), json!({ "type": "function" })))
        .collect();
    let response =
        json!({ "input": "Tell me", "tools": flat, "tool_choice": "required", "max_output_tokens": 16 });
    let response = server.post("/v1/responses", &response);
    let last = response["output"].as_array().unwrap().last().unwrap();
    assert_eq!((&response["status"], &last["status"]), (&json!("incomplete"), &json!("incomplete")));
    for name in ["clock", "weather"] {
        let choice = json!({ "type": "function", "function": { "name": name } });
        let named =
            json!({ "tools": tools, "tool_choice": choice, "parallel_tool_calls": false, "max_tokens": 120 });
        let answer = server.post("/v1/chat/completions", &with(chat("Tell me"), named));
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], name);
    }
    // The template does not know tools, so the system message describes them. Earlier calls and results are texts.
    let none = json!({ "tools": tools, "tool_choice": "none" });
    assert!(
        server.post("/v1/chat/completions", &with(chat("Hi"), none))["choices"][0]["message"]["content"]
            .is_string()
    );
    let history = json!({ "tools": [tools[1]], "messages": [
        { "role": "user", "content": "The time?" },
        { "role": "assistant", "content": null, "tool_calls": [{ "id": "a", "type": "function", "function": { "name": "clock", "arguments": "{\"zone\": 1}" } }] },
        { "role": "tool", "tool_call_id": "a", "content": "12:00" },
    ] });
    let answer = server.post("/v1/chat/completions", &with(chat("Hi"), history));
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
}

#[test]
fn the_page_has_all_its_files_and_a_strict_policy() {
    let server = Server::start(&["--api-key", "secret"]);
    let agent = server.agent();
    let mut names = vec!["/".to_owned()];
    let folder = Path::new(DEMO).join("../../crates/serve/page");
    for entry in std::fs::read_dir(folder).unwrap() {
        names.push(format!("/page/{}", entry.unwrap().file_name().into_string().unwrap()));
    }
    for name in names {
        let response = agent.get(format!("{}{name}", server.address)).call().unwrap();
        assert_eq!(response.status().as_u16(), 200, "{name}");
        let policy = response.headers().get("content-security-policy").unwrap().to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let kind = response.headers().get("content-type").unwrap().to_str().unwrap();
        assert_eq!(kind.starts_with("text/javascript"), name.ends_with(".js"), "{name}: {kind}");
    }
    assert_eq!(server.get("/page/none.js").0, 404);
}

#[test]
fn vectors_are_those_of_embed() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/encoders/bert-words-f16");
    let server = Server::of(Server::copy(model), &[]);
    let ids = server.post("/tokenize", &json!({ "content": "hello" }));
    assert!(!ids["tokens"].as_array().unwrap().is_empty(), "{ids}");
    let texts = ["the cat sat", "on a mat", "the cat sat"];
    let found = server.post("/v1/embeddings", &json!({ "input": texts, "model": "any" }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    std::fs::write(&file, texts.join("\n")).unwrap();
    let alone = Command::new(env!("CARGO_BIN_EXE_kvant"))
        .args(["embed", model, "--json", "--text", file.to_str().unwrap()])
        .output()
        .unwrap();
    let alone: Json = serde_json::from_slice(&alone.stdout).unwrap();
    let data = found["data"].as_array().unwrap();
    assert_eq!(data.len(), texts.len());
    for (index, vector) in data.iter().enumerate() {
        assert_eq!(vector["embedding"], alone["vectors"][index]);
    }
    let coded = json!({ "input": texts[0], "encoding_format": "base64" });
    let coded = server.post("/v1/embeddings", &coded)["data"][0]["embedding"].as_str().unwrap().len();
    assert_eq!(coded, (data[0]["embedding"].as_array().unwrap().len() * 4).div_ceil(3) * 4);
    for (body, status) in [
        (json!({}), 400),
        (json!({ "input": [] }), 400),
        (json!({ "input": "x", "encoding_format": "text" }), 400),
        (json!({ "input": "x", "dimensions": 3 }), 400),
    ] {
        assert_eq!(server.send("/v1/embeddings", body.to_string().as_bytes()).0, status, "{body}");
    }
    assert_eq!(server.send("/v1/completions", br#"{"prompt": "x"}"#).0, 400, "no text");
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn bad_requests_get_an_error_that_says_what_is_wrong() {
    let server = Server::start(&["--ctx", "64"]);
    let long = "word ".repeat(200);
    let many = vec![json!({ "role": "user", "content": "x" }); 5000];
    for (path, body, status, kind, word) in [
        ("/v1/chat/completions", json!([1]), 400, "invalid_request_error", "object"),
        ("/v1/chat/completions", json!({}), 400, "invalid_request_error", "messages"),
        ("/v1/chat/completions", json!({ "messages": "x" }), 400, "invalid_request_error", "messages"),
        ("/v1/chat/completions", json!({ "messages": [{}] }), 400, "invalid_request_error", "role"),
        ("/v1/chat/completions", json!({ "messages": many }), 400, "invalid_request_error", "4096"),
        ("/v1/chat/completions", chat(&long), 400, "exceed_context_size_error", "context"),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "temperature": -1 })),
            400,
            "invalid_request_error",
            "temp",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "temperature": "hot" })),
            400,
            "invalid_request_error",
            "temperature",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "top_logprobs": 3 })),
            400,
            "invalid_request_error",
            "logprobs",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "logprobs": true, "top_logprobs": 21 })),
            400,
            "invalid_request_error",
            "20",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "stream_options": {} })),
            400,
            "invalid_request_error",
            "stream",
        ),
        ("/v1/chat/completions", with(chat("x"), json!({ "n": 0 })), 400, "invalid_request_error", "`n`"),
        ("/v1/chat/completions", with(chat("x"), json!({ "n": 1000 })), 400, "invalid_request_error", "`n`"),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "tools": [{}] })),
            400,
            "invalid_request_error",
            "tools[0]",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "tool_choice": "required" })),
            400,
            "invalid_request_error",
            "tools",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "response_format": { "type": "xml" } })),
            400,
            "invalid_request_error",
            "json_schema",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "grammar": "root ::= missing" })),
            400,
            "invalid_request_error",
            "missing",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "grammar": "root ::= \"a\"", "json_schema": {} })),
            400,
            "invalid_request_error",
            "also",
        ),
        (
            "/v1/chat/completions",
            with(chat("x"), json!({ "logit_bias": { "999999": 1 }, "stream": true })),
            400,
            "invalid_request_error",
            "999999",
        ),
        ("/v1/responses", json!({ "input": [] }), 400, "invalid_request_error", "input"),
        (
            "/v1/responses",
            json!({ "input": "x", "include": ["message.output_text.logprobs"] }),
            400,
            "not_supported_error",
            "top_logprobs",
        ),
        ("/v1/completions", json!({}), 400, "invalid_request_error", "prompt"),
        ("/v1/completions", json!({ "prompt": [1, null] }), 400, "invalid_request_error", "prompt"),
        (
            "/v1/completions",
            json!({ "prompt": [4_000_000_000u32] }),
            400,
            "invalid_request_error",
            "vocabulary",
        ),
        ("/v1/completions", json!({ "prompt": "x", "suffix": "y" }), 400, "not_supported_error", "suffix"),
        ("/detokenize", json!({ "tokens": [-1] }), 400, "invalid_request_error", "tokens"),
        ("/v1/none", json!({}), 404, "not_found_error", "/v1/none"),
    ] {
        let (found, _, text) = server.send(path, body.to_string().as_bytes());
        let error: Json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path} {body}: {text}"));
        let error = &error["error"];
        assert_eq!((found, &error["type"]), (status, &json!(kind)), "{path} {body}: {text}");
        assert!(error["message"].as_str().unwrap().contains(word), "{path} {body}: {text}");
    }
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [b"{".to_vec(), b"\xff\xfe{}".to_vec(), deep.into_bytes()] {
        let (status, _, text) = server.send("/v1/chat/completions", &body);
        assert_eq!(status, 400, "{text}");
    }
    let large = vec![b' '; 17 << 20];
    let (status, _, text) = server.send("/v1/chat/completions", &large);
    assert_eq!(status, 413, "{text}");
    assert!(text.contains("larger than"), "{text}");
    // Errors have the form of their interface, also if no handler saw the request.
    let image = json!({ "messages": [{ "role": "user", "content": "x", "images": ["aGk="] }] });
    for (path, body, status) in
        [("/api/chat", image, 400), ("/api/none", json!({}), 404), ("/api/tags", json!({}), 405)]
    {
        let (found, _, text) = server.send(path, body.to_string().as_bytes());
        let error: Json = serde_json::from_str(&text).unwrap();
        assert!(found == status && error["error"].is_string(), "{path}: {found} {text}");
    }
    let negative = json!({ "messages": [{ "role": "user", "content": "x" }], "max_tokens": -1 });
    for (path, body, status) in [("/v1/messages", negative, 400), ("/v1/messages/none", json!({}), 404)] {
        let (found, _, text) = server.send(path, body.to_string().as_bytes());
        let error: Json = serde_json::from_str(&text).unwrap();
        assert!(found == status && error["type"] == "error", "{path}: {found} {text}");
    }
    // Headers that are too large, and bodies that are compressed.
    for (name, value, status) in
        [("x-long", "a".repeat(70 << 10).as_str(), 431), ("content-encoding", "gzip", 415)]
    {
        let request = server.agent().post(format!("{}/tokenize", server.address)).header(name, value);
        assert_eq!(request.send("{}").unwrap().status().as_u16(), status, "{name}");
    }
    // Control tokens have their texts.
    let ids = server.post("/tokenize", &json!({ "content": "Hi", "add_special": true }));
    let text = server.post("/detokenize", &ids);
    assert!(text["content"].as_str().unwrap().starts_with("<s>"), "{text}");
    // Empty texts count as absent.
    let empty = json!({ "prompt": "x", "template": "", "suffix": "", "stream": false, "options": { "num_predict": 2 } });
    assert_eq!(server.send("/api/generate", empty.to_string().as_bytes()).0, 200);
    // Unknown fields are ignored, and named.
    let extra = json!({ "user": "me", "store": false, "nothing": null });
    let (status, warnings, _) =
        server.send("/v1/chat/completions", with(chat("x"), extra).to_string().as_bytes());
    assert_eq!((status, warnings.as_str()), (200, "ignored: user, store"));
    let (status, text) = server.get("/v1/chat/completions");
    assert_eq!(status, 405, "{text}");
}

/// A slow client reads the answer only after it has sent everything.
#[test]
fn a_client_that_still_sends_sees_the_error() {
    let server = Server::start(&["--api-key", "secret"]);
    let large = vec![b' '; 17 << 20];
    for (head, status) in [
        ("authorization: Bearer secret\r\n", "413"),
        ("authorization: Bearer wrong\r\n", "401"),
        ("authorization: Bearer secret\r\nexpect: 100-continue\r\n", "413"),
    ] {
        let mut stream = TcpStream::connect(server.address.strip_prefix("http://").unwrap()).unwrap();
        let length = large.len();
        let request = format!("POST /tokenize HTTP/1.1\r\nhost: x\r\n{head}content-length: {length}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        if head.contains("expect") {
            let mut line = [0; 25];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        for part in large.chunks(1 << 20) {
            std::thread::sleep(Duration::from_millis(10));
            stream.write_all(part).unwrap();
        }
        // The connection is still good for another request.
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        assert!(answers.starts_with(&format!("HTTP/1.1 {status}")), "{head}{answers}");
        assert!(answers.contains("HTTP/1.1 200 OK"), "{head}{answers}");
    }
}

#[test]
fn keys_are_needed_where_they_are_set() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "first\n\n second \n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap(), "--api-key", "third"]);
    let status = |name: &str, value: &str| {
        let agent = server.agent();
        let request = agent.post(format!("{}/tokenize", server.address)).header(name, value);
        request.send_json(json!({ "content": "x" })).unwrap().status().as_u16()
    };
    for (name, value, expected) in [
        ("authorization", "Bearer first", 200),
        ("authorization", "bearer second", 200),
        ("x-api-key", "third", 200),
        ("authorization", "Bearer ", 401),
        ("authorization", "Bearer firs", 401),
        ("authorization", "Basic first", 401),
        ("x-api-key", "first ", 200),
        ("x-api-key", "", 401),
        ("accept", "first", 401),
    ] {
        assert_eq!(status(name, value), expected, "{name}: {value}");
    }
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.get("/v1/models").0, 200);
    assert_eq!(server.get("/metrics").0, 401);
    assert_eq!(server.get("/none").0, 401);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let server = Server::start(&["--parallel", "1", "--queue", "1"]);
    let long = json!({
        "prompt": "Once", "max_tokens": 100_000, "ignore_eos": true, "stream": true, "temperature": 0,
    });
    for stream in [true, false] {
        let body = with(long.clone(), json!({ "stream": stream }));
        let mut running = server.open("/v1/completions", &body);
        if stream {
            running.read_exact(&mut [0; 64]).unwrap();
        }
        while server.metric("kvant_requests_processing") < 1.0 {}
        let waiting = server.open("/v1/completions", &body);
        while server.metric("kvant_requests_deferred") < 1.0 {}
        let (status, _, text) = server.send("/v1/completions", long.to_string().as_bytes());
        assert_eq!(status, 429, "{text}");
        assert_eq!(server.get("/health").0, 200);
        drop(waiting);
        drop(running);
        server.wait_for_idle();
    }
    assert_eq!(server.metric("kvant_requests_refused_total"), 2.0);
}

#[test]
fn hostile_connections_change_nothing() {
    let server = Server::start(&[]);
    let address = server.address.strip_prefix("http://").unwrap();
    let mut slow = Vec::new();
    for index in 0..100 {
        let mut stream = TcpStream::connect(address).unwrap();
        let text: Vec<u8> = match index % 5 {
            0 => b"GET / HTTP/1.1\r\nhost: ".to_vec(),
            1 => b"POST /v1/completions HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n{".to_vec(),
            2 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(),
            3 => [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(100_000)].concat(),
            _ => {
                b"POST /tokenize HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec()
            }
        };
        // The server may close the connection before it has read all.
        let _ = stream.write_all(&text);
        slow.push(stream);
    }
    let answer = server.post("/v1/chat/completions", &chat("Hi"));
    assert_eq!(answer["usage"]["completion_tokens"], 12);
}

#[cfg(unix)]
#[test]
fn sigterm_cuts_no_answer() {
    let mut server = Server::start(&[]);
    let body = json!({
        "prompt": "Once", "max_tokens": 150, "ignore_eos": true, "stream": true, "temperature": 0,
    });
    let open: Vec<TcpStream> = (0..4).map(|_| server.open("/v1/completions", &body)).collect();
    let mut unfinished = TcpStream::connect(server.address.strip_prefix("http://").unwrap()).unwrap();
    unfinished.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{").unwrap();
    while server.metric("kvant_requests_processing") < 4.0 {}
    let id = server.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let mut text = String::new();
    unfinished.read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 503"),
        "a request that has not arrived does not hold the server: {text}"
    );
    for mut stream in open {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("[DONE]"), "cut: {text}");
        assert_eq!(text.matches("\"finish_reason\":\"length\"").count(), 1);
    }
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
}
