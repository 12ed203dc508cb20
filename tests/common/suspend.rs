//! The ways in which a process is kept from running, as `tests/programs/common/suspend.h` takes them.

use std::fs;
use std::path::{Path, PathBuf};

use super::{new_name, skip};

/// A cgroup whose processes can be frozen, for as long as it is wanted.
struct Freezer(PathBuf);

impl Freezer {
    /// cgroup v1 has a hierarchy for it; in v2 every group but the root can.
    fn new() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = |prefix: &str| groups.lines().find_map(|line| Some(line.split_once(prefix)?.1.to_string()));
        let places =
            [("/sys/fs/cgroup/freezer", ":freezer:"), ("/sys/fs/cgroup", "0::"), ("/sys/fs/cgroup/unified", "0::")];
        places.iter().find_map(|(mount, prefix)| {
            let group = Path::new(&format!("{mount}{}", own(prefix)?)).join(new_name());
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            let can = |file| group.0.join(file).exists();
            (can("cgroup.procs") && (can("freezer.state") || can("cgroup.freeze"))).then_some(group)
        })
    }
}

/// A test that fails leaves no process frozen.
impl Drop for Freezer {
    fn drop(&mut self) {
        for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = self.0.join(file);
            if file.exists() {
                let _ = fs::write(file, thawed);
            }
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// Runs `check` once for each value of SUSPEND.
pub fn in_each_way(test: &str, check: impl Fn(&str)) {
    check("stop");
    check("trace");
    match Freezer::new() {
        Some(freezer) => check(freezer.0.to_str().unwrap()),
        None => skip(test, "no cgroup can be made here that freezes its processes"),
    }
}
