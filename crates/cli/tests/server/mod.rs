//! A running `kvant serve` for tests.

// Each test program uses a part of it.
#![allow(dead_code)]

use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo");
/// A template that renders each message as one line.
pub const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

/// A running server. It is killed when it is dropped.
pub struct Server {
    pub process: Child,
    pub address: String,
    folder: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    pub fn start(flags: &[&str]) -> Self {
        let folder = Self::copy(DEMO);
        std::fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).unwrap();
        Self::of(folder, flags)
    }

    /// Copies the files of a model.
    pub fn copy(model: &str) -> tempfile::TempDir {
        fn copy(from: &Path, to: &Path) {
            std::fs::create_dir_all(to).unwrap();
            for entry in std::fs::read_dir(from).unwrap() {
                let path = entry.unwrap().path();
                let target = to.join(path.file_name().unwrap());
                match path.is_dir() {
                    true => copy(&path, &target),
                    false => drop(std::fs::copy(&path, &target).unwrap()),
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        copy(Path::new(model), folder.path());
        folder
    }

    pub fn of(folder: tempfile::TempDir, flags: &[&str]) -> Self {
        let path = folder.path().to_str().unwrap().to_owned();
        let flags = [&[path.as_str(), "--alias", "small"], flags].concat();
        let mut server = Self::with(&flags);
        server.folder = Some(folder);
        server
    }

    /// Starts a server with these arguments only.
    pub fn with(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_kvant"))
            .arg("serve")
            .args(["--port", "0", "--json", "-t", "2"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Json = serde_json::from_str(&line).expect("one JSON object when it is ready");
        assert!(started["kvant"].is_string());
        let address = started["address"].as_str().unwrap().to_owned();
        Self { process, address, folder: None }
    }

    pub fn agent(&self) -> ureq::Agent {
        ureq::Agent::config_builder().http_status_as_error(false).build().into()
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = self.agent().get(format!("{}{path}", self.address)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// Sends a body. Returns status, the header `warnings`, and the text of the answer.
    pub fn send(&self, path: &str, body: &[u8]) -> (u16, String, String) {
        let mut response = self.agent().post(format!("{}{path}", self.address)).send(body).unwrap();
        let warnings = response.headers().get("warnings").map(|value| value.to_str().unwrap().to_owned());
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), warnings.unwrap_or_default(), text)
    }

    pub fn post(&self, path: &str, body: &Json) -> Json {
        let (status, _, text) = self.send(path, body.to_string().as_bytes());
        assert_eq!(status, 200, "{path} {body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The events of a stream, without the last one, which is `[DONE]`.
    pub fn events(&self, path: &str, body: &Json) -> Vec<Json> {
        let (status, _, text) = self.send(path, body.to_string().as_bytes());
        assert_eq!(status, 200, "{text}");
        let mut events: Vec<&str> =
            text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    pub fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// Waits until no request runs.
    pub fn wait_for_idle(&self) {
        let begin = Instant::now();
        while self.metric("kvant_requests_processing") + self.metric("kvant_requests_deferred") > 0.0 {
            assert!(begin.elapsed() < Duration::from_secs(30), "the work goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends the head and the body of a request, and returns the connection.
    pub fn open(&self, path: &str, body: &Json) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address.strip_prefix("http://").unwrap()).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }
}

pub fn chat(text: &str) -> Json {
    json!({ "messages": [{ "role": "user", "content": text }], "temperature": 0, "max_tokens": 12 })
}

/// `body` with the fields of `more`.
pub fn with(mut body: Json, more: Json) -> Json {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
