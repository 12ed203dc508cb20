//! Functions of stdio whose inner calls no symbol and no detour reaches.

pub mod vtable;
