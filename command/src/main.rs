//! The command `snapshim`: copies files as they were at one instant, and shows what cooperating processes do.
//!
//! `cli` says what may be typed; each subcommand is one file of `commands`. What takes snapshots runs itself under the library
//! (`library`), as any other program does: the command knows no protocol.

mod cli;
mod commands;
mod copy;
mod doctor;
mod failure;
mod interrupt;
mod library;
mod maps;
mod number;
mod overview;
mod processes;
mod program;
mod snapshot;
mod survey;
mod table;
mod verdict;
mod view;

use std::process::ExitCode;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::typed().command {
        Command::Cp(arguments) => commands::cp::run(&arguments),
        Command::Cat(arguments) => commands::cat::run(&arguments),
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Status(arguments) => commands::status::run(&arguments),
        Command::Freeze(arguments) => commands::freeze::run(&arguments),
        Command::Mount(arguments) => commands::mount::run(&arguments),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Umount(arguments) => commands::umount::run(&arguments),
        Command::Doctor(arguments) => commands::doctor::run(&arguments),
        Command::Top(_) => commands::top::run(),
        Command::Wait(arguments) => commands::wait::run(&arguments),
        Command::Drop(arguments) => commands::drop::run(&arguments),
        Command::Gc(_) => commands::gc::run(),
        Command::Generate(arguments) => commands::generate::run(&arguments),
    };
    let code = done.unwrap_or_else(|failure| {
        failure.say();
        failure.code.into()
    });
    interrupt::end_as_interrupted();
    code
}
