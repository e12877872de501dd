//! One thread of a traced process that is stopped at a system call: its registers, and memory that the call points to.
//!
//! Registers can be changed whatever the process allows. Its memory cannot be reached by `ptrace` once it is not dumpable, nor
//! opened; so `/proc/PID/mem` is opened while a program is being started, when it still can be.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::rule::Call;

/// What a call that is to do nothing is turned into, with 0 as its argument: one that every program may make, and that then only
/// asks. (Number -1, which the kernel would skip, is in no program's filter, and the filter looks after this.)
const NOTHING: i64 = libc::SYS_brk;

/// What is left to do when the call returns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aftermath {
    /// The registers at its beginning: a program relies on it that those of the arguments stay what they were.
    registers: user_regs_struct,
    /// It was turned into nothing, and this is to be its result.
    errno: Option<i32>,
    /// The length that stood at this address was made less.
    length: Option<(u64, u64)>,
}

/// The memory of a process.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
    /// Where the dynamic loader is, as far as there is one.
    loader: Range<u64>,
}

impl Memory {
    /// Of a process that has just begun to execute a program: nothing is mapped but that and its loader.
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        let proc = |name: &str| format!("/proc/{pid}/{name}");
        let program = std::fs::read_link(proc("exe"))?.display().to_string();
        let maps = std::fs::read_to_string(proc("maps"))?;
        let others = maps
            .lines()
            .filter(|line| line.contains(" /") && !line.ends_with(&program));
        let ranges = others.filter_map(|line| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            let address = |text| u64::from_str_radix(text, 16).ok();
            Some(address(start)?..address(end)?)
        });
        let loader = ranges.reduce(|whole, part| whole.start.min(part.start)..whole.end.max(part.end));
        Ok(Self {
            file: File::options().read(true).write(true).open(proc("mem"))?,
            loader: loader.unwrap_or(0..0),
        })
    }

    /// Whether the loader makes this call, and not the program.
    pub(super) fn is_loader(&self, stopped: &Stopped) -> bool {
        self.loader.contains(&stopped.registers.rip)
    }

    fn read(&self, address: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, address)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn write(&self, address: u64, word: u64) -> io::Result<()> {
        self.file.write_all_at(&word.to_ne_bytes(), address)
    }
}

/// A thread at the beginning or the end of a call.
#[derive(Debug)]
pub(super) struct Stopped {
    pid: Pid,
    registers: user_regs_struct,
}

impl Stopped {
    /// Looks at it.
    pub(super) fn at(pid: Pid) -> Result<Self, Errno> {
        Ok(Self {
            pid,
            registers: ptrace::getregs(pid)?,
        })
    }

    /// The call it begins.
    pub(super) fn call(&self) -> Option<Call> {
        Call::numbered(self.registers.orig_rax)
    }

    /// The call's first argument.
    pub(super) const fn descriptor(&self) -> u64 {
        self.registers.rdi & 0xffff_ffff
    }

    /// Lets it do nothing.
    pub(super) fn turn_into_nothing(&mut self, errno: i32) -> Result<Aftermath, Errno> {
        let aftermath = self.aftermath();
        self.registers.orig_rax = NOTHING.unsigned_abs();
        self.registers.rdi = 0;
        ptrace::setregs(self.pid, self.registers)?;
        Ok(Aftermath {
            errno: Some(errno),
            ..aftermath
        })
    }

    /// Makes it move fewer bytes, as `fewer` says; nothing where it moves one byte or none.
    pub(super) fn shorten(
        &mut self,
        memory: &Memory,
        call: Call,
        fewer: impl FnOnce(u64) -> Option<u64>,
    ) -> io::Result<Option<Aftermath>> {
        let aftermath = self.aftermath();
        let is_vectored = matches!(call, Call::Preadv2 | Call::Pwritev);
        if !is_vectored && !matches!(call, Call::Pread | Call::Pwrite) {
            return Err(io::Error::other(format!(
                "{call:?} moves no bytes, and cannot be short"
            )));
        }
        if !is_vectored {
            let Some(bytes) = fewer(self.registers.rdx) else {
                return Ok(None);
            };
            self.registers.rdx = bytes;
            ptrace::setregs(self.pid, self.registers)?;
            return Ok(Some(aftermath));
        }
        let (vectors, count) = (self.registers.rsi, self.registers.rdx);
        let length_at = |index: u64| vectors + 16 * index + 8;
        let lengths: io::Result<Vec<_>> = (0..count).map(|index| memory.read(length_at(index))).collect();
        let lengths = lengths?;
        let Some(mut left) = fewer(lengths.iter().sum()) else {
            return Ok(None);
        };
        // It ends within this vector, which becomes the last.
        let mut last = 0;
        for (index, length) in (0..).zip(&lengths) {
            last = index;
            if left <= *length {
                break;
            }
            left -= length;
        }
        let length = memory.read(length_at(last))?;
        memory.write(length_at(last), left)?;
        self.registers.rdx = last + 1;
        ptrace::setregs(self.pid, self.registers)?;
        Ok(Some(Aftermath {
            length: Some((length_at(last), length)),
            ..aftermath
        }))
    }

    const fn aftermath(&self) -> Aftermath {
        Aftermath {
            registers: self.registers,
            errno: None,
            length: None,
        }
    }

    /// The call has returned.
    pub(super) fn finish(&mut self, aftermath: Aftermath, memory: Option<&Memory>) -> io::Result<()> {
        let result = self.registers.rax;
        self.registers = user_regs_struct {
            rip: self.registers.rip,
            rcx: self.registers.rcx,
            r11: self.registers.r11,
            ..aftermath.registers
        };
        self.registers.rax = aftermath
            .errno
            .map_or(result, |errno| i64::from(-errno).cast_unsigned());
        ptrace::setregs(self.pid, self.registers)?;
        match (aftermath.length, memory) {
            (Some((address, length)), Some(memory)) => memory.write(address, length),
            (_, _) => Ok(()),
        }
    }
}
