//! `snapshim top`: what `snapshim status` tells, on a whole terminal, again and again.

use std::io::{self, IsTerminal, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, Wrap};
use ratatui::{DefaultTerminal, Frame};

use crate::failure::{Code, Failure, Outcome, words};
use crate::overview::{Fill, Origin, age, origins, size};
use crate::snapshot::PAGE;
use crate::survey::{Process, Snapshot, Survey};
use crate::table::Watched;
use crate::{interrupt, number};

/// How often the table is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// How many lines the lists below the snapshots have at most.
const LINES: usize = 6;

/// How soon a signal is noticed.
const MOMENT: Duration = Duration::from_millis(100);

pub fn run() -> Outcome<ExitCode> {
    let mut watched = Watched::new()?;
    let mut seen = Seen::now(&mut watched)?;
    if !stdout().is_terminal() {
        return Err(Failure::failed(
            "standard output is no terminal",
            "`snapshim status --watch` prints the same, again and again; `snapshim status --json` is for scripts",
        ));
    }
    interrupt::catch();
    // A panic restores the terminal as well, before it says what happened.
    let shown = ratatui::try_init()
        .map_err(|error| unusable(&error))
        .and_then(|mut terminal| show(&mut terminal, &mut seen, &mut watched));
    // Also if it was made ready in part.
    ratatui::restore();
    shown.map(|()| ExitCode::SUCCESS)
}

fn unusable(error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot use the terminal: {}", words(error)))
}

/// What is shown.
struct Seen {
    survey: Survey,
    fill: Fill,
}

impl Seen {
    fn now(watched: &mut Watched) -> Outcome<Self> {
        let table = watched.table()?;
        let survey = Survey::of(table);
        // After the survey, which takes the dead out.
        Ok(Self { survey, fill: Fill::of(table) })
    }
}

/// Shows it until the user has seen enough.
fn show(terminal: &mut DefaultTerminal, seen: &mut Seen, watched: &mut Watched) -> Outcome {
    let (mut first, mut next_look) = (0, Instant::now() + PERIOD);
    loop {
        terminal.draw(|frame| draw(frame, seen, first)).map_err(|error| unusable(&error))?;
        let wish = wait(next_look).map_err(|error| unusable(&error))?;
        match wish {
            Wish::End => return Ok(()),
            Wish::Up => first = first.saturating_sub(1),
            Wish::Down => first += 1,
            Wish::Redraw => {}
            Wish::News => (*seen, next_look) = (Seen::now(watched)?, Instant::now() + PERIOD),
        }
        first = first.min(seen.survey.snapshots.len().saturating_sub(1));
    }
}

/// What is to be done next.
enum Wish {
    End,
    Up,
    Down,
    Redraw,
    News,
}

/// Waits for a key or a signal, or until there is something new to show.
fn wait(until: Instant) -> io::Result<Wish> {
    while !interrupt::is_caught() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Wish::News);
        }
        let is_event = match event::poll(left.min(MOMENT)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            found => found?,
        };
        if !is_event {
            continue;
        }
        match event::read()? {
            Event::Key(key) if is_end(&key) => return Ok(Wish::End),
            Event::Key(KeyEvent { code: KeyCode::Up | KeyCode::Char('k'), .. }) => return Ok(Wish::Up),
            Event::Key(KeyEvent { code: KeyCode::Down | KeyCode::Char('j'), .. }) => return Ok(Wish::Down),
            Event::Resize(..) => return Ok(Wish::Redraw),
            _ => {}
        }
    }
    Ok(Wish::End)
}

/// Ctrl-C is a key here: the terminal sends no signal for it.
fn is_end(key: &KeyEvent) -> bool {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || is_control && key.code == KeyCode::Char('c')
}

/// Draws all of it. Of the snapshots, those from `first` on.
fn draw(frame: &mut Frame, seen: &Seen, first: usize) {
    let survey = &seen.survey;
    let origins = origins(&survey.snapshots);
    let notes = notes(survey);
    // Lines are wrapped between words: somewhat before the edge.
    let width = usize::from(frame.area().width.saturating_sub(12).max(1));
    let lines: usize = notes.iter().map(|line| line.width().div_ceil(width)).sum();
    let height = |rows: usize, heads: u16| if rows == 0 { 0 } else { rows.min(LINES) as u16 + heads };
    let parts = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(4),
        Constraint::Length(height(origins.len(), 2)),
        Constraint::Length(height(survey.processes.len(), 2)),
        Constraint::Length(height(lines, 1)),
        Constraint::Length(1),
    ])
    .split(frame.area());
    frame.render_widget(Paragraph::new(head(seen)), parts[0]);
    frame.render_widget(snapshots(&survey.snapshots, first), parts[1]);
    frame.render_widget(origins_table(&origins), parts[2]);
    frame.render_widget(processes_table(&survey.processes), parts[3]);
    frame.render_widget(Paragraph::new(notes).wrap(Wrap { trim: false }).block(titled("to note".to_owned())), parts[4]);
    frame.render_widget(Line::from("q ends, up and down scroll the snapshots").dim(), parts[5]);
}

/// How full the table is, and what snapshots hold.
fn head(seen: &Seen) -> Text<'static> {
    let Seen { survey, fill } = seen;
    let held: u64 = survey.snapshots.iter().map(|snapshot| snapshot.held).sum();
    let alive = survey.processes.iter().filter(|process| process.state == "alive").count();
    let what = format!("{alive} processes, {} segments of snapshots, {} held", survey.snapshots.len(), size(held));
    let fill = fill.parts.map(|(name, used, room)| format!("{name} {used} of {room}")).join(", ");
    Text::from(vec![Line::from(what).bold(), Line::from(format!("table: {fill}")).dim()])
}

fn titled(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title)
}

fn header<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names).style(Style::new().dim())
}

fn snapshots(all: &[Snapshot], first: usize) -> Table<'_> {
    let names = ["id", "pid", "program", "state", "age", "from", "bytes", "preserved", "held", "file"];
    let widths = [11, 7, 15, 8, 7, 8, 8, 9, 8].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    let rows = all.iter().skip(first).map(|snapshot| {
        let colour = match snapshot.state {
            "exact" => Color::Green,
            "live" => Color::Cyan,
            "doubtful" => Color::Yellow,
            _ => Color::Red,
        };
        Row::new([
            Cell::from(number::shown(snapshot.id)),
            Cell::from(snapshot.pid.to_string()),
            Cell::from(snapshot.program.as_str()),
            Cell::from(snapshot.state).style(Style::new().fg(colour)),
            Cell::from(age(snapshot.age)),
            Cell::from(size(snapshot.offset)),
            Cell::from(size(snapshot.pages * PAGE)),
            Cell::from(size(snapshot.preserved * PAGE)),
            Cell::from(size(snapshot.held)),
            Cell::from(snapshot.file.as_deref().unwrap_or(&snapshot.origin)),
        ])
    });
    Table::new(rows, widths).header(header(names)).block(titled(format!("snapshots: {}", all.len())))
}

fn origins_table(all: &[Origin]) -> Table<'_> {
    let row = |origin: &Origin| {
        Row::new([
            origin.segments.to_string(),
            origin.mappers.to_string(),
            size(origin.held),
            origin.inexact.to_string(),
            origin.file.clone(),
        ])
    };
    let widths = [9, 9, 9, 16].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    let names = ["segments", "mappers", "held", "doubtful/broken", "origin"];
    Table::new(all.iter().map(row), widths).header(header(names)).block(titled(format!("origins: {}", all.len())))
}

fn processes_table(all: &[Process]) -> Table<'_> {
    let or_none = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let row = move |process: &Process| {
        let colour = if process.state == "alive" { Color::Reset } else { Color::Yellow };
        Row::new([
            or_none(process.pid.map(|pid| pid as usize)),
            process.program.clone(),
            process.state.to_owned(),
            or_none(process.snapshots),
            or_none(process.threads),
            process.agent.to_owned(),
            if process.shares { "yes" } else { "no" }.to_owned(),
        ])
        .style(Style::new().fg(colour))
    };
    let widths = [8, 16, 8, 9, 8, 8, 8].map(Constraint::Length);
    let names = ["pid", "program", "state", "segments", "writers", "agent", "shared"];
    Table::new(all.iter().map(row), widths).header(header(names)).block(titled(format!("processes: {}", all.len())))
}

/// Why snapshots are not exact, which processes hold snapshots back, and which were not reached.
fn notes(survey: &Survey) -> Text<'static> {
    let mut whys: Vec<String> = Vec::new();
    for snapshot in &survey.snapshots {
        let Some(why) = &snapshot.why else { continue };
        let line = format!("snapshot {} is {}: {why}", number::shown(snapshot.id), snapshot.state);
        // The segments of one snapshot have mostly the same.
        if whys.last() != Some(&line) {
            whys.push(line);
        }
    }
    let delays = survey
        .delays
        .iter()
        .map(|it| format!("{} ({}) holds back {} for {:.0} s: {}", it.pid, it.program, it.what, it.seconds, it.why));
    let unreached = survey.unreached.iter().map(|it| {
        let state = if it.is_running { "runs" } else { "has ended" };
        format!("{} ({}) {state}, executed {} s ago without the library: {}", it.pid, it.program, it.seconds, it.why)
    });
    Text::from(delays.chain(whys).chain(unreached).map(Line::from).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::{Delay, Unreached};
    use ratatui::{Terminal, backend::TestBackend};

    fn seen() -> Seen {
        let snapshot = |state, why: Option<&str>| Snapshot {
            id: 47,
            pid: 4711,
            program: "reader".to_owned(),
            file: Some("/data/app.db".to_owned()),
            taken_as: None,
            age: Duration::from_secs(7),
            origin: "inode 1 of device 8:1".to_owned(),
            state,
            why: why.map(str::to_owned),
            offset: 0,
            pages: 1 << 18,
            preserved: 3,
            held: 4 << 12,
        };
        let process = Process {
            pid: Some(4711),
            program: "reader".to_owned(),
            state: "alive",
            snapshots: Some(2),
            threads: Some(1),
            agent: "runs",
            shares: true,
        };
        let delay = Delay {
            pid: 8,
            program: "writer".to_owned(),
            thread: 8,
            seconds: 2.0,
            what: "snapshots of a file".to_owned(),
            why: "it writes to a file".to_owned(),
        };
        let unreached =
            Unreached { pid: 9, program: "gopher".to_owned(), is_running: true, seconds: 5, why: "it is a Go program" };
        let survey = Survey {
            processes: vec![process],
            delays: vec![delay],
            snapshots: vec![snapshot("exact", None), snapshot("broken", Some("a user has dropped it"))],
            unreached: vec![unreached],
        };
        Seen {
            survey,
            fill: Fill { parts: [("processes", 1, 9), ("threads", 1, 9), ("segments", 2, 9), ("blocks", 0, 9)] },
        }
    }

    fn screen(first: usize, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &seen(), first)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn all_of_it_is_on_the_screen() {
        let shown = screen(0, 110, 26);
        let wanted = [
            "1 processes, 2 segments of snapshots, 32 KiB held",
            "table: processes 1 of 9, threads 1 of 9, segments 2 of 9, blocks 0 of 9",
            "1b          4711    reader          exact    7 s     0 B      1 GiB    12 KiB    16 KiB   /data/app.db",
            "snapshot 1b is broken: a user has dropped it",
            "snapshots: 2",
            "2         1         32 KiB    1                /data/app.db",
            "4711     reader           alive    2         1        runs     yes",
            "8 (writer) holds back snapshots of a file for 2 s: it writes to a file",
            "9 (gopher) runs, executed 5 s ago without the library: it is a Go program",
            "q ends",
        ];
        wanted.iter().for_each(|wanted| assert!(shown.contains(wanted), "{wanted}:\n{shown}"));
    }

    #[test]
    fn snapshots_can_be_scrolled_and_a_small_terminal_harms_nobody() {
        assert!(!screen(1, 110, 26).contains(" exact "));
        for (width, height) in [(3, 2), (1, 1), (40, 10), (110, 4)] {
            screen(7, width, height);
        }
    }
}
