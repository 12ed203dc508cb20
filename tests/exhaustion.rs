//! Nothing left: whatever the kernel refuses, a snapshot shows no other byte than it showed, or faults and says that it is broken;
//! where the policy is that writes fail, it does not even fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::holder::Holder;
use crate::common::{Scratch, WAYS, new_name, program, root, run, run_within, skip, text};

fn keeps_its_bytes(policy: &str, way: &str) {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("storm/exhaustion"), way);
    command.arg(policy).arg(scratch.table());
    command.env("SNAPSHIM_ON_FAILURE", policy).env("SNAPSHIM_TIMEOUT_MS", "100").env("SNAPSHIM_LOG", "off");
    let output = run_within(&mut command, Duration::from_secs(400));
    let said = text(&output);
    if said.contains("listener >= 0 does not hold") {
        return skip(policy, "seccomp(2) has no notifications here");
    }
    assert!(output.status.success(), "{policy}, {way}: {said}");
    print!("exhaustion: {policy}, {way}: {said}");
}

#[test]
fn a_call_that_fails_costs_a_snapshot_and_no_byte() {
    keeps_its_bytes("break-snapshot", "auto");
}

#[test]
fn a_call_that_fails_costs_a_write_and_no_snapshot() {
    keeps_its_bytes("fail-write", "agent");
}

#[test]
#[ignore = "a minute more: make soak"]
fn a_call_that_fails_costs_no_byte_the_other_way_round() {
    keeps_its_bytes("break-snapshot", "agent");
    keeps_its_bytes("fail-write", "auto");
}

/// A memory cgroup with a limit, for as long as it is wanted.
struct Limited(PathBuf);

impl Limited {
    fn to(bytes: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = |prefix: &str| groups.lines().find_map(|line| Some(line.split_once(prefix)?.1.to_string()));
        let (base, limit) = match path(":memory:") {
            Some(path) => (format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"),
            None => (format!("/sys/fs/cgroup{}", path("0::")?), "memory.max"),
        };
        let group = Path::new(&base).join(new_name());
        fs::create_dir(&group).ok()?;
        let group = Self(group);
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        Some(group)
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// One page more would have got the mapper killed.
#[test]
fn a_mapper_at_the_limit_of_its_memory_cgroup_lives() {
    const SIZE: usize = 96 << 20;
    for way in WAYS {
        for (policy, cut, states) in [
            ("break-snapshot", false, ["state=2 ", "state=2 "]),
            ("break-snapshot", true, ["state=2 ", "state=2 "]),
            ("fail-write", false, ["state=0 ", "same"]),
            ("fail-write", true, ["state=0 ", "same"]),
        ] {
            let about = format!("{way}, {policy}, {}", if cut { "cut" } else { "written" });
            let scratch = Scratch::new(&root().join("target/scratch"));
            let file = scratch.file("victim");
            fs::write(&file, vec![1; SIZE]).unwrap();
            let Some(group) = Limited::to(48 << 20) else {
                return skip("a_mapper_at_the_limit_of_its_memory_cgroup_lives", "no memory cgroup can be made here");
            };
            let mut command = scratch.shimmed(program("common/look"), way);
            let holder = Holder::run(command.arg(&file).arg(SIZE.to_string()));
            group.take_in(holder.pid());
            let verb = if cut {
                "truncate -s 0 victim"
            } else {
                "head -c 100663296 /dev/zero | dd of=victim bs=1M conv=notrunc iflag=fullblock"
            };
            let mut write = scratch.shimmed("sh", way);
            let output = run(write.args(["-c", verb]).env("SNAPSHIM_ON_FAILURE", policy));
            let said = text(&output);
            assert_eq!(output.status.success(), policy == "break-snapshot", "{about}: {said}");
            assert!(said.contains("memory cgroup"), "{about}: {said}");
            let found = holder.finish();
            assert!(states.iter().all(|state| found.contains(state)), "{about}: {found}{said}");
        }
    }
}
