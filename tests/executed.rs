//! A program that the library will not be in is found before it runs, by whatever call it is executed; and a program whose loader
//! cannot load the library is executed without it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Scratch, compile, copy_program, library, program, run, run_ok, skip, text};

const DOORS: [&str; 12] = [
    "execve",
    "execv",
    "execvp",
    "own_environment",
    "execveat",
    "execveat_descriptor",
    "execveat_path",
    "fexecve",
    "syscall_execve",
    "syscall_execveat",
    "vfork",
    "posix_spawn",
];

const REFUSED: &str = "refused: Operation not permitted\n";
const RUNS: &str = "it runs\n";

/// Executes a file by a door under the library; what is printed.
fn executed(scratch: &Scratch, door: &str, file: &Path, is_strict: bool) -> String {
    let mut command = scratch.shimmed(program("lifecycle/executes"), "auto");
    run_ok(command.arg(door).arg(file).env("SNAPSHIM_STRICT", if is_strict { "1" } else { "0" }))
}

/// A program whose loader is `./NAME`, which stands for that of another libc.
fn with_loader(scratch: &Scratch, name: &str) -> PathBuf {
    let flags = ["-nostdlib", "-static-pie", "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none"];
    copy_program(&compile("lifecycle/other_loader", &flags), &scratch.file(name));
    let made = compile("lifecycle/executed", &[&format!("-Wl,--dynamic-linker=./{name}")]);
    let copy = scratch.file(&format!("by-{name}"));
    copy_program(&made, &copy);
    copy
}

/// A copy of a program with some bytes changed.
fn changed(scratch: &Scratch, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(program("lifecycle/executed")).unwrap();
    change(&mut bytes);
    let (made, copy) = (scratch.file(&format!("{name}.made")), scratch.file(name));
    fs::write(&made, bytes).unwrap();
    fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
    copy_program(&made, &copy);
    copy
}

fn script(scratch: &Scratch, name: &str, interpreter: &Path) -> PathBuf {
    let path = scratch.file(name);
    fs::write(&path, format!("#! {} \n", interpreter.display())).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn who_is_not_reached_is_refused_by_every_call() {
    let scratch = Scratch::on_tmpfs();
    let fixed = compile("lifecycle/executed", &["-static"]);
    let relocated = compile("lifecycle/executed", &["-static-pie"]);
    let first = script(&scratch, "first", &fixed);
    let link = scratch.file("link");
    symlink(&fixed, &link).unwrap();
    let unreached = [
        link,
        script(&scratch, "second", &first),
        with_loader(&scratch, "ld-musl-x86_64.so.1"),
        changed(&scratch, "of-32-bits", |bytes| bytes[4] = 1),
        changed(&scratch, "for-another-processor", |bytes| bytes[18] = 183),
        compile("lifecycle/executed", &["-DLIKE_GO"]),
        first,
        relocated,
        fixed,
    ];
    for door in DOORS {
        for file in &unreached {
            // A script executed by a descriptor that is closed is not there for its interpreter.
            assert_eq!(executed(&scratch, door, file, true), REFUSED, "{door} {}", file.display());
        }
        assert_eq!(executed(&scratch, door, &program("lifecycle/executed"), true), RUNS, "{door}");
    }
}

#[test]
fn who_is_reached_is_not_refused() {
    let scratch = Scratch::on_tmpfs();
    let reached = program("lifecycle/executed");
    let of_script = script(&scratch, "of-a-script", Path::new("/bin/true"));
    assert_eq!(executed(&scratch, "execve", &of_script, true), "");
    // The loader, which loads what its arguments name.
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
    let mut command = scratch.shimmed("sh", "auto");
    let said = run_ok(
        command.arg("-c").arg(format!("exec {} {}", loader.display(), reached.display())).env("SNAPSHIM_STRICT", "1"),
    );
    assert_eq!(said, RUNS);
}

/// A header says that the segment is longer than any file. The kernel executes the program, for which it does not count.
#[test]
fn a_program_of_a_senseless_length_is_judged_at_once() {
    // Of a program header of 64 bits (elf(5)).
    let (size, length) = (32, 56);
    let scratch = Scratch::on_tmpfs();
    let mut bytes = fs::read(compile("lifecycle/executed", &["-static"])).unwrap();
    let number =
        |at: usize, width: usize| bytes[at..at + width].iter().rfold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (headers, count) = (number(32, 8), number(56, 2));
    let at = |index| headers + index * length;
    let stack = (0..count).map(at).find(|at| number(*at, 4) == libc::PT_GNU_STACK as usize).unwrap();
    bytes[stack..][..4].copy_from_slice(&libc::PT_DYNAMIC.to_le_bytes());
    bytes[stack + size..][..8].copy_from_slice(&(!15u64).to_le_bytes());
    let copy = changed(&scratch, "senseless", |program| *program = bytes);
    let mut command = scratch.shimmed("timeout", "auto");
    command.arg("60").arg(program("lifecycle/executes")).arg("execve").arg(&copy).env("SNAPSHIM_STRICT", "1");
    assert_eq!(run_ok(&mut command), REFUSED);
}

/// Rights of a file count where they are given: not by a mount without set-id, nor to a process that takes none.
#[test]
fn programs_that_gain_rights_are_found() {
    // SAFETY: getuid(2) has no preconditions.
    if unsafe { libc::getuid() } != 0 {
        return skip("programs_that_gain_rights_are_found", "only root gives rights to files");
    }
    let base = crate::common::root().join("target/scratch");
    let scratch = Scratch::new(&base);
    let (sets_id, is_capable) = (scratch.file("sets-id"), scratch.file("is-capable"));
    let (door, copy) = (scratch.file("executes"), scratch.file("library.so.libsnapshim"));
    for (from, to) in [(program("lifecycle/executed"), &sets_id), (program("lifecycle/executed"), &is_capable)] {
        copy_program(&from, to);
    }
    copy_program(&program("lifecycle/executes"), &door);
    copy_program(&library(), &copy);
    for (path, mode) in [(&scratch.path, 0o755), (&sets_id, 0o4755), (&is_capable, 0o755), (&door, 0o755)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    // CAP_NET_RAW, effective: VFS_CAP_REVISION_2 (linux/capability.h).
    let capabilities: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let name = std::ffi::CString::new(is_capable.to_str().unwrap()).unwrap();
    // SAFETY: a path, a name and a value of that length.
    let set =
        unsafe { libc::setxattr(name.as_ptr(), c"security.capability".as_ptr(), capabilities.as_ptr().cast(), 20, 0) };
    if set != 0 {
        return skip("programs_that_gain_rights_are_found", "the build directory's file system keeps no capabilities");
    }
    let table = scratch.file("table");
    for (file, gains) in [(&sets_id, true), (&is_capable, true), (&sets_id, false)] {
        let mut command = Command::new(&door);
        command
            .arg("execve")
            .arg(file)
            .env("LD_PRELOAD", &copy)
            .env("SNAPSHIM_DIR", &table)
            .env("SNAPSHIM_STRICT", "1");
        command.uid(65534).gid(65534).current_dir("/");
        // SAFETY: prctl(2) may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if !gains {
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                }
                Ok(())
            });
        }
        let output = run(&mut command);
        let expected = if gains { REFUSED } else { RUNS };
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}: {}", file.display(), text(&output));
    }
}

/// Once such a program ended at once: musl's loader cannot load a library that is made for glibc's.
#[test]
fn a_program_of_another_libc_is_executed_without_the_library() {
    let scratch = Scratch::on_tmpfs();
    let file = with_loader(&scratch, "ld-musl-x86_64.so.1");
    for door in DOORS {
        let found = executed(&scratch, door, &file, false);
        let expected = if door == "own_environment" { "BEFORE=1\nAFTER=2\nit runs\n" } else { RUNS };
        assert_eq!(found, expected, "{door}");
    }
    // What else is to be loaded stays, and the application's own array and strings are as they were: it may execute again.
    let mut command = scratch.shimmed(program("lifecycle/executes"), "auto");
    command.args(["posix_spawn", file.to_str().unwrap(), "9"]);
    command.env("LD_PRELOAD", format!("{} /nowhere/other.so", library().display()));
    let said = String::from_utf8_lossy(&run(&mut command).stdout).into_owned();
    assert_eq!(said, "LD_PRELOAD=/nowhere/other.so\nit runs\n".repeat(9));
}

#[test]
fn programs_of_musl_and_of_32_bits_run_as_natively() {
    const TEST: &str = "programs_of_musl_and_of_32_bits_run_as_natively";
    let scratch = Scratch::on_tmpfs();
    let source = crate::common::source("lifecycle/executed.c");
    for (compiler, arguments) in [("musl-gcc", &[][..]), ("gcc", &["-m32"])] {
        let made = scratch.file(&format!("by-{compiler}"));
        let output = Command::new(compiler).args(arguments).arg("-o").arg(&made).arg(&source).output();
        if !output.is_ok_and(|output| output.status.success()) {
            skip(TEST, &format!("{compiler} {arguments:?} does not work here"));
            continue;
        }
        for door in DOORS {
            let mut command = scratch.shimmed(program("lifecycle/executes"), "auto");
            let output = run(command.arg(door).arg(&made));
            assert_eq!((output.status.success(), text(&output).as_str()), (true, RUNS), "{compiler} {door}");
        }
    }
}

/// An empty file ended the program that executed it.
#[test]
fn the_beginning_of_a_program_is_refused_as_without_the_library() {
    let scratch = Scratch::on_tmpfs();
    for length in [0, 1, 3, 4, 15, 16, 17, 63, 64, 65, 119, 120, 500] {
        let part = changed(&scratch, &format!("part{length}"), |bytes| bytes.truncate(length));
        let native = run(scratch.native(program("lifecycle/executes")).arg("execve").arg(&part));
        assert_eq!(executed(&scratch, "execve", &part, false), text(&native), "{length} bytes");
    }
}
