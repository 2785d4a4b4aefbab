//! `kvant chat`: a conversation with the model's own chat template.
//!
//! Turns come from stdin, one a line. Each turn is rendered whole; what the sequence already holds of it is kept.

use crate::arguments::{Chat, Common};
use crate::cmd::run::{emit, usage};
use crate::failure::Failure;
use crate::turns::Turns;
use crate::{clock, open, output, terminal};
use kvant::model::{ChatTemplate, Message, Sampler, generate};
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Chat) -> Result<ExitCode, Failure> {
    let path = arguments.model.path();
    let (opened, transformer, tokenizer) = open::speaker(common, &path, arguments.activations, arguments.kv)?;
    let meta = opened.weights.checkpoint().meta();
    let template = ChatTemplate::of(&tokenizer)?.ok_or_else(|| {
        Failure::Fault(format!(
            "{}: the model has no chat template; `kvant run` takes raw text",
            path.display()
        ))
    })?;
    let template = template.with_clock(clock::local_time);
    let mut refused = false;
    let context = open::context(arguments.ctx, &transformer)?;
    arguments.sampling.seed.say(common);
    let mut sampler = Sampler::new(open::sampling(&arguments.sampling, meta)).map_err(usage)?;
    let mut sequence = transformer.sequence(context);
    let mut held: Vec<u32> = Vec::new();
    let mut messages: Vec<Message> = arguments.system.iter().map(|s| Message::new("system", s)).collect();
    let turns = Turns::new()?;
    while let Some(line) = turns.next()? {
        if line.trim().is_empty() {
            continue;
        }
        messages.push(Message::new("user", line));
        let room = arguments.count.min(context / 2).max(1);
        let mut ids = template.encode(&tokenizer, &messages);
        let first = usize::from(messages[0].role == "system");
        while ids.as_ref().is_ok_and(|ids| ids.len() + room > context) && messages.len() > first + 1 {
            // A turn is a question and its answer; they go together.
            let turn = if messages.len() > first + 2 { 2 } else { 1 };
            messages.drain(first..first + turn);
            terminal::say(format_args!(
                "note: the oldest turn was dropped, the context of {context} tokens is full"
            ));
            ids = template.encode(&tokenizer, &messages);
        }
        let ids = match ids {
            Ok(ids) => ids,
            Err(error) => {
                // The conversation goes on without this turn.
                messages.pop();
                refused = true;
                terminal::say(&error);
                continue;
            }
        };
        if ids.is_empty() {
            messages.pop();
            refused = true;
            terminal::say("the chat template makes no text of this message");
            continue;
        }
        if ids.len() > context {
            messages.pop();
            terminal::say(format_args!(
                "{} tokens don't fit the context of {context}; say it shorter",
                ids.len()
            ));
            continue;
        }
        // The last token is always run again: its logits begin the answer.
        let common_prefix = held.iter().zip(&ids).take_while(|(a, b)| a == b).count().min(ids.len() - 1);
        sequence.truncate(common_prefix);
        // Where keys and values cannot go back so far and no further, some tokens are run once more.
        let news = &ids[sequence.len()..];
        let limit = arguments.count.min(context - ids.len() + 1);
        let answer =
            generate(&transformer, &tokenizer, &mut sequence, &mut sampler, news, limit, &[], &mut emit)?;
        output::line("")?;
        held = ids;
        held.extend(&answer.tokens);
        held.truncate(sequence.len());
        messages.push(Message::new("assistant", answer.text));
        if open::interrupts() > 1 {
            return Err(Failure::Interrupted);
        }
        open::forget_interrupts();
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
