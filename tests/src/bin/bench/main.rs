//! The disk beside its peers, in numbers (`make bench`; docs/benchmarks.md).
//!
//! One client drives `blk-helper` and `qemu-storage-daemon` through the same scenes, in turn, and compares. The measuring
//! thread is a thread of its own, and this one waits for its end or for a signal. Then it ends the backend that runs and
//! removes what was made. (After SIGKILL the directory is left.)

#![deny(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::Signal;
use tests::ending::{self, chain};

mod args;
mod backend;
mod chart;
mod disk;
mod failure;
mod floors;
mod footprint;
mod load;
mod machine;
mod render;
mod results;
mod rig;
mod ring;
mod rows;
mod scenes;
mod session;
mod table;
mod usage;

use args::{Options, Order};
use failure::Failure;
use rig::Rig;

enum Event {
    Interrupted(Signal),
    Ended(Result<(), Failure>),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = match words.join(" ") {
        none if none.is_empty() => "make bench".to_owned(),
        some => format!("make bench BENCH=\"{some}\""),
    };
    let ended = match args::parse(&words) {
        Err(what) => return complain(&format!("{what}\n{}", args::USAGE), 2),
        Ok(Order::Help) => {
            let _ = writeln!(std::io::stdout(), "{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Ok(Order::Render { results, docs }) => render::render(&results, &docs),
        Ok(Order::Measure(options)) => return supervise(options, command),
    };
    ended.map_or_else(|failure| complain(&chain(&failure), 1), |()| ExitCode::SUCCESS)
}

/// Measures until that ends or a signal comes; nothing of it is left then.
fn supervise(options: Options, command: String) -> ExitCode {
    let (sender, events) = channel();
    // Before any other thread exists, so that all of them leave the signals to the one that waits for them.
    let interrupted = sender.clone();
    // Nobody listens any more when all is over anyway.
    ending::when_asked(move |signal| drop(interrupted.send(Event::Interrupted(signal))));
    let rig = match Rig::new(&options.dir) {
        Ok(rig) => rig,
        Err(failure) => return complain(&chain(&failure), 1),
    };
    let rig = Arc::new(rig);
    let place = rig.clone();
    thread::spawn(move || sender.send(Event::Ended(session::run(&options, &place, command))));
    let event = events.recv();
    backend::end_for_good();
    rig.clear();
    match event {
        Ok(Event::Ended(Ok(()))) => ExitCode::SUCCESS,
        Ok(Event::Ended(Err(failure))) => complain(&chain(&failure), 1),
        Ok(Event::Interrupted(signal)) => complain(&format!("ended by {signal}"), 130),
        Err(_) => complain("the measuring thread ended without a word", 1),
    }
}

fn complain(text: &str, code: u8) -> ExitCode {
    ending::complain("bench", text, code)
}
