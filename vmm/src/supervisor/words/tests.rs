//! What is read, and what is refused with which word.

use super::*;
use protocol::control::{AtLimit, Rate};

fn refused<T: FromStr<Err = String> + std::fmt::Debug>(text: &str, because: &str) {
    let error = text.parse::<T>().expect_err(text);
    assert!(error.contains(because), "{text}: {error}");
}

#[test]
fn a_disk_is_a_path_and_options() {
    let disk: Disk = "a.raw,overlay-dir=/fast,overlay-limit=10G,serial=x,raw-anyway,no-encrypt,control=s"
        .parse()
        .unwrap();

    assert_eq!(
        disk,
        Disk {
            image: "a.raw".into(),
            imported_from: None,
            read_only: false,
            raw_anyway: true,
            no_encrypt: true,
            overlay_dir: Some("/fast".into()),
            limits: DiskLimits {
                overlay: Some(Size(10 << 30)),
                ..DiskLimits::default()
            },
            serial: Some("x".into()),
            control: Some("s".into()),
        }
    );
    assert!("a.raw,ro".parse::<Disk>().unwrap().read_only);
}

#[test]
fn a_disk_has_the_limits_of_its_helper_under_their_names() {
    let disk: Disk = "a.raw,overlay-limit=1G,map-limit=4M,keep-free=5G,at-limit=hold,iops=500:2000,bandwidth=100M"
        .parse()
        .unwrap();

    let rate = |per_second, burst| Rate { per_second, burst };
    let limits = DiskLimits {
        overlay: Some(Size(1 << 30)),
        map: Some(Size(4 << 20)),
        keep_free: Some(Size(5 << 30)),
        at_limit: Some(AtLimit::Hold),
        iops: Some(rate(500, 2000)),
        bandwidth: Some(rate(100 << 20, 0)),
    };
    assert_eq!(disk.limits, limits);
    let read_only: Disk = "a.raw,ro,iops=5,bandwidth=1M:2M".parse().unwrap();
    assert_eq!(
        read_only.limits.to_args(None),
        ["--iops=5:0", "--bandwidth=1048576:2097152"]
    );
}

#[test]
fn a_doubled_comma_belongs_to_the_path() {
    let disk: Disk = "a,,b.raw,ro".parse().unwrap();

    assert_eq!((disk.image, disk.read_only), ("a,b.raw".into(), true));
}

#[test]
fn a_backing_file_is_a_path_and_perhaps_a_format() {
    let backing = |file: &str, format| Backing {
        file: file.into(),
        format,
    };
    assert_eq!("a,,b".parse(), Ok(backing("a,b", None)));
    assert_eq!("a,format=raw".parse(), Ok(backing("a", Some(Format::Raw))));
    assert_eq!("a,format=qcow2".parse(), Ok(backing("a", Some(Format::Qcow2))));
    for text in ["", ",format=raw", "a,format=vmdk", "a,raw", "a,format=raw,format=raw"] {
        text.parse::<Backing>().expect_err(text);
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    refused::<Disk>("", "path");
    refused::<Disk>(",ro", "path");
    refused::<Disk>("a.raw,rw", "\"rw\"");
    refused::<Disk>("a.raw,overlay-limit=lots", "10G");
    refused::<Disk>("a.raw,map-limit=-1", "map-limit: ");
    refused::<Disk>("a.raw,keep-free=", "keep-free: ");
    refused::<Disk>("a.raw,at-limit=burn", "at-limit: give error");
    refused::<Disk>("a.raw,iops=1K", "iops: give N");
    refused::<Disk>("a.raw,bandwidth=10M:", "bandwidth: ");
    refused::<Disk>("a.raw,keep-free", "not an option");
    for limit in ["map-limit=1M", "keep-free=0", "at-limit=error", "overlay-limit=1M"] {
        refused::<Disk>(&format!("a.raw,ro,{limit}"), "iops and bandwidth");
    }
    refused::<Disk>("a.raw,serial=123456789012345678901", "20 bytes");
    refused::<Disk>("a.raw,ro,overlay-dir=/x", "no overlay");
}

#[test]
fn a_card_is_a_tap_and_perhaps_an_address() {
    let net: Net = "tap=tap0,mac=02:00:00:00:00:0A".parse().unwrap();
    assert_eq!(net.tap, Tap::Name("tap0".into()));
    assert_eq!(net.mac.unwrap().to_string(), "02:00:00:00:00:0a");

    let net: Net = "fd=7".parse().unwrap();
    assert_eq!((net.tap, net.mac), (Tap::Descriptor(7), None));
}

#[test]
fn what_is_no_card_is_refused() {
    refused::<Net>("", "not an option");
    refused::<Net>("mac=02:00:00:00:00:01", "tap=NAME");
    refused::<Net>("tap=", "1 to 15");
    refused::<Net>("tap=0123456789abcdef", "1 to 15");
    refused::<Net>("tap=a/b", "without /");
    refused::<Net>("tap=a,tap=b", "one tap=NAME");
    refused::<Net>("fd=2", "above 2");
    for mac in [
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "2:0:0:0:0:1",
        "0g:00:00:00:00:01",
        "+2:00:00:00:00:01",
    ] {
        refused::<Net>(&format!("tap=a,mac={mac}"), "six pairs");
    }
    refused::<Net>("tap=a,mac=01:00:00:00:00:01", "even");
    refused::<Net>("tap=a,mac=00:00:00:00:00:00", "zero");
}

#[test]
fn nobody_becomes_root() {
    refused::<User>("0", "root");
    refused::<User>("1000:0", "root");
    refused::<User>("4294967295", "numbers");
    refused::<User>("nobody", "numbers");
    assert_eq!("1000".parse(), Ok(User { uid: 1000, gid: 1000 }));
}
