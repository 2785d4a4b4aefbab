//! The subcommands. Each subcommand has one file, except the three small commands in `about` and `demo` in `compare`.

pub mod about;
pub mod bench;
pub mod chat;
pub mod compare;
pub mod convert;
pub mod doctor;
pub mod embed;
pub mod eval;
pub mod imatrix;
pub mod inspect;
pub mod logits;
pub mod quantize;
pub mod run;
pub mod serve;
pub mod tokenize;
