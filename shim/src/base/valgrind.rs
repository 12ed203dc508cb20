//! valgrind(1), where the program runs in it: what it has to be told, and what it does not know.
//!
//! It is asked by a sequence of instructions that change nothing but the flags, and that valgrind knows (valgrind.h, "client
//! requests"). Natively they do nothing.

use core::arch::asm;

const RUNNING_ON_VALGRIND: usize = 0x1001;
const STACK_REGISTER: usize = 0x1501;

/// Says that a stack lies at `start`: valgrind takes a switch to any other memory for a mistake of the program's, and warns of it.
pub fn note_stack(start: usize, length: usize) {
    ask([STACK_REGISTER, start, start + length - 1, 0, 0, 0]);
}

/// Whether the program runs in valgrind, which warns of system calls that are newer than itself.
pub fn is_there() -> bool {
    ask([RUNNING_ON_VALGRIND, 0, 0, 0, 0, 0]) != 0
}

/// valgrind's answer; natively 0.
fn ask(request: [usize; 6]) -> usize {
    let mut answer = 0usize;
    // SAFETY: the rotations add up to 128 bits, so `rdi` is what it was. valgrind reads the six words, and answers in `rdx`.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") answer,
            options(nostack),
        );
    }
    answer
}
