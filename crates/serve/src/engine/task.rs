//! A request in the engine: its tokens, its states and its answer so far.

use super::request::{Event, Failure, Request, Token};
use super::shared::Open;
use crate::constraint::{Constraint, GrammarError};
use kvant::model::{AnswerText, Finish, LogProbabilities, Sampler, SamplerError, Tokenizer};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A request that waits or runs.
pub struct Task {
    pub request: Request,
    /// The prompt and the answer so far.
    pub tokens: Vec<u32>,
    /// Order of arrival.
    pub arrival: u64,
    pub times: Times,
    /// The number of tokens that were not read, because another request had read them.
    pub cached_tokens: usize,
    events: UnboundedSender<Event>,
    sampler: Sampler,
    text: AnswerText,
    /// Number of tokens of the prompt whose log probabilities were sent.
    scored: usize,
    _open: Open,
}

/// The reason why no token can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// Logits that are not finite, or that allow no token.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The grammar exceeds a limit.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}

impl From<ChoiceError> for Failure {
    fn from(error: ChoiceError) -> Self {
        match error {
            ChoiceError::Sampler(error) => Self::Network(error.to_string()),
            // Without the values of the grammar's own variables, which may be very long.
            ChoiceError::Grammar(error) => {
                Self::Grammar(error.to_string().lines().next().unwrap_or_default().to_owned())
            }
        }
    }
}

/// Times of a task.
pub struct Times {
    pub submitted: Instant,
    pub admitted: Option<Instant>,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
}

impl Task {
    /// Makes a task of a request.
    ///
    /// # Errors
    /// A sampling setting outside its range.
    pub fn new(
        request: Request,
        tokenizer: &Arc<Tokenizer>,
        arrival: u64,
        events: UnboundedSender<Event>,
        open: Open,
    ) -> Result<Self, SamplerError> {
        Ok(Self {
            sampler: Sampler::with_tokenizer(request.sampling.clone(), tokenizer)?,
            text: AnswerText::new(tokenizer, &request.stop).with_control_tokens(request.control_tokens),
            tokens: request.prompt.clone(),
            request,
            arrival,
            times: Times { submitted: Instant::now(), admitted: None, first_token: None, last_token: None },
            cached_tokens: 0,
            events,
            scored: 0,
            _open: open,
        })
    }

    /// The number of tokens of the answer.
    pub fn answered(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// True if the client left.
    pub fn is_left(&self) -> bool {
        self.events.is_closed()
    }

    /// True if the deadline passed.
    pub fn is_late(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Sends an event. If the client left, the event is lost; the scheduler removes the task before its next step.
    fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Ends the task with an error.
    pub fn fail(&self, failure: Failure) {
        self.send(Event::Failed(failure));
    }

    /// The largest number of tokens that need not be read if their states are known. The last token is always read, and so
    /// are tokens of the prompt whose log probabilities are missing.
    pub fn longest_reuse(&self) -> usize {
        if self.wants_prompt() { self.scored.saturating_sub(1) } else { self.tokens.len() - 1 }
    }

    /// True if the log probabilities of tokens of the prompt are still missing.
    pub fn wants_prompt(&self) -> bool {
        self.request.prompt_log_probabilities.is_some() && self.scored < self.request.prompt.len()
    }

    /// Sends the log probabilities of tokens of the prompt. `logits` computes those after one token; `positions` are the
    /// positions of the tokens that were read.
    pub fn score_prompt(
        &mut self,
        positions: std::ops::Range<usize>,
        logits: &mut dyn FnMut(usize) -> Vec<f32>,
    ) -> Result<(), SamplerError> {
        let Some(count) = self.request.prompt_log_probabilities else { return Ok(()) };
        let prompt = &self.request.prompt;
        let mut tokens = Vec::new();
        if self.scored == 0 {
            tokens.push(Token { id: prompt[0], log_probabilities: None });
        }
        for position in positions {
            // After a preemption, positions are read again.
            if position + 1 < prompt.len() && position + 1 >= self.scored.max(1) {
                let id = prompt[position + 1];
                let log_probabilities = Some(LogProbabilities::new(&logits(position), id, count)?);
                tokens.push(Token { id, log_probabilities });
            }
        }
        self.scored += tokens.len();
        self.send(Event::Prompt(tokens));
        Ok(())
    }

    /// Chooses the next token from the logits after the last one.
    ///
    /// # Errors
    /// Logits that are not finite; a grammar that exceeds a limit.
    pub fn choose(&mut self, logits: &[f32]) -> Result<Token, ChoiceError> {
        let constraint = self.request.constraint.as_mut();
        let mask = constraint.map(Constraint::mask).transpose()?.flatten();
        let (sampler, recent) = (&mut self.sampler, &self.tokens);
        let token = match self.request.log_probabilities {
            Some(count) if self.request.after_sampling => {
                let (id, values) =
                    sampler.pick_with_log_probabilities(logits, recent, mask.as_ref(), count)?;
                Token { id, log_probabilities: Some(values) }
            }
            count => {
                let id = match &mask {
                    None => sampler.pick(logits, recent)?,
                    Some(mask) => sampler.pick_allowed(logits, recent, mask)?,
                };
                let values = count.map(|count| LogProbabilities::new(logits, id, count)).transpose()?;
                Token { id, log_probabilities: values }
            }
        };
        if let Some(constraint) = &mut self.request.constraint {
            constraint.accept(token.id)?;
        }
        Ok(token)
    }

    /// Tells how much of the prompt was read, if the request wants it.
    pub fn progress(&self, read: usize) {
        if self.request.progress && self.times.first_token.is_none() {
            // After a preemption, tokens are read again.
            let read = read.max(self.cached_tokens).min(self.request.prompt.len());
            let time = match self.times.admitted {
                Some(admitted) if read > self.cached_tokens => admitted.elapsed(),
                _ => Duration::ZERO,
            };
            self.send(Event::Progress { cached_tokens: self.cached_tokens, read, time });
        }
    }

    /// Sends the log probabilities of the request's choices.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn weigh(&self, logits: &[f32]) -> Result<(), SamplerError> {
        let weigh = |id: &u32| Ok(LogProbabilities::new(logits, *id, 0)?.token);
        let values = self.request.choices.iter().map(weigh).collect::<Result<_, SamplerError>>()?;
        self.send(Event::Choices(values));
        Ok(())
    }

    /// Announces that the prompt was read.
    pub fn start(&mut self) {
        if self.times.first_token.is_none() {
            let now = Instant::now();
            self.times.first_token = Some(now);
            let admitted = self.times.admitted.unwrap_or(now);
            self.send(Event::Started {
                cached_tokens: self.cached_tokens,
                waited: admitted - self.times.submitted,
                prefill: now - admitted,
            });
        }
    }

    /// Appends a token to the answer. Returns true if the answer ended. `room` is true if the context has room for the
    /// token.
    pub fn append(&mut self, token: Token, ends: bool, room: bool) -> bool {
        if ends && !self.request.ignore_end {
            self.end(Finish::Stop, Some(token));
            return true;
        }
        self.times.last_token = Some(Instant::now());
        self.tokens.push(token.id);
        let stopped = self.text.push(token.id);
        let text = self.text.take().to_owned();
        self.send(Event::Piece { token, text });
        let finish = match () {
            () if stopped => Finish::Stop,
            () if self.answered() >= self.request.limit || !room => Finish::Length,
            () => return false,
        };
        self.end(finish, None);
        true
    }

    /// Ends the answer. `end` is the token that ended it, if one did.
    pub fn end(&mut self, finish: Finish, end: Option<Token>) {
        self.text.end(finish);
        let text = self.text.take().to_owned();
        let stop = self.text.stopped_by().map(str::to_owned);
        let first = self.times.first_token.unwrap_or_else(Instant::now);
        let decode = self.times.last_token.map_or_else(Default::default, |last| last - first);
        let tokens = self.answered() + usize::from(end.is_some());
        self.send(Event::Ended { text, finish, stop, end, tokens, decode });
    }
}
