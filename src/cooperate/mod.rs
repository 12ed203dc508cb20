//! Acting on the table together.

pub mod aio_idle;
pub mod locate;
pub(crate) mod thread_state;
pub mod unseen;
mod vacancies;
