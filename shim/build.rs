//! The preload library's constructor runs before every other library's: what those write then finds all hooks in place.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // Where no segment begins in the middle of a page, the memory that each process has for itself takes fewer pages.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,separate-loadable-segments");
    println!("cargo:rerun-if-changed=build.rs");
}
