//! syscall(2): the calls of the other hooks, made by number. Every other number goes on to libc's function.

use core::ffi::{c_int, c_long};
use core::ptr::with_exposed_provenance_mut as pointer;

use syscalls::{Sysno, raw_syscall};

use super::aio::{io_submit, io_uring};
use super::file::{close, ioctl, open, read, recv, splice, truncate, utime, write};
use super::process::{clone, confine, credentials, exec, exit, prctl};
use super::signal::{action, jump, mask, wait};
use super::{mlockall, mmap};
use crate::base::errno::as_libc;
use crate::base::user_memory::read_value;
use crate::interpose::answer::{answer, fail, status};
use crate::interpose::interpose;
use crate::lifecycle::{confinement, fork};
use crate::mapper::faults;
use crate::process::{ptracer, shared_mm};

interpose! {
    /// syscall(2); variadic in C, six arguments are passed on as they come
    syscall, c"syscall": syscall => fn(
        number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize
    ) -> c_long {
        raw |number, a, b, c, d, e, f| by_number(number, [a, b, c, d, e, f]),
        hook on_syscall,
    }
}

fn by_number(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> c_long {
    let Some(call) = Sysno::new(number as usize) else {
        return fail(libc::ENOSYS);
    };
    // SAFETY: the application's arguments, as they are.
    let result = unsafe { raw_syscall!(call, a, b, c, d, e, f) };
    as_libc(syscalls::Errno::from_ret(result)) as c_long
}

/// Whether the number is one of the x32 table (arch/x86/entry/syscalls/syscall_64.tbl): the same calls with other structures. Few
/// kernels have it, and no program that loads this library has a use for it.
const fn is_of_another_table(number: c_long) -> bool {
    const X32: c_int = 0x4000_0000;
    let number = number as c_int;
    number >= X32 || 512 <= number && number < 548
}

/// Leads each number to its hook. Every other number goes on.
#[expect(clippy::too_many_arguments, reason = "syscall(2) takes a number and six arguments")]
fn on_syscall(
    real: syscall::Function,
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    if is_of_another_table(number) {
        return fail(libc::ENOSYS);
    }
    // The kernel looks at the low 32 bits alone (arch/x86/entry/entry_64.S).
    let number = c_long::from(number as c_int);
    let fd = a as c_int;
    let arguments = [a, b, c, d, e, f];
    let pass = || by_number(number, arguments);
    let pass_with = |arguments| by_number(number, arguments);
    match number {
        libc::SYS_write => write::on_write(write::write::raw, fd, pointer(b), c) as c_long,
        libc::SYS_pwrite64 => write::on_pwrite(write::pwrite64::raw, fd, pointer(b), c, d as i64) as c_long,
        libc::SYS_writev => write::on_writev(write::writev::raw, fd, pointer(b), c as c_int) as c_long,
        libc::SYS_pwritev => write::on_pwritev(write::pwritev64::raw, fd, pointer(b), c as c_int, d as i64) as c_long,
        libc::SYS_pwritev2 => {
            write::on_pwritev2(write::pwritev64v2::raw, fd, pointer(b), c as c_int, d as i64, f as c_int) as c_long
        }
        libc::SYS_read => read::on_read(read::read::raw, fd, pointer(b), c) as c_long,
        libc::SYS_pread64 => read::on_pread(read::pread64::raw, fd, pointer(b), c, d as i64) as c_long,
        libc::SYS_readv => read::on_readv(read::readv::raw, fd, pointer(b), c as c_int) as c_long,
        libc::SYS_preadv => read::on_preadv(read::preadv64::raw, fd, pointer(b), c as c_int, d as i64) as c_long,
        libc::SYS_preadv2 => {
            read::on_preadv2(read::preadv64v2::raw, fd, pointer(b), c as c_int, d as i64, f as c_int) as c_long
        }
        libc::SYS_getrandom => read::on_getrandom(read::getrandom::raw, pointer(a), b, c as u32) as c_long,
        libc::SYS_process_vm_readv => {
            let raw = read::process_vm_readv::raw;
            read::on_process_vm_readv(raw, a as c_int, pointer(b), c as u64, pointer(d), e as u64, f as u64) as c_long
        }
        libc::SYS_recvfrom => {
            recv::on_recvfrom(recv::recvfrom::raw, fd, pointer(b), c, d as c_int, pointer(e), pointer(f)) as c_long
        }
        libc::SYS_recvmsg => recv::on_recvmsg(recv::recvmsg::raw, fd, pointer(b), c as c_int) as c_long,
        libc::SYS_recvmmsg => {
            recv::on_recvmmsg(recv::recvmmsg::raw, fd, pointer(b), c as u32, d as c_int, pointer(e)).into()
        }
        libc::SYS_ftruncate => truncate::on_ftruncate(truncate::ftruncate64::raw, fd, b as i64).into(),
        libc::SYS_truncate => truncate::on_truncate(truncate::truncate64::raw, pointer(a), b as i64).into(),
        libc::SYS_fallocate => {
            truncate::on_fallocate(truncate::fallocate64::raw, fd, b as c_int, c as i64, d as i64).into()
        }
        libc::SYS_utimensat => {
            utime::on_utimensat(utime::utimensat::raw, fd, pointer(b), pointer(c), d as c_int).into()
        }
        libc::SYS_futimesat => utime::on_futimesat(utime::futimesat::raw, fd, pointer(b), pointer(c)).into(),
        libc::SYS_utimes => utime::on_utimes(utime::utimes::raw, pointer(a), pointer(b)).into(),
        libc::SYS_utime => utime::on_utime(utime::utime::raw, pointer(a), pointer(b)).into(),
        libc::SYS_open => open::on_open(open::open64::raw, pointer(a), b as c_int, c as u32).into(),
        libc::SYS_openat => open::on_openat(open::openat64::raw, fd, pointer(b), c as c_int, d as u32).into(),
        libc::SYS_openat2 => open::on_openat2(open::openat2::raw, fd, pointer(b), pointer(c), d).into(),
        libc::SYS_creat => open::on_creat(open::creat64::raw, pointer(a), b as u32).into(),
        libc::SYS_open_by_handle_at => {
            open::on_open_by_handle(open::open_by_handle::raw, fd, pointer(b), c as c_int).into()
        }
        libc::SYS_copy_file_range => {
            let raw = splice::copy_file_range::raw;
            splice::on_copy_file_range(raw, fd, pointer(b), c as c_int, pointer(d), e, f as u32) as c_long
        }
        libc::SYS_sendfile => splice::on_sendfile(splice::sendfile64::raw, fd, b as c_int, pointer(c), d) as c_long,
        libc::SYS_splice => {
            splice::on_splice(splice::splice::raw, fd, pointer(b), c as c_int, pointer(d), e, f as u32) as c_long
        }
        libc::SYS_vmsplice => splice::on_vmsplice(splice::vmsplice::raw, fd, pointer(b), c, d as u32) as c_long,
        libc::SYS_ioctl => ioctl::on_ioctl(ioctl::ioctl::raw, fd, b as u64, pointer(c)).into(),
        libc::SYS_userfaultfd => faults::making(pass),
        libc::SYS_mmap => mmap::by_number([a, b, c, d, e, f]),
        libc::SYS_munmap => status(mmap::unmap(pointer(a), b)),
        libc::SYS_mprotect => status(mmap::protect(pointer(a), b, c as c_int)),
        libc::SYS_madvise => status(mmap::advise(pointer(a), b, c as c_int)),
        libc::SYS_process_madvise => answer(mmap::advise_each(fd, pointer(b), c, d as c_int, e as u32)) as c_long,
        libc::SYS_pkey_mprotect => status(mmap::protect_with_key(pointer(a), b, c as c_int, d as c_int)),
        libc::SYS_shmat => answer(mmap::attach(fd, pointer(b), c as c_int)) as c_long,
        libc::SYS_mlock => status(mmap::lock(Sysno::mlock, pointer(a), b, 0)),
        libc::SYS_munlock => status(mmap::lock(Sysno::munlock, pointer(a), b, 0)),
        libc::SYS_mlock2 => status(mmap::lock(Sysno::mlock2, pointer(a), b, c as u32)),
        libc::SYS_mlockall => status(mlockall::lock_all(a as c_int)),
        libc::SYS_munlockall => status(mlockall::unlock_all()),
        libc::SYS_mseal => status(mmap::seal(pointer(a), b, c)),
        libc::SYS_prctl if a as u64 == ptracer::SET => {
            // SAFETY: the application's arguments, as they are.
            prctl::noting(a as i32, b as u64, || unsafe { real(number, a, b, c, d, e, f) })
        }
        libc::SYS_remap_file_pages => status(mmap::show_other_pages(pointer(a), b, c as c_int, d, e as c_int)),
        libc::SYS_mremap => answer(mmap::remap(pointer(a), b, c, d as c_int, pointer(e))) as c_long,
        libc::SYS_close => close::on_close(close::close::raw, fd).into(),
        libc::SYS_dup2 => close::on_dup2(close::dup2::raw, fd, b as c_int).into(),
        libc::SYS_dup3 => close::on_dup3(close::dup3::raw, fd, b as c_int, c as c_int).into(),
        libc::SYS_close_range => close::on_close_range(close::close_range::raw, a as u32, b as u32, c as c_int).into(),
        libc::SYS_io_setup => io_submit::setup_by_number(a as c_int, pointer(b)),
        libc::SYS_io_destroy => io_submit::destroy_by_number(a),
        libc::SYS_io_submit => io_submit::by_number(a, b as c_long, pointer(c)),
        libc::SYS_rt_sigaction => action::action_by_number(pass, fd, pointer(b), pointer(c), d),
        libc::SYS_sigaltstack => jump::alternate_by_number(pass, pointer(a)),
        libc::SYS_rt_sigprocmask => mask::mask_by_number(pass, fd, pointer(b), pointer(c), d),
        libc::SYS_rt_sigsuspend => wait::wait_by_number(pass_with, arguments, 0),
        libc::SYS_ppoll => wait::wait_by_number(pass_with, arguments, 3),
        libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => wait::wait_by_number(pass_with, arguments, 4),
        libc::SYS_pselect6 => wait::pselect_by_number(pass_with, arguments),
        libc::SYS_rt_sigpending if b == 8 => wait::on_sigpending(wait::sigpending::raw, pointer(a)).into(),
        libc::SYS_rt_sigtimedwait if d == 8 => {
            wait::on_sigtimedwait(wait::sigtimedwait::raw, pointer(a), pointer(b), pointer(c)).into()
        }
        libc::SYS_signalfd4 if c == 8 => wait::on_signalfd(wait::signalfd::raw, fd, pointer(b), d as c_int).into(),
        libc::SYS_fork => fork::forked(0, &|| pass() as libc::pid_t).into(),
        libc::SYS_clone if clone::is_fork(a, b) => clone::by_number([a, b, c, d, e]),
        libc::SYS_clone3 if let Some(arguments) = clone::Arguments::of_fork(pointer(a), b) => {
            clone::by_structure(arguments, b)
        }
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_vfork => {
            match number {
                libc::SYS_clone => clone::note_shared_mm(a as u64),
                libc::SYS_vfork => shared_mm::note_shared_mm(false),
                // The kernel refuses an argument that cannot be read.
                _ => clone::note_shared_mm(read_value(a as u64).unwrap_or(0)),
            }
            // SAFETY: the application's arguments, as they are.
            unsafe { real(number, a, b, c, d, e, f) }
        }
        libc::SYS_exit => clone::end_by_number(fd),
        libc::SYS_exit_group => exit::by_number(fd),
        libc::SYS_execve => exec::by_number(number, [a, b, c, d, e], |environment| {
            pass_with([a, b, environment.expose_provenance(), d, e, f])
        }),
        libc::SYS_execveat => exec::by_number(number, [a, b, c, d, e], |environment| {
            pass_with([a, b, c, environment.expose_provenance(), e, f])
        }),
        _ if credentials::NUMBERS.contains(&number) => {
            if credentials::takes_rights_away(number, a) {
                confine::join_before();
            }
            crate::agent::exclusion::with_agent_stopped(pass)
        }
        _ if let Some(filter) = confine::filter_by_number(number, arguments) => {
            // SAFETY: the application's arguments, as they are.
            confinement::confined(filter, || unsafe { real(number, a, b, c, d, e, f) })
        }
        _ if confine::shuts_in_by_number(number, arguments) => {
            confine::join_before();
            // SAFETY: the application's arguments, as they are.
            let call = || unsafe { real(number, a, b, c, d, e, f) };
            if number == libc::SYS_prctl { prctl::noting(a as i32, b as u64, call) } else { call() }
        }
        libc::SYS_io_uring_setup if io_uring::is_denied() => io_uring::deny().into(),
        libc::SYS_io_uring_setup => {
            io_uring::note();
            // SAFETY: the application's arguments, as they are.
            unsafe { real(number, a, b, c, d, e, f) }
        }
        // SAFETY: the application's arguments, as they are.
        _ => unsafe { real(number, a, b, c, d, e, f) },
    }
}
