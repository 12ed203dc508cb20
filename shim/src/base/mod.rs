//! Base: what everything stands on: memory of the library's own, the environment, errno, small questions to the kernel.
//!
//! Imports the core crate and no other folder. It knows no table, no snapshot and no hook, and decides nothing.

pub mod agent_stack;
pub mod arena;
pub mod config;
pub mod environment;
pub mod errno;
pub mod fault_stacks;
pub mod file_mappings;
pub mod file_patterns;
pub mod heap;
pub mod mmap_call;
pub mod stack_pointer;
pub mod sysfs;
pub mod user_memory;
