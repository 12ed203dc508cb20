//! `snapshim generate DIR`: the man pages and the completions, written from what the command itself understands.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, Generate};
use crate::failure::{Failure, Outcome};

/// The files that shells look for, by the shell.
const COMPLETIONS: [(Shell, &str); 3] =
    [(Shell::Bash, "bash/snapshim"), (Shell::Zsh, "zsh/_snapshim"), (Shell::Fish, "fish/snapshim.fish")];

pub fn run(arguments: &Generate) -> Outcome<ExitCode> {
    let directory = &arguments.directory;
    for (shell, path) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "snapshim", &mut text);
        write(&directory.join(path), &text)?;
    }
    let mut command = Cli::command();
    command.build();
    page(&directory.join("man/snapshim.1"), command.clone())?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let name = format!("snapshim-{}", sub.get_name());
        page(&directory.join(format!("man/{name}.1")), sub.clone())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn page(path: &Path, command: clap::Command) -> Outcome {
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut text);
    rendered.map_err(|error| Failure::of_file("make", path, &error))?;
    write(path, with_repetitions(&command, &String::from_utf8_lossy(&text)).as_bytes())
}

/// A page whose synopsis says which arguments may be given more than once: clap_mangen leaves that out.
fn with_repetitions(command: &clap::Command, page: &str) -> String {
    let Some((before, synopsis)) = page.split_once(".SH SYNOPSIS\n") else { return page.to_owned() };
    let (line, behind) = synopsis.split_once('\n').unwrap_or((synopsis, ""));
    let mut line = line.to_owned();
    for argument in command.get_arguments() {
        let is_repeated = matches!(argument.get_action(), clap::ArgAction::Append);
        let name = match (argument.get_long(), argument.get_value_names()) {
            (Some(long), _) => format!("\\fB\\-\\-{long}\\fR"),
            (None, Some([name])) => format!("\\fI{name}\\fR"),
            _ => continue,
        };
        let separator = if argument.is_last_set() { "\\-\\- " } else { "" };
        let dots = if is_repeated { "..." } else { "" };
        for (open, close) in [("<", ">"), ("[", "]")] {
            let shown = format!("{open}{name}{close}");
            line = line.replace(&shown, &format!("{separator}{shown}{dots}"));
        }
    }
    format!("{before}.SH SYNOPSIS\n{line}\n{behind}")
}

fn write(path: &Path, text: &[u8]) -> Outcome {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| Failure::of_file("write", path, &error))
}
