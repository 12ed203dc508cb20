//! The subcommands, one file each: what was typed comes in, what a person or a script reads goes out.

pub mod cat;
pub mod cp;
pub mod doctor;
pub mod drop;
pub mod export;
pub mod freeze;
pub mod gc;
pub mod generate;
pub mod mount;
pub mod run;
pub mod status;
pub mod top;
pub mod umount;
pub mod wait;
