//! What reaches an armed mapping without a hook, the kernel at the death of a process above all: nothing of it comes into a
//! snapshot, and what the kernel has to leave there is left.

use crate::common::{fails_natively, program, run_ok, scratches};

fn holds(scenario: &str) {
    for (scratch, way) in scratches().iter().zip(["direct", "agent"]) {
        for chunk in ["4", "64"] {
            run_ok(scratch.shimmed(program("sharing/armed"), way).arg(scenario).env("SNAPSHIM_CHUNK_KB", chunk));
        }
    }
    fails_natively("sharing/armed", scenario);
}

macro_rules! scenarios {
    ($($scenario:ident)*) => {
        $(
            #[test]
            fn $scenario() {
                holds(stringify!($scenario));
            }
        )*
    };
}

scenarios! {
    a_read_past_libc_reaches_no_snapshot
    who_is_killed_in_the_middle_of_a_read_reaches_no_snapshot
    stores_of_others_reach_no_snapshot
    closing_every_descriptor_opens_nothing
    the_mark_of_a_dead_owner_comes
    the_mark_of_a_thread_of_the_mapper_comes
}
