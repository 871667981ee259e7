//! Holes that other runtimes had. Each test is named after one, and fails when the measure against
//! it is left out: `known_bad_measures_are_missed` shows it.

use std::process::Command;

use serde_json::json;

use crate::container::support::{Entry, Host, PATIENCE, end_of, field, said, until};

/// A path on the host that must not come to be, and its name seen from a link in an image.
fn bait(host: &Host) -> (std::path::PathBuf, String) {
    let path = host.path().join("bait");
    let link = format!("/../../../../../../../..{}", path.display());
    (path, link)
}

#[test]
fn cve_2016_9962_a_joining_process_cannot_be_looked_into() {
    let host = Host::new();
    // Root in the container stops whatever joins it, before it is its program, and looks into it.
    let script = "trap 'exit 0' TERM; mkdir /d; : > /d/true; while :; do for d in /proc/[0-9]*; do \
                  read -r name < $d/comm; [ \"$name\" = rrun ] && kill -STOP ${d#/proc/} && { \
                  exe=$(readlink $d/exe) && { [ $exe = /bin/busybox ] || echo seen $exe; } \
                  || echo hidden; kill -KILL ${d#/proc/}; }; done 2> /dev/null; done";
    host.detached("box", &[], script);
    // What cannot be executed is passed over, which takes a while: long enough to be found.
    let path = format!("PATH={}/bin", "/d:".repeat(4000));
    let looked = until("a process that joins", || {
        host.rrun(&["exec", "-e", &path, "box", "true"]);
        Some(host.ok(&["logs", "box"])).filter(|words| !words.is_empty())
    });
    assert!(looked.starts_with("hidden"), "{looked}");
    host.ok(&["rm", "-f", "box"]);
    // With `--init` one of ours stays. It is the container's then, with nothing of the host's open.
    let fds = host.shell(&["--init"], "ls /proc/1/fd; ls -l /proc/1/fd");
    assert!(fds.out.starts_with("0\n1\n2\n") && fds.out.matches("->").count() == 3, "{fds:?}");
}

#[test]
fn cve_2019_5736_the_runner_cannot_be_overwritten() {
    let host = Host::new();
    let before = std::fs::metadata(env!("CARGO_BIN_EXE_rrun")).unwrap().modified().unwrap();
    // Process 1 is the runner's own program, and this container may do everything.
    let flags = ["--init", "--privileged"];
    let written = host.shell(&flags, "touch -c /proc/1/exe && echo written");
    assert_eq!(written.out, "", "{written:?}");
    assert!(written.err.contains("Read-only file system"), "{written:?}");
    let after = std::fs::metadata(env!("CARGO_BIN_EXE_rrun")).unwrap().modified().unwrap();
    assert_eq!(before, after);
}

#[test]
fn cve_2019_16884_no_volume_hides_proc() {
    let host = Host::new();
    let other = host.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let volume = format!("{}:/proc", other.display());
    let run = host.shell(&["-v", &volume], "echo ran");
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
    let inside = format!("{}:/proc/sys", other.display());
    let run = host.shell(&["-v", &inside], "echo ran");
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
}

#[test]
fn cve_2019_19921_proc_and_sys_are_no_links() {
    for name in ["proc", "sys"] {
        let entries =
            [Entry::Link(name, "tmp/elsewhere"), Entry::Directory("tmp/elsewhere", 0o755)];
        let host = Host::with(&entries, &json!({ "Env": ["PATH=/bin"] }));
        let run = host.shell(&[], "echo ran");
        assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
        assert!(run.err.contains(&format!("/{name}")), "{run:?}");
        host.assert_clean(None);
    }
}

/// A directory on the host, a link in an image that leads to it from outside of the root, and a
/// source to mount there.
fn lured(host_dir: &std::path::Path) -> (String, String) {
    let (bait, source) = (host_dir.join("bait"), host_dir.join("source"));
    std::fs::create_dir(&bait).unwrap();
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("mark"), "1").unwrap();
    (format!("/../../../../../../..{}", bait.display()), source.display().to_string())
}

#[test]
fn cve_2021_30465_a_mount_stays_inside_whatever_its_target_is() {
    let outside = tempfile::tempdir().unwrap();
    let (link, source) = lured(outside.path());
    let host = Host::with(&[Entry::Link("data", &link)], &json!({ "Env": ["PATH=/bin"] }));
    let run = host.shell(&["-v", &format!("{source}:/data")], "cat /data/mark");
    // Followed inside the root, or refused.
    assert!(run.out == "1" || run.code == 125, "{run:?}");
}

#[test]
fn cve_2022_0492_cgroups_cannot_be_written() {
    let host = Host::new();
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do \
                  mkdir $d/x 2>/dev/null && echo made $d; \
                  echo 1 2>/dev/null > $d/notify_on_release && echo wrote $d; done; true";
    let run = host.shell(&[], script);
    assert_eq!((run.code, run.out.as_str()), (0, ""), "{run:?}");
}

#[test]
fn cve_2022_29162_inheritable_and_ambient_sets_are_empty() {
    let host = Host::new();
    host.detached("box", &[], "sleep 60");
    let exec = host.ok(&["exec", "box", "cat", "/proc/self/status"]);
    let run = host.run(&["-u", "web"], &["cat", "/proc/self/status"]).out;
    for status in [&exec, &run] {
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(field(status, set), "0000000000000000");
        }
    }
    assert_eq!(field(&exec, "CapBnd"), "00000000a80425fb");
    assert_eq!(field(&exec, "CapEff"), "00000000a80425fb");
    assert_eq!(field(&run, "CapEff"), "0000000000000000");
    assert_eq!(field(&exec, "Seccomp"), "2");
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn cve_2024_21626_no_way_out_by_an_open_directory() {
    let host = Host::new();
    // A descriptor of the caller's, not closed on exec.
    let words = host.words(&["--rm"], &[], &["ls", "/proc/self/fd"]);
    let mut sh = Command::new("sh");
    sh.args(["-c", "exec 9</ \"$0\" \"$@\"", env!("CARGO_BIN_EXE_rrun")]).args(&words);
    host.environment(&mut sh);
    let run = said(sh.output().unwrap());
    // The fourth is that of the directory that is being listed.
    assert_eq!(run.out.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{run:?}");
    host.detached("box", &[], "sleep 60");
    let exec = host.ok(&["exec", "box", "ls", "/proc/self/fd"]);
    assert_eq!(exec.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    for number in 3..24 {
        let directory = format!("/proc/self/fd/{number}");
        let run = host.shell(&["-w", &directory], "cat ../../../../etc/passwd; ls");
        assert_eq!((run.code, run.out.as_str()), (125, ""), "{directory}: {run:?}");
        let exec = host.rrun(&["exec", "-w", &directory, "box", "ls"]);
        assert_eq!((exec.code, exec.out.as_str()), (126, ""), "{directory}: {exec:?}");
    }
    host.ok(&["rm", "-f", "box"]);
}

#[test]
fn cve_2024_45310_a_mounts_target_is_made_inside() {
    let outside = tempfile::tempdir().unwrap();
    let (link, source) = lured(outside.path());
    let host = Host::with(&[Entry::Link("data", &link)], &json!({ "Env": ["PATH=/bin"] }));
    let run = host.shell(&["-v", &format!("{source}:/data/deep/er")], "cat /data/deep/er/mark");
    let made = std::fs::read_dir(outside.path().join("bait")).unwrap().count();
    assert_eq!(made, 0, "made on the host: {run:?}");
    assert!(run.out == "1" || run.code == 125, "{run:?}");
}

#[test]
fn cve_2025_31133_masked_paths_are_empty_and_stay() {
    // An image's own /dev/null would be what masks.
    let entries = [Entry::File("dev/null", b"not a device")];
    let host = Host::with(&entries, &json!({ "Env": ["PATH=/bin"] }));
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do \
                  test -e $f && head -c 1 $f; done; ls /sys/firmware /proc/acpi /proc/scsi; \
                  umount /proc/kcore /proc/keys /sys/firmware && echo unmasked; \
                  echo h > /proc/sysrq-trigger && echo triggered; \
                  echo 1 > /proc/sys/kernel/panic && echo panics; true";
    let run = host.shell(&[], script);
    let words = run.out.lines().filter(|line| !line.is_empty() && !line.ends_with(':'));
    assert_eq!(words.collect::<Vec<_>>(), Vec::<&str>::new(), "{run:?}");
    let stat = host.run(&[], &["stat", "-c", "%t:%T %F", "/dev/null"]);
    assert_eq!(stat.out.trim(), "1:3 character special file", "{stat:?}");
}

#[test]
fn cve_2025_31133_what_masks_is_looked_at() {
    let host = Host::new();
    let dev = host.path().join("dev");
    std::fs::create_dir(&dev).unwrap();
    std::fs::write(dev.join("null"), "of somebody's choosing").unwrap();
    // With an input of its own: without, the device is missed even earlier.
    let run = host.shell(&["-i", "-v", &format!("{}:/dev", dev.display())], "cat /proc/kcore");
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
    assert!(run.err.contains("/proc/"), "{run:?}");
}

#[test]
fn cve_2025_52565_the_console_is_the_containers_own_terminal() {
    let host = Host::new();
    let script = "tty; stat -c '%F %t' /dev/console; mount | grep -c 'on /dev/console type devpts'";
    let run = host.shell(&["-t"], script);
    let lines: Vec<&str> = run.out.lines().map(str::trim).collect();
    assert_eq!(lines, ["/dev/pts/0", "character special file 88", "1"], "{run:?}");
}

#[test]
fn cve_2025_52565_a_terminal_is_of_devpts_itself() {
    let host = Host::new();
    // A node of the right numbers, beside which lies another devpts.
    let script = "mkdir -p \"$1/pts\" && mknod \"$1/ptmx\" c 5 2 && chmod 666 \"$1/ptmx\" && \
                  mount -t devpts devpts \"$1/pts\" && shift && exec \"$@\"";
    let fake = host.path().join("fake");
    let volume = format!("{}:/dev/pts", fake.display());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&fake).arg(env!("CARGO_BIN_EXE_rrun"));
    command.args(host.words(&["--rm"], &["-t", "-v", &volume], &["tty"]));
    host.environment(&mut command);
    let run = said(command.output().unwrap());
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
    assert!(run.err.contains("terminal"), "{run:?}");
}

#[test]
fn cve_2025_52881_sysctls_reach_the_containers_namespace_only() {
    let host = Host::new();
    let path = "/proc/sys/net/ipv4/ip_default_ttl";
    let before = std::fs::read_to_string(path).unwrap();
    let run = host.run(&["--sysctl", "net.ipv4.ip_default_ttl=99"], &["cat", path]);
    assert_eq!(run.out.trim(), "99", "{run:?}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
    // The values that they have: were they written, nothing would come of it.
    for name in ["kernel.panic", "kernel.core_pattern", "vm.swappiness"] {
        let value = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
        let refused = format!("{name}={}", value.unwrap().trim());
        let run = host.run(&["--sysctl", &refused], &["true"]);
        assert_eq!(run.code, 125, "{refused}: {run:?}");
    }
    let run = host.run(&["--sysctl", "net.ipv4/../../kernel/no-such=1"], &["true"]);
    assert_eq!(run.code, 125, "{run:?}");
}

#[test]
fn cve_2026_41579_an_images_dev_is_no_way_out() {
    let outside = tempfile::tempdir().unwrap();
    let bait = outside.path().join("bait");
    std::fs::create_dir(&bait).unwrap();
    let link = format!("/../../../../../../..{}", bait.display());
    // What the link names may be in the image as well, or not.
    let same_path = bait.to_str().unwrap().trim_start_matches('/');
    for more in [&[][..], &[Entry::Directory(same_path, 0o755)]] {
        let mut entries = vec![Entry::Link("dev", &link)];
        entries.extend_from_slice(more);
        let host = Host::with(&entries, &json!({ "Env": ["PATH=/bin"] }));
        let run = host.shell(&[], "ls -l /dev/null");
        assert_eq!(std::fs::read_dir(&bait).unwrap().count(), 0, "made on the host: {run:?}");
        assert!(run.code == 125 || run.out.contains("1,   3"), "{run:?}");
    }
}

#[test]
fn cve_2026_30892_a_user_is_who_it_says_or_nobody() {
    let host = Host::new();
    for user in [
        "4294967296",
        "-1",
        "+0",
        " 0",
        "0x0",
        "nobody-of-that-name",
        "over",
        "max",
        "plus",
        "1000:9999999999",
    ] {
        let run = host.run(&["-u", user], &["id", "-u"]);
        assert_eq!((run.code, run.out.as_str()), (125, ""), "{user}: {run:?}");
    }
    let run = host.run(&["-u", "web"], &["id"]);
    assert_eq!(run.out.trim(), "uid=1000(web) gid=1000(web) groups=1000(web),2000(extra)");
    let run = host.run(&["-u", "12345"], &["id", "-u"]);
    assert_eq!(run.out.trim(), "12345");
}

#[test]
fn an_images_passwd_can_neither_hang_nor_lead_outside() {
    let fifo = [Entry::Fifo("etc/passwd")];
    let host = Host::with(&fifo, &json!({ "Env": ["PATH=/bin"] }));
    let mut command = host.command(&host.words(&["--rm"], &["-u", "web"], &["id", "-u"]));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let started = std::time::Instant::now();
    let run = end_of(command.spawn().unwrap());
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
    assert!(started.elapsed() < PATIENCE);

    let (path, link) = {
        let host = Host::new();
        bait(&host)
    };
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "web:x:4242:4242::/:/bin/sh\n").unwrap();
    let host = Host::with(&[Entry::Link("etc/passwd", &link)], &json!({ "Env": ["PATH=/bin"] }));
    let run = host.run(&["-u", "web"], &["id", "-u"]);
    assert_eq!((run.code, run.out.as_str()), (125, ""), "{run:?}");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn cve_2014_8989_groups_of_the_caller_do_not_come_along() {
    let host = Host::new();
    let mut command = Command::new("setpriv");
    command.args(["--groups", "27,4711", env!("CARGO_BIN_EXE_rrun")]);
    command.args(host.words(&["--rm"], &[], &["grep", "Groups", "/proc/self/status"]));
    host.environment(&mut command);
    let run = said(command.output().unwrap());
    assert_eq!(run.out.trim(), "Groups:\t0", "{run:?}");
}

#[test]
fn devices_that_were_not_given_cannot_be_used() {
    let host = Host::new();
    // Docker's capabilities hold MKNOD: the node can be made and not be opened.
    let script = "mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/tmp/out bs=1 count=1; \
                  mknod /tmp/disk b 254 0; dd if=/tmp/disk of=/tmp/out bs=1 count=1";
    let run = host.shell(&[], script);
    assert_ne!(run.code, 0);
    assert_eq!(run.err.matches("Operation not permitted").count(), 2, "{run:?}");
}

#[test]
fn devices_are_forbidden_where_no_cgroup_confines_them() {
    let host = Host::new();
    let script = "umount -R /sys/fs/cgroup && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_rrun")]);
    let inside = "mknod /tmp/mem c 1 1; grep CapBnd /proc/self/status; \
                  mount | grep '^[^ ]* on / ' | grep -c nodev; echo ok > /dev/null";
    command.args(host.words(&["--rm"], &[], &["sh", "-c", inside]));
    host.environment(&mut command);
    let run = said(command.output().unwrap());
    assert_eq!((run.code, run.out.as_str()), (0, "CapBnd:\t00000000a00425fb\n1\n"), "{run:?}");
    assert!(run.err.contains("mknod: /tmp/mem: Operation not permitted"), "{run:?}");
    assert!(run.err.contains("no cgroup confines its access to devices"), "{run:?}");
}

#[test]
fn signals_are_as_a_program_expects_them() {
    let host = Host::new();
    let status = host.run(&[], &["cat", "/proc/self/status"]).out;
    for set in ["SigIgn", "SigBlk", "SigCgt"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    host.detached("box", &[], "sleep 60");
    let status = host.ok(&["exec", "box", "cat", "/proc/self/status"]);
    for set in ["SigIgn", "SigBlk", "SigCgt"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    host.ok(&["rm", "-f", "box"]);
    assert_eq!(host.shell(&[], "yes | head -n 1").out, "y\n");
}

#[test]
fn known_bad_measures_are_missed() {
    crate::known_bad::are_missed(&[
        ("files-regular", "container::cve::an_images_passwd_can_neither_hang_nor_lead_outside"),
        ("groups-cleared", "container::cve::cve_2014_8989_groups_of_the_caller_do_not_come_along"),
        ("dumpable", "container::cve::cve_2016_9962_a_joining_process_cannot_be_looked_into"),
        ("sealed-program", "container::cve::cve_2019_5736_the_runner_cannot_be_overwritten"),
        ("proc-kept-free", "container::cve::cve_2019_16884_no_volume_hides_proc"),
        ("proc-without-links", "container::cve::cve_2019_19921_proc_and_sys_are_no_links"),
        (
            "inside-root",
            "container::cve::cve_2021_30465_a_mount_stays_inside_whatever_its_target_is",
        ),
        ("cgroups-read-only", "container::cve::cve_2022_0492_cgroups_cannot_be_written"),
        (
            "inheritable-empty",
            "container::cve::cve_2022_29162_inheritable_and_ambient_sets_are_empty",
        ),
        ("descriptors-closed", "container::cve::cve_2024_21626_no_way_out_by_an_open_directory"),
        ("directory-checked", "container::cve::cve_2024_21626_no_way_out_by_an_open_directory"),
        ("made-inside", "container::cve::cve_2024_45310_a_mounts_target_is_made_inside"),
        ("masked", "container::cve::cve_2025_31133_masked_paths_are_empty_and_stay"),
        ("null-checked", "container::cve::cve_2025_31133_what_masks_is_looked_at"),
        ("terminal-checked", "container::cve::cve_2025_52565_a_terminal_is_of_devpts_itself"),
        (
            "sysctls-namespaced",
            "container::cve::cve_2025_52881_sysctls_reach_the_containers_namespace_only",
        ),
        ("user-strict", "container::cve::cve_2026_30892_a_user_is_who_it_says_or_nobody"),
        ("dev-inside", "container::cve::cve_2026_41579_an_images_dev_is_no_way_out"),
        ("devices-denied", "container::cve::devices_that_were_not_given_cannot_be_used"),
    ]);
}
