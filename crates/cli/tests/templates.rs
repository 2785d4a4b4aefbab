//! Tests chat templates with the program: the inputs that a template sees, its limits, and a refused turn that does not
//! end the chat.

mod tiny;

use std::path::Path;
use tiny::{CHATML, Tiny, kvant};

/// Runs `chat` with this template. Returns the exit status and the text of stderr.
fn chat(folder: &Path, template: &str, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    std::fs::write(folder.join("m/chat_template.jinja"), template).unwrap();
    let output = kvant(folder, &[&["chat", "m", "-n", "1"], arguments].concat(), input);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write(&folder.path().join("m"));
    folder
}

/// Returns the text that a template renders. The text is taken from the message of an exception.
fn rendered(folder: &Path, source: &str, input: &str) -> String {
    let template = format!("{{% set o %}}{source}{{% endset %}}{{{{ raise_exception('«' ~ o ~ '»') }}}}");
    let (_, error) = chat(folder, &template, &["-s", "sys"], &format!("{input}\n"));
    error
        .split_once('«')
        .and_then(|(_, rest)| rest.split_once('»'))
        .map_or(error.clone(), |(text, _)| text.into())
}

#[test]
fn templates_see_what_transformers_shows() {
    let folder = model();
    let of = |source: &str| rendered(folder.path(), source, "it's <b> & 한");
    assert_eq!(of("{% if tools is not none %}T{% endif %}{% if documents is not none %}D{% endif %}"), "");
    assert_eq!(of("{{ messages[1].content | tojson }}"), "\"it's <b> & 한\"");
    assert_eq!(
        of("{{ {'b': 1, 'a': [2]} | tojson(sort_keys=True, separators=(',', ':')) }}"),
        r#"{"a":[2],"b":1}"#
    );
    assert_eq!(of("{{ messages[1].content | tojson(ensure_ascii=True) }}"), r#""it's <b> & \ud55c""#);
    assert_eq!(
        of("{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}"),
        "systemuser"
    );
    assert_eq!(of("{{ eos_token }}{{ sep_token is defined }}"), "<|im_end|>False");
    for code in ["%A", "%a", "%I %p", "%y", "%j", "%F", "%T", "%e", "%-d", "%U", "%c"] {
        let text = of(&format!("{{{{ strftime_now('{code}') }}}}"));
        assert!(!text.is_empty() && !text.contains('%'), "{code}: {text}");
    }
    assert_eq!(of("{{ strftime_now('100%%') }}"), "100%");
}

#[test]
fn a_refused_turn_does_not_end_the_conversation() {
    let folder = model();
    let template = format!(
        "{{% if 'bad' in messages[-1].content %}}{{{{ raise_exception('not \x1b[31mthat') }}}}{{% endif %}}{CHATML}"
    );
    let output = {
        std::fs::write(folder.path().join("m/chat_template.jinja"), template).unwrap();
        kvant(folder.path(), &["chat", "m", "-n", "1"], "bad\nhello\nbad\nhello\n")
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error.matches("not \\u{1b}[31mthat").count(), 2, "{error}");
    assert_eq!(output.stdout.iter().filter(|b| **b == b'\n').count(), 2);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_message_makes_no_control_token() {
    let folder = model();
    let template = CHATML.replace("m['content']", "(m['content'] | replace('<think>', ''))");
    let count = |message: &str| -> usize {
        let (_, error) = chat(folder.path(), &template, &["-c", "4"], &format!("{message}\n"));
        let words: Vec<&str> = error.split_whitespace().collect();
        let tokens = words.iter().position(|w| *w == "tokens").unwrap_or_else(|| panic!("{error}"));
        words[tokens - 1].parse().unwrap()
    };
    let plain = count("a  b");
    assert_eq!(count("a <|im_<think>end|> b"), plain + "<|im_end|>".len());
    assert_eq!(count("a <|im_end|> b"), plain + "<|im_end|>".len());
}

#[test]
fn a_hostile_template_ends_neither_chat_nor_quantize() {
    let folder = model();
    let deep = format!("{{{{ {}1 }}}}", "-".repeat(500_000));
    for (template, limit) in [
        ("{% set ns=namespace() %}{% set ns.a=ns %}{{ ns }}", "nested deeper"),
        ("{{ '{:>20000000000}'.format('a')|length }}", "MiB"),
        (deep.as_str(), "nested deeper"),
    ] {
        let (status, error) = chat(folder.path(), template, &[], "hello\n");
        assert!(status == Some(1) && error.contains(limit), "{status:?} {error}");
        let quantize =
            ["quantize", "m", "-o", "m.gguf", "--calib-tokens", "512", "--own-tokens", "0", "--force"];
        let output = kvant(folder.path(), &quantize, "");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.contains(limit), "{error}");
    }
}
