//! Functions of stdio whose inner calls no symbol and no detour reaches.

pub mod fopen;
pub mod message;
pub mod vtable;
