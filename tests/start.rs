//! What every program pays before it runs, whether it uses the shim or not.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::common::{Scratch, program, run, run_ok, skip, text};

/// How many system calls a command makes; none: strace(1) is missing.
fn system_calls(command: &Command, scratch: &Scratch) -> Option<usize> {
    let log = scratch.file("calls");
    let mut traced = scratch.native("strace");
    traced.arg("-o").arg(&log);
    for (name, value) in command.get_envs() {
        traced.arg("-E").arg(format!("{}={}", name.to_str()?, value?.to_str()?));
    }
    traced.arg(command.get_program()).args(command.get_args());
    if Command::new("strace").arg("-V").output().is_err() {
        return None;
    }
    run_ok(&mut traced);
    Some(std::fs::read_to_string(log).unwrap().lines().count())
}

#[test]
fn a_start_makes_few_system_calls() {
    let scratch = Scratch::on_tmpfs();
    let sealed = program("reach/sealed");
    let starts = [("true", None, 90), ("true", Some("1"), 50), (sealed.to_str().unwrap(), None, 150)];
    for (program, disabled, limit) in starts {
        let (mut native, mut shimmed) = (scratch.native(program), scratch.shimmed(program, "auto"));
        for command in [&mut native, &mut shimmed] {
            command.args((program != "true").then_some("true"));
        }
        shimmed.envs(disabled.map(|value| ("SNAPSHIM_DISABLE", value)));
        let counts = system_calls(&native, &scratch).zip(system_calls(&shimmed, &scratch));
        let Some((natively, found)) = counts else {
            return skip("a_start_makes_few_system_calls", "strace is not installed");
        };
        assert!(found <= natively + limit, "{shimmed:?}: {found}, natively {natively}");
    }
}

#[test]
fn no_page_is_left_writable_and_executable() {
    let scratch = Scratch::on_tmpfs();
    let maps = run_ok(scratch.shimmed("cat", "auto").arg("/proc/self/maps"));
    let code: Vec<_> = maps.lines().filter(|line| line.split(' ').nth(1).unwrap().contains('x')).collect();
    assert!(code.iter().any(|line| line.contains("/libc.so") || line.contains("/libc-2.")), "{code:?}");
    let open: Vec<_> = code.iter().filter(|line| line.split(' ').nth(1).unwrap().contains('w')).collect();
    assert!(open.is_empty(), "{open:?}");
}

/// How many KiB of its memory a program shares with no other, and with no file.
fn private_memory(mut command: Command) -> u64 {
    let smaps = run_ok(command.arg("/proc/self/smaps"));
    let sizes = smaps.lines().filter_map(|line| line.strip_prefix("Anonymous:")?.trim().strip_suffix(" kB"));
    sizes.map(|size| size.trim().parse::<u64>().unwrap()).sum()
}

/// Once it was 680 KiB: tables of a decoder, made anew in each process.
#[test]
fn a_program_has_little_private_memory_more() {
    let scratch = Scratch::on_tmpfs();
    let natively = private_memory(scratch.native("cat"));
    let found = private_memory(scratch.shimmed("cat", "auto"));
    assert!(found <= natively + 200, "{found} KiB, natively {natively}");
}

/// Once: libc's code was opened first, and left no room for what else the shim needs.
#[test]
fn a_limit_on_data_shuts_no_door() {
    let scratch = Scratch::on_tmpfs();
    for kib in (1500..3000).step_by(100) {
        let limit = libc::rlimit { rlim_cur: kib << 10, rlim_max: kib << 10 };
        let mut command = scratch.shimmed("true", "auto");
        command.env("SNAPSHIM_LOG", "info");
        // SAFETY: setrlimit(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_DATA, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let output = run(&mut command);
        assert!(output.status.success() && output.stderr.is_empty(), "{kib} KiB: {}: {}", output.status, text(&output));
    }
}
