//! Machine code, as far as it says which system call an instruction makes.
//!
//! `objdump` disassembles the file, its frame descriptions give the bounds of each function, local ones included. The value of each
//! register is followed forward along jumps, as a set of constants; a call forgets what a callee may change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::process::Command;

/// One `syscall` instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its address in the file.
    pub address: u64,
    /// The numbers that it can make; empty if they do not stand in the code.
    pub numbers: BTreeSet<u64>,
    /// The exported names of the function that it stands in; for a local one those of a function that leads there.
    pub functions: Vec<String>,
    /// Whether it stands in a local function.
    pub is_local: bool,
}

struct Instruction {
    address: u64,
    name: String,
    operands: String,
}

impl Instruction {
    fn parse(line: &str) -> Option<Self> {
        let (address, rest) = line.trim_start().split_once(":\t")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let (mut name, mut operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        while ["bnd", "notrack", "lock", "rep", "repz", "repnz", "cs", "data16"].contains(&name) {
            (name, operands) = operands.trim_start().split_once(char::is_whitespace).unwrap_or((operands, ""));
        }
        Some(Self { address, name: name.to_owned(), operands: operands.trim().to_owned() })
    }

    fn is_jump(&self) -> bool {
        self.name.starts_with('j')
    }

    /// Where a jump or a call leads, if that stands in the code.
    fn target(&self) -> Option<u64> {
        let leads = self.is_jump() || self.name == "call";
        leads.then(|| u64::from_str_radix(self.operands.split_whitespace().next()?, 16).ok()).flatten()
    }

    /// The address that an instruction computes from its own.
    fn pointed_to(&self) -> Option<u64> {
        let (_, comment) = self.operands.split_once("# ")?;
        u64::from_str_radix(comment.split_whitespace().next()?, 16).ok()
    }

    fn is_filling(&self) -> bool {
        self.name.starts_with("nop") || self.name == "xchg" && self.operands == "%ax,%ax"
    }

    /// Whether the next instruction never follows.
    fn ends_path(&self) -> bool {
        ["jmp", "ret", "ud2"].contains(&self.name.as_str())
    }

    /// The last operand, which is the destination.
    fn destination(&self) -> &str {
        let operands = self.operands.split(" #").next().unwrap_or("");
        // A comma within parentheses belongs to an address.
        let mut depth = 0;
        let comma = operands.char_indices().filter(|(_, letter)| {
            depth += i32::from(*letter == '(') - i32::from(*letter == ')');
            *letter == ',' && depth == 0
        });
        comma.last().map_or(operands, |(at, _)| &operands[at + 1..]).trim()
    }

    fn source(&self) -> &str {
        self.operands.split(',').next().unwrap_or("").trim()
    }
}

const REGISTERS: [&str; 16] =
    ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const AX: usize = 0;

/// Which register a name is, and whether all of it is meant (a write to 32 bits clears the rest).
fn register(name: &str) -> Option<(usize, bool)> {
    let name = name.strip_prefix('%')?;
    let whole = |at| Some((at, true));
    if let Some(at) = REGISTERS.iter().position(|register| *register == name) {
        return Some((at, at >= 8));
    }
    match name {
        "al" | "ah" => return Some((AX, false)),
        "cl" | "ch" => return Some((1, false)),
        "dl" | "dh" => return Some((2, false)),
        "bl" | "bh" => return Some((3, false)),
        _ => {}
    }
    if let Some(rest) = name.strip_prefix(['e', 'r'])
        && let Some(at) = REGISTERS.iter().position(|register| *register == rest)
    {
        return whole(at);
    }
    let numbered = name.trim_end_matches(['d', 'w', 'b', 'l']);
    if let Some(at) = REGISTERS.iter().position(|register| *register == numbered) {
        return Some((at, name.ends_with('d')));
    }
    None
}

/// The constants that a register can hold; `None`: any.
type Values = Option<BTreeSet<u64>>;

/// What is known before an instruction.
#[derive(Clone, PartialEq)]
struct State([Values; 16]);

impl State {
    const fn unknown() -> Self {
        Self([const { None }; 16])
    }

    /// Adds what another way to the same place brings. False: nothing new.
    fn join(&mut self, other: &Self) -> bool {
        /// More than any system call's number is chosen from.
        const MOST: usize = 8;
        let mut is_new = false;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            let Some(values) = mine else { continue };
            let before = values.len();
            match theirs {
                Some(theirs) => values.extend(theirs),
                None => *mine = None,
            }
            if mine.as_ref().is_some_and(|values| values.len() > MOST) {
                *mine = None;
            }
            is_new |= mine.as_ref().is_none_or(|values| values.len() != before);
        }
        is_new
    }

    fn value(&self, operand: &str) -> Values {
        if let Some(number) = operand.strip_prefix("$0x") {
            return u64::from_str_radix(number, 16).ok().map(|number| BTreeSet::from([number]));
        }
        let (register, is_whole) = register(operand)?;
        is_whole.then(|| self.0[register].clone()).flatten()
    }

    fn after(&self, instruction: &Instruction) -> Self {
        let mut next = self.clone();
        let mut forget = |registers: &[usize]| registers.iter().for_each(|register| next.0[*register] = None);
        let name = instruction.name.as_str();
        match name {
            "call" => forget(&[0, 1, 2, 6, 7, 8, 9, 10, 11]),
            "syscall" => forget(&[0, 1, 11]),
            "cpuid" => forget(&[0, 1, 2, 3]),
            "rdtsc" | "rdtscp" | "xgetbv" | "cltd" | "cqto" => forget(&[0, 1, 2]),
            "cltq" | "cwtl" => forget(&[0]),
            _ if name.starts_with("stos") || name.starts_with("movs") && instruction.operands.contains("es:") => {
                forget(&[1, 6, 7]);
            }
            _ if name.starts_with("mul") || name.starts_with("div") || name.starts_with("idiv") => forget(&[0, 2]),
            _ if name.starts_with("imul") && !instruction.operands.contains(',') => forget(&[0, 2]),
            _ if name.starts_with("cmpxchg") => forget(&[0]),
            _ => {}
        }
        let keeps = ["cmp", "test", "push", "nop", "call", "j", "bt"].iter().any(|start| name.starts_with(start))
            && !name.starts_with("cmpxchg");
        if keeps {
            return next;
        }
        if (name.starts_with("xchg") || name.starts_with("xadd"))
            && let Some((source, _)) = register(instruction.source())
        {
            next.0[source] = None;
        }
        let Some((target, is_whole)) = register(instruction.destination()) else { return next };
        let two = instruction.operands.contains(',');
        next.0[target] = match name {
            "mov" | "movl" | "movq" | "movabs" if is_whole => self.value(instruction.source()),
            "xor" | "sub" if two && is_whole && instruction.source() == instruction.destination() => {
                Some(BTreeSet::from([0]))
            }
            _ if name.starts_with("cmov") => match (self.0[target].clone(), self.value(instruction.source())) {
                (Some(kept), Some(moved)) => Some(&kept | &moved),
                _ => None,
            },
            _ => None,
        };
        next
    }
}

/// An executable file.
pub struct Code {
    instructions: Vec<Instruction>,
    /// Where functions lie, local ones and split-off parts included.
    functions: Vec<Range<u64>>,
    /// The exported names at an address.
    exported: BTreeMap<u64, Vec<String>>,
}

fn run(program: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let output = Command::new(program).args(arguments).arg(file).output().ok()?;
    // readelf fails for a description that it does not know, and shows the others all the same.
    (!output.stdout.is_empty()).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Code between two functions that describes no frame goes on with the first one, as in clone(2), and so does what follows it
/// unaligned; but for what only fills the space.
fn whole(described: &[Range<u64>], instructions: &[Instruction]) -> Vec<Range<u64>> {
    const ALIGNMENT: u64 = 16;
    let mut all: Vec<Range<u64>> = vec![];
    let mut goes_on = false;
    for function in described {
        let end = all.last().map_or(function.start, |last| last.end);
        let behind = instructions.partition_point(|instruction| instruction.address < end);
        let is_code = end < function.start && !instructions[behind].is_filling();
        match all.last_mut() {
            Some(last) if is_code || goes_on && end == function.start && !end.is_multiple_of(ALIGNMENT) => {
                last.end =
                    if is_code && function.start.is_multiple_of(ALIGNMENT) { function.start } else { function.end };
                if last.end == function.start {
                    all.push(function.clone());
                }
                goes_on = true;
            }
            _ => {
                all.push(function.clone());
                goes_on = false;
            }
        }
    }
    all
}

impl Code {
    /// `None`: the tools (binutils) are missing.
    pub fn read(file: &Path) -> Option<Self> {
        let instructions = run("objdump", &["-d", "--no-show-raw-insn"], file)?;
        let frames = run("readelf", &["-W", "--debug-dump=frames"], file)?;
        let mut described: Vec<_> = frames
            .lines()
            .filter_map(|line| {
                let (start, end) = line.split_once("pc=")?.1.split_whitespace().next()?.split_once("..")?;
                Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
            })
            .collect();
        described.sort_by_key(|range| range.start);
        described.dedup();
        let instructions: Vec<_> = instructions.lines().filter_map(Instruction::parse).collect();
        let functions = whole(&described, &instructions);
        let mut exported = BTreeMap::<u64, Vec<String>>::new();
        for line in run("readelf", &["-W", "--dyn-syms"], file)?.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [_, value, _, "FUNC" | "IFUNC", _, _, section, name, ..] = fields[..]
                && section != "UND"
            {
                let name = name.split('@').next().unwrap_or(name).to_owned();
                exported.entry(u64::from_str_radix(value, 16).ok()?).or_default().push(name);
            }
        }
        exported.values_mut().for_each(|names| {
            names.sort();
            names.dedup();
        });
        Some(Self { instructions, functions, exported })
    }

    fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, |instruction| instruction.address).ok()
    }

    fn function_of(&self, address: u64) -> Option<usize> {
        let behind = self.functions.partition_point(|function| function.start <= address);
        let function = behind.checked_sub(1)?;
        self.functions[function].contains(&address).then_some(function)
    }

    fn code_of(&self, function: usize) -> Range<usize> {
        let at = |address| self.instructions.partition_point(|instruction| instruction.address < address);
        at(self.functions[function].start)..at(self.functions[function].end)
    }

    /// For each function those that jump to it, call it or take its address.
    fn callers(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut callers = BTreeMap::<usize, BTreeSet<usize>>::new();
        for instruction in &self.instructions {
            let pointed = instruction.pointed_to().filter(|at| self.functions.iter().any(|one| one.start == *at));
            let Some(target) = instruction.target().or(pointed) else { continue };
            if let (Some(from), Some(to)) = (self.function_of(instruction.address), self.function_of(target))
                && from != to
            {
                callers.entry(to).or_default().insert(from);
            }
        }
        callers
    }

    /// The exported names of `function`, as entered at or before `address`.
    fn names_of(&self, function: usize, address: u64) -> Option<&Vec<String>> {
        self.exported.range(self.functions[function].start..=address).next_back().map(|(_, names)| names)
    }

    /// All `syscall` instructions.
    pub fn sites(&self) -> Vec<Site> {
        let is_site = |instruction: &&Instruction| instruction.name == "syscall";
        let holders: BTreeSet<_> =
            self.instructions.iter().filter(is_site).filter_map(|site| self.function_of(site.address)).collect();
        let callers = self.callers();
        let states = self.follow(&holders);
        self.instructions
            .iter()
            .enumerate()
            .filter(|(_, instruction)| is_site(instruction))
            .map(|(index, site)| {
                let numbers = states.get(&index).and_then(|state| state.0[AX].clone()).unwrap_or_default();
                let function = self.function_of(site.address);
                let own = function.and_then(|function| self.names_of(function, site.address));
                let functions = own.cloned().or_else(|| self.leading_to(function?, &callers)).unwrap_or_default();
                Site { address: site.address, numbers, functions, is_local: own.is_none() }
            })
            .collect()
    }

    /// The exported function nearest to `function` by calls; of several the first by name.
    fn leading_to(&self, function: usize, callers: &BTreeMap<usize, BTreeSet<usize>>) -> Option<Vec<String>> {
        let mut seen = BTreeSet::from([function]);
        let mut ring = seen.clone();
        while !ring.is_empty() {
            let named = ring.iter().filter_map(|one| self.names_of(*one, self.functions[*one].end - 1));
            if let Some(names) = named.min() {
                return Some(names.clone());
            }
            ring = ring.iter().flat_map(|one| callers.get(one).into_iter().flatten()).copied().collect();
            ring.retain(|one| seen.insert(*one));
        }
        None
    }

    /// What is known before each instruction of `functions`.
    fn follow(&self, functions: &BTreeSet<usize>) -> BTreeMap<usize, State> {
        let mut states = BTreeMap::<usize, State>::new();
        for function in functions {
            let code = self.code_of(*function);
            // What no jump in the code leads to is entered from elsewhere; but for what only fills the space between two pieces.
            for entry in code.clone() {
                if !states.contains_key(&entry) && !self.instructions[entry].is_filling() {
                    states.insert(entry, State::unknown());
                    self.follow_from(entry, &code, &mut states);
                }
            }
        }
        states
    }

    fn follow_from(&self, entry: usize, code: &Range<usize>, states: &mut BTreeMap<usize, State>) {
        let mut waiting = VecDeque::from([entry]);
        while let Some(index) = waiting.pop_front() {
            let instruction = &self.instructions[index];
            let after = states[&index].after(instruction);
            let next = (!instruction.ends_path()).then_some(index + 1);
            let jump = instruction.target().filter(|_| instruction.is_jump()).and_then(|at| self.index_of(at));
            for to in next.into_iter().chain(jump).filter(|to| code.contains(to)) {
                let is_new = match states.get_mut(&to) {
                    Some(state) => state.join(&after),
                    None => states.insert(to, after.clone()).is_none(),
                };
                if is_new {
                    waiting.push_back(to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(lines: &[&str]) -> Vec<BTreeSet<u64>> {
        let instructions: Vec<_> = lines.iter().filter_map(|line| Instruction::parse(line)).collect();
        assert_eq!(instructions.len(), lines.len());
        let functions = std::iter::once(0..0x100).collect();
        Code { instructions, functions, exported: BTreeMap::from([(0, vec!["f".into()])]) }
            .sites()
            .into_iter()
            .map(|site| site.numbers)
            .collect()
    }

    #[test]
    fn a_number_is_found_over_jumps_and_copies() {
        let found = numbers(&[
            " 0:\tmov    $0x14,%edx",
            " 1:\ttest   %edi,%edi",
            " 2:\tje     6 <f+6>",
            " 3:\tmov    $0x1,%edx",
            " 4:\tcall   80 <g>",
            " 5:\tmov    $0x2,%edx",
            " 6:\tmov    %edx,%eax",
            " 7:\tsyscall",
            " 8:\tsyscall",
            " 9:\tret",
        ]);
        assert_eq!(found, [BTreeSet::from([2, 0x14]), BTreeSet::new()]);
    }

    #[test]
    fn a_part_written_or_a_call_leaves_no_number() {
        let found = numbers(&[
            " 0:\tmov    $0x1,%eax",
            " 1:\tmov    $0x2,%al",
            " 2:\tsyscall",
            " 3:\tmov    $0x1,%eax",
            " 4:\tcall   80 <g>",
            " 5:\tsyscall",
            " 6:\txor    %eax,%eax",
            " 7:\tsyscall",
        ]);
        assert_eq!(found, [BTreeSet::new(), BTreeSet::new(), BTreeSet::from([0])]);
    }
}
