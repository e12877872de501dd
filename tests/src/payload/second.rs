//! A second processor for a program: woken as every PC's is, and brought from real mode to 64-bit mode.

use super::{Mode, Payload};

/// Where the second processor begins: a page below 1 MiB that nobody else uses. The first two digits are what it is woken with.
const START: u32 = 0x8000;

/// The local interrupt controller's command register; its upper half says whom it is for.
const COMMAND: u32 = 0xfee0_0300;
/// See above.
const WHOM: u32 = COMMAND + 0x10;

/// Where in the code below the page table goes, and where it jumps.
const TABLE_AT: u32 = 0x17;
/// See above.
const ENTRY_AT: u32 = 0x3c;

/// From real mode to 64-bit mode at once, and a GDT for that.
const CODE: [u8; 0x68] = [
    // cli; xor ax, ax; mov ds, ax; lgdt [START + 0x60]
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x66, 0x0f, 0x01, 0x16, 0x60, 0x80, //
    // mov eax, cr4; or eax, PAE; mov cr4, eax
    0x0f, 0x20, 0xe0, 0x66, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0, //
    // mov eax, table; mov cr3, eax
    0x66, 0xb8, 0, 0, 0, 0, 0x0f, 0x22, 0xd8, //
    // mov ecx, EFER; rdmsr; or eax, LME; wrmsr
    0x66, 0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x66, 0x0d, 0, 1, 0, 0, 0x0f, 0x30, //
    // mov eax, cr0; or eax, PG | PE; mov cr0, eax
    0x0f, 0x20, 0xc0, 0x66, 0x0d, 1, 0, 0, 0x80, 0x0f, 0x22, 0xc0, //
    // jmp 8:entry
    0x66, 0xea, 0, 0, 0, 0, 8, 0, //
    // Room up to a multiple of 8; then nothing, code of 64 bits, data.
    0, 0, 0, 0, 0, 0, //
    0, 0, 0, 0, 0, 0, 0, 0, //
    0xff, 0xff, 0, 0, 0, 0x9a, 0xaf, 0, //
    0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0, //
    // Its length less one, and where it is.
    23, 0, 0x48, 0x80, 0, 0, 0, 0,
];

impl Payload {
    /// Lets the second processor do `program`, which must not end, while this one goes on. In [`Mode::Long`] only; uses EAX, EBX,
    /// ECX.
    ///
    /// # Panics
    ///
    /// In another mode.
    #[must_use]
    pub fn meanwhile(self, program: impl FnOnce(Self) -> Self) -> Self {
        assert_eq!(self.mode, Mode::Long, "the page table is the first processor's");
        // jmp over it
        let mut both = self.raw(&[0xe9, 0, 0, 0, 0]);
        let begun = both.code.len();
        let entry = both.here();
        both = program(both);
        let over = u32::try_from(both.code.len() - begun).expect("a program is short");
        both.code[begun - 4..begun].copy_from_slice(&over.to_le_bytes());

        let words = CODE
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().expect("four")));
        (START..)
            .step_by(4)
            .zip(words)
            .fold(both, |program, (at, word)| program.store(at, word))
            // mov rax, cr3; mov ebx, TABLE_AT; mov [rbx], eax
            .raw(&[0x0f, 0x20, 0xd8, 0xbb])
            .raw(&(START + TABLE_AT).to_le_bytes())
            .raw(&[0x89, 0x03])
            .store(START + ENTRY_AT, entry)
            .command(0x4500)
            .times(10_000, |wait| wait.raw(&[0xf3, 0x90]))
            .command(0x4600 | START >> 12)
    }

    /// Commands the second processor: INIT, or to start somewhere.
    fn command(self, command: u32) -> Self {
        self.store(WHOM, 1 << 24).store(COMMAND, command)
    }
}
