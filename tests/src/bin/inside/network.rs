//! A network card on a tap: the guest and the host reach each other.

use std::process::Command;

use tests::guest::{Guest, GuestError, System};
use tests::place::Place;

use crate::machine::{ACT, BOOT, busybox, ok};

const DISK: usize = 1 << 20;

/// From the addresses for documentation: nobody else has them.
const HOST: &str = "192.0.2.1";
const GUEST: &str = "192.0.2.2";

const MAC: &str = "02:00:00:00:00:2a";

pub(crate) fn answers_over_a_tap() -> Result<String, GuestError> {
    ip("tuntap add dev mayfly0 mode tap");
    ip(&format!("addr add {HOST}/24 dev mayfly0"));
    ip("link set mayfly0 up");
    let place = Place::with_noise(DISK, 3);
    let net = format!("tap=mayfly0,mac={MAC}");
    let mut guest = Guest::of(
        busybox(&place, &["--memory", "256M", "--net", &net])?,
        System::Busybox,
        None,
    )?;
    guest.wait_for_shell(BOOT)?;

    assert_eq!(ok(&mut guest, "cat /sys/class/net/eth0/address")?, MAC);
    ok(
        &mut guest,
        &format!("ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up"),
    )?;
    let small = ok(&mut guest, &format!("ping -c 5 -W 10 {HOST}"))?;
    let large = ok(&mut guest, &format!("ping -c 3 -W 10 -s 1400 {HOST}"))?;
    assert!(small.contains("5 packets received"), "{small}");
    assert!(large.contains("3 packets received"), "{large}");

    guest.poweroff(ACT)?;
    ip("link delete mayfly0");
    let times = small.lines().last().unwrap_or_default();
    Ok(times.to_owned())
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("iproute2 is installed (make deps)");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}
