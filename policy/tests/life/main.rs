//! Whole lives of confined processes, as root and as an ordinary user.
//!
//! This program is its own child: `life child SCENARIO …` goes through `prepare`, `enter` and `seal` and does one thing; the tests
//! start such children and look at how they end. As root every test also runs as uid 65533; as anybody else only as oneself.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test harness prints, and what fails here fails the test"
)]

mod acts;
mod child;
mod ends;
mod launcher;
mod layers;
mod narrow;
mod run;
mod started;

use std::process::ExitCode;

/// A test: its name is the fact that it shows.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "child") {
        return child::run(&arguments[1..]);
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let tests = [layers::TESTS, started::TESTS, acts::TESTS, ends::TESTS, narrow::TESTS].concat();
    let mut passed = 0;
    for (name, test) in tests {
        if wanted.is_none_or(|wanted| name.contains(wanted.as_str())) {
            println!("test {name}");
            test();
            passed += 1;
        }
    }
    // A test that fails panics, and none of this is reached.
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored");
    ExitCode::SUCCESS
}
