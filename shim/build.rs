//! The preload library's constructor runs before every other library's: what those write then finds all hooks in place.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    println!("cargo:rerun-if-changed=build.rs");
}
