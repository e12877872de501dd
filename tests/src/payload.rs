//! Programs for a bare machine, as ELF kernels of a few hundred bytes: for starts, kills and abuse by the hundred.
//!
//! They run where no ordinary kernel does: on a KVM in software too (`/dev/kvm` opens, `/proc/cpuinfo` shows neither vmx nor svm).
//! What was found to work on one of those, with the interrupt controllers in the kernel: 16-bit real mode; 32-bit protected mode
//! without paging, which is how PVH starts a kernel; 64-bit mode with page tables, which is how Linux's own protocol does; port
//! I/O and memory-mapped I/O in each, with all exits; `hlt`, which waits inside KVM; triple faults; a second processor, woken from
//! real mode. What was not tried: interrupts.
//!
//! A program is built an instruction at a time. All of them are encoded so that they mean the same in 32-bit and 64-bit mode.
//! None needs a stack. EAX, EBX, ECX, EDX and EDI are used up by what is said to use them.

pub mod disk;
pub mod scribble;
pub mod script;
pub mod second;

/// Where the program lies: at 1 MiB, where kernels do.
const ADDRESS: u32 = 0x10_0000;
/// COM1.
const SERIAL: u16 = 0x3f8;
/// ACPI's sleep control register, and what is written there to switch off: type 5, and "now".
const SLEEP: (u16, u8) = (0x600, 5 << 2 | 1 << 5);
/// ACPI's reset register, and its value.
const RESET: (u16, u8) = (0x602, 1);

/// How a program is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By PVH: 32-bit protected mode.
    Protected,
    /// By Linux's protocol: 64-bit mode.
    Long,
}

/// A program.
#[derive(Clone, Debug)]
pub struct Payload {
    mode: Mode,
    code: Vec<u8>,
}

impl Payload {
    /// A program that does nothing yet, and would run into zeros: end it.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self { mode, code: Vec::new() }
    }

    /// Machine code, as it is.
    #[must_use]
    pub fn raw(mut self, code: &[u8]) -> Self {
        self.code.extend(code);
        self
    }

    /// The address of the next instruction.
    fn here(&self) -> u32 {
        ADDRESS + u32::try_from(self.code.len()).expect("a program is short")
    }

    /// Writes a byte to a port. Uses EAX, EDX.
    #[must_use]
    pub fn out(self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0x66, 0xba, low, high, 0xb0, value, 0xee])
    }

    /// Reads a byte from a port into AL. Uses EAX, EDX.
    #[must_use]
    pub fn read_port(self, port: u16) -> Self {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0x66, 0xba, low, high, 0xec])
    }

    /// Prints a text. Uses EAX, EDX.
    #[must_use]
    pub fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |program, byte| program.out(SERIAL, byte))
    }

    /// Writes 32 bits of memory or of a device's registers. Uses EAX, EBX.
    #[must_use]
    pub fn store(self, address: u32, value: u32) -> Self {
        self.raw(&[0xbb])
            .raw(&address.to_le_bytes())
            .raw(&[0xb8])
            .raw(&value.to_le_bytes())
            .raw(&[0x89, 0x03])
    }

    /// Reads 32 bits of memory or of a device's registers into EAX. Uses EBX.
    #[must_use]
    pub fn load(self, address: u32) -> Self {
        self.raw(&[0xbb]).raw(&address.to_le_bytes()).raw(&[0x8b, 0x03])
    }

    /// The next number of a sequence that `seed` determines (a linear congruence), in EDI from now on. Uses EDI.
    #[must_use]
    pub fn seed(self, seed: u32) -> Self {
        self.raw(&[0xbf]).raw(&seed.to_le_bytes())
    }

    /// Writes a random value, of which only the bits of `mask` may be set, to `base` plus a random multiple of 4 of which only
    /// the bits of `offsets` may be set. Needs [`Payload::seed`]; uses EAX, EBX, EDI.
    #[must_use]
    pub fn store_random(self, base: u32, offsets: u32, mask: u32) -> Self {
        self.random_address(base, offsets)
            .random()
            .raw(&[0x25])
            .raw(&mask.to_le_bytes())
            .raw(&[0x89, 0x03])
    }

    /// EBX = base + random & offsets & !3.
    fn random_address(self, base: u32, offsets: u32) -> Self {
        self.random()
            .raw(&[0x25])
            .raw(&(offsets & !3).to_le_bytes())
            .raw(&[0x05])
            .raw(&base.to_le_bytes())
            .raw(&[0x89, 0xc3])
    }

    /// EDI = next; EAX = its better half, twice: the low bits of such a sequence hardly change.
    fn random(self) -> Self {
        self.raw(&[0x69, 0xff])
            .raw(&1_664_525_u32.to_le_bytes())
            .raw(&[0x81, 0xc7])
            .raw(&1_013_904_223_u32.to_le_bytes())
            // mov eax, edi; rol eax, 16; xor eax, edi
            .raw(&[0x89, 0xf8, 0xc1, 0xc0, 16, 0x31, 0xf8])
    }

    /// Does `body` over and over, without end.
    #[must_use]
    pub fn forever(self, body: impl FnOnce(Self) -> Self) -> Self {
        let start = self.code.len();
        let looped = body(self);
        let back = distance(looped.code.len() + 5, start);
        looped.raw(&[0xe9]).raw(&back)
    }

    /// Does `body`, which must leave ECX alone, `count` times. Uses ECX.
    #[must_use]
    pub fn times(self, count: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let counted = self.raw(&[0xb9]).raw(&count.to_le_bytes());
        let start = counted.code.len();
        // dec ecx; jnz start
        let looped = body(counted).raw(&[0xff, 0xc9]);
        let back = distance(looped.code.len() + 6, start);
        looped.raw(&[0x0f, 0x85]).raw(&back)
    }

    /// Waits for an interrupt, which nothing sends: this machine lives until it is killed.
    #[must_use]
    pub fn halt(self) -> Self {
        self.forever(|program| program.raw(&[0xf4]))
    }

    /// Switches the machine off.
    #[must_use]
    pub fn power_off(self) -> Self {
        self.out(SLEEP.0, SLEEP.1).halt()
    }

    /// Asks for a reboot.
    #[must_use]
    pub fn reboot(self) -> Self {
        self.out(RESET.0, RESET.1).halt()
    }

    /// Crashes: an invalid instruction, with nobody to handle it, nor that.
    #[must_use]
    pub fn crash(self) -> Self {
        self.raw(&[0x0f, 0x0b])
    }

    /// The kernel, as a file: one segment with the program, and for PVH a note that says where it begins.
    ///
    /// # Panics
    ///
    /// If the program is longer than an address can say.
    #[must_use]
    pub fn to_elf(&self) -> Vec<u8> {
        const HEADER: u64 = 64;
        const SEGMENT: u64 = 56;
        const NOTE: u64 = 20;
        let code_at = HEADER + 2 * SEGMENT + NOTE;
        let length = u64::try_from(self.code.len()).expect("a program is short");
        let entry = u64::from(ADDRESS);

        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        // An executable for x86-64, version 1, and where it begins.
        elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        elf.extend(entry.to_le_bytes());
        elf.extend(HEADER.to_le_bytes());
        // No sections, no flags; the header's length, one segment's, and how many there are.
        elf.extend([0; 12]);
        elf.extend([64, 0, 56, 0]);
        elf.extend(if self.mode == Mode::Protected { [2, 0] } else { [1, 0] });
        elf.extend([0; 6]);
        // To load: readable, writable, executable.
        segment(&mut elf, (1, 7), code_at, entry, length);
        segment(&mut elf, (4, 4), HEADER + 2 * SEGMENT, 0, NOTE);
        // XEN_ELFNOTE_PHYS32_ENTRY.
        elf.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        elf.extend(b"Xen\0");
        elf.extend(ADDRESS.to_le_bytes());
        elf.extend(&self.code);
        elf
    }
}

/// One program header.
fn segment(elf: &mut Vec<u8>, (kind, flags): (u32, u32), offset: u64, address: u64, length: u64) {
    elf.extend(kind.to_le_bytes());
    elf.extend(flags.to_le_bytes());
    for word in [offset, address, address, length, length, 4] {
        elf.extend(word.to_le_bytes());
    }
}

/// How far a jump that ends at `from` goes to `to`.
fn distance(from: usize, to: usize) -> [u8; 4] {
    let back = i32::try_from(from - to).expect("a program is short");
    (-back).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_where_its_header_says() {
        let program = Payload::new(Mode::Protected).print("x").power_off();
        let elf = program.to_elf();
        let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
        let offset = usize::try_from(word(64 + 8)).unwrap();

        assert_eq!(elf[offset..], program.code);
        assert_eq!(word(64 + 32), u64::try_from(program.code.len()).unwrap());
        assert_eq!(word(24), u64::from(ADDRESS));
    }

    #[test]
    fn a_loop_goes_back_to_where_it_began() {
        let program = Payload::new(Mode::Long).raw(&[0x90]).forever(|body| body.raw(&[0xf4]));
        assert_eq!(program.code, [0x90, 0xf4, 0xe9, 0xfa, 0xff, 0xff, 0xff]);
    }
}
