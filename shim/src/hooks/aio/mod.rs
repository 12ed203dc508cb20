//! Hooks of calls whose changes land after they have returned.
//!
//! - [`io_submit`]: libaio's writes, which are counted until they land
//! - [`posix_aio`]: aio_write(3), which is waited for where libc's own writes do not reach the hooks
//! - [`io_uring`]: denied by default, because its writes cannot be seen
//!
//! May import: `hooks::file` and every folder below `hooks`.
//!
//! Promises: a write that is under way is counted until it has landed, so no instant comes in the middle of it. A ring, whose
//! writes could not be seen, is refused unless the environment allows it.
//!
//! Must not: believe that a call that has returned has changed all that it will change.

pub mod io_submit;
pub mod io_uring;
pub mod posix_aio;
