//! From bytes to instructions.

use crate::opcodes::{
    self, ADDRESS, BRANCH, BYTE, ESCAPE, FOUR, Form, IMMEDIATE, INVALID, MODRM, ONE_BYTE, OPERAND, THREE, TWO,
    TWO_BYTES, WHOLE,
};
use crate::{FlowControl, Instruction, LONGEST, Mnemonic, Relative};

/// How it is decoded. There is one way.
#[derive(Clone, Copy, Debug)]
pub struct DecoderOptions;

impl DecoderOptions {
    /// As the processor's maker says.
    pub const NONE: u32 = 0;
}

/// Decodes one instruction after the other.
#[derive(Debug)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    position: usize,
    ip: u64,
}

impl<'a> Decoder<'a> {
    /// Decodes `bytes`, which stand at the address `ip`.
    pub fn with_ip(_bitness: u32, bytes: &'a [u8], ip: u64, _options: u32) -> Self {
        Self { bytes, position: 0, ip }
    }

    /// How many bytes have been decoded.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Whether there are more.
    pub fn can_decode(&self) -> bool {
        self.position < self.bytes.len()
    }

    /// The next instruction. An invalid one takes a byte.
    pub fn decode(&mut self) -> Instruction {
        let rest = &self.bytes[self.position..];
        let rest = &rest[..rest.len().min(LONGEST)];
        let ip = self.ip + self.position as u64;
        let instruction = Reader { rest, at: 0 }.instruction(ip).unwrap_or(invalid(ip));
        self.position = (self.position + usize::from(instruction.length).max(1)).min(self.bytes.len());
        instruction
    }
}

fn invalid(ip: u64) -> Instruction {
    Instruction {
        ip,
        bytes: [0; LONGEST],
        length: 0,
        opcode: 0,
        flow: FlowControl::Next,
        mnemonic: Mnemonic::Other,
        relative: Relative::No,
        target: 0,
    }
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand: bool,
    address: bool,
    repeat: u8,
    rex: u8,
}

impl Prefixes {
    const REX_W: u8 = 8;
    const REX_B: u8 = 1;

    fn is_wide(self) -> bool {
        self.rex & Self::REX_W != 0
    }
}

/// The opcode, and what follows it.
#[derive(Clone, Copy)]
struct Opcode {
    at: usize,
    /// 0: of one byte; 1: behind 0f; else of another map.
    map: u8,
    byte: u8,
    form: Form,
}

/// Reads one instruction; `None` as soon as it proves to be none.
struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn instruction(mut self, ip: u64) -> Option<Instruction> {
        let prefixes = self.prefixes()?;
        let opcode = self.opcode(prefixes)?;
        let (modrm, memory) =
            if opcode.form & MODRM != 0 { self.operands(opcode).map(|(m, d)| (Some(m), d))? } else { (None, None) };
        let immediate = immediate_length(opcode, prefixes, modrm);
        self.skip(immediate)?;
        let length = self.at;
        let next = ip.wrapping_add(length as u64);
        let (relative, target) = if opcode.form & BRANCH != 0 {
            (Relative::Branch, next.wrapping_add_signed(self.signed(length - immediate, immediate)))
        } else if let Some(place) = memory {
            (Relative::Memory(place as u8), next.wrapping_add_signed(self.signed(place, 4)))
        } else {
            (Relative::No, 0)
        };
        let mut bytes = [0; LONGEST];
        bytes[..length].copy_from_slice(&self.rest[..length]);
        Some(Instruction {
            ip,
            bytes,
            length: length as u8,
            opcode: opcode.at as u8,
            flow: flow(opcode, modrm),
            mnemonic: mnemonic(opcode, prefixes, modrm),
            relative,
            target,
        })
    }

    fn peek(&self) -> Option<u8> {
        self.rest.get(self.at).copied()
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.rest.len()).then_some(())
    }

    /// The number of one or four bytes at a place that has been passed.
    fn signed(&self, place: usize, length: usize) -> i64 {
        match self.rest[place..][..length] {
            [byte] => i64::from(byte as i8),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => 0,
        }
    }

    fn prefixes(&mut self) -> Option<Prefixes> {
        let mut prefixes = Prefixes::default();
        loop {
            match self.peek()? {
                0x66 => prefixes.operand = true,
                0x67 => prefixes.address = true,
                repeat @ (0xf2 | 0xf3) => prefixes.repeat = repeat,
                0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 => {}
                rex @ 0x40..=0x4f => {
                    prefixes.rex = rex;
                    self.at += 1;
                    continue;
                }
                _ => return Some(prefixes),
            }
            // A REX counts only right before the opcode.
            prefixes.rex = 0;
            self.at += 1;
        }
    }

    fn opcode(&mut self, prefixes: Prefixes) -> Option<Opcode> {
        let at = self.at;
        let first = self.byte()?;
        let (map, byte) = match first {
            0xc5 => {
                self.skip(1)?;
                (1, self.byte()?)
            }
            0xc4 => {
                let map = self.byte()? & 0x1f;
                self.skip(1)?;
                (map, self.byte()?)
            }
            0x62 => {
                let map = self.byte()? & 7;
                self.skip(2)?;
                (map, self.byte()?)
            }
            ESCAPE => match self.byte()? {
                0x38 => (2, self.byte()?),
                0x3a => (3, self.byte()?),
                byte => (1, byte),
            },
            byte => (0, byte),
        };
        let form = match (first, map) {
            (0xc4 | 0xc5 | 0x62, _) => opcodes::vector_form(map, byte),
            (ESCAPE, 1) if byte == 0x78 && (prefixes.operand || prefixes.repeat != 0) => INVALID,
            (ESCAPE, 1) => TWO_BYTES[usize::from(byte)],
            (ESCAPE, 2) => MODRM,
            (ESCAPE, _) => MODRM | BYTE,
            _ => ONE_BYTE[usize::from(byte)],
        };
        // A vector instruction is known by its map alone; 0f and one byte mean more.
        let map = if matches!(first, 0xc4 | 0xc5 | 0x62) { u8::MAX } else { map };
        (form & INVALID == 0).then_some(Opcode { at, map, byte, form })
    }

    /// ModRM, SIB and displacement. Returns the ModRM byte, and where the displacement is if it is relative to the instruction.
    fn operands(&mut self, opcode: Opcode) -> Option<(u8, Option<usize>)> {
        let modrm = self.byte()?;
        let is_xop = opcode.map == 0 && opcode.byte == 0x8f && modrm >> 3 & 7 != 0;
        let is_transaction = opcode.map == 0 && matches!(opcode.byte, 0xc6 | 0xc7) && modrm == 0xf8;
        if is_xop || is_transaction {
            return None;
        }
        // mov to and from control registers has no memory form.
        let is_register = modrm >> 6 == 3 || opcode.map == 1 && matches!(opcode.byte, 0x20..=0x23);
        let mut base = modrm & 7;
        if !is_register && base == 4 {
            // 5 as the base of a SIB byte means what it means here, but is not relative to the instruction.
            base = if self.byte()? & 7 == 5 { 8 } else { 4 };
        }
        let place = self.at;
        match (is_register, modrm >> 6, base) {
            (true, ..) => Some((modrm, None)),
            (_, 0, 5) => self.skip(4).map(|()| (modrm, Some(place))),
            (_, 0, 8) | (_, 2, _) => self.skip(4).map(|()| (modrm, None)),
            (_, 1, _) => self.skip(1).map(|()| (modrm, None)),
            _ => Some((modrm, None)),
        }
    }
}

fn immediate_length(opcode: Opcode, prefixes: Prefixes, modrm: Option<u8>) -> usize {
    let operand = if prefixes.operand && !prefixes.is_wide() { 2 } else { 4 };
    // test has an immediate; the others of its group have none.
    let is_test = opcode.map == 0 && modrm.is_some_and(|modrm| modrm >> 3 & 7 < 2);
    match opcode.form & IMMEDIATE {
        BYTE => 1,
        TWO => 2,
        THREE => 3,
        FOUR => 4,
        OPERAND => operand,
        WHOLE if prefixes.is_wide() => 8,
        WHOLE => operand,
        ADDRESS if prefixes.address => 4,
        ADDRESS => 8,
        _ if is_test && opcode.byte == 0xf6 => 1,
        _ if is_test && opcode.byte == 0xf7 => operand,
        _ => 0,
    }
}

fn flow(opcode: Opcode, modrm: Option<u8>) -> FlowControl {
    match (opcode.map, opcode.byte, modrm.map(|modrm| modrm >> 3 & 7)) {
        (0, 0x70..=0x7f | 0xe0..=0xe3, _) | (1, 0x80..=0x8f, _) => FlowControl::ConditionalBranch,
        (0, opcodes::JMP_REL32 | opcodes::JMP_REL8, _) => FlowControl::UnconditionalBranch,
        (0, 0xc2 | 0xc3 | 0xca | 0xcb | 0xcf, _) => FlowControl::Return,
        (0, opcodes::CALL_REL32, _) => FlowControl::Call,
        (0, 0xff, Some(2 | 3)) => FlowControl::IndirectCall,
        (0, 0xff, Some(4 | 5)) => FlowControl::IndirectBranch,
        _ => FlowControl::Next,
    }
}

fn mnemonic(opcode: Opcode, prefixes: Prefixes, modrm: Option<u8>) -> Mnemonic {
    match (opcode.map, opcode.byte) {
        (0, 0x90) if prefixes.repeat != 0xf3 && prefixes.rex & Prefixes::REX_B == 0 => Mnemonic::Nop,
        (1, 0x1f) if modrm.is_some_and(|modrm| modrm >> 3 & 7 == 0) => Mnemonic::Nop,
        (0, 0xcc) => Mnemonic::Int3,
        _ => Mnemonic::Other,
    }
}
