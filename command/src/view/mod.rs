//! A read-only view of files as they were at one instant, for programs that read them by read(2).
//!
//! `nodes` is what the view shows: names, attributes and snapshots, taken as `snapshim cp` takes them. `server` answers the
//! kernel's FUSE requests from it, and `pages` brings the bytes of a snapshot to the kernel. `attach` mounts, and `inside` is the
//! process that has the view over the files' own paths, in a mount namespace of its own, and becomes the user's program there;
//! `paths` tells whether that program found the view by its names all the time.
//!
//! Promise: a read through the view has the bytes of the instant, or fails with EIO.

pub mod attach;
pub mod inside;
pub mod nodes;
pub mod pages;
pub mod paths;
pub mod server;
