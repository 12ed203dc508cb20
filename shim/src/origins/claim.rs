//! `SNAPSHIM_CLAIM=1`: an exclusive claim on a block device for as long as this process has a snapshot of it.
//!
//! A claim is an open file (open(2), O_EXCL on a block device): while it is open, the kernel refuses other claims. A mount, mkfs
//! and blkdiscard each begin with one. A forked child inherits the file with the snapshots, so the device stays claimed until both
//! processes are done; exec closes it. The application may close any descriptor, so the file is marked, and the mark is checked
//! before the claim counts and in each round of the agent. Claims change only under the lock over the process's mappings.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::cooperate::locate::{target_of_descriptor, target_of_stat};
use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::rare::Rare;
use snapshim::sys::{procfs, raw};
use snapshim::table::walk::Walk;
use syscalls::{Sysno, syscall};

use super::doubt;
use crate::address_space::lock::{self, Mappings};
use crate::base::config::config;
use crate::process::fd_table;
use crate::process::identity::{self, ThisProcess};
use crate::process::log::{Level, Program, say};

/// A claim of this process.
struct Claim {
    /// The device's `st_rdev`; 0: there is no claim here. No block device has the number 0:0.
    device: AtomicU64,
    /// The descriptor of the claim.
    number: AtomicU32,
}

#[unsafe(link_section = ".bss.rare")]
static CLAIMS: Rare<[Claim; 64]> = Rare([const { Claim { device: AtomicU64::new(0), number: AtomicU32::new(0) } }; 64]);

/// Claims the device before the first snapshot of it. EBUSY: another process has a claim.
pub fn take(mappings: &Mappings, file: BorrowedFd<'_>, origin: Origin) -> Result<(), Errno> {
    if !config().claims_devices || !origin.is_block_device() {
        return Ok(());
    }
    if let Some(claim) = claims().find(|claim| claim.origin() == origin) {
        if claim.is_intact() {
            return Ok(());
        }
        claim.log_lost(&mappings.own);
    }
    let free = CLAIMS.iter().find(|claim| claim.device.load(Ordering::Relaxed) == 0).ok_or(Errno::MFILE)?;
    free.fill(file, origin).inspect_err(|error| log_refused(&mappings.own, origin, *error))
}

/// Gives up the claims on devices that this process has no snapshot of any more.
pub fn release_unused(own: &ThisProcess) {
    if config().claims_devices {
        release(|origin| !has_snapshot_of(own, origin));
    }
}

/// In a forked child, which may have inherited a claim without the snapshots.
pub fn retain_inherited() {
    match identity::attached() {
        Some(own) => release_unused(&own),
        None => release(|_| true),
    }
}

/// A round of the agent: snapshots of a device whose claim is lost are doubtful.
pub fn check(own: &ThisProcess) {
    if claims().next().is_none() {
        return;
    }
    let Some(mappings) = lock::try_hold(*own) else { return };
    for claim in claims().filter(|claim| !claim.is_intact()) {
        claim.log_lost(&mappings.own);
    }
}

fn claims() -> impl Iterator<Item = &'static Claim> {
    CLAIMS.iter().filter(|claim| claim.device.load(Ordering::Relaxed) != 0)
}

fn release(is_unused: impl Fn(Origin) -> bool) {
    for claim in claims().filter(|claim| is_unused(claim.origin())) {
        if claim.is_intact() {
            // SAFETY: the number is the file that `fill` opened, and this module alone knows it.
            drop(unsafe { raw::adopt_fd(claim.number.load(Ordering::Relaxed) as i32) });
        }
        claim.device.store(0, Ordering::Relaxed);
    }
}

fn has_snapshot_of(own: &ThisProcess, origin: Origin) -> bool {
    let of_origin = |walk: Walk<'_>| walk.owned_by(own.owner()).find(|(_, view)| view.meta.origin == origin);
    own.table.find_over_splits(of_origin).is_some()
}

/// The mark: a property of an open file (fcntl(2)) that has no effect without O_ASYNC.
const F_SETSIG: usize = 10;
const F_GETSIG: usize = 11;
const MARK: usize = 64;

impl Claim {
    fn origin(&self) -> Origin {
        Origin::block_device(self.device.load(Ordering::Relaxed))
    }

    fn fill(&self, file: BorrowedFd<'_>, origin: Origin) -> Result<(), Errno> {
        let path = procfs::ProcPath::thread_self("fd").slash(file.as_raw_fd() as u32);
        let claimed = raw::move_up(raw::open(path.as_c_str(), OFlags::RDONLY | OFlags::EXCL)?)?;
        if target_of_stat(&rustix::fs::fstat(&claimed)?) != Target::Origin(origin) {
            return Err(Errno::BADF);
        }
        set_mark(claimed.as_fd())?;
        self.number.store(claimed.into_raw_fd() as u32, Ordering::Relaxed);
        self.device.store(origin.device(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether the descriptor is still the file that was opened. Yes where that cannot be found out.
    fn is_intact(&self) -> bool {
        match fd_table::open_file(self.number.load(Ordering::Relaxed)) {
            Ok(file) => target_of_descriptor(file.number()) == Target::Origin(self.origin()) && has_mark(file.as_fd()),
            Err(error) => error != Errno::BADF,
        }
    }

    fn log_lost(&self, own: &ThisProcess) {
        let origin = self.origin();
        self.device.store(0, Ordering::Relaxed);
        let number = self.number.load(Ordering::Relaxed);
        let doubted = doubt::doubt_snapshots_of(own, origin, Cause::ClaimLost);
        if doubted > 0 {
            say!(
                Level::Warn,
                file = origin;
                "snapshot of {} in {} is doubtful from now on: {}",
                origin,
                Program(raw::own_pid()),
                Cause::ClaimLost.of(format_args!("the program closed descriptor {number},")).in_full()
            );
        }
    }
}

fn set_mark(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the arguments are values.
    unsafe { syscall!(Sysno::fcntl, file.as_raw_fd(), F_SETSIG, MARK) }.map(drop).map_err(raw::errno)
}

fn has_mark(file: BorrowedFd<'_>) -> bool {
    // SAFETY: as in `set_mark`.
    let mark = unsafe { syscall!(Sysno::fcntl, file.as_raw_fd(), F_GETSIG, 0) };
    mark == Ok(MARK)
}

fn log_refused(own: &ThisProcess, origin: Origin, error: Errno) {
    let mapper = doubt::mapper_of(own, origin).filter(|pid| *pid != raw::own_pid()).map(Program);
    match (error, mapper) {
        (Errno::BUSY, Some(mapper)) => say!(
            Level::Warn,
            file = origin;
            "snapshot of {} refused: SNAPSHIM_CLAIM=1 asks for an exclusive claim, and another program has one, perhaps {mapper} \
             for a snapshot of its own; end that first, or take the snapshot without SNAPSHIM_CLAIM",
            origin
        ),
        (Errno::BUSY, None) => say!(
            Level::Warn,
            file = origin;
            "snapshot of {} refused: SNAPSHIM_CLAIM=1 asks for an exclusive claim, and there is another one (by a mount in another \
             mount namespace, swap, mkfs, or a use of one of its partitions); end that first, or take the snapshot without \
             SNAPSHIM_CLAIM",
            origin
        ),
        _ => say!(
            Level::Warn,
            file = origin;
            "snapshot of {} refused: the exclusive claim that SNAPSHIM_CLAIM=1 asks for cannot be opened (errno {}); give {} the \
             right to open the device, or take the snapshot without SNAPSHIM_CLAIM",
            origin,
            error.raw_os_error(),
            Program(raw::own_pid())
        ),
    }
}
