//! Tests of chat templates: the texts that Jinja2 renders (`tests/golden/templates`, made by
//! `tools/templates.py --golden`), the origin of every character, and the limits that stop a hostile template.

use kvant_model::{ChatTemplate, Conversation, Ending, LocalTime, Message, TemplateError};
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/templates")
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap()
}

fn hello() -> [Message; 1] {
    [Message::new("user", "hello")]
}

fn rendered(source: &str) -> Result<String, TemplateError> {
    ChatTemplate::new(source, "<s>", "</s>")?.render(&hello(), false)
}

#[test]
fn jinja2_renders_the_same() {
    let read = |name: &str| std::fs::read_to_string(golden().join(name)).unwrap();
    let expected: Json = serde_json::from_str(&read("expected.json")).unwrap();
    assert_eq!(expected["unix"], 1_772_600_767);
    let tokens = expected["tokens"].as_object().unwrap();
    let tokens: Vec<(&str, &str)> =
        tokens.iter().map(|(name, text)| (name.as_str(), text.as_str().unwrap())).collect();
    let (mut texts, mut refusals) = (0, 0);
    for (name, renderings) in expected["expected"].as_object().unwrap() {
        let template = ChatTemplate::with_tokens(&read(&format!("{name}.jinja")), &tokens).unwrap();
        let template = template.with_clock(|| LocalTime::at(1_772_600_767, 0, 0));
        for (title, text) in renderings.as_object().unwrap() {
            let variables = expected["conversations"][title].as_object().unwrap();
            let messages = variables["messages"].as_array().unwrap();
            let messages: Vec<Message> = messages.iter().map(|m| Message::from_json(m).unwrap()).collect();
            let mut conversation = Conversation::new(&messages).ending(Ending::Whole);
            for (name, value) in variables {
                conversation = match (name.as_str(), value) {
                    ("messages", _) => conversation,
                    ("tools", Json::Array(tools)) => conversation.tools(tools),
                    ("documents", Json::Array(documents)) => conversation.documents(documents),
                    ("add_generation_prompt", Json::Bool(true)) => conversation.ending(Ending::Prompt),
                    ("continue_final", _) => conversation.ending(Ending::Continue),
                    ("add_generation_prompt", _) => conversation,
                    _ => conversation.variable(name, value.clone()),
                };
            }
            match (template.render_conversation(&conversation), text) {
                (Ok(rendering), Json::String(text)) => {
                    assert_eq!(rendering.text(), text, "{name}, {title}");
                    texts += 1;
                }
                (Err(_), Json::Null) => refusals += 1,
                (found, _) => panic!("{name}, {title}: {found:?}, Jinja2: {text:?}"),
            }
        }
    }
    assert!(texts > 350 && refusals > 5, "{texts} texts, {refusals} refusals");
}

#[test]
fn absent_things_are_none_or_undefined_as_in_transformers() {
    let source = "{{ tools is none }}{{ documents is none }}{{ none is iterable }}{{ sep_token is defined }}{{ bos_token }}";
    assert_eq!(rendered(source).unwrap(), "TrueTrueFalseFalse<s>");
    let without = ChatTemplate::new("{{ bos_token is defined }}", "", "").unwrap();
    assert_eq!(without.render(&hello(), true).unwrap(), "False");
}

#[test]
fn errors_name_the_place() {
    for (source, words) in [
        ("a\n  {{ 1 + }}", ["unexpected", "line 2, column 10"]),
        ("{{ 'a' | nothing }}", ["No filter named", "line 1, column 10"]),
        ("{% for %}", ["can't assign", "line 1, column 8"]),
        ("\r\n\r\n{{ missing.attribute }}", ["'missing' is undefined", "line 3, column"]),
        ("{{ raise_exception('roles\x1b[2J must') }}", ["roles\\u{1b}[2J must", "chat template"]),
        ("{{ [1].append(2) }}", ["unsafe", "append"]),
    ] {
        let error = rendered(source).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{source:?}: {error}");
    }
    let long =
        rendered(&format!("{{{{ raise_exception('{}') }}}}", "x".repeat(100_000))).unwrap_err().to_string();
    assert!(long.len() < 8192, "{}", long.len());
}

/// Returns the pieces of the rendering that a user wrote.
fn of_users(source: &str, messages: &[Message]) -> Vec<String> {
    let rendering = template(source).render_conversation(&Conversation::new(messages)).unwrap();
    let spans = rendering.spans();
    spans.iter().filter(|(_, own)| !own).map(|(text, _)| (*text).to_owned()).collect()
}

#[test]
fn every_operation_keeps_the_origin_of_characters() {
    let content = |expression: &str| format!("<|a|>{{{{ {expression} }}}}<|b|>");
    let ask = |text: &str| [Message::new("user", text)];
    for (expression, text, expected) in [
        ("messages[0].content | replace('<think>', '')", "<|im_<think>end|>", "<|im_end|>"),
        ("messages[0].content.split('<think>') | join", "<|im_<think>end|>", "<|im_end|>"),
        ("(messages[0].content.split('!') | list)[::-1] | join", "end|>!<|im_", "<|im_end|>"),
        ("messages[0].content | upper | lower", "<|IM_END|>", "<|im_end|>"),
        ("messages[0].content | reverse", ">|dne_mi|<", "<|im_end|>"),
        ("messages[0].content[1:-1]", "x<|im_end|>y", "<|im_end|>"),
        ("messages[0].content.strip('x')", "xx<|im_end|>x", "<|im_end|>"),
        ("'%s' % messages[0].content", "<|im_end|>", "<|im_end|>"),
        ("'{}'.format(messages[0].content)", "<|im_end|>", "<|im_end|>"),
        ("messages[0].content ~ ''", "<|im_end|>", "<|im_end|>"),
        ("messages[0].content | list | join", "<|im_end|>", "<|im_end|>"),
        ("messages[0].content.partition('-')[0]", "<|im_end|>-", "<|im_end|>"),
        ("messages[0].content.title().swapcase() | lower", "<|im_end|>", "<|im_end|>"),
        ("messages[0].content * 1", "<|im_end|>", "<|im_end|>"),
        ("(messages | map(attribute='content') | list)[0]", "<|im_end|>", "<|im_end|>"),
    ] {
        assert_eq!(of_users(&content(expression), &ask(text)), [expected], "{expression}");
    }
    // Characters that a filter or a method adds come from the template. The characters around them come from the user.
    let spans = of_users("{{ messages[0].content | tojson }}", &ask("a<|im_end|>\n\"b"));
    assert_eq!(spans, ["a<|im_end|>\\n\\\"b"]);
    let spans = of_users("{{ messages[0].content.replace('x', '<|im_end|>') }}", &ask("axb"));
    assert_eq!(spans, ["a", "b"]);
    // A role that programs set counts as the template's text, so that `'<|' + role + '|>'` is a control token. Any
    // other role is a user's text.
    let role = |role: &str| of_users("{{ '<|' + messages[0].role + '|>' }}", &[Message::new(role, "")]);
    assert!(role("user").is_empty() && role("assistant").is_empty());
    assert_eq!(role("im_end"), ["im_end"]);
    // Names, tools, documents and other variables are a user's text. This includes the keys of mappings.
    let message = [Message::new("user", "").with("name", "<|im_end|>")];
    assert_eq!(of_users("{{ messages[0].name }}", &message), ["<|im_end|>"]);
    let tools = [json!({ "<|im_end|>": ["<|im_start|>"] })];
    let conversation =
        Conversation::new(&message).tools(&tools).documents(&tools).variable("v", "<|im_end|>");
    let source = "{{ tools | tojson }}{{ documents[0].keys() | first }}{{ v }}";
    let rendering = template(source).render_conversation(&conversation).unwrap();
    for (text, own) in rendering.spans() {
        assert!(!own || !text.contains("im_"), "{text}");
    }
}

#[test]
fn an_answer_goes_on() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}";
    let messages = [Message::new("user", "a"), Message::new("assistant", "It is ")];
    let continued = Conversation::new(&messages).ending(Ending::Continue);
    assert_eq!(
        template(source).render_conversation(&continued).unwrap().text(),
        "<user>a</><assistant>It is"
    );
    let kept = template("{{ messages[1].content }}!").render_conversation(&continued).unwrap();
    assert_eq!(kept.spans(), [("It is ", false)]);
    let gone = template("{{ messages[0].content }}").render_conversation(&continued).unwrap_err();
    assert!(matches!(gone, TemplateError::Continue(_)));
}

/// Hostile templates. Each one must end after a short time.
#[test]
fn hostile_templates_end() {
    let many = |text: &str, count: usize| text.repeat(count);
    let loops = "{% for i in range(100000) %}";
    let chain =
        |step: &str| format!("{{% set ns = namespace(l=[1]) %}}{loops}{step}{{% endfor %}}{{{{ ns.l }}}}");
    let sources = [
        "{% set ns=namespace() %}{% set ns.a=ns %}{{ ns }}".to_owned(),
        "{% set ns=namespace() %}{% set ns.a=[ns] %}{{ ns == ns }}{{ [ns] | tojson }}".to_owned(),
        chain("{% set ns.l = [ns.l] %}"),
        chain("{% set ns.l = (ns.l,) %}"),
        chain("{% set ns.l = {'a': ns.l} %}"),
        chain("{% set ns.l = [ns.l].count %}"),
        chain("{% set ns.l = {1: ns.l}.items() %}"),
        chain("{% set n = namespace(l=ns.l) %}{% set ns.l = n %}"),
        chain("{% set p = ns.l %}{% macro m() %}{{ p }}{% endmacro %}{% set ns.l = m %}"),
        chain("{% for x in [1] %}{% set p = ns.l %}{% set ns.l = loop %}{% endfor %}"),
        chain("{% set ns.l = ns.l + ns.l %}"),
        chain("{% set ns.l = ns.l ~ ns.l %}"),
        format!("{}{}", many(loops, 4), many("{% endfor %}", 4)),
        "{% set ns=namespace(a=(1,), b=(1,)) %}{% for i in range(100) %}{% set ns.a=(ns.a,ns.a) %}{% set ns.b=(ns.b,ns.b) %}{% endfor %}{{ ns.a == ns.b }}".to_owned(),
        "{% set ns=namespace(a=(1,)) %}{% for i in range(100) %}{% set ns.a=(ns.a,ns.a) %}{% endfor %}{{ {ns.a: 1} }}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) ~ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{{ '{:>20000000000}'.format('a') }}".to_owned(),
        "{{ '%99999999999d' % 1 }}".to_owned(),
        "{{ '%.99999999999f' % 1.5 }}".to_owned(),
        "{{ 'a'.zfill(10**12) }}{{ 'a'.center(10**30) }}".to_owned(),
        "{{ ('\\t' * 100000).expandtabs(10**9) }}".to_owned(),
        "{{ ('a\\n' * 1000000) | indent(1000000000) }}".to_owned(),
        "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}".to_owned(),
        "{{ (['a' * 100000] * 100000) | join('b') }}".to_owned(),
        "{{ [1] | batch(10**12, 0) | list }}{{ [1] | slice(10**12) | list }}".to_owned(),
        "{{ [1] * 10**30 }}".to_owned(),
        "{{ ([1] * 10**12) | length }}{{ 10**10**10 }}{{ range(10**30) }}".to_owned(),
        "{{ -(-170141183460469231731687303715884105727 - 1) }}".to_owned(),
        "{{ (-170141183460469231731687303715884105727 - 1) // -1 }}{{ (-170141183460469231731687303715884105727 - 1) % -1 }}".to_owned(),
        "{{ strftime_now('%c' * 1000000) | length }}{{ strftime_now('%999d%---') }}".to_owned(),
        "{% set inf = 1e308 * 10 %}{{ ([inf - inf, 1, inf, 0] * 50) | sort | length }}".to_owned(),
        format!("{{{{ {}1 }}}}", many("-", 500_000)),
        format!("{{{{ {}1 }}}}", many("not ", 60_000)),
        format!("{{{{ 1{} }}}}", many("+1", 60_000)),
        format!("{{{{ 1{} }}}}", many("~1", 60_000)),
        format!("{{{{ 1{} }}}}", many("**1", 60_000)),
        format!("{{{{ 1{} }}}}", many(" and 1", 60_000)),
        format!("{{{{ 1{} }}}}", many(" if 0 else 1", 50_000)),
        format!("{{{{ 1{} }}}}", many(" if 1", 50_000)),
        format!("{{{{ a{} }}}}", many(".b", 300_000)),
        format!("{{{{ a{} }}}}", many("[0]", 100_000)),
        format!("{{{{ 'a'{} }}}}", many("|upper", 100_000)),
        format!("{{{{ 1{} }}}}", many(" is odd", 100_000)),
        format!("{{{{ {}1{} }}}}", many("(", 100_000), many(")", 100_000)),
        format!("{{{{ {}{} }}}}", many("[", 100_000), many("]", 100_000)),
        format!("{{{{ {}1{} }}}}", many("{1:", 100_000), many("}", 100_000)),
        format!("{}{}", many("{% if 1 %}", 40_000), many("{% endif %}", 40_000)),
        format!("{{% if 0 %}}{}{{% endif %}}", many("{% elif 0 %}", 60_000)),
        format!("{{% set {}a{} = 1 %}}", many("(", 50_000), many(")", 50_000)),
        many("{% set x %}", 60_000),
        many("{#", 300_000),
        many("{% raw %}", 100_000),
        many("{", 1_000_000),
        format!("{{{{ ('{}').format() }}}}", many("{", 300_000)),
        format!("{{{{ ('{}') % {{}} }}}}", many("%(", 300_000)),
    ];
    for source in &sources {
        let begin = Instant::now();
        let _ = rendered(source);
        // This bound detects only hangs.
        let start: String = source.chars().take(60).collect();
        assert!(begin.elapsed() < Duration::from_secs(20), "{start}");
    }
}

#[test]
fn limits_are_named() {
    for (source, limit) in [
        ("{% set ns=namespace() %}{% set ns.a=ns %}{{ ns }}", "1000 levels"),
        (
            "{% set ns=namespace(s=[1]) %}{% for i in range(900) %}{% set ns.s=[ns.s] %}{% endfor %}",
            "200 levels",
        ),
        ("{{ ('a' * 10**9) }}", "MiB"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than"),
        ("{{ range(10**6) }}", "100000"),
    ] {
        let error = rendered(source).unwrap_err();
        assert!(matches!(&error, TemplateError::Limit { .. }), "{source}: {error}");
        assert!(error.to_string().contains(limit), "{source}: {error}");
    }
    let long = "x".repeat(2 << 20);
    assert!(matches!(rendered(&long), Err(TemplateError::TooLong { .. })));
}
