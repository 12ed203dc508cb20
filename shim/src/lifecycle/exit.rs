//! exit: a process that ends gives its snapshots back, so that no later write of any process is slowed down for them.

use snapshim::sys::procfs::{ProcPath, ProcStat};
use snapshim::sys::signal_block::SignalsBlocked;

use snapshim::protocol::process::Agent;

use crate::process::identity::{self, ThisProcess};

/// Gives the snapshots of the calling process back, which is about to end by exit_group(2). The calling thread comes back to no
/// code of the program.
///
/// A thread that goes on until the kernel ends it could still read them, and would read newer bytes. If there is one, writers find
/// the process dead, and look for that at once.
pub fn give_back() {
    // A vfork child ends its own image alone.
    let Some(own) = identity::attached().filter(|own| own.image.is_mapper() && !identity::is_vfork_child()) else {
        return;
    };
    // No handler reads a snapshot from here on.
    core::mem::forget(SignalsBlocked::new());
    if is_only_thread(&own) {
        // The agent compares both until the process ends.
        identity::own_ranges().note_given_back();
        own.table.retire_all_of(own.owner());
    } else {
        own.table.expect_death();
    }
}

/// Whether the process has no thread but the caller and its agent.
fn is_only_thread(own: &ThisProcess) -> bool {
    let has_agent = own.record().is_some_and(|record| matches!(record.agent(own.id), Agent::Thread(_)));
    let threads = ProcStat::read(&ProcPath::thread_self("stat")).map_or(0, |stat| stat.threads);
    threads == 1 + u64::from(has_agent)
}
