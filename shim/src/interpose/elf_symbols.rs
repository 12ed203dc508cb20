//! Lookup of functions in the loaded libraries, without dlsym(3).
//!
//! The constructor runs before libc's own (see build.rs). A dlopen(3) would initialise libc without an environment then, and a
//! dlsym(3) that finds nothing would use what is not set up yet. So the symbol tables are read directly (elf(5)).

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ops::Range;
use core::ptr;

/// Which libraries are searched, in the order in which they were loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Those after this one, as with RTLD_NEXT.
    Next,
    /// libc alone.
    Libc,
}

struct Search<'a> {
    name: &'a CStr,
    place: Where,
    own_is_behind: bool,
    found: *const (),
}

/// The address of a function; null if there is none of that name.
pub fn find(place: Where, name: &CStr) -> *const () {
    let mut search = Search { name, place, own_is_behind: false, found: ptr::null() };
    // SAFETY: `visit` takes the search as its argument, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

/// Called for each library. Any result but 0 ends the walk.
unsafe extern "C" fn visit(library: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: libc passes a description that is valid during the call, and the argument of `find`.
    let (library, search) = unsafe { (&*library, &mut *search.cast::<Search<'_>>()) };
    let is_searched = match search.place {
        Where::Next => search.own_is_behind,
        Where::Libc => is_libc(library),
    };
    if is_searched {
        // SAFETY: the library is loaded and relocated.
        search.found = unsafe { Symbols::of(library) }.map_or(ptr::null(), |symbols| symbols.find(search.name));
    }
    search.own_is_behind |= is_this_library(library);
    c_int::from(!search.found.is_null())
}

/// The symbols of all libraries that are loaded, read once for many lookups.
pub struct Libraries {
    symbols: Vec<Symbols>,
    /// The first of those after this one.
    next: usize,
    libc: Option<usize>,
}

/// Where functions of one name are; null: nowhere.
#[derive(Clone, Copy)]
pub struct FoundBoth {
    /// In the first library after this one that has it.
    pub next: *const (),
    /// In libc.
    pub libc: *const (),
}

impl Libraries {
    /// Those that are loaded. It allocates: for the constructor.
    pub fn loaded() -> Self {
        let mut libraries = Self { symbols: Vec::with_capacity(16), next: 0, libc: None };
        // SAFETY: `note` takes the libraries as its argument, which outlive the call.
        unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut libraries).cast()) };
        libraries
    }

    /// The functions of that name.
    pub fn find(&self, name: &CStr) -> FoundBoth {
        let hash = hash_of(name);
        let in_libc = || self.libc.map_or(ptr::null(), |libc| self.symbols[libc].find_hashed(name, hash));
        for (index, symbols) in self.symbols.iter().enumerate().skip(self.next) {
            let next = symbols.find_hashed(name, hash);
            if !next.is_null() {
                return FoundBoth { next, libc: if Some(index) == self.libc { next } else { in_libc() } };
            }
        }
        FoundBoth { next: ptr::null(), libc: in_libc() }
    }
}

/// Called for each library, in the order in which they were loaded.
unsafe extern "C" fn note(library: *mut libc::dl_phdr_info, _size: usize, libraries: *mut c_void) -> c_int {
    // SAFETY: libc passes a description that is valid during the call, and the argument of `loaded`.
    let (library, libraries) = unsafe { (&*library, &mut *libraries.cast::<Libraries>()) };
    // SAFETY: the library is loaded and relocated.
    if let Some(symbols) = unsafe { Symbols::of(library) } {
        if is_libc(library) {
            libraries.libc = Some(libraries.symbols.len());
        }
        libraries.symbols.push(symbols);
    }
    if is_this_library(library) {
        libraries.next = libraries.symbols.len();
    }
    0
}

/// The part of libc's data that the loader made read-only after relocation; empty if there is none.
pub fn read_only_data_of_libc() -> Range<u64> {
    segment_of_libc(|header| header.p_type == libc::PT_GNU_RELRO)
}

/// libc's code; empty if there is none.
pub fn code_of_libc() -> Range<u64> {
    segment_of_libc(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0)
}

fn segment_of_libc(is_wanted: fn(&libc::Elf64_Phdr) -> bool) -> Range<u64> {
    let mut segment = Segment { is_wanted, found: 0..0 };
    // SAFETY: `visit_libc` takes the segment as its argument, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit_libc), (&raw mut segment).cast()) };
    segment.found
}

struct Segment {
    is_wanted: fn(&libc::Elf64_Phdr) -> bool,
    found: Range<u64>,
}

unsafe extern "C" fn visit_libc(library: *mut libc::dl_phdr_info, _size: usize, segment: *mut c_void) -> c_int {
    // SAFETY: libc passes a description that is valid during the call, and the argument of `segment_of_libc`.
    let (library, segment) = unsafe { (&*library, &mut *segment.cast::<Segment>()) };
    if !is_libc(library) {
        return 0;
    }
    if let Some(header) = headers(library).iter().find(|header| (segment.is_wanted)(header)) {
        let start = library.dlpi_addr + header.p_vaddr;
        segment.found = start..start + header.p_memsz;
    }
    1
}

fn is_libc(library: &libc::dl_phdr_info) -> bool {
    // SAFETY: the name is a C string, or null.
    let name = unsafe { library.dlpi_name.as_ref().map(|name| CStr::from_ptr(name).to_bytes()) };
    name.is_some_and(|name| name.ends_with(LIBC))
}

fn headers(library: &libc::dl_phdr_info) -> &[libc::Elf64_Phdr] {
    // SAFETY: libc says where the program headers are and how many.
    unsafe { core::slice::from_raw_parts(library.dlpi_phdr, usize::from(library.dlpi_phnum)) }
}

fn is_this_library(library: &libc::dl_phdr_info) -> bool {
    let here = visit as *const () as u64;
    headers(library).iter().any(|header| {
        let start = library.dlpi_addr + header.p_vaddr;
        header.p_type == libc::PT_LOAD && (start..start + header.p_memsz).contains(&here)
    })
}

/// `struct link_map` (link.h), whose first fields are part of libc's binary interface.
#[repr(C)]
struct LinkMap {
    base: u64,
    name: *const c_char,
    dynamic: u64,
    next: *const LinkMap,
    previous: *const LinkMap,
}

/// A library in any namespace.
pub struct Loaded {
    base: u64,
    symbols: Symbols,
}

const LIBC: &[u8] = b"/libc.so.6";
/// Libraries that before glibc 2.34 have functions of libc's beside libc: their own write(2), open(2), dlmopen(3).
const PARTS_OF_LIBC: [&[u8]; 3] = [b"/libpthread.so.0", b"/libdl.so.2", b"/librt.so.1"];

/// The libc in the namespace of a library that dlmopen(3) loaded; `None` if there is none, or if it is the program's own.
pub fn libc_beside(handle: *mut c_void) -> Option<Loaded> {
    namespace_of(handle).find_map(|library| library.as_one_of(&[LIBC])).filter(|libc| libc.base != base_of_libc())
}

/// The libraries in that namespace that have functions of libc's, beside libc itself.
pub fn parts_of_libc_beside(handle: *mut c_void) -> impl Iterator<Item = Loaded> {
    namespace_of(handle).filter_map(|library| library.as_one_of(&PARTS_OF_LIBC))
}

/// All libraries in the namespace of one that dlmopen(3) loaded.
fn namespace_of(handle: *mut c_void) -> impl Iterator<Item = &'static LinkMap> {
    const RTLD_DI_LINKMAP: c_int = 2;
    let mut map: *const LinkMap = ptr::null();
    // SAFETY: the handle was just returned; the argument has room for a pointer.
    let answer = unsafe { libc::dlinfo(handle, RTLD_DI_LINKMAP, (&raw mut map).cast()) };
    // SAFETY: the libraries of one namespace form a linked list. Only the loader changes it, and the loader has returned.
    let mut first = unsafe { map.as_ref() }.filter(|_| answer == 0);
    // SAFETY: as above.
    while let Some(previous) = first.and_then(|map| unsafe { map.previous.as_ref() }) {
        first = Some(previous);
    }
    // SAFETY: as above.
    core::iter::successors(first, |map| unsafe { map.next.as_ref() })
}

impl LinkMap {
    /// This library, if its path ends with one of these.
    fn as_one_of(&self, endings: &[&[u8]]) -> Option<Loaded> {
        // SAFETY: the name is a C string, or null.
        let name = unsafe { self.name.as_ref().map(|name| CStr::from_ptr(name).to_bytes()) }?;
        if !endings.iter().any(|ending| name.ends_with(ending)) {
            return None;
        }
        // SAFETY: the library is loaded and relocated.
        Some(Loaded { base: self.base, symbols: unsafe { Symbols::at(self.base, self.dynamic) }? })
    }
}

/// The address that the program's own libc is loaded at.
fn base_of_libc() -> u64 {
    segment_of_libc(|header| header.p_type == libc::PT_LOAD && header.p_offset == 0).start
}

impl Loaded {
    /// The function of that name in its default version; null if there is none.
    pub fn find(&self, name: &CStr) -> *const () {
        self.symbols.find(name)
    }

    /// Its code.
    pub fn code(&self) -> Option<Range<u64>> {
        // SAFETY: a library begins with its ELF header, which says where its program headers are.
        unsafe {
            let header = &*(self.base as *const libc::Elf64_Ehdr);
            let headers = (self.base + header.e_phoff) as *const libc::Elf64_Phdr;
            let headers = core::slice::from_raw_parts(headers, usize::from(header.e_phnum));
            let code = headers.iter().find(|part| part.p_type == libc::PT_LOAD && part.p_flags & libc::PF_X != 0)?;
            let start = self.base + code.p_vaddr;
            Some(start..start + code.p_memsz)
        }
    }
}

fn hash_of(name: &CStr) -> u32 {
    name.to_bytes().iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add((*byte).into()))
}

/// A library's dynamic symbols.
struct Symbols {
    base: u64,
    table: *const libc::Elf64_Sym,
    names: *const c_char,
    versions: *const u16,
    hash: *const u32,
}

const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_VERSYM: i64 = 0x6fff_fff0;
const HIDDEN: u16 = 0x8000;
const FUNCTION: u8 = 2;

impl Symbols {
    /// # Safety
    /// `library` is loaded and relocated.
    unsafe fn of(library: &libc::dl_phdr_info) -> Option<Self> {
        let dynamic = headers(library).iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
        // SAFETY: the caller's promise.
        unsafe { Self::at(library.dlpi_addr, library.dlpi_addr + dynamic.p_vaddr) }
    }

    /// # Safety
    /// At `base` a library is loaded and relocated, its dynamic section at `dynamic`.
    unsafe fn at(base: u64, dynamic: u64) -> Option<Self> {
        let mut entry = dynamic as *const [i64; 2];
        let mut found = [0u64; 4];
        // SAFETY: the dynamic section is an array of (tag, value) that ends with tag 0.
        unsafe {
            while (*entry)[0] != 0 {
                let [tag, value] = *entry;
                let wanted = [DT_SYMTAB, DT_STRTAB, DT_VERSYM, DT_GNU_HASH];
                if let Some(at) = wanted.iter().position(|wanted| *wanted == tag) {
                    found[at] = value as u64;
                }
                entry = entry.add(1);
            }
        }
        let [table, names, versions, hash] = found;
        // In a library whose section the loader does not relocate (the vDSO) the values are no addresses.
        if table < base || names == 0 || hash == 0 {
            return None;
        }
        Some(Self {
            base,
            table: table as *const libc::Elf64_Sym,
            names: names as *const c_char,
            versions: versions as *const u16,
            hash: hash as *const u32,
        })
    }

    /// The function of that name in its default version; null if there is none.
    fn find(&self, name: &CStr) -> *const () {
        self.find_hashed(name, hash_of(name))
    }

    /// The table is hashed as by GNU ld: a filter of bits, buckets, then chains of hash values that run along the symbol table. The
    /// lowest bit marks the last entry of a chain.
    fn find_hashed(&self, name: &CStr, wanted: u32) -> *const () {
        // SAFETY: the header's four words say where filter, buckets and chains are; every index comes from the table itself.
        unsafe {
            let [buckets, first, words, shift] = core::array::from_fn(|word| *self.hash.add(word));
            let filter = *self.hash.add(4).cast::<u64>().add(((wanted >> 6) % words.max(1)) as usize);
            let is_perhaps_here = filter >> (wanted & 63) & filter >> (wanted.wrapping_shr(shift) & 63) & 1 == 1;
            if !is_perhaps_here {
                return ptr::null();
            }
            let bucket_table = self.hash.add(4 + 2 * words as usize);
            let chains = bucket_table.add(buckets as usize);
            let mut index = *bucket_table.add((wanted % buckets.max(1)) as usize);
            while index >= first && index != 0 {
                let hash = *chains.add((index - first) as usize);
                if hash | 1 == wanted | 1 && self.is(index as usize, name) {
                    return (self.base + (*self.table.add(index as usize)).st_value) as *const ();
                }
                if hash & 1 == 1 {
                    break;
                }
                index += 1;
            }
        }
        ptr::null()
    }

    /// # Safety
    /// `index` is one of the symbol table's.
    unsafe fn is(&self, index: usize, name: &CStr) -> bool {
        // SAFETY: the caller's promise; the name's offset comes from the table.
        unsafe {
            let symbol = &*self.table.add(index);
            let is_default = self.versions.is_null() || *self.versions.add(index) & HIDDEN == 0;
            symbol.st_shndx != 0
                && symbol.st_info & 0xf == FUNCTION
                && is_default
                && CStr::from_ptr(self.names.add(symbol.st_name as usize)) == name
        }
    }
}
