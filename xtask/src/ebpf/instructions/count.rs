//! Counts the instructions of an object, linked as a loader links them: a program, and once each function that it calls.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
    read::elf::ElfFile64,
};

use super::Counts;

/// Bytes of an instruction (Documentation/bpf/standardization/instruction-set.rst, as the opcodes below).
const INSTRUCTION: u64 = 8;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// The source register of a call to a function of the object.
const PSEUDO_CALL: u8 = 1;
/// Loads 64 bits, an address for instance.
const LOAD_IMMEDIATE: u8 = 0x18;

/// Functions that are no programs are in this section.
const FUNCTIONS: &str = ".text";

type Place = (SectionIndex, u64);

struct Code<'a> {
    /// Names and code of the functions, by where they begin.
    functions: HashMap<Place, (&'a str, &'a [u8])>,
    /// What the code at a place refers to.
    relocations: HashMap<Place, Place>,
}

pub(super) fn count(object: &[u8]) -> Result<Counts> {
    let file = ElfFile64::<object::LittleEndian>::parse(object).context("no ELF object")?;
    let code = Code::read(&file)?;
    let is_program = |place: &Place| {
        let section = file.section_by_index(place.0);
        section.is_ok_and(|section| section.name() != Ok(FUNCTIONS))
    };
    let programs = code.functions.iter().filter(|(place, _)| is_program(place));
    programs
        .map(|(place, (name, _))| {
            let mut reached = HashSet::new();
            code.reach(*place, &mut reached);
            let bytes = reached.iter().map(|place| code.functions[place].1.len());
            Ok((
                (*name).to_owned(),
                bytes.sum::<usize>() as u64 / INSTRUCTION,
            ))
        })
        .collect()
}

impl<'a> Code<'a> {
    fn read(file: &ElfFile64<'a, object::LittleEndian>) -> Result<Self> {
        let mut functions = HashMap::new();
        for symbol in file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text)
        {
            let section = symbol.section_index().context("a function is nowhere")?;
            let code = file.section_by_index(section)?;
            let code = code.data_range(symbol.address(), symbol.size())?;
            let code = code.context("a function is not in its section")?;
            functions.insert((section, symbol.address()), (symbol.name()?, code));
        }
        let mut relocations = HashMap::new();
        for section in file.sections() {
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    continue;
                };
                let symbol = file.symbol_by_index(symbol)?;
                if let Some(target) = symbol.section_index() {
                    relocations.insert((section.index(), offset), (target, symbol.address()));
                }
            }
        }
        Ok(Self {
            functions,
            relocations,
        })
    }

    /// The function at a place, and all that it calls.
    fn reach(&self, place: Place, reached: &mut HashSet<Place>) {
        let Some((_, code)) = self.functions.get(&place) else {
            return;
        };
        if !reached.insert(place) {
            return;
        }
        let instructions = code.chunks_exact(INSTRUCTION as usize);
        for (at, instruction) in (place.1..).step_by(INSTRUCTION as usize).zip(instructions) {
            if let Some(target) = self.target((place.0, at), instruction) {
                self.reach(target, reached);
            }
        }
    }

    /// Of a call, or of a load that may be of a function's address.
    fn target(&self, at: Place, instruction: &[u8]) -> Option<Place> {
        let immediate = i64::from(i32::from_le_bytes(*instruction.last_chunk()?));
        let relocated = self.relocations.get(&at);
        let instructions = immediate * INSTRUCTION as i64;
        let next = INSTRUCTION as i64;
        match (instruction[0], relocated) {
            // Relative to the next instruction, or to a symbol less one instruction.
            (CALL, None) if instruction[1] >> 4 == PSEUDO_CALL => {
                Some((at.0, at.1.checked_add_signed(next + instructions)?))
            }
            (CALL, Some((section, symbol))) => {
                Some((*section, symbol.checked_add_signed(next + instructions)?))
            }
            (LOAD_IMMEDIATE, Some((section, symbol))) => {
                Some((*section, symbol.checked_add_signed(immediate)?))
            }
            _ => None,
        }
    }
}
