//! The library's file is not overwritten in place by a program that runs with it, as the kernel lets no program be overwritten that
//! runs. It may be replaced.

use std::fs;
use std::process::Output;

use crate::common::holder::Holder;
use crate::common::{copy_program, library, run, scratches, text};

#[test]
fn the_library_is_not_overwritten_by_a_program_that_runs_with_it() {
    for scratch in scratches() {
        let copy = scratch.file("libsnapshim.so");
        copy_program(&library(), &copy);
        let victim = scratch.file("victim");
        fs::write(&victim, [1; 8192]).unwrap();
        let holder = Holder::start(&scratch, "auto", &victim, "r");
        let runs = |script: &str| -> Output {
            run(scratch.shimmed("sh", "auto").env("LD_PRELOAD", &copy).args(["-c", script]))
        };
        let before = fs::read(&copy).unwrap();
        for overwriting in
            ["cp victim libsnapshim.so", ": > libsnapshim.so", "ln -s libsnapshim.so link; cat victim > link"]
        {
            let output = runs(overwriting);
            assert!(!output.status.success() && text(&output).contains("Text file busy"), "{}", text(&output));
            assert!(fs::read(&copy).unwrap() == before, "{overwriting}: it is another file");
        }
        let output =
            runs("cp victim new; cp libsnapshim.so other && : > other && mv new libsnapshim.so && : > libsnapshim.so");
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(fs::metadata(&copy).unwrap().len(), 0);
        holder.finish_exact(&scratch.path.display().to_string());
    }
}
