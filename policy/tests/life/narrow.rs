//! Threads with filters of their own: what a VMM does, with two threads and nothing to serve.

use policy::forbidden::{Targets, machine};
use policy::seccomp::vmm::{Role, VmmDescriptors};
use policy::{
    Confined, Descriptor, Descriptors, EnterSpec, PrepareSpec, StepError, ThreadEvidence, User, prepare,
    read_back_thread, signals,
};
use std::error::Error;
use std::io::PipeReader;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::Test;
use crate::child::attempt_of;
use crate::run::{everybody, run};

/// The tests.
pub(crate) const TESTS: &[Test] = &[
    (
        "each_thread_shows_that_its_own_filter_is_in_force",
        each_thread_shows_that_its_own_filter_is_in_force,
    ),
    (
        "a_thread_may_do_its_own_work_and_not_anothers",
        a_thread_may_do_its_own_work_and_not_anothers,
    ),
    (
        "a_filter_that_lets_another_be_loaded_is_none",
        a_filter_that_lets_another_be_loaded_is_none,
    ),
    (
        "under_the_process_filter_no_act_is_possible_either",
        under_the_process_filter_no_act_is_possible_either,
    ),
];

fn each_thread_shows_that_its_own_filter_is_in_force() {
    for who in everybody() {
        let report = run(who, &["crew", "report"]).report();

        let threads = report["threads"].as_array().unwrap();
        assert_eq!(threads.len(), 2);
        for thread in threads {
            assert_eq!(
                (&thread["seccomp_mode"], &thread["own_filter"]),
                (&2.into(), &true.into())
            );
        }
    }
}

fn a_thread_may_do_its_own_work_and_not_anothers() {
    for who in everybody() {
        let own = run(who, &["crew", "control", "entropy"]);
        let anothers = run(who, &["crew", "vcpu", "entropy"]);
        let again = run(who, &["crew", "vcpu", "another-filter"]);

        assert_eq!(own.code(), Some(0), "{own:?}");
        assert_eq!(anothers.signal(), Some(libc::SIGSYS), "{anothers:?}");
        assert_eq!(again.code(), Some(i32::from(crate::child::REFUSED)), "{again:?}");
    }
}

fn a_filter_that_lets_another_be_loaded_is_none() {
    for who in everybody() {
        let end = run(who, &["crew", "loose"]);

        assert_eq!(end.code(), Some(1), "{end:?}");
        assert!(
            end.stderr
                .contains("a thread's own filter is required and does not hold"),
            "{end:?}"
        );
    }
}

fn under_the_process_filter_no_act_is_possible_either() {
    for act in machine::acts(None) {
        let end = run(crate::run::Who::Us, &["crew", "process", act.name]);
        let refused = end.code() == Some(i32::from(crate::child::REFUSED));

        assert!(
            refused || end.signal() == Some(libc::SIGSYS),
            "could {}: {end:?}",
            act.what
        );
    }
}

/// A pipe as console input.
struct Console(PipeReader);

impl Descriptors for Console {
    fn descriptors(&self) -> Vec<Descriptor> {
        vec![Descriptor {
            number: self.0.as_raw_fd(),
            what: "console input".to_owned(),
        }]
    }
}

/// What a thread is told: its filter, and the act to perform then.
type Orders = (policy::seccomp::Filter, Option<String>);

/// A thread of the kind "vcpu".
struct Crew {
    console: Console,
    orders: Sender<Orders>,
    evidence: Receiver<Result<ThreadEvidence, StepError>>,
}

impl Descriptors for Crew {
    fn descriptors(&self) -> Vec<Descriptor> {
        self.console.descriptors()
    }
}

impl Crew {
    fn start(console: Console, targets: Targets) -> Result<Self, StepError> {
        let (orders, told) = channel::<Orders>();
        let (tell, evidence) = channel();
        thread::spawn(move || {
            let mut own = read_back_thread("vcpu").expect("the process entered");
            tell.send(Ok(own.clone())).expect("the main thread waits");
            let Ok((filter, act)) = told.recv() else { return };
            let narrowed = own.narrow(&filter);
            if let Some(act) = act {
                signals::exit_now(attempt_of(&machine::acts(Some("vcpu")), &act, &targets));
            }
            let _sent = tell.send(narrowed.map(|()| own));
            for_ever();
        });
        evidence.recv().expect("the thread sends it")?;
        Ok(Self {
            console,
            orders,
            evidence,
        })
    }
}

/// Does nothing; the filter has no call to sleep.
fn for_ever() -> ! {
    loop {
        thread::park();
    }
}

/// Goes through the whole life, then does what `arguments` say.
pub(crate) fn crew(arguments: &[&str]) -> Result<ExitCode, Box<dyn Error>> {
    let targets = Targets::new(nix::unistd::getppid());
    let prepared = prepare(&PrepareSpec {
        max_descriptors: 64,
        ..PrepareSpec::default()
    })?;
    let (console, typing) = std::io::pipe()?;
    let named = VmmDescriptors {
        console_in: console.as_raw_fd(),
        ..VmmDescriptors::default()
    };
    drop(typing);
    let spec = EnterSpec {
        user: User { uid: 65533, gid: 65533 },
        file_size_limit: None,
        no_new_processes: false,
    };
    let mut confined: Confined<Crew> = prepared
        .enter(Console(console), &spec)?
        .seal(|console, _| Crew::start(console, targets), |_| named.common_filter())?;
    let own = named.filter(Role::Vcpu { vcpu: 63 });
    let order = |filter, act| confined.get().orders.send((filter, act));
    match arguments {
        ["process", act] => signals::exit_now(attempt_of(&machine::acts(None), act, &targets)),
        ["vcpu", act] => {
            order(own, Some((*act).to_owned()))?;
            for_ever();
        }
        ["loose"] => {
            order(named.common_filter(), None)?;
            // Not returned: a confined process ends in one way only.
            if let Err(error) = confined.get().evidence.recv()? {
                eprintln!("{error}");
                signals::exit_now(1);
            }
        }
        ["control", act] => {
            confined.narrow(&named.filter(Role::Control))?;
            // Forbidden to the others: so it is in their list.
            signals::exit_now(attempt_of(&machine::acts(Some("vcpu")), act, &targets));
        }
        _ => {
            order(own, None)?;
            let evidence = confined.get().evidence.recv()??;
            confined.add_thread(evidence)?;
            confined.narrow(&named.filter(Role::Control))?;
            println!("{}", serde_json::to_string(confined.report())?);
        }
    }
    signals::exit_now(0)
}
