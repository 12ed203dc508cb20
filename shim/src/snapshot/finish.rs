//! What comes after the instant: the place that MAP_FIXED asks for, locked and populated pages, and what is said of the snapshot.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::protocol::snapshot::LOCKED;
use snapshim::protocol::writer_slot::{Request, Task};
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::raw;

use super::part::Made;
use super::request::Wanted;
use crate::address_space::lock;
use crate::base::config::{Short, config};
use crate::base::mmap_call::Mmap;
use crate::mapper::preserve_own;
use crate::process::log::{Level, say};
use crate::process::thread::Thread;
use crate::shared::calls;

/// Says that the file is shorter than its reader was told: the first time in this process, and then to whom wants more of the log.
#[cold]
pub fn log_if_short(wanted: &Wanted, made: Result<&Made, Errno>) {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    let Wanted { mmap, .. } = wanted;
    let origin = wanted.source.origin;
    let what = match (made, wanted.by.short()) {
        (Err(Errno::NXIO), Short::Refuse) => "the mapping fails (ENXIO); map it again at its present size",
        (Ok(made), Short::Zero) if made.backed < mmap.pages() => "pages past its end are zero",
        (Ok(made), Short::Sigbus) if made.backed < mmap.pages() => "pages past its end raise SIGBUS",
        _ => return,
    };
    let level = if IS_SAID.swap(true, Ordering::Relaxed) { Level::Info } else { Level::Warn };
    let end = (mmap.offset as u64).saturating_add(mmap.length as u64);
    say!(
        level,
        file = origin;
        "mapping of {} in process {}: the file has become shorter than the {end} bytes that are asked for, so {what}; \
         SNAPSHIM_SHORT is what decides (sigbus, zero or refuse)",
        origin,
        raw::own_pid()
    );
}

/// Notes what the snapshot's file is called at this moment, for people who ask for the snapshots there are: later the file may be
/// renamed, and the mapping may leave it.
pub fn note_name(thread: &Thread, wanted: &Wanted) {
    let mut buffer = [const { MaybeUninit::uninit() }; 500];
    let link = ProcPath::thread_self("fd").slash(wanted.mmap.descriptor as u32);
    if let Ok((name, _)) = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer) {
        thread.own.table.note_name(wanted.source.origin, name);
    }
}

/// What comes after the instant: the place that MAP_FIXED asks for, and what MAP_LOCKED and MAP_POPULATE ask for. These may take
/// long, so the gate is open.
pub fn finish(thread: &Thread, mmap: &Mmap, made: &mut Made) -> Result<(), Errno> {
    if mmap.replaces() {
        move_to(thread, made, mmap.address)?;
    }
    apply_map_flags(thread, mmap, made)
}

/// MAP_FIXED: puts the snapshot at `target`, in place of what is there. It may have been split into several segments by now.
fn move_to(thread: &Thread, made: &mut Made, target: *mut c_void) -> Result<(), Errno> {
    let mappings = lock::hold(thread.own);
    let from = made.range();
    let to = target as u64..(target as u64).saturating_add(from.end - from.start);
    if !to.start.is_multiple_of(PAGE) {
        return Err(Errno::INVAL);
    }
    if !mappings.is_all(&from) {
        return Err(Errno::UCLEAN);
    }
    calls::take_away(&thread.own, &to, || mappings.shift(&from, to.start))?;
    made.address = target;
    Ok(())
}

/// MAP_LOCKED and MAP_POPULATE.
fn apply_map_flags(thread: &Thread, mmap: &Mmap, made: &Made) -> Result<(), Errno> {
    if mmap.flags & libc::MAP_LOCKED != 0 && made.backed > 0 {
        // SAFETY: locking changes no byte.
        let locked = unsafe { rustix::mm::mlock(made.address, (made.backed * PAGE) as usize) };
        // mmap(2) says EAGAIN where mlock(2) says ENOMEM.
        locked.map_err(|error| if error == Errno::NOMEM { Errno::AGAIN } else { error })?;
        lock::hold(thread.own).note(&made.range(), LOCKED, true, || Ok(()))?;
    }
    if mmap.flags & libc::MAP_POPULATE != 0 {
        populate(thread, mmap, made);
    }
    Ok(())
}

/// Preserves everything now, so that no writer has to later. As for the kernel's MAP_POPULATE, failure is no error.
fn populate(thread: &Thread, mmap: &Mmap, made: &Made) {
    let first = mmap.offset as u64 / PAGE;
    let mut page = first;
    while page < first + made.backed {
        let count = snapshim::preserve::RUN.min(first + made.backed - page);
        let request =
            Request { snapshot: made.index, incarnation: made.incarnation, task: Task::Preserve, first: page, count };
        let deadline = raw::now() + config().timeout;
        if !preserve_own::local_preserver(&thread.own, deadline).handle_whole(&request) {
            return;
        }
        page += count;
    }
}
