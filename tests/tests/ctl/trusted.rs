//! Helpers of other users, to which root gives orders.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tests::ctl::Ctl;
use tests::helper::program;
use tests::place::Place;
use tests::process::copy_program;
use tests::require;

/// As whom a service manager starts the helper: its user namespace shows it no root.
const SERVICE: &str = "4713";

#[test]
fn root_gives_orders_to_the_helper_of_a_user_whom_it_trusts() {
    require!(root);
    let place = Place::with_noise(4096, 7);
    // A copy, since the tree may lie where that user cannot go.
    let copy = place.dir().join("blk-helper");
    copy_program(&program(), &copy);
    for path in [place.dir(), &place.overlay_dir()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let socket = place.dir().join("ctl");
    let script =
        r#"user=$1 copy=$2; shift 3; exec setpriv --reuid "$user" --regid "$user" --clear-groups "$copy" "$@""#;
    let _helper = place
        .helper()
        .behind(["sh", "-c", script, "sh", SERVICE, copy.to_str().unwrap()])
        .value("--control-path", &socket)
        .start();
    let ctl = Ctl::at(&socket);
    let out = place.dir().join("out.raw");

    assert_eq!(ctl.run(["status"]).code, Some(22));
    for order in [&["status"][..], &["save", out.to_str().unwrap()]] {
        let ended = ctl.run(["--trust-user", SERVICE].iter().chain(order));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    assert!(fs::read(&out).unwrap() == place.content(), "it is another disk");
    // It was that user for the connection alone.
    assert_eq!(fs::metadata(&out).unwrap().uid(), 0);
}

#[test]
fn what_only_root_can_reach_is_reached_whomever_root_trusts() {
    require!(root);
    let place = Place::with_noise(4096, 8);
    let socket = place.dir().join("ctl");
    let _helper = place.helper().value("--control-path", &socket).start();

    let ended = Ctl::at(&socket).run(["--trust-user", SERVICE, "status"]);

    assert_eq!(ended.code, Some(0), "{ended:?}");
}
