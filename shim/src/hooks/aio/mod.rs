//! Calls whose changes land after they have returned.

pub mod io_submit;
pub mod io_uring;
pub mod posix_aio;
