//! Acting on the table together.

pub mod aio_idle;
pub mod unseen;
mod vacancies;
