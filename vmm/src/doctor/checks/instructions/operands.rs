//! Operands with which instructions are tried, and what of their results is compared.
//!
//! ```text
//!   set of operands, 128 bytes                record of a result, 256 bytes
//!     0  RAX, RBX, RCX, RDX                     0  RAX, RBX, RCX, RDX
//!    32  RFLAGS                                32  RFLAGS
//!    40  memory at R8                          40  memory at R8, 16 bytes
//!    48  MXCSR u32, FCW u16                    56  vector of the exception + 1; 0: none
//!    64  XMM0, XMM1                            64  what FXSAVE stores: FCW, FSW, tags, FOP
//!    96  ST(0), ST(1), 16 bytes each           72  FIP, FDP
//!                                              88  MXCSR u32, MXCSR_MASK u32
//!                                              96  ST(0) to ST(7), 16 bytes each
//!                                             224  XMM0, XMM1
//! ```

/// Length of a set of operands.
pub(super) const SET_BYTES: u64 = 128;
/// Words of a record.
pub(super) const RECORD_WORDS: usize = 32;
/// What FXRSTOR loads before each: FCW, MXCSR, and everything else empty.
pub(super) const BLANK: [(usize, u64); 2] = [(0, 0x37f), (24, 0x1f80)];

/// Which operands an instruction is tried with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operands {
    /// Numbers and counts, flags set and clear.
    Integers,
    /// A few of these.
    Few,
    /// Dividends that mostly fit.
    Divisions,
    /// Vectors of floating-point numbers, all kinds, rounded in all ways.
    Floats,
    /// The same, with no exception masked.
    Unmasked,
    /// Very many numbers, of all magnitudes.
    Approximations,
    /// Numbers of the x87 unit, all kinds, rounded in all ways.
    X87,
    /// The same, with no exception masked.
    X87Unmasked,
}

/// Which part of a result is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResultMask {
    /// All but the pointers to the last x87 instruction and MXCSR_MASK.
    Results,
    /// These pointers too, where a host keeps them.
    Pointers,
    /// Which bits of MXCSR there are.
    MxcsrMask,
    /// Only whether it is executed: what it gives is another one each time, or the host's.
    Executes,
}

impl Operands {
    pub(super) const ALL: [Self; 8] = [
        Self::Integers,
        Self::Few,
        Self::Divisions,
        Self::Floats,
        Self::Unmasked,
        Self::Approximations,
        Self::X87,
        Self::X87Unmasked,
    ];

    /// The sets, as they lie in the guest's memory.
    pub(super) fn sets(self) -> Vec<[u64; 16]> {
        match self {
            Self::Integers => INTEGERS.iter().map(integers).collect(),
            Self::Few => INTEGERS[2..5].iter().map(integers).collect(),
            Self::Divisions => DIVISIONS.iter().map(integers).collect(),
            Self::Floats => floats(&[0x1f80, 0x9fc0, 0x7f80, 0x3f80, 0x5f80]),
            Self::Unmasked => floats(&[0]),
            Self::Approximations => approximations(),
            Self::X87 => x87(&[0x37f, 0x27f, 0x07f, 0xf7f, 0x77f, 0xb7f]),
            Self::X87Unmasked => x87(&[0x340]),
        }
    }
}

impl ResultMask {
    pub(super) const ALL: [Self; 4] = [
        Self::Results,
        Self::Pointers,
        Self::MxcsrMask,
        Self::Executes,
    ];

    /// The bits that count of a record.
    pub(super) fn mask(self) -> [u64; RECORD_WORDS] {
        const EXCEPTION: usize = 7;
        const X87_STATE: usize = 8;
        const POINTERS: std::ops::Range<usize> = 9..11;
        const MXCSR: usize = 11;
        const REGISTER_STACK: std::ops::Range<usize> = 12..28;
        let mut mask = [0; RECORD_WORDS];
        if matches!(self, Self::Results | Self::Pointers) {
            mask = [u64::MAX; RECORD_WORDS];
            mask[4] = 0xcd5; // CF, PF, AF, ZF, SF, DF, OF
            mask[X87_STATE] = 0x00ff_ffff_ffff; // without FOP
            mask[POINTERS].fill(0);
            mask[MXCSR] = 0xffff_ffff;
            for n in REGISTER_STACK.skip(1).step_by(2) {
                mask[n] = 0xffff; // a register has ten bytes
            }
        }
        match self {
            Self::Pointers => {
                mask[X87_STATE] |= 0xffff << 48;
                mask[POINTERS].fill(u64::MAX);
            }
            Self::MxcsrMask => mask[MXCSR] = 0xffff_ffff << 32,
            Self::Results | Self::Executes => {}
        }
        mask[EXCEPTION] = u64::MAX;
        mask
    }
}

/// Status flags, all set. Bit 1 always is.
const SET: u64 = 0x8d7;
const CLEAR: u64 = 0x2;
/// CF and AF alone.
const CARRY: u64 = 0x13;

/// RAX, RBX, RCX, RDX, RFLAGS.
const INTEGERS: [[u64; 5]; 14] = [
    [0, 0, 0, 0, CLEAR],
    [u64::MAX, u64::MAX, 1, u64::MAX, SET],
    [1 << 63, 1, 7, 0x5a, CLEAR],
    [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 8, 3, SET],
    [0x7fff_ffff_ffff_ffff, 2, 9, 1, CARRY],
    [0x80, 0x80, 15, 0, CLEAR],
    [0x8000, 0x7fff, 16, 0, SET],
    [0x8000_0000, 0xffff_ffff_8000_0000, 17, 0, CARRY],
    [9, 6, 31, 0, 0x12],
    [0x9a, 0x11, 32, 0, CARRY],
    [0xffff_00ff_00ff_0001, 0, 33, 7, SET],
    [0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa, 63, 9, CLEAR],
    [1, 1 << 32, 64, 0, SET],
    [0xdead_beef, 0x10, 255, 0, CARRY],
];
const DIVISIONS: [[u64; 5]; 6] = [
    [100, 7, 0, 0, CLEAR],
    [99, 100, 0, 0, SET],
    [0x7f01, 0x7f7f, 0, 0, CARRY],
    [0x1234, 0xffff_ffff_ffff_ff9d, 0, 0x11, CLEAR],
    [0xffff_ffff_ffff_fff7, 3, 0, u64::MAX, SET],
    [5, 0, 0, 0, CLEAR],
];

fn integers(&[rax, rbx, rcx, rdx, rflags]: &[u64; 5]) -> [u64; 16] {
    let memory = rbx.rotate_left(8);
    let (st0, st1) = (X87_NUMBERS[2], X87_NUMBERS[5]);
    let control = control(0x1f80, 0x37f);
    let vector = [rax, rbx, rdx, rcx];
    set(
        [rax, rbx, rcx, rdx, rflags, memory],
        control,
        vector,
        [st0, st1],
    )
}

fn control(mxcsr: u32, fcw: u16) -> u64 {
    u64::from(mxcsr) | u64::from(fcw) << 32
}

fn set(registers: [u64; 6], control: u64, vectors: [u64; 4], x87: [(u16, u64); 2]) -> [u64; 16] {
    let mut set = [0; 16];
    set[..6].copy_from_slice(&registers);
    set[6] = control;
    set[8..12].copy_from_slice(&vectors);
    for (at, (exponent, mantissa)) in [12, 14].into_iter().zip(x87) {
        (set[at], set[at + 1]) = (mantissa, u64::from(exponent));
    }
    set
}

/// Of each kind: zeros, ones, denormal, small, large, infinite, quiet and signalling.
const SINGLES: [u32; 16] = [
    0x0000_0000,
    0x8000_0000,
    0x3f80_0000,
    0xbfc0_0000,
    0x0000_0001,
    0x807f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc1_2345,
    0xff81_2345,
    0x4049_0fdb,
    0x4f00_0000,
    0xcf00_0001,
    0x3eaa_aaab,
];
const DOUBLES: [u64; 14] = [
    0x0000_0000_0000_0000,
    0x8000_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0001,
    0x0000_0000_0000_0001,
    0x800f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff8_0000_1234_5678,
    0x7ff0_0000_1234_5678,
    0x41df_ffff_ffe0_0000,
    0xc3e0_0000_0000_0000,
    0x47ef_ffff_f000_0000,
];

fn floats(mxcsr: &[u32]) -> Vec<[u64; 16]> {
    let single = |n: usize| u64::from(SINGLES[n % SINGLES.len()]);
    let singles = |n: usize| single(n) | single(n + 5) << 32;
    let double = |n: usize| DOUBLES[n % DOUBLES.len()];
    let vectors = (0..16).map(|n| match n % 2 {
        0 => [singles(n), singles(n + 1), singles(n + 7), singles(n + 10)],
        _ => [double(n), double(n + 4), double(n + 1), double(n + 9)],
    });
    let sets = vectors.zip(mxcsr.iter().cycle()).map(|(vectors, mxcsr)| {
        let registers = [vectors[0], vectors[2], 4, 7, CLEAR, vectors[3]];
        let x87 = [X87_NUMBERS[2], X87_NUMBERS[5]];
        set(registers, control(*mxcsr, 0x37f), vectors, x87)
    });
    sets.collect()
}

fn approximations() -> Vec<[u64; 16]> {
    let mut random = Random(1);
    let sets = (0..64).map(|_| {
        // Positive, from 2^-62 to 2^65: RCPPS's tables go by the mantissa, RSQRTPS's also by whether
        // the exponent is even.
        let mut singles = || {
            let bits = random.next() & 0x3fff_ffff_3fff_ffff;
            bits + 0x2000_0000_2000_0000
        };
        let vectors = [0, 0, singles(), singles()];
        let registers = [0, 0, 0, 0, CLEAR, 0];
        set(
            registers,
            control(0x1f80, 0x37f),
            vectors,
            [X87_NUMBERS[2]; 2],
        )
    });
    sets.collect()
}

/// Sign with exponent, mantissa.
const X87_NUMBERS: [(u16, u64); 22] = [
    (0x0000, 0),                     // 0
    (0x8000, 0),                     // -0
    (0x3fff, 1 << 63),               // 1
    (0xbffe, 0xc90f_daa2_2168_c235), // -pi/4
    (0x3ffe, 0xc90f_daa2_2168_c234), // pi/4
    (0x4000, 0xc90f_daa2_2168_c235), // pi
    (0x3ffd, 0x8000_0000_0000_0001), // 0.25
    (0xbffc, 0xaaaa_aaaa_aaaa_aaab), // -1/6
    (0x3fc0, 0xfedc_ba98_7654_3210), // small
    (0x400f, 0xc350_8000_0000_0000), // 100,001
    (0x403d, 0x9234_5678_9abc_def1), // just below 2^63, where FSIN gives up
    (0x403e, 0x8000_0000_0000_0000), // 2^63
    (0xc050, 0x8000_0000_0000_0001), // beyond
    (0x7ffe, u64::MAX),              // the largest
    (0x0000, 0x0000_0000_0000_0001), // denormal
    (0x0000, 0x8000_0000_0000_0001), // pseudo-denormal
    (0x3fff, 0x4000_0000_0000_0000), // unnormal
    (0x7fff, 1 << 63),               // infinity
    (0xffff, 1 << 63),               // -infinity
    (0x7fff, 0xc000_0000_0001_2345), // quiet
    (0xffff, 0x8000_0000_0001_2345), // signalling
    (0x7fff, 0x0000_0000_0001_2345), // pseudo-NaN
];

fn x87(fcw: &[u16]) -> Vec<[u64; 16]> {
    let kinds = X87_NUMBERS.len();
    let pairs = (0..kinds).map(|n| [X87_NUMBERS[n], X87_NUMBERS[(5 * n + 2) % kinds]]);
    let mut random = Random(2);
    let numbers = (0..24).map(|_| {
        // From 2^-20 to 2^20, of both signs.
        [(); 2].map(|()| {
            let exponent = (0x3fff - 20 + random.next() % 41) as u16;
            let sign = (random.next() & 0x8000) as u16;
            (sign | exponent, random.next() | 1 << 63)
        })
    });
    let numbers: Vec<_> = pairs.chain(numbers).collect();
    let sets = numbers.into_iter().zip(fcw.iter().cycle());
    let sets = sets.map(|(x87, fcw)| {
        let registers = [0, 0, 0, 0, CLEAR, x87[0].1];
        set(registers, control(0x1f80, *fcw), [0; 4], x87)
    });
    sets.collect()
}

/// Steele, Lea and Flood's SplitMix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
