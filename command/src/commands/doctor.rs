//! `snapshim doctor`: what is well for snapshots, what is not, and what to do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::println;
use anstyle::{AnsiColor, Style};

use crate::cli::Doctor;
use crate::doctor::{Finding, Grade, Report, file, machine, process, program};
use crate::failure::{Failure, Outcome, shown};
use crate::interrupt;
use crate::library::Library;

pub fn run(arguments: &Doctor) -> Outcome<ExitCode> {
    interrupt::end_with_the_reader();
    let report = match &arguments.subject {
        None => machine::report(),
        Some(subject) => of(subject)?,
    };
    if arguments.json {
        println!("{}", report.as_json());
    } else {
        print(&report);
    }
    Ok(report.grade().code().map_or(ExitCode::SUCCESS, Into::into))
}

fn of(subject: &Path) -> Outcome<Report> {
    if let Some(pid) = subject.to_str().and_then(process::number) {
        return process::report(pid);
    }
    if subject.exists() && !program::is_program(subject) {
        let library = if file::needs_library()? { Some(Library::enter()?) } else { None };
        return file::report(subject, library);
    }
    found(subject).map(|path| program::report(&path))
}

fn found(name: &Path) -> Outcome<PathBuf> {
    if name.exists() {
        return Ok(name.to_owned());
    }
    crate::program::find(name.as_os_str()).map_err(|_| {
        Failure::failed(
            format!("{} is no file, no process and no program", shown(name)),
            "name a file, the number of a process, or a program that is in PATH",
        )
    })
}

fn print(report: &Report) {
    println!("{}", report.subject);
    report.findings.iter().for_each(print_finding);
}

fn print_finding(finding: &Finding) {
    let style = style(finding.grade);
    println!("{style}{:>9}{style:#}  {}", finding.grade.word(), finding.what);
    if let Some(help) = &finding.help {
        let green = AnsiColor::Green.on_default();
        println!("           {green}help:{green:#} {help}");
    }
}

fn style(grade: Grade) -> Style {
    match grade {
        Grade::Well => AnsiColor::Green.on_default(),
        Grade::Note => AnsiColor::Cyan.on_default(),
        Grade::Partly => AnsiColor::Yellow.on_default().bold(),
        Grade::Doubtful | Grade::NoTable | Grade::Failed => AnsiColor::Red.on_default().bold(),
    }
}
