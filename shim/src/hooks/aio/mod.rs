//! Calls whose changes land after they have returned.
//!
//! libaio's writes are counted until they land ([`io_submit`]). POSIX aio is waited for where libc's own writes do not reach the
//! hooks ([`posix_aio`]). io_uring is denied by default, because its writes cannot be seen ([`io_uring`]).

pub mod io_submit;
pub mod io_uring;
pub mod posix_aio;
