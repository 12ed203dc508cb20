//! `libsnapshim.so`: carries the snapshim protocol into unmodified programs.
//!
//! A call comes in through an *entry point* (`interpose`): the exported symbol, or the detour in libc's own code. A *hook*
//! (`hooks`) says what the call would touch and hands it to the protocol in the core crate. Everything on that path allocates
//! nothing, takes no lock that an application thread could hold, never panics and leaves errno to the real call.
//!
//! docs/architecture.md says what lives in each folder, which may use which, and how a call goes through them. `tests/layers.rs`
//! holds the list of layers.

mod address_space;
mod agent;
mod base;
mod c_api;
mod constructor;
mod hooks;
mod interpose;
mod lifecycle;
mod mapper;
mod origins;
mod process;
mod shared;
mod signals;
mod snapshot;
mod writer;
