//! A program that includes snapshim.h builds and runs with and without the shim, however it is linked.

use std::process::Command;

use crate::common::{Scratch, root, run_ok, skip};

const SOURCE: &str = r#"
#include <stdio.h>
#include "snapshim.h"
int main(void)
{
    struct snapshim_stat stat;
    const char *version = snapshim_version();
    printf("%d %d %d %s\n", snapshim_active(), snapshim_stat(&stat, &stat), snapshim_why(&stat, 0, 0), version ? version : "none");
    return 0;
}
"#;

#[test]
fn every_way_of_linking_finds_the_shim_if_it_is_there() {
    let scratch = Scratch::on_tmpfs();
    let with = format!("1 -1 -1 {}\n", env!("CARGO_PKG_VERSION"));
    let without = "0 -1 -1 none\n";
    for (compiler, flags, name) in [
        ("gcc", "-std=c99 -pedantic", "c"),
        ("gcc", "-fno-pic -no-pie -O2", "c"),
        ("gcc", "-fno-pic -no-pie -O0", "c"),
        ("g++", "-std=c++98", "cpp"),
        ("gcc", "-static", "c"),
    ] {
        if Command::new(compiler).arg("--version").output().is_err() {
            skip("every_way_of_linking_finds_the_shim_if_it_is_there", &format!("no {compiler}"));
            continue;
        }
        let (source, made) = (scratch.file(&format!("probe.{name}")), scratch.file("probe"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut compile = Command::new(compiler);
        compile.args(["-Wall", "-Wextra", "-Werror", "-I"]).arg(root().join("shim/include"));
        run_ok(compile.args(flags.split(' ')).arg("-o").arg(&made).arg(&source));
        assert_eq!(run_ok(&mut scratch.native(&made)), without, "{compiler} {flags}");
        let expected = if flags == "-static" { without } else { &with };
        assert_eq!(run_ok(&mut scratch.shimmed(&made, "auto")), expected, "{compiler} {flags}");
    }
}
