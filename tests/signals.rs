//! A program that has its own business with SIGSEGV does it as without the shim, although the shim handles that signal.
//!
//! The scenes of `tests/programs/signal_*.c` say what they see, how they end, and what the last SIGSEGV was about; here they are played
//! natively and under the shim.

mod common;

use common::{Scratch, program, run, run_ok, scratches, text};

/// The shim's handler comes before the program's own actions and masks, or after.
fn same(name: &str) {
    for when in ["early", "late"] {
        let scratch = Scratch::on_tmpfs();
        let native = run(scratch.native(program(name)).arg(when));
        let shimmed = run(scratch.shimmed(program(name), "auto").arg(when));
        assert!(native.status.success(), "{name} {when}: {}", text(&native));
        for (native, shimmed) in scenes(&text(&native)).zip(scenes(&text(&shimmed))) {
            assert_eq!(shimmed, native, "{name} {when}");
        }
        assert_eq!(text(&shimmed), text(&native), "{name} {when}");
    }
}

fn scenes(output: &str) -> impl Iterator<Item = &str> {
    output.split("== ")
}

#[test]
fn own_faults_reach_the_program_as_natively() {
    same("signal_faults");
}

#[test]
fn sent_signals_masks_and_actions_are_as_natively() {
    same("signal_sent");
}

#[test]
fn stores_that_trap_while_the_signal_is_blocked_go_on() {
    for scratch in scratches() {
        run_ok(scratch.shimmed(program("signal_stores"), "auto").args(["victim", "8"]));
    }
}
