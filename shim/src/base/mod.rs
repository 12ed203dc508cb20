//! Base: what everything else stands on, and what decides nothing.
//!
//! Here live memory of the library's own (the arena, the heap, stacks), the environment and what it asks for, errno, and small
//! questions to the kernel: about memory that may not be there, mappings of files, sysfs.
//!
//! May import: the core crate, and no other folder.
//!
//! Promises: nothing here reads a record of the table or writes the log, so every file of every folder may call it, in a signal
//! handler and before `main`. What it hands out of the arena stays mapped for the life of the process.
//!
//! Must not: know a snapshot, a hook or a thread of the application. A question with a policy in its answer belongs further up.

pub mod agent_stack;
pub mod arena;
pub mod config;
pub mod environment;
pub mod errno;
pub mod file_mappings;
pub mod file_patterns;
pub mod heap;
pub mod mmap_call;
pub mod own_file;
pub mod own_stacks;
pub mod robust_list;
pub mod scratch;
pub mod stack_pointer;
pub mod standard_error;
pub mod sysfs;
pub mod system_call_filter;
pub mod user_memory;
pub mod valgrind;
pub mod variables;
pub mod wiped_page;
