//! The falaj binary: reads arguments, files and environment once, wires the crates below, and speaks to people. No
//! model, text or HTTP logic lives here. Start at `args.rs` for what can be asked, `config.rs` for what can be set.
#![forbid(unsafe_code)]

mod admin;
mod args;
mod builtin;
mod chat;
mod config;
mod context;
mod cosign;
mod data;
mod data_dir;
mod doctor;
mod energy;
mod engine;
mod eval;
mod export;
mod failure;
mod hub;
mod inspect;
mod job;
mod key;
mod ledger;
mod machine;
mod migrate;
mod models;
mod optimize;
mod outline;
mod output;
mod pace;
mod policy;
mod progress;
mod run;
mod serving;
mod site_key;
mod state;
mod talk;
mod train;
mod up;
mod verify;
mod witness;
mod words;

use args::{Command, ConfigCommand};
use clap::Parser;
use context::Context;
use failure::Outcome;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let json = args.json;
    match execute(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

fn execute(args: args::Args) -> Outcome {
    let context = Context::new(&args)?;
    match args.command {
        Command::Up(_) => up::up(&context),
        Command::Chat(chat) => chat::chat(&context, chat),
        Command::Run(run) => run::run(&context, &run),
        Command::Model { command } => models::models(&context, command),
        Command::Engine { command } => engine::engine(&context, command),
        Command::Train(options) => train::train(&context, &options),
        Command::Job { command } => job::job(&context, &command),
        Command::Data { command } => data::data(&context, &command),
        Command::Eval(options) => eval::eval(&context, &options),
        Command::Policy { command } => policy::policy(&context, &command),
        Command::Verify(options) => verify::verify(&context, &options),
        Command::Witness(options) => witness::witness(&context, &options),
        Command::Admin { command } => admin::admin(&context, &command),
        Command::Ledger { command } => ledger::ledger(&context, &command),
        Command::Config { command: ConfigCommand::Show } => config::show(&context),
        Command::Doctor(options) => doctor::doctor(&context, &options),
    }
}
