//! `/v1/rerank`: how well documents answer a query.
//!
//! A language model is asked in its own chat template if a document meets the query, and the score is the probability of
//! `yes` among `yes` and `no` after the prompt, as Qwen3-Reranker does it (model card of Qwen/Qwen3-Reranker-0.6B).

use crate::answers::{Finished, all_finished, parsed, with_warnings};
use crate::http::{ApiError, App, Fields, respond};
use crate::service::Service;
use crate::turn::Common;
use crate::{Engine, Refusal, Request};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use kvant::model::{Conversation, Message, Sampling, Special};
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest number of documents.
const MOST_DOCUMENTS: usize = 1024;
/// Largest length of a query and of an instruction, in bytes.
const LONGEST_QUERY: usize = 64 << 10;
/// The task of the model.
const SYSTEM: &str = "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer \
                      can only be \"yes\" or \"no\".";
/// The task of the query, if the request gives none.
const INSTRUCTION: &str = "Given a web search query, retrieve relevant passages that answer the query";

/// A parsed request.
struct Reranking {
    requests: Vec<Request>,
    documents: Vec<String>,
    /// The largest number of results.
    top: usize,
    with_documents: bool,
    /// The form of Text Embeddings Inference: a list, documents in `texts`.
    is_list: bool,
    ignored: Vec<String>,
}

/// Orders documents by their score.
pub async fn rerank(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (service, parsed) = parsed(&app, &extensions, body, parse).await?;
    let tokens: usize = parsed.requests.iter().map(|request| request.prompt.len()).sum();
    let mut scores = Vec::with_capacity(parsed.requests.len());
    // No more than what runs at the same time, so that a long list does not fill the queue.
    for requests in parsed.requests.chunks(service.engine.settings().parallel) {
        scores.extend(scored(&service.engine, requests).await?);
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(parsed.top);
    let result = |index: &usize| {
        let (score, text) = (scores[*index], &parsed.documents[*index]);
        let mut result = if parsed.is_list {
            json!({ "index": index, "score": score })
        } else {
            json!({ "index": index, "relevance_score": score })
        };
        if parsed.with_documents {
            match parsed.is_list {
                true => result["text"] = text.as_str().into(),
                false => result["document"] = json!({ "text": text }),
            }
        }
        result
    };
    let results: Vec<Value> = order.iter().map(result).collect();
    let body = if parsed.is_list {
        Value::Array(results)
    } else {
        json!({
            "model": service.name,
            "object": "list",
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
            "results": results,
        })
    };
    Ok(with_warnings(respond(StatusCode::OK, &body), &parsed.ignored))
}

/// The probability of the first choice among the two, for each request.
async fn scored(engine: &Engine, requests: &[Request]) -> Result<Vec<f64>, ApiError> {
    let answers: Result<Vec<_>, _> = requests.iter().map(|request| engine.submit(request.clone())).collect();
    let score = |finished: Finished| match finished.choices[..] {
        [yes, no] => Ok(1.0 / (1.0 + (f64::from(no) - f64::from(yes)).exp())),
        _ => Err(ApiError::server("the engine gave no score")),
    };
    all_finished(answers?).await?.into_iter().map(score).collect()
}

fn parse(service: &Service, mut fields: Fields, common: &Common) -> Result<Reranking, ApiError> {
    let query = fields.text("query")?.ok_or_else(|| ApiError::parameter("query", "is necessary"))?;
    let texts = fields.list("texts")?;
    let is_list = texts.is_some();
    let name = if is_list { "texts" } else { "documents" };
    let documents = match texts {
        Some(texts) => texts,
        None => fields.list("documents")?.ok_or_else(|| ApiError::parameter(name, "is necessary"))?,
    };
    if documents.is_empty() || documents.len() > MOST_DOCUMENTS {
        return Err(ApiError::parameter(name, format!("expected 1 to {MOST_DOCUMENTS} documents")));
    }
    // The query is read again with each document.
    if query.len() > LONGEST_QUERY {
        return Err(ApiError::parameter("query", format!("at most {LONGEST_QUERY} bytes")));
    }
    let text = |document: Value| match document {
        Value::String(text) => Ok(text),
        Value::Object(mut fields) => match fields.shift_remove("text") {
            Some(Value::String(text)) => Ok(text),
            _ => Err(ApiError::parameter(name, "expected a `text` in each document")),
        },
        _ => Err(ApiError::parameter(name, "expected texts")),
    };
    let documents = documents.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let instruction = fields.text("instruction")?.unwrap_or_else(|| INSTRUCTION.to_owned());
    if instruction.len() > LONGEST_QUERY {
        return Err(ApiError::parameter("instruction", format!("at most {LONGEST_QUERY} bytes")));
    }
    let top = fields.integer(&["top_n"], 1)?.map_or(documents.len(), |top| top as usize);
    let with_documents = fields.flag("return_documents")?.or(fields.flag("return_text")?).unwrap_or(false);
    let choices = [choice(service, "yes")?, choice(service, "no")?];
    let request = |document: &String| {
        let user = format!("<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}");
        let messages = [Message::new("system", SYSTEM), Message::new("user", user)];
        // The answer follows at once.
        let conversation = Conversation::new(&messages).variable("enable_thinking", false);
        let rendering = service.template.render_conversation(&conversation)?;
        let prompt = service.encode_rendering(&rendering)?;
        let (tokens, context) = (prompt.len(), service.engine.settings().context);
        if tokens > context {
            return Err(Refusal::Long { tokens, context }.into());
        }
        Ok::<Request, ApiError>(Request {
            choices: choices.to_vec(),
            ..common.bare_request(service, prompt, 0, Sampling::default())
        })
    };
    let requests = documents.iter().map(request).collect::<Result<Vec<_>, _>>()?;
    Ok(Reranking { requests, documents, top, with_documents, is_list, ignored: fields.ignored() })
}

/// The token of a choice.
fn choice(service: &Service, text: &str) -> Result<u32, ApiError> {
    let ids = service.tokenizer().encode(text, Special { add: false, parse: false });
    match ids.as_deref() {
        Ok([id]) => Ok(*id),
        _ => Err(ApiError::not_supported("model", format!("its vocabulary has no token `{text}`"))),
    }
}
