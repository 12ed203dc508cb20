//! vfork(2): the child acts in this memory, on the caller's stack. So no frame of the shim may be on the stack when it begins.

use core::arch::naked_asm;

use crate::base::errno::set_errno;
use crate::interpose::EntryPoint;
use crate::process::shared_mm;

static ENTRY_POINT: EntryPoint = EntryPoint::new(c"vfork", raw as *const (), raw as *const (), raw as *const ());
/// The entry points declared here.
pub static ENTRY_POINTS: &[&EntryPoint] = &[&ENTRY_POINT];

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn vfork() {
    naked_asm!("sub rsp, 8", "call {next}", "add rsp, 8", "jmp rax", next = sym next)
}

#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn __vfork() {
    naked_asm!("jmp {vfork}", vfork = sym vfork)
}

extern "C" fn next() -> *const () {
    shared_mm::note_shared_mm(false);
    ENTRY_POINT.next()
}

/// The bare system call, as libc makes it: the return address is kept in a register, where the child cannot overwrite it.
#[unsafe(naked)]
unsafe extern "C" fn raw() {
    naked_asm!(
        "pop rdx",
        "mov eax, {number}",
        "syscall",
        "push rdx",
        "cmp rax, -4095",
        "jae 2f",
        "ret",
        "2:",
        "mov edi, eax",
        "neg edi",
        "sub rsp, 8",
        "call {set_errno}",
        "add rsp, 8",
        "mov eax, -1",
        "ret",
        number = const libc::SYS_vfork,
        set_errno = sym fail,
    )
}

extern "C" fn fail(errno: i32) {
    set_errno(errno);
}
