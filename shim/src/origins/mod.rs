//! Origins: what can change a file or a device without a call that a hook sees, and how it is found out.
//!
//! Imports `address_space`, `signals`, `process`, `interpose`, `base` and the core crate. What is found makes snapshots doubtful and is
//! said in the log; nothing here holds a change back.

pub mod alias;
pub mod alias_users;
pub mod behind;
pub mod claim;
pub mod device;
pub mod doubt;
pub mod fanotify;
pub mod filesystem;
pub mod foreign_maps;
pub mod rounds;
pub mod watch;
