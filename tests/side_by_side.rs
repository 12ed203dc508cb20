//! Snapshots of different files are made side by side, and no process is refused one because others make theirs again and again.

use crate::common::{Scratch, program, run, skip, text};

#[test]
fn a_file_whose_writer_is_stuck_holds_back_no_snapshot_of_another() {
    for count in ["1", "4", "20"] {
        let scratch = Scratch::on_tmpfs();
        let mut command = scratch.shimmed(program("lifecycle/side_by_side"), "auto");
        let output = run(command.args(["stuck", count]).env("SNAPSHIM_TIMEOUT_MS", "500").env("SNAPSHIM_LOG", "off"));
        let said = text(&output);
        if let Some(why) = said.strip_prefix("SKIPPED ") {
            return skip("a_file_whose_writer_is_stuck_holds_back_no_snapshot_of_another", why.trim_end());
        }
        assert!(output.status.success(), "{count}: {said}");
    }
}

/// More files than there are creation records, and more processes than files.
#[test]
fn each_of_many_creations_at_once_is_made() {
    for (files, processes, rounds) in [("1", "12", "200"), ("40", "40", "100"), ("5", "30", "100")] {
        let scratch = Scratch::on_tmpfs();
        let mut command = scratch.shimmed(program("lifecycle/side_by_side"), "auto");
        let output = run(command.args(["many", files, processes, rounds]).env("SNAPSHIM_TIMEOUT_MS", "5000"));
        assert!(output.status.success(), "{files} files, {processes} processes: {}", text(&output));
    }
}
