use std::process::Command;

use super::*;

fn decoded(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).decode()
}

fn moved(instructions: &[Instruction], ip: u64) -> Result<BlockEncoderResult, IcedError> {
    let block = InstructionBlock::new(instructions, ip);
    BlockEncoder::encode(64, block, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)
}

/// The code of one instruction, moved from 0x1000 to 0x5000.
fn code_moved(bytes: &[u8]) -> Vec<u8> {
    let instruction = decoded(bytes);
    assert_eq!(instruction.bytes(), bytes);
    moved(&[instruction], 0x5000).unwrap().code_buffer
}

/// A line of objdump(1): `  2a3f0:\t48 8d 05 01 00 00 00 \tlea ...`.
fn listed(line: &str) -> Option<(u64, Vec<u8>, &str)> {
    let mut fields = line.split('\t');
    let address = u64::from_str_radix(fields.next()?.trim().strip_suffix(':')?, 16).ok()?;
    let bytes = fields.next()?.split_ascii_whitespace().map(|byte| u8::from_str_radix(byte, 16));
    Some((address, bytes.collect::<Result<_, _>>().ok()?, fields.next()?.trim()))
}

fn library(name: &str) -> Option<String> {
    ["/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib"]
        .map(|folder| format!("{folder}/{name}"))
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
}

/// Each instruction of libc, of the mathematics library (vectors) and of the loader is as long as binutils says, and branches and
/// refers to memory where binutils says.
#[test]
fn instructions_are_as_binutils_reads_them() {
    let mut count = 0;
    for path in ["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"].into_iter().filter_map(library) {
        let Ok(output) = Command::new("objdump").args(["-d", "-w", "-j", ".text", &path]).output() else {
            eprintln!("SKIPPED instructions_are_as_binutils_reads_them: objdump (binutils) is not installed");
            return;
        };
        for (address, bytes, text) in String::from_utf8(output.stdout).unwrap().lines().filter_map(listed) {
            // Data in the code, prefixes without an instruction, and what no function begins with.
            if text.contains("(bad)") || text.is_empty() || text.starts_with("xbegin") || text.starts_with("xabort") {
                continue;
            }
            // binutils takes the wait for the floating point unit for a prefix.
            if bytes.first() == Some(&0x9b) {
                continue;
            }
            let at = format!("{path} {address:x}: {bytes:02x?} {text}");
            let instruction = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE).decode();
            // objdump ends a line behind prefixes that it takes for odd.
            if instruction.is_invalid() && text.split(' ').all(|word| word.starts_with("rex") || word.len() <= 6) {
                continue;
            }
            assert_eq!(instruction.bytes(), bytes, "{at}");
            let mut words = text
                .split_ascii_whitespace()
                .skip_while(|word| ["bnd", "notrack", "rep", "repz", "repnz", "ds", "cs", "data16"].contains(word));
            let (name, operand) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let target = u64::from_str_radix(operand, 16).ok();
            let is_jump = name.starts_with('j') || name.starts_with("loop") || name == "call";
            assert_eq!(instruction.op0_kind() == OpKind::NearBranch64, is_jump && target.is_some(), "{at}");
            if let Some(target) = target.filter(|_| is_jump) {
                assert_eq!(instruction.near_branch_target(), target, "{at}");
            }
            let memory = text.contains("(%rip)").then(|| text.rsplit("# ").next().unwrap());
            assert_eq!(instruction.is_ip_rel_memory_operand(), memory.is_some(), "{at}");
            if let Some(memory) = memory {
                let memory = memory.split(' ').next().unwrap();
                assert_eq!(instruction.ip_rel_memory_address(), u64::from_str_radix(memory, 16).unwrap(), "{at}");
            }
            let flow = match name {
                "jmp" if target.is_some() => FlowControl::UnconditionalBranch,
                "jmp" => FlowControl::IndirectBranch,
                "call" if target.is_some() => FlowControl::Call,
                "call" => FlowControl::IndirectCall,
                "ret" | "lret" | "iret" => FlowControl::Return,
                _ if is_jump => FlowControl::ConditionalBranch,
                _ => FlowControl::Next,
            };
            assert_eq!(instruction.flow_control(), flow, "{at}");
            let is_padding = name.starts_with("nop") || name == "cs" && text.contains("nopw") || text == "xchg %ax,%ax";
            assert!(!is_padding || instruction.mnemonic() == Mnemonic::Nop, "{at}");
            count += 1;
        }
    }
    assert!(count > 300_000, "{count}");
}

#[test]
fn an_operand_relative_to_the_instruction_leads_where_it_led() {
    // cmp byte [rip + 0x10], 5: the immediate stands behind the displacement.
    let bytes = [0x80, 0x3d, 0x10, 0, 0, 0, 5];
    assert_eq!(decoded(&bytes).ip_rel_memory_address(), 0x1017);
    assert_eq!(code_moved(&bytes), [0x80, 0x3d, 0x10, 0xc0, 0xff, 0xff, 5]);
    // The same address from a place out of reach.
    assert!(moved(&[decoded(&bytes)], 0x10_0000_1000).is_err());
}

#[test]
fn branches_take_their_long_form() {
    assert_eq!(code_moved(&[0x74, 0x10]), [0x0f, 0x84, 0x0c, 0xc0, 0xff, 0xff]);
    assert_eq!(code_moved(&[0xeb, 0x10]), [0xe9, 0x0d, 0xc0, 0xff, 0xff]);
    assert_eq!(code_moved(&[0xe8, 0, 1, 0, 0]), [0xe8, 0, 0xc1, 0xff, 0xff]);
    assert_eq!(code_moved(&[0x3e, 0x0f, 0x85, 0, 1, 0, 0]), [0x3e, 0x0f, 0x85, 0, 0xc1, 0xff, 0xff]);
    // jrcxz over a jump, to a jump.
    assert_eq!(code_moved(&[0xe3, 0x10]), [0xe3, 2, 0xeb, 5, 0xe9, 0x09, 0xc0, 0xff, 0xff]);
}

#[test]
fn a_branch_within_the_block_stays_within_it() {
    // je over an instruction; the instruction; nop.
    let bytes = [0x74, 0x03, 0x48, 0x89, 0xe5, 0x90];
    let mut decoder = Decoder::with_ip(64, &bytes, 0x1000, DecoderOptions::NONE);
    let instructions: Vec<_> = core::iter::from_fn(|| decoder.can_decode().then(|| decoder.decode())).collect();
    let result = moved(&instructions, 0x5000).unwrap();
    assert_eq!(result.code_buffer, [0x0f, 0x84, 3, 0, 0, 0, 0x48, 0x89, 0xe5, 0x90]);
    assert_eq!(result.new_instruction_offsets, [0, 6, 9]);
}

#[test]
fn a_jump_that_is_made_leads_to_its_target() {
    let jump = Instruction::with_branch(Code::Jmp_rel32_64, 0x1234).unwrap();
    assert_eq!(moved(&[jump], 0x5000).unwrap().code_buffer, [0xe9, 0x2f, 0xc2, 0xff, 0xff]);
}

#[test]
fn what_is_cut_off_or_unknown_is_invalid() {
    for bytes in
        [&[0x48u8][..], &[0x48, 0x8d], &[0xe9, 0, 0], &[0x0f], &[0x06], &[0xc7, 0xf8, 0, 0, 0, 0], &[0xd6], &[0x66; 15]]
    {
        assert!(decoded(bytes).is_invalid(), "{bytes:02x?}");
    }
}
