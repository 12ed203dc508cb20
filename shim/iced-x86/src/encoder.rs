//! From instructions to bytes at another address.

use crate::opcodes::{ESCAPE, JMP_REL8, JMP_REL32};
use crate::{IcedError, Instruction, Relative};

/// What the encoder is asked for.
#[derive(Clone, Copy, Debug)]
pub struct BlockEncoderOptions;

impl BlockEncoderOptions {
    /// The offsets of the instructions, which are always given.
    pub const RETURN_NEW_INSTRUCTION_OFFSETS: u32 = 8;
}

/// Instructions that are to stand one after the other.
#[derive(Debug)]
pub struct InstructionBlock<'a> {
    instructions: &'a [Instruction],
    ip: u64,
}

impl<'a> InstructionBlock<'a> {
    /// They are to stand at the address `ip`.
    pub fn new(instructions: &'a [Instruction], ip: u64) -> Self {
        Self { instructions, ip }
    }
}

/// What the encoder makes.
#[derive(Debug)]
pub struct BlockEncoderResult {
    /// The code.
    pub code_buffer: Vec<u8>,
    /// Where in it each instruction is; `u32::MAX` if it became several.
    pub new_instruction_offsets: Vec<u32>,
}

/// Moves instructions.
#[derive(Debug)]
pub struct BlockEncoder;

impl BlockEncoder {
    /// Makes the code of a block. A branch to one of its instructions goes to where that is in the block; other branches, and
    /// operands in memory, lead where they led.
    pub fn encode(_bitness: u32, block: InstructionBlock<'_>, _options: u32) -> Result<BlockEncoderResult, IcedError> {
        let mut start = block.ip;
        let mut placed = Vec::with_capacity(block.instructions.len());
        for instruction in block.instructions {
            placed.push((instruction, start));
            start += length(instruction)? as u64;
        }
        let mut code_buffer = Vec::with_capacity((start - block.ip) as usize);
        let mut new_instruction_offsets = Vec::with_capacity(placed.len());
        for (instruction, start) in &placed {
            let became_several = is_counting(instruction);
            new_instruction_offsets.push(if became_several { u32::MAX } else { (start - block.ip) as u32 });
            let within = placed.iter().find(|(other, _)| other.ip == instruction.target && other.ip != 0);
            let target = match (instruction.relative, within) {
                (Relative::Branch, Some((_, there))) => *there,
                _ => instruction.target,
            };
            put(instruction, *start, target, &mut code_buffer)?;
        }
        Ok(BlockEncoderResult { code_buffer, new_instruction_offsets })
    }
}

/// `jmp rel8` over `jmp rel32`, behind a branch that has a short form alone.
const OVER: [u8; 2] = [JMP_REL8, 5];

/// Whether it is loop or jrcxz, which have a short form alone.
fn is_counting(instruction: &Instruction) -> bool {
    instruction.relative == Relative::Branch
        && matches!(instruction.bytes[usize::from(instruction.opcode)], 0xe0..=0xe3)
}

/// How many bytes it takes at another place.
fn length(instruction: &Instruction) -> Result<usize, IcedError> {
    if instruction.is_invalid() {
        return Err(IcedError("an invalid instruction"));
    }
    let opcode = usize::from(instruction.opcode);
    Ok(match (instruction.relative, instruction.bytes[opcode]) {
        (Relative::Branch, 0xe0..=0xe3) => opcode + 2 + OVER.len() + 5,
        (Relative::Branch, 0x70..=0x7f) => opcode + 6,
        (Relative::Branch, JMP_REL8) => opcode + 5,
        _ => instruction.bytes().len(),
    })
}

/// Appends the code of an instruction at `start`, whose branch or operand leads to `target`.
fn put(instruction: &Instruction, start: u64, target: u64, code: &mut Vec<u8>) -> Result<(), IcedError> {
    let end = start + length(instruction)? as u64;
    let distance = i32::try_from(target.wrapping_sub(end).cast_signed()).map(i32::to_le_bytes);
    let distance = || distance.map_err(|_| IcedError("too far away"));
    let opcode = usize::from(instruction.opcode);
    match (instruction.relative, instruction.bytes[opcode]) {
        (Relative::No, _) => code.extend_from_slice(instruction.bytes()),
        (Relative::Memory(place), _) => {
            let place = usize::from(place);
            code.extend_from_slice(&instruction.bytes[..place]);
            code.extend_from_slice(&distance()?);
            code.extend_from_slice(&instruction.bytes()[place + 4..]);
        }
        (Relative::Branch, short) => {
            code.extend_from_slice(&instruction.bytes[..opcode]);
            match short {
                0xe0..=0xe3 => code.extend_from_slice(&[short, OVER.len() as u8, OVER[0], OVER[1], JMP_REL32]),
                0x70..=0x7f => code.extend_from_slice(&[ESCAPE, short + 0x10]),
                JMP_REL8 => code.push(JMP_REL32),
                ESCAPE => code.extend_from_slice(&instruction.bytes[opcode..opcode + 2]),
                long => code.push(long),
            }
            code.extend_from_slice(&distance()?);
        }
    }
    Ok(())
}
