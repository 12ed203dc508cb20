//! Libraries in namespaces of their own (dlmopen) have a libc of their own: what they change through it is held back as well.

use std::path::PathBuf;

use crate::common::{compile, made_programs, run_ok, scratches};

fn plugin() -> PathBuf {
    compile("reach/beside_plugin", &["-shared", "-fPIC"])
}

fn holds(way: &str) {
    let runpath = format!("-Wl,-rpath,{}", made_programs().join("reach").display());
    let program = compile("reach/beside", &[&runpath]);
    for scratch in scratches() {
        run_ok(scratch.shimmed(&program, "auto").arg(plugin()).arg(way));
    }
}

#[test]
fn what_a_libc_beside_changes_is_held_back() {
    for way in ["write", "pwritev", "syscall", "stdio", "O_TRUNC", "ftruncate", "stores", "posix_madvise"] {
        holds(way);
    }
}

#[test]
fn a_libc_beside_has_its_own_errno() {
    holds("errno");
}

#[test]
fn a_namespace_of_a_namespace_is_seen() {
    holds("nested");
}

#[test]
fn a_namespace_that_comes_again_is_seen() {
    holds("again");
}

#[test]
fn a_library_is_found_as_its_loader_asks() {
    holds("name");
}
