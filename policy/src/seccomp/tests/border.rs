//! The border of every shipped filter: what each line allows passes, and with any one argument changed it does not, unless another
//! line says so. First in the machine of our own, with every bit of every argument; then as system calls, one in each
//! process, because that is how the kernel says no.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::super::c_library::CLibrary;
use super::super::helper::{HelperDescriptors, helper_filter_over};
use super::super::import::{ImportDescriptors, import_filter};
use super::super::vmm::{Role, VmmDescriptors};
use super::super::{Action, Filter, Row};
use super::machine::{Verdict, X86_64, verdict_of};
use crate::sys::{self, Argument};

/// Tells a child which call to make.
const ORDER: &str = "MAYFLY_FILTER_CALL";

/// The filters that ship, in every form that a command line can give them. The numbers are far from those of open descriptors.
fn filters() -> Vec<Filter> {
    let machine = VmmDescriptors {
        disks: vec![221, 222],
        taps: vec![223, 224],
        console_in: 225,
        vcpus: vec![226, 227],
    };
    let import = ImportDescriptors {
        images: vec![231, 232],
        output: 233,
    };
    let helpers = [CLibrary::Glibc, CLibrary::Musl]
        .into_iter()
        .flat_map(|c_library| helpers().map(move |helper| helper_filter_over(c_library, &helper)));
    let others = [
        machine.common_filter(),
        machine.filter(Role::Control),
        machine.filter(Role::Vcpu { vcpu: 226 }),
        machine.filter(Role::Net { tap: 223 }),
        import_filter(&import),
    ];
    helpers.chain(others).collect()
}

/// Helpers by what they serve, and by whom they hear.
fn helpers() -> impl Iterator<Item = HelperDescriptors> {
    let full = HelperDescriptors::example(203);
    let encrypted = HelperDescriptors {
        encrypted: true,
        ..full
    };
    let read_only = HelperDescriptors {
        overlay: None,
        output: None,
        ..full
    };
    let ways = (0..8).map(|ways| [1, 2, 4].map(|way| ways & way != 0));
    ways.flat_map(move |[listens, is_controlled, has_clients]| {
        [full, encrypted, read_only].map(|disk| HelperDescriptors {
            listener: disk.listener.filter(|_| listens),
            control: disk.control.filter(|_| is_controlled),
            control_listener: disk.control_listener.filter(|_| has_clients),
            ..disk
        })
    })
}

/// What the words of the table say about a call: the strictest of the lines that hold, and death where none does.
fn words_say(filter: &Filter, row: &Row, arguments: [u64; 6]) -> Verdict {
    let of_this_call = filter.rows().iter().filter(|other| other.call == row.call);
    of_this_call
        .filter(|other| other.conditions.iter().all(|condition| condition.holds(arguments)))
        .map(|row| match row.action {
            Action::Allow => Verdict::Allowed,
            Action::SoftDeny(errno) => Verdict::Failed(sys::errno_number(errno).cast_unsigned()),
        })
        .min_by_key(|verdict| *verdict == Verdict::Allowed)
        .unwrap_or(Verdict::Killed)
}

/// Arguments for which a line holds, all others 0.
fn matching(row: &Row) -> [u64; 6] {
    let mut arguments = [0; 6];
    for condition in &row.conditions {
        arguments[condition.index()] = condition.examples()[0];
    }
    arguments
}

/// The same with one argument changed.
fn with(mut arguments: [u64; 6], index: usize, value: u64) -> [u64; 6] {
    arguments[index] = value;
    arguments
}

#[test]
fn every_line_means_what_its_words_say_at_every_bit_of_every_argument() {
    for filter in filters() {
        let program = filter.compile().unwrap();
        for row in filter.rows() {
            for condition in &row.conditions {
                let values = condition.examples().into_iter().chain(condition.neighbours());
                for value in values {
                    let arguments = with(matching(row), condition.index(), value);
                    assert_eq!(
                        verdict_of(&program, X86_64, row.call.number, arguments),
                        words_say(&filter, row, arguments),
                        "{row:?} with {arguments:x?}"
                    );
                }
            }
        }
    }
}

/// For each line, every value that it names, and for each of its arguments the first change that nothing allows.
fn calls(filter: &Filter) -> Vec<(&Row, [u64; 6])> {
    let mut calls = Vec::new();
    for row in filter.rows() {
        calls.push((row, matching(row)));
        for condition in &row.conditions {
            let change = |value| (row, with(matching(row), condition.index(), value));
            calls.extend(condition.examples().into_iter().skip(1).map(change));
            let killed = |(row, arguments): &(&Row, _)| words_say(filter, row, *arguments) == Verdict::Killed;
            calls.extend(condition.neighbours().into_iter().map(change).find(killed));
        }
    }
    calls
}

#[test]
fn every_line_run_as_a_system_call_passes_and_with_an_argument_changed_it_kills() {
    let filters = filters();
    let mut seen: Vec<&Row> = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        for (number, (row, arguments)) in calls(filter).iter().enumerate() {
            // The same line in another filter is not another line.
            if !seen.contains(row) {
                let verdict = verdict_of_the_kernel(row, &format!("{index} {number}"));
                assert_eq!(
                    verdict,
                    words_say(filter, row, *arguments),
                    "{row:?} with {arguments:x?}"
                );
            }
        }
        seen.extend(filter.rows());
    }
}

/// Lets a child make a call.
fn verdict_of_the_kernel(row: &Row, order: &str) -> Verdict {
    let end = Command::new("/proc/self/exe")
        .args(["--exact", "seccomp::tests::border::in_a_child", "--quiet"])
        .env(ORDER, order)
        .output()
        .unwrap();
    match (end.status.signal(), end.status.code()) {
        (Some(libc::SIGSYS), _) => Verdict::Killed,
        (None, Some(code)) if row.action != Action::Allow => Verdict::Failed(code.cast_unsigned()),
        (None, Some(_)) => Verdict::Allowed,
        _ => panic!("{row:?}: {end:?}"),
    }
}

/// The child of the test above, and no test without it: makes one call under one filter and ends with what came of it.
#[test]
fn in_a_child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (filter, call) = order.split_once(' ').unwrap();
    let filter = &filters()[filter.parse::<usize>().unwrap()];
    let (row, arguments) = calls(filter)[call.parse::<usize>().unwrap()];
    let arguments = arguments.map(|argument| Argument::Number(argument.cast_signed()));
    // For this thread alone: the test harness has another one, which is about to wait.
    nix::sys::prctl::set_no_new_privs().unwrap();
    sys::load_filter_for_this_thread(&filter.compile().unwrap()).unwrap();
    let errno = sys::attempt(row.call.number, arguments)
        .err()
        .map_or(0, sys::errno_number);
    sys::exit_now(u8::try_from(errno).unwrap_or(u8::MAX));
}
