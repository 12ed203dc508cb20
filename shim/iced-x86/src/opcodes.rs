//! What follows an opcode, as tables that the compiler makes (Intel's manual, volume 2, appendix A).

/// `jmp rel32`
pub const JMP_REL32: u8 = 0xe9;
/// `jmp rel8`
pub const JMP_REL8: u8 = 0xeb;
/// `call rel32`
pub const CALL_REL32: u8 = 0xe8;
/// The byte before the opcodes of the second map.
pub const ESCAPE: u8 = 0x0f;

/// What follows an opcode: a set of the bits below. Which immediate there is, is one of the numbers.
pub type Form = u8;

/// A ModRM byte, and what that asks for.
pub const MODRM: Form = 0x80;
/// A relative branch: the immediate says how far.
pub const BRANCH: Form = 0x40;
/// There is no such instruction.
pub const INVALID: Form = 0x20;

/// The bits of the immediate.
pub const IMMEDIATE: Form = 0x0f;
/// A byte.
pub const BYTE: Form = 1;
/// Two bytes.
pub const TWO: Form = 2;
/// Two bytes and one (enter).
pub const THREE: Form = 3;
/// Four bytes, whatever the operand's size.
pub const FOUR: Form = 4;
/// As large as the operand, but at most four bytes.
pub const OPERAND: Form = 5;
/// As large as the operand: four bytes or eight (mov).
pub const WHOLE: Form = 6;
/// As large as an address.
pub const ADDRESS: Form = 7;

const fn filled(mut table: [Form; 256], ranges: &[(u8, u8, Form)]) -> [Form; 256] {
    let mut at = 0;
    while at < ranges.len() {
        let (first, last, form) = ranges[at];
        let mut opcode = first as usize;
        while opcode <= last as usize {
            table[opcode] = form;
            opcode += 1;
        }
        at += 1;
    }
    table
}

/// Opcodes of one byte. Prefixes and escapes are taken out before.
pub static ONE_BYTE: [Form; 256] = {
    let mut table = [0; 256];
    // add, or, adc, sbb, and, sub, xor, cmp
    let mut group = 0;
    while group < 0x40 {
        let last = group as u8;
        table = filled(
            table,
            &[
                (last, last + 3, MODRM),
                (last + 4, last + 4, BYTE),
                (last + 5, last + 5, OPERAND),
                (last + 6, last + 7, INVALID),
            ],
        );
        group += 8;
    }
    filled(
        table,
        &[
            (0x60, 0x62, INVALID),
            (0x63, 0x63, MODRM),
            (0x68, 0x68, OPERAND),
            (0x69, 0x69, MODRM | OPERAND),
            (0x6a, 0x6a, BYTE),
            (0x6b, 0x6b, MODRM | BYTE),
            (0x70, 0x7f, BRANCH | BYTE),
            (0x80, 0x80, MODRM | BYTE),
            (0x81, 0x81, MODRM | OPERAND),
            (0x82, 0x82, INVALID),
            (0x83, 0x83, MODRM | BYTE),
            (0x84, 0x8f, MODRM),
            (0x9a, 0x9a, INVALID),
            (0xa0, 0xa3, ADDRESS),
            (0xa8, 0xa8, BYTE),
            (0xa9, 0xa9, OPERAND),
            (0xb0, 0xb7, BYTE),
            (0xb8, 0xbf, WHOLE),
            (0xc0, 0xc1, MODRM | BYTE),
            (0xc2, 0xc2, TWO),
            (0xc4, 0xc5, INVALID),
            (0xc6, 0xc6, MODRM | BYTE),
            (0xc7, 0xc7, MODRM | OPERAND),
            (0xc8, 0xc8, THREE),
            (0xca, 0xca, TWO),
            (0xcd, 0xcd, BYTE),
            (0xce, 0xce, INVALID),
            (0xd0, 0xd3, MODRM),
            (0xd4, 0xd6, INVALID),
            (0xd8, 0xdf, MODRM),
            (0xe0, 0xe3, BRANCH | BYTE),
            (0xe4, 0xe7, BYTE),
            (0xe8, 0xe9, BRANCH | FOUR),
            (0xea, 0xea, INVALID),
            (0xeb, 0xeb, BRANCH | BYTE),
            (0xf6, 0xf7, MODRM),
            (0xfe, 0xff, MODRM),
        ],
    )
};

/// Opcodes behind 0f.
pub static TWO_BYTES: [Form; 256] = filled(
    [MODRM; 256],
    &[
        (0x04, 0x04, INVALID),
        (0x05, 0x09, 0),
        (0x0a, 0x0a, INVALID),
        (0x0b, 0x0b, 0),
        (0x0c, 0x0c, INVALID),
        (0x0e, 0x0f, INVALID),
        (0x24, 0x27, INVALID),
        (0x30, 0x37, 0),
        (0x38, 0x3f, INVALID),
        (0x70, 0x73, MODRM | BYTE),
        (0x77, 0x77, 0),
        (0x7a, 0x7b, INVALID),
        (0x80, 0x8f, BRANCH | FOUR),
        (0xa0, 0xa2, 0),
        (0xa4, 0xa4, MODRM | BYTE),
        (0xa6, 0xa7, INVALID),
        (0xa8, 0xaa, 0),
        (0xac, 0xac, MODRM | BYTE),
        (0xba, 0xba, MODRM | BYTE),
        (0xc2, 0xc2, MODRM | BYTE),
        (0xc4, 0xc6, MODRM | BYTE),
        (0xc8, 0xcf, 0),
    ],
);

/// The same in the forms of the vector instructions (VEX, EVEX), where no opcode branches.
pub fn vector_form(map: u8, opcode: u8) -> Form {
    match (map, opcode) {
        (1, 0x77) => 0,
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3, _) => MODRM | BYTE,
        (1 | 2 | 5 | 6, _) => MODRM,
        _ => INVALID,
    }
}
