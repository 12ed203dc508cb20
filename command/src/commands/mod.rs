//! The subcommands, one file each: what was typed comes in, what a person or a script reads goes out.

pub mod cat;
pub mod cp;
pub mod gc;
pub mod generate;
pub mod run;
pub mod status;
