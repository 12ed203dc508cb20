//! Functions of stdio, and of libc's messages, whose inner calls reach no hook by a symbol or a detour.

pub mod fopen;
pub mod message;
pub mod vtable;
