//! `kvant chat`: holds a conversation with the model's chat template. Each line of stdin is one message of the user.

use crate::arguments::{Chat, Common};
use crate::cmd::run::emit;
use crate::failure::Failure;
use crate::turns::Turns;
use crate::{machine, output, signals, terminal};
use kvant::model::{ChatTemplate, LocalTime};
use kvant::{Event, Model, Refusal};
use std::process::ExitCode;

/// Runs the command.
pub fn run(common: &Common, arguments: &Chat) -> Result<ExitCode, Failure> {
    let model = Model::open(&arguments.model.path())?;
    let backend = machine::backend(common)?;
    let (network, tokenizer) = model.load_speaker(backend, arguments.running.settings())?;
    let template = ChatTemplate::of(&tokenizer)
        .map_err(kvant::Error::from)?
        .ok_or_else(|| kvant::Error::NoTemplate { path: model.path().to_owned() })?;
    let context = kvant::context(arguments.ctx, &network)?;
    arguments.sampling.seed().say(common.quiet);
    let sampling = arguments.sampling.over(model.sampling());
    let template = template.with_clock(local_time);
    let mut chat = kvant::Chat::new(&network, &tokenizer, template, sampling, context)?;
    if let Some(system) = &arguments.system {
        chat = chat.with_system(system);
    }
    let mut refused = false;
    let turns = Turns::new()?;
    while let Some(line) = turns.next()? {
        if line.trim().is_empty() {
            continue;
        }
        let mut answered = true;
        chat.say(&line, arguments.count, &mut |event| match event {
            Event::Piece(piece) => emit(piece),
            Event::Dropped(context) => {
                terminal::say(format_args!(
                    "note: the oldest turn was dropped, the context of {context} tokens is full"
                ));
                true
            }
            Event::Refused(refusal) => {
                answered = false;
                refused |= !matches!(refusal, Refusal::Long { .. });
                terminal::say(refusal);
                true
            }
        })?;
        if !answered {
            continue;
        }
        output::line("")?;
        if signals::interrupts() > 1 {
            return Err(Failure::Interrupted);
        }
        signals::forget_interrupts();
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns the current time in the time zone of the variable `TZ` or of the machine; in UTC if both zones are unknown.
fn local_time() -> LocalTime {
    let now = jiff::Zoned::now();
    let microsecond = now.subsec_nanosecond().unsigned_abs() / 1000;
    LocalTime::at(now.timestamp().as_second(), microsecond, now.offset().seconds().into())
}
