//! What is started for which settings.

use super::*;
use crate::supervisor::args::{Cli, Command};

fn plan(engine: Engine, line: &str) -> Plan {
    let words = ["mayfly", "run", "--kernel", "k"]
        .into_iter()
        .chain(line.split_whitespace());
    let Some(Command::Run(run)) = Cli::read(words.map(Into::into)).expect(line).command else {
        panic!("{line}");
    };
    let settings = Settings::new(run.options, || User::NOBODY).expect(line);
    let facts = Facts {
        engine,
        programs: Programs {
            helper: "/bin/blk-helper".into(),
            vmm: "/bin/mayfly-vmm".into(),
            import: "/bin/mayfly-import".into(),
            qemu: "/bin/qemu".into(),
        },
        partitioned: false,
        root: true,
        macs: settings
            .nets
            .iter()
            .map(|net| net.mac.unwrap_or(Mac([2, 0, 0, 0, 0, 9])))
            .collect(),
    };
    Plan::new(&settings, &facts)
}

fn args(job: &Job) -> Vec<String> {
    job.args.iter().map(|arg| arg.to_str().unwrap().to_owned()).collect()
}

fn helper_job(disk: &PlannedDisk) -> &Job {
    match &disk.backend {
        Backend::Helper { job, .. } => job,
        Backend::Socket(path) => panic!("{}", path.display()),
    }
}

#[test]
fn disks_have_the_order_of_the_command_line_sockets_included() {
    let plan = plan(
        Engine::Kvm,
        "--disk-socket s --disk /x/a.raw --disk-socket /y/t --disk b.raw,ro",
    );

    let names: Vec<_> = plan.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["vda (s)", "vdb (a.raw)", "vdc (t)", "vdd (b.raw)"]);
    assert!(matches!(&plan.disks[2].backend, Backend::Socket(path) if path == Path::new("/y/t")));
}

#[test]
fn a_helper_gets_its_base_its_connection_and_its_control_channel_and_no_path_but_the_overlays() {
    let plan = plan(
        Engine::Kvm,
        "--disk a.raw,overlay-limit=1G,at-limit=hold,keep-free=5G,map-limit=4M,\
         iops=500:2000,bandwidth=1M,raw-anyway,no-encrypt,control=c --overlay-dir /o --overlay-limit 2G",
    );

    let job = helper_job(&plan.disks[0]);
    assert_eq!(
        job.table,
        [(3, Role::Frontend(0)), (4, Role::Control(0)), (5, Role::Base(0))]
    );
    assert_eq!(
        args(job),
        [
            "--blk-file=fd:5",
            "--fd=3",
            "--control-fd=4",
            "--num-queues=16",
            "--serial=mayfly-vda",
            "--poll=0",
            "--user=65534:65534",
            "--report=json",
            "--overlay-dir=/o",
            "--overlay-limit=1073741824",
            "--map-limit=4194304",
            "--keep-free=5368709120",
            "--at-limit=hold",
            "--iops=500:2000",
            "--bandwidth=1048576:0",
            "--control-path=c",
            "--raw-anyway",
            "--no-encrypt"
        ]
    );
}

#[test]
fn a_disk_that_is_only_read_has_no_overlay() {
    let plan = plan(
        Engine::Kvm,
        "--disk a.raw,ro,serial=x,iops=9 --overlay-dir /o --overlay-limit 2G --cpus 32",
    );

    let args = args(helper_job(&plan.disks[0]));
    assert!(
        args.contains(&"--read-only".into()) && args.contains(&"--serial=x".into()),
        "{args:?}"
    );
    assert!(!args.iter().any(|arg| arg.contains("overlay")), "{args:?}");
    assert!(args.contains(&"--iops=9:0".into()), "{args:?}");
    assert!(args.contains(&"--num-queues=32".into()), "one for each processor");
}

#[test]
fn the_vmm_gets_no_image_no_control_channel_and_no_terminal() {
    let plan = plan(
        Engine::Kvm,
        "--disk a --disk b --initrd i --net tap=t,mac=02:00:00:00:00:01 --net fd=7",
    );

    let roles: Vec<_> = plan.machine.table.iter().map(|(_, role)| *role).collect();
    assert_eq!(
        roles,
        [
            Role::Kvm,
            Role::Kernel,
            Role::Initrd,
            Role::ConsoleIn,
            Role::ConsoleOut,
            Role::Disk(0),
            Role::Disk(1),
            Role::Tap(0),
            Role::Tap(1)
        ]
    );
    let numbers: Vec<_> = plan.machine.table.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (3..12).collect::<Vec<_>>());
    let args = args(&plan.machine);
    for expected in [
        "--kvm=3",
        "--kernel=4",
        "--initrd=5",
        "--console-in=6",
        "--console-out=7",
        "--disk=8",
        "--disk=9",
    ] {
        assert!(args.contains(&expected.into()), "{expected}: {args:?}");
    }
    assert!(args.contains(&"--net=10,02:00:00:00:00:01".into()) && args.contains(&"--net=11,02:00:00:00:00:09".into()));
    assert_eq!(plan.machine.user, None, "it becomes somebody else itself");
}

#[test]
fn qemu_gets_the_same_disks_and_is_no_longer_root() {
    let plan = plan(Engine::Qemu, "--disk a --disk b --cpus 2 --memory 512M --net tap=t");

    let args = args(&plan.machine).join(" ");
    assert!(
        args.contains("-chardev socket,id=disk1,fd=5 -device vhost-user-blk-pci,chardev=disk1,num-queues=2"),
        "{args}"
    );
    assert!(
        args.contains("size=536870912") && args.contains("-m 536870912B") && args.contains("-kernel /dev/fd/3"),
        "{args}"
    );
    assert!(
        args.contains("tap,id=net0,fd=6,vhost=off") && args.contains("spawn=deny"),
        "{args}"
    );
    assert_eq!(plan.machine.table[..2], [(0, Role::ConsoleIn), (1, Role::ConsoleOut)]);
    assert_eq!(plan.machine.user, Some(User::NOBODY));
}

#[test]
fn a_dry_run_shows_each_process_with_its_descriptors() {
    let text = plan(Engine::Kvm, "--disk a.raw --append it's").to_string();

    for expected in [
        "disk vda (a.raw):\n  /bin/blk-helper --blk-file=fd:5",
        "      2  pipe: log lines\n      3  socket to the VMM\n      4  control channel",
        "(base: a.raw)",
        "vmm:\n  /bin/mayfly-vmm --kvm=3",
        r"'--cmdline=console=ttyS0 panic=-1 root=/dev/vda rw it'\''s'",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
