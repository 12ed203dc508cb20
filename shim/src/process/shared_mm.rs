//! Memory that a child shares: after vfork(2) while the calling thread waits, after clone(2) with CLONE_VM beside it.

use core::sync::atomic::Ordering;

use snapshim::sys::sync::full_fence;
use snapshim::sys::{permission, raw};

use super::identity::{LENDS_FOR_GOOD, SHARES_MM, SPAWNS, attached, image_page, note_time_space, table};
use super::{first_thread, thread};

/// Notes, before the call, that a child will share this memory. It may do so when this process is gone already. `is_concurrent`:
/// the calling thread is not stopped meanwhile.
pub fn note_shared_mm(is_concurrent: bool) {
    thread::note_shared_mm(is_concurrent);
    SHARES_MM.store(true, Ordering::Relaxed);
    LENDS_FOR_GOOD.store(true, Ordering::Relaxed);
    // SeqCst: pairs with the fence in `membership::become_known`, which says so where there is no record now.
    full_fence();
    if let Some(own) = attached()
        && let Some(record) = own.record()
    {
        record.note_shared_mm(own.id);
    }
}

/// Makes `spawn`, a posix_spawn(3): its child shares this memory until the call returns. A process that is killed meanwhile leaves
/// the note behind.
pub fn while_spawning<T>(spawn: impl FnOnce() -> T) -> T {
    thread::note_shared_mm(false);
    SHARES_MM.store(true, Ordering::Relaxed);
    SPAWNS.fetch_add(1, Ordering::Relaxed);
    // SeqCst: as above.
    full_fence();
    let noted = attached().and_then(|own| Some((own.record()?, own.id)));
    if let Some((record, id)) = noted {
        record.begin_spawn(id);
    }
    let result = spawn();
    if let Some((record, id)) = noted {
        record.end_spawn(id);
    }
    // Release: pairs with the Acquire in `lends_memory`: the child is gone.
    SPAWNS.fetch_sub(1, Ordering::Release);
    result
}

/// Notes which process this memory belongs to. The constructor and a forked child do that, before a vfork child can be the first
/// to use the memory.
pub fn note_pid() {
    first_thread::note();
    LENDS_FOR_GOOD.store(false, Ordering::Relaxed);
    SPAWNS.store(0, Ordering::Relaxed);
    thread::forget_shared_mm();
    if table().is_some() && !permission::is_confined() {
        note_time_space();
    }
    if let Some(image) = image_page() {
        image.pid.store(raw::own_pid(), Ordering::Relaxed);
    }
}
