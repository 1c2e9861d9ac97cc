//! The architectures that a profile can name.

/// One calling convention of the kernel. The order is that of the columns in [`super::numbers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Arch {
    X8664,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
    S390x,
    Ppc64le,
    Mips,
    Mips64,
    Loongarch64,
    Mipsel,
    Mipsel64,
    Ppc64,
    Mips64N32,
    Mipsel64N32,
    Ppc,
    S390,
    Parisc,
    Parisc64,
}

const LE: u32 = 0x4000_0000;
const BITS64: u32 = 0x8000_0000;
const N32: u32 = 0x2000_0000;

/// The bit that marks x32's numbers, which share x86_64's token.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// Architecture, its name in profiles, the kernel's AUDIT_ARCH token, column of its numbers.
const TABLE: [(Arch, &str, u32, usize); 20] = [
    (Arch::X8664, "SCMP_ARCH_X86_64", 62 | BITS64 | LE, 0),
    (Arch::X86, "SCMP_ARCH_X86", 3 | LE, 1),
    (Arch::X32, "SCMP_ARCH_X32", 62 | BITS64 | LE, 2),
    (Arch::Aarch64, "SCMP_ARCH_AARCH64", 183 | BITS64 | LE, 3),
    (Arch::Arm, "SCMP_ARCH_ARM", 40 | LE, 4),
    (Arch::Riscv64, "SCMP_ARCH_RISCV64", 243 | BITS64 | LE, 5),
    (Arch::S390x, "SCMP_ARCH_S390X", 22 | BITS64, 6),
    (Arch::Ppc64le, "SCMP_ARCH_PPC64LE", 21 | BITS64 | LE, 7),
    (Arch::Mips, "SCMP_ARCH_MIPS", 8, 8),
    (Arch::Mips64, "SCMP_ARCH_MIPS64", 8 | BITS64, 9),
    (Arch::Loongarch64, "SCMP_ARCH_LOONGARCH64", 258 | BITS64 | LE, 10),
    (Arch::Mipsel, "SCMP_ARCH_MIPSEL", 8 | LE, 8),
    (Arch::Mipsel64, "SCMP_ARCH_MIPSEL64", 8 | BITS64 | LE, 9),
    (Arch::Ppc64, "SCMP_ARCH_PPC64", 21 | BITS64, 7),
    (Arch::Mips64N32, "SCMP_ARCH_MIPS64N32", 8 | BITS64 | N32, 11),
    (Arch::Mipsel64N32, "SCMP_ARCH_MIPSEL64N32", 8 | BITS64 | N32 | LE, 11),
    (Arch::Ppc, "SCMP_ARCH_PPC", 20, 12),
    (Arch::S390, "SCMP_ARCH_S390", 22, 13),
    (Arch::Parisc, "SCMP_ARCH_PARISC", 15, 14),
    (Arch::Parisc64, "SCMP_ARCH_PARISC64", 15 | BITS64, 14),
];

/// A name that the specification allows and the layer has no numbers for: it cannot run on a kernel
/// that the layer is built for, and a filter without it kills its calls.
const FOREIGN: [&str; 1] = ["SCMP_ARCH_M68K"];

impl Arch {
    /// The architecture that the layer is built for.
    pub(crate) const NATIVE: Arch = if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else if cfg!(target_arch = "riscv64") {
        Arch::Riscv64
    } else if cfg!(target_arch = "s390x") {
        Arch::S390x
    } else if cfg!(target_arch = "powerpc64") {
        Arch::Ppc64le
    } else if cfg!(target_arch = "loongarch64") {
        Arch::Loongarch64
    } else if cfg!(target_arch = "arm") {
        Arch::Arm
    } else if cfg!(target_arch = "x86") {
        Arch::X86
    } else {
        Arch::X8664
    };

    /// The architecture called `name`; `Ok(None)` for one that no kernel of ours can run.
    pub(crate) fn from_name(name: &str) -> Result<Option<Arch>, ()> {
        if FOREIGN.contains(&name) {
            return Ok(None);
        }
        TABLE.iter().find(|(_, n, ..)| *n == name).map(|(arch, ..)| Some(*arch)).ok_or(())
    }

    /// The names that profiles may use, for `features`.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|(_, name, ..)| *name)
    }

    /// The token in seccomp_data.arch.
    pub(crate) fn token(self) -> u32 {
        TABLE[self as usize].2
    }

    /// Whether arguments have 64 bits. The registers of x32 and n32 have, but libseccomp takes their
    /// arguments for 32 bits, and so does every profile.
    pub(crate) fn wide(self) -> bool {
        self.token() & BITS64 != 0 && self.token() & N32 == 0 && self != Arch::X32
    }

    /// The number of the call `name`, as seccomp_data.nr shows it.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let number = super::numbers::number(name, TABLE[self as usize].3)?;
        Some(if self == Arch::X32 { number | X32_BIT } else { number })
    }
}
