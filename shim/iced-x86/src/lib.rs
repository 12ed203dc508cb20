//! Stands in for crate `iced-x86` 1.22: as much of it as crate `detour` uses on x86-64, quick and small enough to run before every
//! program.
//!
//! `Cargo.toml` puts it in the original's place, because `detour` names that crate itself. The original makes its tables at run
//! time: 420 KiB of memory in every process, and most of the time that a program's start takes. What differs:
//!
//! - Only what `detour` uses is here: [`Decoder`], [`Instruction`], [`BlockEncoder`] and what belongs to them.
//! - An instruction is its bytes. The decoder finds out how long it is, whether it branches and whether it speaks of memory relative
//!   to itself: that is all that has to be known to move it. The tables are constants.
//! - The encoder always takes the long form of a branch.
//! - Only 64-bit code. What is not known, and what is too odd to stand at the entry of a function (xbegin, 3DNow!, APX), is invalid:
//!   `detour` then leaves the function alone, aloud.

mod decoder;
mod encoder;
mod opcodes;

use core::fmt;

pub use decoder::{Decoder, DecoderOptions};
pub use encoder::{BlockEncoder, BlockEncoderOptions, BlockEncoderResult, InstructionBlock};

/// The longest instruction that there is.
const LONGEST: usize = 15;

/// Where the processor goes on after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowControl {
    /// The next instruction.
    Next,
    /// Always elsewhere.
    UnconditionalBranch,
    /// Always elsewhere: a register or memory says where.
    IndirectBranch,
    /// Perhaps elsewhere.
    ConditionalBranch,
    /// Back to the caller.
    Return,
    /// Elsewhere, and then the next instruction.
    Call,
    /// The same: a register or memory says where.
    IndirectCall,
}

/// What the first operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Not the destination of a relative branch.
    Register,
    /// Never here.
    NearBranch16,
    /// Never here.
    NearBranch32,
    /// The destination of a relative branch.
    NearBranch64,
}

/// What an instruction does, as far as that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mnemonic {
    /// Nothing. Of any length.
    Nop,
    /// It stops in a debugger.
    Int3,
    /// Anything else.
    Other,
}

/// The instructions that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `jmp` to an address.
    #[allow(non_camel_case_types)]
    Jmp_rel32_64,
}

/// Why an instruction cannot be made or moved.
#[derive(Clone, Copy, Debug)]
pub struct IcedError(&'static str);

impl fmt::Display for IcedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// How the bytes of an instruction depend on where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relative {
    /// They do not.
    No,
    /// A branch: its last byte, or its last four, say how far.
    Branch,
    /// An operand in memory: the four bytes at this place in the instruction say how far from its end.
    Memory(u8),
}

/// One instruction, at its address.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    ip: u64,
    bytes: [u8; LONGEST],
    /// 0: it is none.
    length: u8,
    /// Where the opcode is, behind the prefixes.
    opcode: u8,
    flow: FlowControl,
    mnemonic: Mnemonic,
    relative: Relative,
    /// The address that a branch goes to, or that the operand in memory has.
    target: u64,
}

impl Instruction {
    /// Makes a branch. It has no address yet.
    pub fn with_branch(code: Code, target: u64) -> Result<Self, IcedError> {
        let Code::Jmp_rel32_64 = code;
        let mut bytes = [0; LONGEST];
        bytes[0] = opcodes::JMP_REL32;
        let (flow, mnemonic) = (FlowControl::UnconditionalBranch, Mnemonic::Other);
        Ok(Self { ip: 0, bytes, length: 5, opcode: 0, flow, mnemonic, relative: Relative::Branch, target })
    }

    /// Its address.
    pub fn ip(&self) -> u64 {
        self.ip
    }

    /// Whether the bytes are no instruction, or one that is not known.
    pub fn is_invalid(&self) -> bool {
        self.length == 0
    }

    /// Where the processor goes on.
    pub fn flow_control(&self) -> FlowControl {
        self.flow
    }

    /// What it does.
    pub fn mnemonic(&self) -> Mnemonic {
        self.mnemonic
    }

    /// What its first operand is.
    pub fn op0_kind(&self) -> OpKind {
        if self.relative == Relative::Branch { OpKind::NearBranch64 } else { OpKind::Register }
    }

    /// Where a relative branch goes to; 0 if it is none.
    pub fn near_branch_target(&self) -> u64 {
        if self.relative == Relative::Branch { self.target } else { 0 }
    }

    /// Whether it speaks of memory relative to itself.
    pub fn is_ip_rel_memory_operand(&self) -> bool {
        matches!(self.relative, Relative::Memory(_))
    }

    /// The address of that memory; 0 if there is none.
    pub fn ip_rel_memory_address(&self) -> u64 {
        if self.is_ip_rel_memory_operand() { self.target } else { 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length.into()]
    }
}

#[cfg(test)]
mod tests;
