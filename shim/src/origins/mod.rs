//! Origins: what can change a file or a device without a call that a hook sees, and how it is found out.
//!
//! [`filesystem`] and [`device`] say what may be an origin at all; [`alias`] and [`alias_users`] find the same bytes behind another
//! page cache; [`claim`] keeps mounts away; [`watch`], with [`fanotify`], sees changes after the fact; [`foreign_maps`] finds
//! shared mappings of programs without the shim, [`ring_users`] rings of io_uring that write a file; [`behind`] takes calls that
//! pass the page cache. [`doubt`] is what they all come to, [`rounds`] what the agent does once a second.
//!
//! May import: `address_space`, `process`, `base` and the core crate.
//!
//! Promises: a snapshot that may show newer bytes for such a change is doubtful, and the log names the program where it is known.
//!
//! Must not: hold a change back. Descriptors kept here may be closed by the application at any time, so each look makes sure of
//! them.

pub mod alias;
pub mod alias_users;
pub mod behind;
pub mod claim;
pub mod device;
pub mod doubt;
pub mod fanotify;
pub mod filesystem;
pub mod foreign_maps;
pub mod ring_users;
pub mod rounds;
pub mod watch;
