//! The serial console, COM1: a 16550A whose output goes straight to a pipe.
//!
//! A byte is in the pipe before the guest's instruction is finished, so none is lost when the machine ends. A pipe that is
//! full holds up the processor that writes, and nobody else: the registers' lock is never held while writing to it, because
//! the control thread takes that lock to type.

use super::bus::{BusDevice, Written};
use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents};
use vmm_sys_util::eventfd::EventFd;

/// The transmit and receive register's offset.
const DATA: u64 = 0;
/// The modem control register's offset: its loop bit decides whether the line is connected at all.
const MODEM_CONTROL: u64 = 4;

/// The line to the interrupt controller: an eventfd that KVM turns into an edge.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match self.0.write(1) {
            // It is full of edges that KVM has not seen yet: one more says nothing new.
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }
}

/// Notices that the guest has read everything that was typed, and tells whoever could not type more.
#[derive(Debug)]
struct Room {
    wanted: AtomicBool,
    bell: Arc<EventFd>,
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            // Full means that the control thread has not looked yet; it will.
            let _ = self.bell.write(1);
        }
    }
}

/// Where the 16550A leaves the byte that it transmits: it transmits one for each write to its register.
#[derive(Debug, Default)]
struct Sent(Option<u8>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = bytes.last().copied();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// COM1.
#[derive(Debug)]
pub(crate) struct Com1 {
    registers: Mutex<Serial<Line, Room, Sent>>,
    out: Mutex<File>,
}

impl Com1 {
    /// A port that prints to `out` and raises `interrupt`; `room` is written when there is room again for who wanted to type.
    pub(crate) fn new(out: OwnedFd, interrupt: EventFd, room: Arc<EventFd>) -> Self {
        let room = Room {
            wanted: AtomicBool::new(false),
            bell: room,
        };
        Self {
            registers: Mutex::new(Serial::with_events(Line(interrupt), room, Sent::default())),
            out: Mutex::new(out.into()),
        }
    }

    /// Types as many of `bytes` as fit, and says how many did. If some did not, `room` is written once there is room again.
    pub(crate) fn type_in(&self, bytes: &[u8]) -> usize {
        let mut registers = lock(&self.registers);
        // A full FIFO is the only failure that can be: `Line` has none while KVM lives.
        let typed = registers.enqueue_raw_bytes(bytes).unwrap_or(0);
        if typed < bytes.len() {
            registers.events().wanted.store(true, Ordering::Relaxed);
        }
        typed
    }

    fn write_byte(&self, register: u64, value: u8) {
        // Taken first and held to the end where something may be transmitted: bytes of two processors keep their order.
        let printing = (register == DATA).then(|| lock(&self.out));
        let sent = {
            let mut registers = lock(&self.registers);
            let Ok(offset) = u8::try_from(register) else { return };
            // It fails only where `Line` or `Sent` does, and they do not.
            let _ = registers.write(offset, value);
            if register == MODEM_CONTROL {
                // Typing is refused while the line is looped back; it may not be any more.
                registers.events().in_buffer_empty();
            }
            registers.writer_mut().0.take()
        };
        if let (Some(mut out), Some(byte)) = (printing, sent) {
            // EPIPE: the supervisor is gone, and so will we be in a moment.
            let _ = out.write_all(&[byte]);
        }
    }
}

impl BusDevice for Com1 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut registers = lock(&self.registers);
        for (register, byte) in (offset..).zip(data) {
            *byte = u8::try_from(register).map_or(0xff, |register| registers.read(register));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Written {
        for (register, &value) in (offset..).zip(data) {
            self.write_byte(register, value);
        }
        ControlFlow::Continue(())
    }
}

/// The lock, whoever panicked with it: a panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const LINE_STATUS: u64 = 5;
    const LOOP: u8 = 0x10;

    /// A port, the reading end of its pipe, and its two eventfds.
    fn port() -> (Com1, File, EventFd, Arc<EventFd>) {
        let (read, write) = nix::unistd::pipe().unwrap();
        let eventfd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (interrupt, room) = (eventfd(), Arc::new(eventfd()));
        let com1 = Com1::new(write, interrupt.try_clone().unwrap(), Arc::clone(&room));
        (com1, read.into(), interrupt, room)
    }

    fn read(com1: &Com1, register: u64) -> u8 {
        let mut byte = [0];
        com1.read(register, &mut byte);
        byte[0]
    }

    #[test]
    fn what_the_guest_prints_is_in_the_pipe_at_once() {
        let (com1, mut pipe, _, _) = port();
        for byte in b"ok\n" {
            assert_eq!(com1.write(DATA, &[*byte]), ControlFlow::Continue(()));
        }
        let mut seen = [0; 3];
        pipe.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"ok\n");
    }

    #[test]
    fn typing_stops_at_a_full_fifo_and_there_is_room_when_all_is_read() {
        let (com1, _pipe, _, room) = port();

        assert_eq!(com1.type_in(&[b'x'; 100]), 64);
        assert_eq!(com1.type_in(b"y"), 0);
        room.read().unwrap_err();
        for _ in 0..64 {
            assert_eq!(read(&com1, DATA), b'x');
        }

        room.read().unwrap();
        assert_eq!(com1.type_in(b"y"), 1);
    }

    #[test]
    fn a_typed_byte_interrupts_a_guest_that_asked_for_it() {
        let (com1, _pipe, interrupt, _) = port();
        com1.write_byte(1, 0x01);
        com1.type_in(b"x");
        interrupt.read().unwrap();
        assert_eq!(read(&com1, LINE_STATUS) & 1, 1);
    }

    #[test]
    fn leaving_loopback_makes_room() {
        let (com1, _pipe, _, room) = port();
        com1.write_byte(MODEM_CONTROL, LOOP);
        assert_eq!(com1.type_in(b"x"), 0);

        com1.write_byte(MODEM_CONTROL, 0);

        room.read().unwrap();
        assert_eq!(com1.type_in(b"x"), 1);
    }

    #[test]
    fn a_full_pipe_holds_up_the_writer_and_not_who_types() {
        let (com1, pipe, _, _) = port();
        let com1 = Arc::new(com1);
        let writer = {
            let com1 = Arc::clone(&com1);
            std::thread::spawn(move || (0..200_000).for_each(|_| com1.write_byte(DATA, b'x')))
        };
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!writer.is_finished(), "a pipe does not take as much");

        assert_eq!(com1.type_in(b"x"), 1);

        let mut all = Vec::new();
        pipe.take(200_000).read_to_end(&mut all).unwrap();
        writer.join().unwrap();
        assert_eq!(all.len(), 200_000);
    }

    #[test]
    fn a_supervisor_that_is_gone_does_not_stop_the_guest() {
        let (com1, pipe, _, _) = port();
        drop(pipe);
        com1.write_byte(DATA, b'x');
    }

    #[test]
    fn odd_accesses_do_no_harm() {
        let (com1, _pipe, _, _) = port();
        let mut data = [0; 8];
        com1.read(3, &mut data);
        assert_eq!(com1.write(5, &[1; 8]), ControlFlow::Continue(()));
        assert_eq!(com1.write(0, &[]), ControlFlow::Continue(()));
    }
}
