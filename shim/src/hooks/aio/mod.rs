//! Hooks of calls whose changes land after they have returned: io_submit(2), POSIX aio, io_uring.
//!
//! May import: `hooks::file` and every folder below `hooks`.
//!
//! Promises: a write that is under way is counted until it has landed, so no instant comes in the middle of it; a ring whose writes
//! could not be seen is refused unless the environment allows it.
//!
//! Must not: believe that a call that has returned has changed all that it will change.

pub mod io_submit;
pub mod io_uring;
pub mod posix_aio;
