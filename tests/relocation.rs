//! A file is cut under a writable snapshot while the mapper's own threads store into it: no store is lost, no other byte changes.

mod common;

use common::{program, run_ok, scratches};

#[test]
fn stores_during_a_relocation_are_not_lost() {
    for scratch in scratches() {
        run_ok(scratch.shimmed(program("cut_stores"), "auto").args(["victim", "12"]));
    }
}
