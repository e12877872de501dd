//! How a guest ends its machine: ACPI's sleep and reset registers, the keyboard controller's reset line of a PC, and a jump to
//! where a PC's firmware begins.
//!
//! It keeps no state but what ACPI wants to be read back. Which registers the tables name is `layout`'s business.

use super::boot::BootError;
use super::bus::{BusDevice, Written};
use super::layout;
use super::memory::Ram;
use crate::contract::MachineExit;
use std::ops::ControlFlow;
use vm_memory::Bytes;

/// Sleep control: SLP_EN, "enter the state now" (ACPI 6.4, 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
/// Sleep control: where SLP_TYP is, three bits.
const SLEEP_TYPE_SHIFT: u8 = 2;
/// See above.
const SLEEP_TYPE_MASK: u8 = 0b111;

/// What pulses the reset line: command 0xf0 to 0xff, with the line's bit (bit 0) low. Linux writes 0xfe.
const RESET_PULSE: u8 = 0xfe;

/// What a guest finds at the reset vector: real-mode code that writes the reset register, and waits.
///
/// A kernel that knows no better way to reset jumps there, where a PC's firmware would begin. Linux does so on a machine like
/// this one, hardware-reduced and without EFI, before it tries anything else (it takes for granted that EFI resets, and goes on
/// from there to "BIOS"). Memory of zeros is code as well, and would run for ever.
const RESET_CODE: [u8; 9] = {
    let [low, high] = layout::RESET.to_le_bytes();
    // mov dx, RESET; mov al, RESET_VALUE; out dx, al; hlt; jmp to the hlt
    [0xba, low, high, 0xb0, layout::RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
};

/// Puts code at the reset vector that resets.
///
/// # Errors
/// There is no memory there.
pub(crate) fn write_reset_code(ram: &Ram) -> Result<(), BootError> {
    ram.guest()
        .write_slice(&RESET_CODE, layout::RESET_VECTOR)
        .map_err(BootError::memory("the code at the reset vector"))
}

/// ACPI's three registers, one byte each, from [`layout::SLEEP_CONTROL`] on.
#[derive(Debug)]
pub(crate) struct AcpiPower;

/// How many ports they have.
pub(crate) const ACPI_POWER_PORTS: u16 = layout::RESET + 1 - layout::SLEEP_CONTROL;

impl AcpiPower {
    /// One byte to one register.
    fn write_byte(port: u64, value: u8) -> Written {
        let sleeps = value & SLEEP_ENABLE != 0;
        let kind = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
        if port == u64::from(layout::SLEEP_CONTROL) && sleeps && kind == layout::SLEEP_TYPE_OFF {
            return ControlFlow::Break(MachineExit::PoweredOff);
        }
        if port == u64::from(layout::RESET) && value == layout::RESET_VALUE {
            return ControlFlow::Break(MachineExit::Reboot);
        }
        ControlFlow::Continue(())
    }
}

impl BusDevice for AcpiPower {
    /// Sleep status never says that we woke up, since no state but "off" exists.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Written {
        let first = u64::from(layout::SLEEP_CONTROL).saturating_add(offset);
        (first..)
            .zip(data)
            .try_for_each(|(port, &value)| Self::write_byte(port, value))
    }
}

/// The keyboard controller's command port: there is no keyboard, but every x86 kernel knows how to reset a PC with it.
#[derive(Debug)]
pub(crate) struct Keyboard;

impl BusDevice for Keyboard {
    /// Status 0: no input, ready for a command. All ones would look like a command that is never taken, and Linux would wait.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Written {
        if data.first() == Some(&RESET_PULSE) {
            return ControlFlow::Break(MachineExit::Reboot);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_with_the_enable_bit_powers_off_and_nothing_else_does() {
        let off = (layout::SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT) | SLEEP_ENABLE;
        for value in 0..=u8::MAX {
            let expected = if value & 0b0011_1100 == off & 0b0011_1100 {
                ControlFlow::Break(MachineExit::PoweredOff)
            } else {
                ControlFlow::Continue(())
            };
            assert_eq!(AcpiPower.write(0, &[value]), expected, "{value:#x}");
        }
    }

    #[test]
    fn the_reset_register_reboots_at_its_value_only() {
        let offset = u64::from(layout::RESET - layout::SLEEP_CONTROL);
        assert_eq!(AcpiPower.write(offset, &[0]), ControlFlow::Continue(()));
        assert_eq!(
            AcpiPower.write(offset, &[layout::RESET_VALUE]),
            ControlFlow::Break(MachineExit::Reboot)
        );
    }

    #[test]
    fn the_reset_code_fits_between_its_address_and_the_kernel() {
        let room = layout::KERNEL.0 - layout::RESET_VECTOR.0;
        assert!(u64::try_from(RESET_CODE.len()).unwrap() <= room);
    }

    #[test]
    fn a_wide_write_is_one_byte_for_each_register() {
        let write = [0, 0, layout::RESET_VALUE];
        assert_eq!(AcpiPower.write(0, &write), ControlFlow::Break(MachineExit::Reboot));
    }

    #[test]
    fn the_keyboard_controller_resets_and_reads_as_idle() {
        let mut status = [0xff];
        Keyboard.read(0, &mut status);
        assert_eq!(status, [0]);
        assert_eq!(Keyboard.write(0, &[0xaa]), ControlFlow::Continue(()));
        assert_eq!(Keyboard.write(0, &[0xfe]), ControlFlow::Break(MachineExit::Reboot));
        assert_eq!(Keyboard.write(0, &[]), ControlFlow::Continue(()));
    }
}
