//! Programs that do whatever a list of accesses says, over and over: the list is made here, where there are types and a seed, and
//! carried out by a dozen instructions there.
//!
//! It knows nothing of what there is to access.

use super::{Mode, Payload, distance};

/// How wide an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Double,
    /// 64 bits; of ports, 32.
    Quad,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To memory, or what is not.
    Store(Width, u32, u64),
    /// From there.
    Load(Width, u32),
    /// To a port.
    Out(Width, u16, u32),
    /// From one.
    In(Width, u16),
    /// So many bytes to a port, by one instruction, from this address.
    OutString(u16, u32, u32),
    /// So many bytes from a port, by one instruction, to this address.
    InString(u16, u32, u32),
}

/// What carries out one kind of access, as machine code: EDI is its place, RBX its value; RAX, RCX, RDX and R8 are its to use.
const HANDLERS: [&[u8]; 17] = [
    // mov [rdi], bl; bx; ebx; rbx
    &[0x88, 0x1f],
    &[0x66, 0x89, 0x1f],
    &[0x89, 0x1f],
    &[0x48, 0x89, 0x1f],
    // mov al, [rdi]; ax; eax; rax
    &[0x8a, 0x07],
    &[0x66, 0x8b, 0x07],
    &[0x8b, 0x07],
    &[0x48, 0x8b, 0x07],
    // mov edx, edi; mov eax, ebx; out dx, al; ax; eax
    &[0x89, 0xfa, 0x89, 0xd8, 0xee],
    &[0x89, 0xfa, 0x89, 0xd8, 0x66, 0xef],
    &[0x89, 0xfa, 0x89, 0xd8, 0xef],
    // mov edx, edi; in al, dx; ax; eax
    &[0x89, 0xfa, 0xec],
    &[0x89, 0xfa, 0x66, 0xed],
    &[0x89, 0xfa, 0xed],
    // mov edx, edi; mov ecx, ebx; mov r8, rsi; shr rbx, 32; mov rsi, rbx; rep outsb; mov rsi, r8
    &[
        0x89, 0xfa, 0x89, 0xd9, 0x49, 0x89, 0xf0, 0x48, 0xc1, 0xeb, 32, 0x48, 0x89, 0xde, 0xf3, 0x6e, 0x4c, 0x89, 0xc6,
    ],
    // mov edx, edi; mov ecx, ebx; shr rbx, 32; mov rdi, rbx; rep insb
    &[
        0x89, 0xfa, 0x89, 0xd9, 0x48, 0xc1, 0xeb, 32, 0x48, 0x89, 0xdf, 0xf3, 0x6c,
    ],
    // mov esi, ebx
    &[0x89, 0xde],
];

/// The last handler: goes to another place in the list.
const GO_TO: usize = 16;

/// Fetches an entry (16 bytes: handler, place, value) and jumps to its handler.
/// `mov eax, [rsi]; mov edi, [rsi + 4]; mov rbx, [rsi + 8]; add rsi, 16; jmp rax`
const NEXT: [u8; 16] = [
    0x8b, 0x06, 0x8b, 0x7e, 4, 0x48, 0x8b, 0x5e, 8, 0x48, 0x83, 0xc6, 16, 0xff, 0xe0, 0x90,
];

/// A jump with a distance of 32 bits.
const JUMP: usize = 5;

impl Access {
    /// Handler, place and value.
    fn entry(self) -> (usize, u32, u64) {
        let wide = |width| match width {
            Width::Byte => 0,
            Width::Word => 1,
            Width::Double => 2,
            Width::Quad => 3,
        };
        let string = |count, address: u32| u64::from(count) | u64::from(address) << 32;
        match self {
            Self::Store(width, address, value) => (wide(width), address, value),
            Self::Load(width, address) => (4 + wide(width), address, 0),
            Self::Out(width, port, value) => (8 + wide(width).min(2), port.into(), value.into()),
            Self::In(width, port) => (11 + wide(width).min(2), port.into(), 0),
            Self::OutString(port, count, from) => (14, port.into(), string(count, from)),
            Self::InString(port, count, to) => (15, port.into(), string(count, to)),
        }
    }
}

impl Payload {
    /// Does these things over and over, without end. The program must be in [`Mode::Long`].
    ///
    /// # Panics
    ///
    /// If it is not.
    #[must_use]
    pub fn carry_out(self, list: &[Access]) -> Self {
        assert_eq!(self.mode, Mode::Long, "entries have 64 bits");
        let length = |code: &[u8]| u32::try_from(code.len()).expect("a program is short");
        // mov esi, list; cld
        let next = self.here() + 6;
        let mut handlers = NEXT.to_vec();
        let places = HANDLERS.map(|code| {
            let place = next + length(&handlers);
            handlers.extend(code);
            handlers.push(0xe9);
            handlers.extend(distance(handlers.len() - 1 + JUMP, 0));
            place
        });
        let table = next + length(&handlers);
        let mut program = self.raw(&[0xbe]).raw(&table.to_le_bytes()).raw(&[0xfc]).raw(&handlers);
        let again = (GO_TO, 0, u64::from(table));
        for (handler, place, value) in list.iter().map(|access| access.entry()).chain([again]) {
            program.code.extend(places[handler].to_le_bytes());
            program.code.extend(place.to_le_bytes());
            program.code.extend(value.to_le_bytes());
        }
        program
    }
}
