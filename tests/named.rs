//! Snapshots by name, for programs that do not ask for them: which mappings become one, and what is said where one does not.

use std::process::{Command, Output};

use crate::common::{Scratch, WAYS, compile, glibc_minor, program, run, text};

fn named(scratch: &Scratch, variable: &str, arguments: &[&str]) -> Command {
    let mut command = scratch.shimmed(program("mapping/named"), "auto");
    command.args(arguments).env(variable, "*.no:vic*");
    command
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const ALL: [&str; 6] = ["map", "private", "private-stored", "shared", "shared-read-write", "shared-stored-read-write"];

#[test]
fn one_variable_is_for_both_kinds_of_mapping() {
    for way in WAYS {
        let scratch = Scratch::on_tmpfs();
        let output = run(named(&scratch, "SNAPSHIM_KEEP", &ALL).env("SNAPSHIM_PUSH", way));
        assert_eq!(
            out(&output),
            "private: snapshot\nprivate-stored: snapshot\nshared: snapshot\nshared-read-write: live\n\
             shared-stored-read-write: live\n",
            "{way}"
        );
        assert_eq!(err(&output), "");
    }
}

#[test]
fn a_narrow_variable_is_for_its_kind_alone_and_says_once_what_it_left_out() {
    let rest = "shared-read-write: live\nshared-stored-read-write: live\n";
    let cases = [
        (
            "SNAPSHIM_FILES",
            "private: snapshot\nprivate-stored: snapshot\nshared: live\n",
            "shared, for reading",
            "SNAPSHIM_SHARED_FILES or SNAPSHIM_KEEP",
        ),
        (
            "SNAPSHIM_SHARED_FILES",
            "private: live\nprivate-stored: live\nshared: snapshot\n",
            "privately",
            "SNAPSHIM_FILES or SNAPSHIM_KEEP",
        ),
    ];
    for (variable, found, how, what_to_do) in cases {
        let scratch = Scratch::on_tmpfs();
        let output = run(&mut named(&scratch, variable, &[&ALL[..], &ALL[1..]].concat()));
        assert_eq!(out(&output), format!("{found}{rest}").repeat(2), "{variable}");
        let said = err(&output);
        assert_eq!(said.lines().count(), 1, "{variable}: {said}");
        let wanted = format!("{variable}=vic* has no effect on it; set {what_to_do}");
        assert!(said.contains(&format!("/victim {how}")) && said.contains(&wanted), "{variable}: {said}");
    }
}

/// Such a mapping is a writer's: that it stays live is no news where all programs have the same environment.
#[test]
fn what_can_be_stored_to_is_said_only_where_more_is_asked_for() {
    let scratch = Scratch::on_tmpfs();
    let mut command = named(&scratch, "SNAPSHIM_KEEP", &["map", "shared-read-write", "shared-stored-read-write"]);
    assert_eq!(err(&run(&mut command)), "");
    let said = err(&run(command.env("SNAPSHIM_LOG", "info")));
    let line = "shared, through a descriptor that can write, so SNAPSHIM_KEEP=vic* has no effect on it";
    assert_eq!(said.matches(line).count(), 1, "{said}");
}

/// What a reader sees that asks for the size and then maps so many bytes, where the file is truncated in between.
#[test]
fn a_file_that_became_shorter_is_what_the_environment_says() {
    let cases = [
        // Cut to nothing, as by open(O_TRUNC): what a reader of a file meets that is rewritten in place.
        (
            0,
            0,
            "page 0: SIGBUS\npage 1: SIGBUS\npage 2: SIGBUS\n",
            "page 0: 0 bytes, 4096 zeros\npage 1: 0 bytes, 4096 zeros\npage 2: 0 bytes, 4096 zeros\n",
            true,
        ),
        // Cut in the middle of a page.
        (
            5000,
            0,
            "page 0: 4096 bytes, 0 zeros\npage 1: 904 bytes, 3192 zeros\npage 2: SIGBUS\n",
            "page 0: 4096 bytes, 0 zeros\npage 1: 904 bytes, 3192 zeros\npage 2: 0 bytes, 4096 zeros\n",
            true,
        ),
        // Cut by less than a page: nothing faults, and yet bytes are missing.
        (
            12000,
            12001,
            "page 0: 4096 bytes, 0 zeros\npage 1: 4096 bytes, 0 zeros\npage 2: 3808 bytes, 288 zeros\n",
            "page 0: 4096 bytes, 0 zeros\npage 1: 4096 bytes, 0 zeros\npage 2: 3808 bytes, 288 zeros\n",
            true,
        ),
        // A length of whole pages that was rounded up is no sign of a shorter file.
        (
            12000,
            0,
            "page 0: 4096 bytes, 0 zeros\npage 1: 4096 bytes, 0 zeros\npage 2: 3808 bytes, 288 zeros\n",
            "page 0: 4096 bytes, 0 zeros\npage 1: 4096 bytes, 0 zeros\npage 2: 3808 bytes, 288 zeros\n",
            false,
        ),
    ];
    for (size, length, sigbus, zero, is_refused) in cases {
        for (short, shown) in [("sigbus", sigbus), ("zero", zero), ("refuse", zero)] {
            let scratch = Scratch::on_tmpfs();
            let arguments = ["short", &size.to_string(), &length.to_string()];
            let output = run(named(&scratch, "SNAPSHIM_KEEP", &arguments).env("SNAPSHIM_SHORT", short));
            let refused = short == "refuse" && is_refused;
            let wanted = if refused { "ENXIO\n".to_owned() } else { shown.repeat(2) };
            assert_eq!(out(&output), wanted, "{size} {length} {short}: {}", err(&output));
            let is_said = refused || shown.contains("SIGBUS") || shown.contains(": 0 bytes");
            assert_eq!(err(&output).matches("has become shorter").count(), usize::from(is_said), "{}", err(&output));
        }
    }
}

/// A program that asks for a snapshot by itself can ask for its size too.
#[test]
fn a_snapshot_that_is_asked_for_is_none_of_these() {
    let scratch = Scratch::on_tmpfs();
    let output = run(named(&scratch, "SNAPSHIM_KEEP", &["asked", "5000", "0"]).env("SNAPSHIM_SHORT", "refuse"));
    let shown = "page 0: 4096 bytes, 0 zeros\npage 1: 904 bytes, 3192 zeros\npage 2: SIGBUS\n";
    assert_eq!(out(&output), shown.repeat(2), "{}", err(&output));
    assert_eq!(err(&output), "");
}

/// ld.so maps by itself, and dlclose(3) takes away by itself: such a file is no snapshot, which once went unsaid.
#[test]
fn what_is_loaded_is_no_snapshot_and_that_is_said_once() {
    let plugin = compile("mapping/plugin", &["-shared", "-fPIC"]);
    let folder = plugin.parent().unwrap().display().to_string();
    // The caller's own search path is looked up by libc at the return address.
    let loader = compile("mapping/named", &[&format!("-Wl,-rpath,{folder}")]);
    let (path, name) = (plugin.to_str().unwrap(), plugin.file_name().unwrap().to_str().unwrap());
    // Before 2.34 `libc.so.6` is the name of a link.
    let minor = glibc_minor();
    let (libc, libc_mapped) = match minor {
        34.. => ("libc.so*", "/libc.so.6 mapped by ld.so".to_owned()),
        _ => ("libc-2*", format!("/libc-2.{minor}.so mapped by ld.so")),
    };
    let cases = [
        (path, "plugin*", Some("/plugin-shared-fPIC mapped by ld.so")),
        (name, "plugin*", Some("/plugin-shared-fPIC mapped by ld.so")),
        (name, libc, Some(&*libc_mapped)),
        (name, "other*", None),
    ];
    for (load, pattern, wanted) in cases {
        for variable in ["SNAPSHIM_KEEP", "SNAPSHIM_FILES", "SNAPSHIM_SHARED_FILES"] {
            let scratch = Scratch::on_tmpfs();
            let output = run(scratch.shimmed(&loader, "auto").args(["load", load, load]).env(variable, pattern));
            assert_eq!(out(&output), "answer: 42\nanswer: 42\n", "{}", err(&output));
            let said = err(&output);
            let wanted = wanted.filter(|_| variable != "SNAPSHIM_SHARED_FILES");
            assert_eq!(said.lines().count(), usize::from(wanted.is_some()), "{variable}={pattern}: {said}");
            let remark = format!("so {variable}={pattern} has no effect on it");
            assert!(
                wanted.is_none_or(|text| said.contains(text) && said.contains(&remark)),
                "{variable}={pattern}: {said}"
            );
        }
    }
}
