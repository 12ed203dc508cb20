//! Static memory that few processes use.

use core::ops::Deref;

/// A static of whole pages. Placed in the section `.bss.rare`, all of them lie side by side, so that what every process uses takes
/// few pages: they cost a process nothing until it uses them.
#[derive(Debug)]
#[repr(align(4096))]
pub struct Rare<T>(pub T);

impl<T> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
