//! execve(2) and its kin: the table hears that the image ends, the program inherits the application's signal state and not the
//! shim's, and a program that the shim does not reach is found before it runs.

use core::ffi::{CStr, c_char, c_int, c_long};
use core::ptr::with_exposed_provenance as pointer;

use snapshim::cooperate::program::{self, Fate, Program};
use snapshim::protocol::unreached::Why;
use snapshim::sys::{permission, raw};
use syscalls::{Sysno, syscall};

use crate::base::config::config;
use crate::base::errno::as_libc;
use crate::interpose::answer::{Answer, fail};
use crate::interpose::interpose;
use crate::lifecycle::environment::{self, Array, Without};
use crate::lifecycle::exec;
use crate::process::log::{Bytes, Level, say, say_once};
use crate::process::{identity, membership};
use crate::signals;

interpose! {
    /// execve(2), which exec(3), posix_spawn(3), system(3) and popen(3) call
    execve, c"execve": execve => fn(
        path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char
    ) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, arguments, environment| as_libc(unsafe { syscall!(Sysno::execve, path, arguments, environment) }) as c_int,
        hook on_execve,
    }
    /// execveat(2)
    execveat, c"execveat": execveat => fn(
        directory: c_int, path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char, flags: c_int
    ) -> c_int {
        raw |directory, path, arguments, environment, flags| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::execveat, directory, path, arguments, environment, flags) }) as c_int
        },
        hook on_execveat,
    }
    /// fexecve(3)
    fexecve, c"fexecve": fexecve => fn(fd: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int {
        raw |fd, arguments, environment| {
            // SAFETY: the application's arguments, as they are; the path is empty, so that the descriptor is what is executed.
            as_libc(unsafe {
                syscall!(Sysno::execveat, fd, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH)
            }) as c_int
        },
        hook on_fexecve,
    }
}

/// Makes `call`, an exec, announced, with the signal state of the application in the kernel: that is what the new program inherits.
fn with_signals_for_exec<R>(call: impl FnOnce() -> R) -> R {
    let exec = membership::Exec::begin();
    let failed = exec::announced(|| {
        let signal_state = signals::for_exec();
        let failed = call();
        signal_state.take_back();
        failed
    });
    exec.end();
    failed
}

/// execve(2) and execveat(2) by number. `call` is given the environment.
pub fn by_number(number: c_long, arguments: [usize; 5], call: impl FnOnce(Array) -> c_long) -> c_long {
    let [a, b, c, d, e] = arguments;
    let (program, environment) = if number == libc::SYS_execve {
        (Program::at(pointer(a)), c)
    } else {
        (Program { directory: a as c_int, path: pointer(b), flags: e as c_int }, d)
    };
    execute(&program, pointer(environment), call)
}

/// An exec in a process that is confined: the program runs without the library, whose start would end it.
#[cold]
fn by_confined<R>(environment: Array, call: impl FnOnce(Array) -> R) -> R {
    membership::stay_unseen_confined("executes a program that runs without the library");
    let without = Without::new(environment);
    call(without.as_ref().map_or(environment, Without::array))
}

fn on_execveat(
    real: execveat::Function,
    directory: c_int,
    path: *const c_char,
    arguments: Array,
    environment: Array,
    flags: c_int,
) -> c_int {
    let program = Program { directory, path, flags };
    // SAFETY: the application's arguments; the environment is its own, or that without the library.
    execute(&program, environment, |environment| unsafe { real(directory, path, arguments, environment, flags) })
}

fn on_fexecve(real: fexecve::Function, fd: c_int, arguments: Array, environment: Array) -> c_int {
    let program = Program { directory: fd, path: c"".as_ptr(), flags: libc::AT_EMPTY_PATH };
    // SAFETY: as above.
    execute(&program, environment, |environment| unsafe { real(fd, arguments, environment) })
}

fn on_execve(real: execve::Function, path: *const c_char, arguments: Array, environment: Array) -> c_int {
    // SAFETY: as above.
    execute(&Program::at(path), environment, |environment| unsafe { real(path, arguments, environment) })
}

/// Makes `call`, an exec of `program`, with the environment that suits it, or refuses it.
fn execute<R: Answer>(program: &Program, environment: Array, call: impl FnOnce(Array) -> R) -> R {
    if permission::is_confined() {
        return by_confined(environment, call);
    }
    let fate = fate_of(program, environment);
    if !matches!(fate, Fate::Loaded) && config().is_strict {
        return fail(libc::EPERM);
    }
    let without = matches!(fate, Fate::Refused(_)).then(|| Without::new(environment)).flatten();
    // The table says so for as long as the program may be asked about.
    let noted = identity::attached().zip(fate.why()).map(|(own, why)| {
        // SAFETY: the kernel has opened a file by this path.
        let name = unsafe { program.name() };
        (own, own.table.unreached().note(raw::own_pid(), name.to_bytes(), why, raw::now()))
    });
    let failed = with_signals_for_exec(|| call(without.as_ref().map_or(environment, Without::array)));
    if let Some((own, number)) = noted {
        own.table.unreached().take_back(number);
    }
    failed
}

/// What the library will be to the program. It is said, where that is of use.
fn fate_of(program: &Program, environment: Array) -> Fate {
    if config().is_disabled {
        return Fate::Loaded;
    }
    // First of all: a search along PATH asks for many that are not there.
    let Some(file) = program.open() else { return Fate::Loaded };
    let Ok(preloads) = environment::preloads(environment) else { return Fate::Loaded };
    let is_asked = is_asked();
    let fate = match preloads {
        true => program::fate(file, is_asked),
        false => Fate::Absent(Why::NotPreloaded),
    };
    if let (true, Some(why)) = (is_asked, fate.why()) {
        // SAFETY: the kernel has opened a file by this path.
        log_unreached(unsafe { program.name() }, why.text());
    }
    fate
}

/// Whether it matters that a program runs without the library: to find out costs a few system calls more.
fn is_asked() -> bool {
    let is_active = || identity::attached().is_some_and(|own| own.table.gate().active.is_raised());
    config().is_strict || config().log.level >= Level::Info || is_active()
}

fn log_unreached(path: &CStr, why: &str) {
    let name = Bytes(path.to_bytes());
    let own = raw::own_pid();
    if config().is_strict {
        let answer = "refused (EPERM)";
        say!(Level::Warn, file = name; "process {own} executes {name}, which the shim does not reach because {why}: {answer}");
    } else {
        let answer = "its changes are NOT held back from snapshots";
        say_once!(Level::Warn, file = name; "process {own} executes {name}, which the shim does not reach because {why}: {answer}");
    }
}
