//! `libsnapshim.so`: carries the snapshim protocol into unmodified programs.
//!
//! A call comes in through a *door* (`interpose`): the exported symbol, or the detour in libc's own code. A *hook* (`hooks`) says
//! what the call would touch and hands it to the protocol in the core crate. Everything on that path allocates nothing, takes no
//! lock that an application thread could hold, never panics and leaves errno to the real call.
//!
//! Each folder imports those below it and no other; `tests/layers.rs` holds the list:
//!
//! 1. `constructor`, `c_api`: what runs before `main`, and the functions of snapshim.h;
//! 2. `hooks`: one file a family of libc's calls;
//! 3. `lifecycle`, `snapshot`, `agent`: fork and exec, making a snapshot, the helper thread;
//! 4. `shared`, `mapper`, `writer`: stores without a call, own mappings, the path of a write;
//! 5. `origins`, `address_space`, `signals`: what changes files unseen, the lock over own mappings, SIGSEGV;
//! 6. `process`, `interpose`, `base`: who this process is, how calls come in, and what decides nothing.

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
