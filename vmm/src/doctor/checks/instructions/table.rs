//! The instructions that are tried: those whose results Intel's and AMD's manuals leave open, or that a
//! processor executes although the guest's CPU model hides them.
//!
//! Left out is what nothing can differ in (IEEE arithmetic without exceptions, flags that are defined);
//! what only the kernel may execute and KVM intercepts; and what needs CR4.OSXSAVE, which the CPU model
//! keeps clear: AVX and all that follows is undefined in a guest (VADDPS stands for it).
//!
//! **A change of the table is a new version of the protocol**: its names do not travel.

use std::arch::global_asm;

use super::operands::{Operands, ResultMask};

/// An instruction, in the forms in which it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Its name.
    pub(super) name: &'static str,
    pub(super) operands: Operands,
    pub(super) compared: ResultMask,
    /// The forms, in assembler.
    pub(super) forms: &'static [&'static str],
}

/// Each form lies in so many bytes, with a RET behind it.
pub(super) const FORM_BYTES: usize = 64;

macro_rules! table {
    ($($name:literal $operands:ident $compared:ident [$($form:literal),+])*) => {
        global_asm!(
            ".macro in_compatibility_mode instruction:vararg",
            // A far return to 32-bit code, and back.
            "lea rsp, [rsp - 8]",
            "mov dword ptr [rsp + 4], 0x08",
            "lea r9, [rip + 3f]",
            "mov dword ptr [rsp], r9d",
            "push 0x18",
            "lea r9, [rip + 2f]",
            "push r9",
            "retfq",
            ".code32",
            "2: \\instruction",
            "retf",
            ".code64",
            "3:",
            ".endm",
            ".pushsection .rodata",
            ".globl ftvm_forms, ftvm_forms_end",
            ".balign 64",
            "ftvm_forms:",
            $($(".balign 64, 0xcc", $form, "ret",)+)*
            ".balign 64, 0xcc",
            "ftvm_forms_end:",
            ".popsection",
            ".purgem in_compatibility_mode",
        );
        /// The table.
        pub(super) const TABLE: &[Instruction] = &[$(Instruction {
            name: $name,
            operands: Operands::$operands,
            compared: ResultMask::$compared,
            forms: &[$($form),+],
        }),*];
    };
}

table! {
    // Flags that are undefined, and what is left of a destination.
    "AND" Integers Results ["and al, bl", "and rax, rbx"]
    "OR" Integers Results ["or al, bl", "or rax, rbx"]
    "XOR" Integers Results ["xor al, bl", "xor rax, rbx"]
    "TEST" Integers Results ["test al, bl", "test rax, rbx"]
    "MUL" Integers Results ["mul bl", "mul bx", "mul ebx", "mul rbx"]
    "IMUL" Integers Results [
        "imul bl", "imul bx", "imul ebx", "imul rbx", "imul ax, bx", "imul eax, ebx",
        "imul rax, rbx", "imul rax, rbx, 0x12345"
    ]
    "DIV" Divisions Results ["div bl", "div bx", "div ebx", "div rbx"]
    "IDIV" Divisions Results ["idiv bl", "idiv bx", "idiv ebx", "idiv rbx"]
    "BSF" Integers Results ["bsf ax, bx", "bsf eax, ebx", "bsf rax, rbx"]
    "BSR" Integers Results ["bsr ax, bx", "bsr eax, ebx", "bsr rax, rbx"]
    "BT" Integers Results ["bt ax, cx", "bt rax, rcx", "bt qword ptr [r8], 5"]
    "BTS" Integers Results ["bts ax, cx", "bts rax, rcx", "lock bts qword ptr [r8], 5"]
    "BTR" Integers Results ["btr ax, cx", "btr rax, rcx", "lock btr qword ptr [r8], 5"]
    "BTC" Integers Results ["btc ax, cx", "btc rax, rcx", "lock btc qword ptr [r8], 5"]
    "SHL" Integers Results ["shl al, cl", "shl ax, cl", "shl eax, cl", "shl rax, cl"]
    "SHR" Integers Results ["shr al, cl", "shr ax, cl", "shr eax, cl", "shr rax, cl"]
    "SAR" Integers Results ["sar al, cl", "sar ax, cl", "sar eax, cl", "sar rax, cl"]
    "ROL" Integers Results ["rol al, cl", "rol ax, cl", "rol eax, cl", "rol rax, cl"]
    "ROR" Integers Results ["ror al, cl", "ror ax, cl", "ror eax, cl", "ror rax, cl"]
    "RCL" Integers Results ["rcl al, cl", "rcl ax, cl", "rcl eax, cl", "rcl rax, cl"]
    "RCR" Integers Results ["rcr al, cl", "rcr ax, cl", "rcr eax, cl", "rcr rax, cl"]
    "SHLD" Integers Results ["shld ax, bx, cl", "shld eax, ebx, cl", "shld rax, rbx, cl"]
    "SHRD" Integers Results ["shrd ax, bx, cl", "shrd eax, ebx, cl", "shrd rax, rbx, cl"]
    "BSWAP r16" Integers Results [".byte 0x66, 0x0f, 0xc8"]
    // The same in 32-bit programs.
    "AAA" Integers Results ["in_compatibility_mode aaa"]
    "AAS" Integers Results ["in_compatibility_mode aas"]
    "AAM" Integers Results ["in_compatibility_mode aam", "in_compatibility_mode aam 7"]
    "AAD" Integers Results ["in_compatibility_mode aad", "in_compatibility_mode aad 7"]
    "DAA" Integers Results ["in_compatibility_mode daa"]
    "DAS" Integers Results ["in_compatibility_mode das"]
    "PUSH Sreg" Few Results [
        // push -1; pop eax; push fs; pop eax
        "in_compatibility_mode .byte 0x6a, 0xff, 0x58, 0x0f, 0xa0, 0x58"
    ]

    // Approximations.
    "RCPPS" Approximations Results ["rcpps xmm0, xmm1"]
    "RSQRTPS" Approximations Results ["rsqrtps xmm0, xmm1"]
    "RCPSS" Floats Results ["rcpss xmm0, xmm1", "rcpps xmm0, xmm1"]
    "RSQRTSS" Floats Results ["rsqrtss xmm0, xmm1", "rsqrtps xmm0, xmm1"]

    // Denormals, not-a-numbers, numbers that do not fit, and MXCSR's flags for them.
    "ADDPS" Floats Results ["addps xmm0, xmm1", "addpd xmm0, xmm1"]
    "MULPS" Floats Results ["mulps xmm0, xmm1", "mulpd xmm0, xmm1"]
    "DIVPS" Floats Results ["divps xmm0, xmm1", "divpd xmm0, xmm1"]
    "SQRTPS" Floats Results ["sqrtps xmm0, xmm1", "sqrtpd xmm0, xmm1"]
    "MINPS" Floats Results ["minps xmm0, xmm1", "maxpd xmm0, xmm1"]
    "CMPPS" Floats Results ["cmpltps xmm0, xmm1", "cmpordpd xmm0, xmm1"]
    "COMISS" Floats Results ["comiss xmm0, xmm1", "ucomisd xmm0, xmm1"]
    "ADDSUBPS" Floats Results ["addsubps xmm0, xmm1", "addsubpd xmm0, xmm1"]
    "HADDPS" Floats Results ["haddps xmm0, xmm1", "hsubpd xmm0, xmm1"]
    "DPPS" Floats Results ["dpps xmm0, xmm1, 0xff", "dppd xmm0, xmm1, 0x33"]
    "ROUNDPS" Floats Results ["roundps xmm0, xmm1, 4", "roundpd xmm0, xmm1, 9"]
    "CVTPS2DQ" Floats Results [
        "cvtps2dq xmm0, xmm1", "cvttps2dq xmm0, xmm1", "cvtpd2dq xmm0, xmm1"
    ]
    "CVTSD2SI" Floats Results [
        "cvtsd2si rax, xmm1", "cvttsd2si eax, xmm1", "cvtss2si rax, xmm1"
    ]
    "CVTSI2SD" Floats Results ["cvtsi2sd xmm0, rax", "cvtsi2ss xmm0, rax"]
    "CVTPD2PS" Floats Results ["cvtpd2ps xmm0, xmm1", "cvtps2pd xmm0, xmm1"]
    "CVTPS2PI" Floats Results ["cvtps2pi mm0, xmm1", "cvtpi2ps xmm0, mm1"]
    "SIMD exceptions" Unmasked Results ["divps xmm0, xmm1", "cvtpd2ps xmm0, xmm1"]
    "PCMPISTRI" Floats Results ["pcmpistri xmm0, xmm1, 0x0c", "pcmpistrm xmm0, xmm1, 0x40"]
    "PCMPESTRI" Floats Results ["pcmpestri xmm0, xmm1, 0x08", "pcmpestrm xmm0, xmm1, 0x44"]
    "MPSADBW" Floats Results ["mpsadbw xmm0, xmm1, 5", "phminposuw xmm0, xmm1"]
    "MXCSR_MASK" Few MxcsrMask ["nop"]

    // The x87 unit: transcendentals, kinds of numbers, condition codes.
    "FSIN" X87 Results ["fsin"]
    "FCOS" X87 Results ["fcos"]
    "FSINCOS" X87 Results ["fsincos"]
    "FPTAN" X87 Results ["fptan"]
    "FPATAN" X87 Results ["fpatan"]
    "F2XM1" X87 Results ["f2xm1"]
    "FYL2X" X87 Results ["fyl2x", "fabs; fyl2x"]
    "FYL2XP1" X87 Results ["fyl2xp1"]
    "FSCALE" X87 Results ["fscale"]
    "FPREM" X87 Results ["fprem"]
    "FPREM1" X87 Results ["fprem1"]
    "FXTRACT" X87 Results ["fxtract"]
    "FRNDINT" X87 Results ["frndint"]
    "FSQRT" X87 Results ["fsqrt"]
    "FADD" X87 Results ["fadd st(0), st(1)"]
    "FMUL" X87 Results ["fmul st(0), st(1)"]
    "FDIV" X87 Results ["fdiv st(0), st(1)"]
    "FCOM" X87 Results ["fcom st(1)", "fucomi st(0), st(1)", "fxam", "ftst"]
    "FIST" X87 Results ["fistp qword ptr [r8]", "fistp word ptr [r8]", "fisttp dword ptr [r8]"]
    "FST" X87 Results ["fstp qword ptr [r8]", "fstp dword ptr [r8]"]
    "FBSTP" X87 Results ["fbstp [r8]"]
    "FBLD" X87 Results ["fbld [r8]"]
    "FLD" X87 Results ["fldpi", "fldl2t", "fldln2", "fld dword ptr [r8]", "fld qword ptr [r8]"]
    "x87 exceptions" X87Unmasked Results ["fsqrt; fwait"]
    "x87 pointers" Few Pointers [
        "fld qword ptr [r8]", "fadd st(0), st(1)", "fnop", "fld1; fnclex",
        "fld qword ptr [r8]; fnstenv [r8]; mov eax, [r8 + 16]; mov edx, [r8 + 24]"
    ]

    // Hidden, and executed all the same by processors that have them. First, what gives another value
    // each time, the host's, or none.
    "RDRAND" Few Executes ["rdrand rax"]
    "RDSEED" Few Executes ["rdseed rax"]
    "RDPID" Few Executes ["rdpid rax"]
    "RDTSCP" Few Executes ["rdtscp"]
    "RDPRU" Few Executes ["xor ecx, ecx; .byte 0x0f, 0x01, 0xfd"]
    "XGETBV" Few Executes ["xor ecx, ecx; xgetbv"]
    "XBEGIN" Few Executes ["xbegin 2f; xend; 2:"]
    "RDPKRU" Few Executes ["xor ecx, ecx; rdpkru"]
    "RDFSBASE" Few Executes ["rdfsbase rax"]
    "CLFLUSHOPT" Few Executes ["clflushopt [r8]"]
    "CLWB" Few Executes ["clwb [r8]"]
    "SERIALIZE" Few Executes [".byte 0x0f, 0x01, 0xe8"]
    "PTWRITE" Few Executes ["ptwrite rax"]
    "LZCNT" Integers Results ["lzcnt ax, bx", "lzcnt rax, rbx"]
    "TZCNT" Integers Results ["tzcnt ax, bx", "tzcnt rax, rbx"]
    "MOVBE" Few Results ["movbe rax, [r8]", "movbe [r8], ebx"]
    "ADCX" Integers Results ["adcx rax, rbx"]
    "ADOX" Integers Results ["adox rax, rbx"]
    "ANDN" Few Results ["andn rax, rbx, rdx"]
    "BEXTR" Integers Results ["bextr rax, rbx, rcx"]
    "BLSI" Few Results ["blsi rax, rbx", "blsr rax, rbx", "blsmsk rax, rbx"]
    "BZHI" Integers Results ["bzhi rax, rbx, rcx"]
    "PDEP" Few Results ["pdep rax, rbx, rdx"]
    "PEXT" Few Results ["pext rax, rbx, rdx"]
    "MULX" Few Results ["mulx rax, rcx, rbx"]
    "RORX" Few Results ["rorx rax, rbx, 5"]
    "SHLX" Few Results ["shlx rax, rbx, rcx", "sarx rax, rbx, rcx"]
    "EXTRQ" Few Results ["extrq xmm0, xmm1"]
    "INSERTQ" Few Results ["insertq xmm0, xmm1"]
    "SHA1NEXTE" Few Results ["sha1nexte xmm0, xmm1"]
    "SHA256MSG1" Few Results ["sha256msg1 xmm0, xmm1"]
    "GF2P8MULB" Few Results ["gf2p8mulb xmm0, xmm1"]
    "CLZERO" Few Results ["mov rax, r8; .byte 0x0f, 0x01, 0xfc"]
    "MOVDIRI" Few Results ["movdiri [r8], rax"]
    "AADD" Few Results [".byte 0x49, 0x0f, 0x38, 0xfc, 0x00"]
    "VADDPS" Few Results ["vaddps xmm0, xmm0, xmm1"]
}
