//! Modules and code, made up.

use object::write::{Object, Relocation, Symbol, SymbolSection};
use object::{RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf};

use super::*;

/// rdtsc; nop; call with a displacement that is filled later and happens to be 0f 31 0f 31;
/// ret
pub(crate) const CODE: [u8; 9] = [0x0f, 0x31, 0x90, 0xe8, 0x0f, 0x31, 0x0f, 0x31, 0xc3];
/// The same, rewritten.
pub(crate) const REWRITTEN: [u8; 9] = [0xe5, 0xec, 0x90, 0xe8, 0x0f, 0x31, 0x0f, 0x31, 0xc3];

/// A module with `code` in it, with a relocation of four bytes at `field`.
fn module_of(code: &[u8], field: u64) -> Object<'static> {
    let mut module = Object::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    let own = MODULE_SECTION.as_bytes().to_vec();
    let own = module.add_section(Vec::new(), own, SectionKind::Data);
    module.append_section_data(own, &[0; 64], 8);
    let text = module.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
    module.append_section_data(text, code, 1);
    let symbol = module.add_symbol(Symbol {
        name: b"printk".to_vec(),
        value: 0,
        size: 0,
        kind: SymbolKind::Unknown,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Undefined,
        flags: SymbolFlags::None,
    });
    let relocation = Relocation {
        offset: field,
        symbol,
        addend: -4,
        flags: RelocationFlags::Elf {
            r_type: elf::R_X86_64_PLT32,
        },
    };
    module
        .add_relocation(text, relocation)
        .expect("a known kind");
    module
}

/// A module whose code is [`CODE`].
pub(crate) fn module() -> Vec<u8> {
    module_of(&CODE, 4).write().expect("an object file")
}

#[test]
fn a_module_is_rewritten_in_place() {
    let mut file = module();
    let len = file.len();
    let sites = rewrite_module(&mut file).expect("whole").expect("a module");
    assert_eq!((sites.tsc.len(), file.len()), (1, len));
    assert!(memchr::memmem::find(&file, &REWRITTEN).is_some());
    assert!(memchr::memmem::find(&file, &CODE).is_none());
    assert!(parse(&file).is_ok());
}

#[test]
fn bytes_that_a_relocation_fills_are_no_instruction() {
    // Out of step, the disassembly would see `rdtsc` in the four bytes of a field.
    for field in [0, 1] {
        let code = [0x90, 0x0f, 0x31, 0x90, 0x90, 0x90];
        let before = module_of(&code, field).write().expect("an object file");
        let mut file = before.clone();
        let sites = rewrite_module(&mut file).expect("whole").expect("a module");
        assert_eq!(sites, Sites::default());
        assert_eq!(file, before);
    }
    let code = [0x90, 0x0f, 0x31, 0xe8, 0, 0, 0, 0];
    let mut file = module_of(&code, 4).write().expect("an object file");
    let sites = rewrite_module(&mut file).expect("whole").expect("a module");
    assert_eq!(sites.tsc, [1], "a field behind it is no obstacle");
}

#[test]
fn a_changed_module_loses_its_signature_and_no_other_does() {
    for (code, signed) in [(&CODE[..], false), (&[0x90, 0xc3], true)] {
        let mut file = module_of(code, 0x1000).write().expect("an object file");
        file.extend_from_slice(b"signature");
        file.extend_from_slice(SIGNATURE_MARK);
        let len = file.len();
        rewrite_module(&mut file).expect("whole").expect("a module");
        assert_eq!(file.ends_with(SIGNATURE_MARK), signed);
        assert_eq!(file.len(), len);
    }
}

#[test]
fn what_is_no_module_is_left_alone() {
    let mut plain = Object::new(
        object::BinaryFormat::Elf,
        object::Architecture::X86_64,
        object::Endianness::Little,
    );
    let text = plain.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
    plain.append_section_data(text, &CODE, 1);
    for before in [
        plain.write().expect("an object file"),
        b"text".to_vec(),
        vec![],
    ] {
        let mut file = before.clone();
        assert!(matches!(rewrite_module(&mut file), Ok(None)));
        assert_eq!(file, before);
    }
}

#[test]
fn finds_instructions_not_bytes() {
    // mov eax, 0x310f; rdtsc; shl rdx, 32; lfence; rdtsc; mov cr4, rdi; iretq;
    // mov eax, 0xc1010f; vmcall; vmmcall; ret
    let code = [
        0xb8, 0x0f, 0x31, 0, 0, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x0f, 0xae, 0xe8, 0x0f, 0x31,
        0x0f, 0x22, 0xe7, 0x48, 0xcf, 0xb8, 0x0f, 0x01, 0xc1, 0, 0x0f, 0x01, 0xc1, 0x0f, 0x01,
        0xd9, 0xc3,
    ];
    assert_eq!(
        find(&mut Disassembly::new(&code, 0xffff_ffff_8100_0000)),
        [
            (5, Found::Rdtsc),
            (14, Found::Rdtsc),
            (16, Found::MovToCr4(7)),
            (19, Found::Iretq),
            (26, Found::Hypercall),
            (29, Found::Hypercall)
        ]
    );
}

#[test]
fn hypercalls_of_a_module_exit() {
    let mut file = module_of(&[0x0f, 0x01, 0xd9, 0xc3], 0x1000)
        .write()
        .expect("an object file");
    let sites = rewrite_module(&mut file).expect("whole").expect("a module");
    assert_eq!(sites.hypercalls, [0]);
    assert!(!sites.is_empty());
    let exit = [OUT_AL, HYPERCALL_PORT as u8, NOP, 0xc3];
    assert!(memchr::memmem::find(&file, &exit).is_some());
}

#[test]
fn gets_into_step_again_after_data() {
    // An invalid opcode in 64-bit mode (06), then rdtsc.
    assert_eq!(
        find(&mut Disassembly::new(
            &[0x06, 0x06, 0x0f, 0x31, 0xc3],
            0x1000
        )),
        [(2, Found::Rdtsc)]
    );
}

#[test]
fn refuses_what_is_no_elf() {
    assert!(matches!(
        rewrite(&mut [], KernelReads::Exact),
        Err(RewriteError::NotElf(_))
    ));
    assert!(matches!(
        rewrite(&mut [0x7f; 4096], KernelReads::Exact),
        Err(RewriteError::NotElf(_))
    ));
}
