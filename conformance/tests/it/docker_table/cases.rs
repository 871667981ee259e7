//! The command lines that are given to `docker` and to `rrun`.

/// One line: `run --rm FLAGS IMAGE COMMAND`.
pub(crate) struct Case {
    /// Names the line in `docs/from-docker.md`.
    pub(crate) name: &'static str,
    pub(crate) flags: &'static [&'static str],
    /// Tag of the image: see [`super::images`].
    pub(crate) image: &'static str,
    pub(crate) command: &'static [&'static str],
    /// What is typed into it; `-i` is among the flags then.
    pub(crate) stdin: &'static str,
    /// What `docker` or `rrun` is started by: another program's words in front of its own.
    pub(crate) around: &'static [&'static str],
}

const fn case(
    name: &'static str,
    flags: &'static [&'static str],
    command: &'static [&'static str],
) -> Case {
    Case { name, flags, image: "plain", command, stdin: "", around: NONE }
}

/// A line that is typed where something about the shell is unusual.
const fn around(
    name: &'static str,
    around: &'static [&'static str],
    command: &'static [&'static str],
) -> Case {
    Case { around, ..case(name, NONE, command) }
}

const fn on(
    image: &'static str,
    name: &'static str,
    flags: &'static [&'static str],
    command: &'static [&'static str],
) -> Case {
    Case { name, flags, image, command, stdin: "", around: NONE }
}

const fn typed(
    name: &'static str,
    flags: &'static [&'static str],
    command: &'static [&'static str],
    stdin: &'static str,
) -> Case {
    Case { name, flags, image: "plain", command, stdin, around: NONE }
}

const NONE: &[&str] = &[];

/// Prints the device numbers, type and mode of everything in /dev but what is per run.
const DEVICES: &str = "cd /dev; for f in *; do [ -L $f ] && echo $f $(readlink $f) || stat -c '%n %F %a %t:%T %u:%g' $f; done";

/// Mount points, types and per-mount options, sorted; sizes and overlay's directories are left out.
const MOUNTS: &str =
    "awk '{ for (i = 7; $i != \"-\"; i++); print $5, $(i+1), $6 }' /proc/self/mountinfo | sort";

/// Tries system calls by number (x86-64) with arguments that a kernel would refuse otherwise:
/// the error tells whether the filter or the kernel answered.
const SYSCALLS: &str = "for my $n (101,134,139,153,154,155,159,163,164,165,166,167,168,169,170,171,172,173,175,176,179,206,212,227,237,238,239,246,248,249,250,256,272,279,298,300,303,304,305,308,310,311,312,313,320,321,323,424,425,427,428,429,430,431,432,433,434,435,436,437,438,439,440,441,442,443,444,445,446) { $! = 0; my $r = syscall($n, -1, -1, -1, -1, -1, -1); print \"$n \", ($r == -1 ? $!+0 : 'ok'), \"\\n\" }";

pub(crate) const CASES: &[Case] = &[
    // Exit codes and what the program is.
    case("true", NONE, &["true"]),
    case("exit-3", NONE, &["sh", "-c", "exit 3"]),
    case("exit-255", NONE, &["sh", "-c", "exit 255"]),
    case("command-not-found", NONE, &["nosuch"]),
    case("path-not-found", NONE, &["/no/such"]),
    case("relative-path-not-found", NONE, &["./nosuch"]),
    case("directory-as-command", NONE, &["/etc"]),
    case("file-not-executable", NONE, &["/etc/passwd"]),
    case("script-without-interpreter", NONE, &["/usr/local/bin/bad-interpreter"]),
    case("not-a-program", NONE, &["/usr/local/bin/not-a-program"]),
    case("script-without-shebang", NONE, &["sh", "-c", "/usr/local/bin/not-a-program"]),
    case("segmentation-fault", NONE, &["perl", "-e", "unpack 'p', pack 'J', 1"]),
    // Whether dash says "Killed" is a race within dash.
    case("killed-child", NONE, &["sh", "-c", "exec 2>/dev/null; sleep 9 & kill -9 $!; wait $!"]),
    case("pid-1-ignores-itself", NONE, &["sh", "-c", "kill -TERM $$; kill -KILL $$; echo alive"]),
    case("unknown-flag", &["--nosuch"], &["true"]),
    case("bad-memory", &["--memory", "lots"], &["true"]),
    case("memory-below-minimum", &["--memory", "1k"], &["true"]),
    case("bad-cpus", &["--cpus", "-1"], &["true"]),
    case("bad-env-file", &["--env-file", "/no/such/file"], &["true"]),
    case("bad-user", &["--user", "nosuchuser"], &["true"]),
    case("bad-group", &["--user", "root:nosuchgroup"], &["true"]),
    case("bad-workdir", &["--workdir", "relative"], &["true"]),
    case("bad-capability", &["--cap-add", "NOSUCH"], &["true"]),
    case("bad-volume", &["-v", "/a:/b:/c:/d"], &["true"]),
    case(
        "mount-without-source",
        &["--mount", "type=bind,source=/no/such/dir,target=/mnt"],
        &["true"],
    ),
    case("bad-ulimit", &["--ulimit", "nosuch=1"], &["true"]),
    case("bad-signal", &["--stop-signal", "NOSUCH"], &["true"]),
    // Streams.
    case("stdout", NONE, &["echo", "hello"]),
    case("stderr", NONE, &["sh", "-c", "echo out; echo err >&2; exit 4"]),
    case("stdin-closed", NONE, &["cat"]),
    typed("stdin", &["-i"], &["cat"], "one\ntwo\n"),
    typed("stdin-without-i", NONE, &["cat"], "lost\n"),
    typed("script-from-stdin", &["-i"], &["sh"], "echo $((6 * 7)); exit 8\n"),
    case(
        "what-the-streams-are",
        &["-u", "33"],
        &["sh", "-c", "echo a > /dev/stdout; echo b > /dev/stderr"],
    ),
    case("sigpipe", NONE, &["bash", "-c", "yes | head -1; echo ${PIPESTATUS[@]}"]),
    case("t-without-terminal", &["-t"], &["sh", "-c", "tty"]),
    // The image's configuration.
    on("entry", "entrypoint-and-cmd", NONE, NONE),
    on("entry", "entrypoint-and-arguments", NONE, &["given"]),
    on("entry", "entrypoint-replaced", &["--entrypoint", "/bin/echo"], &["other"]),
    on("entry", "entrypoint-replaced-drops-cmd", &["--entrypoint", "/bin/echo"], NONE),
    on("entry", "entrypoint-emptied", &["--entrypoint", ""], &["echo", "bare"]),
    on("hollow", "entrypoint-of-an-empty-word", NONE, NONE),
    on("hollow", "entrypoint-of-an-empty-word-and-command", NONE, &["echo", "given"]),
    on("shell", "shell-form", NONE, NONE),
    on("shell", "shell-form-replaced", NONE, &["echo", "instead"]),
    on("settings", "image-env", NONE, &["sh", "-c", "env | sort"]),
    on("settings", "image-user", NONE, &["id"]),
    on("settings", "image-workdir", NONE, &["pwd"]),
    on("settings", "image-env-replaced", &["-e", "COLOUR=red"], &["sh", "-c", "echo $COLOUR"]),
    on(
        "settings",
        "image-volume",
        NONE,
        &["sh", "-c", "ls -ln /data; grep -c ' /data ' /proc/self/mountinfo"],
    ),
    on("nothing", "no-command", NONE, NONE),
    // Environment.
    case("env", NONE, &["sh", "-c", "env | sort"]),
    case("env-given", &["-e", "A=1", "-e", "B=x y", "-e", "A=2"], &["sh", "-c", "env | sort"]),
    case(
        "env-from-caller",
        &["-e", "TABLE_SECRET", "-e", "TABLE_UNSET"],
        &["sh", "-c", "env | grep TABLE; echo"],
    ),
    case("env-path", &["-e", "PATH=/sbin"], &["/bin/sh", "-c", "echo $PATH"]),
    case("env-home-empty", &["-e", "HOME="], &["sh", "-c", "echo $HOME"]),
    case("env-home-of-user", &["-u", "daemon"], &["sh", "-c", "echo $HOME"]),
    case("env-tty", &["-e", "TERM=dumb"], &["sh", "-c", "echo $TERM"]),
    case("env-file", &["--env-file", "@env-file"], &["sh", "-c", "env | grep FILE_ | sort"]),
    // Who and where.
    case("id", NONE, &["id"]),
    case("user-name", &["-u", "daemon"], &["id"]),
    case("user-number", &["-u", "4242"], &["id"]),
    case("user-and-group", &["-u", "4242:games"], &["id"]),
    case("group-add", &["--group-add", "audio", "--group-add", "7777"], &["id"]),
    case("user-with-groups", &["-u", "sailor"], &["id"]),
    case("workdir", &["-w", "/var/log"], &["pwd"]),
    case("workdir-made", &["-w", "/not/there/yet"], &["sh", "-c", "pwd; stat -c '%a %u:%g' ."]),
    case(
        "workdir-made-as-user",
        &["-w", "/made/by", "-u", "33"],
        &["sh", "-c", "pwd; stat -c '%a %u:%g' ."],
    ),
    case(
        "hostname-flag",
        &["-h", "harbour"],
        &["sh", "-c", "hostname; cat /etc/hostname; grep -c harbour /etc/hosts"],
    ),
    case("hostname-is-short-id", NONE, &["sh", "-c", "hostname | grep -cE '^[0-9a-f]{12}$'"]),
    case("domainname", &["--domainname", "example.test"], &["cat", "/proc/sys/kernel/domainname"]),
    case("umask", NONE, &["sh", "-c", "umask"]),
    case("pid", NONE, &["sh", "-c", "echo $$ $PPID; ls -d /proc/[0-9]*"]),
    case("init", &["--init"], &["sh", "-c", "echo $PPID"]),
    case(
        "init-streams",
        &["--init"],
        &["sh", "-c", "echo out > /proc/1/fd/1; echo err > /proc/1/fd/2"],
    ),
    case("init-exit", &["--init"], &["sh", "-c", "kill -TERM $$"]),
    // Files.
    case("root-attributes", NONE, &["stat", "-c", "%a %u:%g %F", "/"]),
    case("tmp-attributes", NONE, &["stat", "-c", "%a %u:%g", "/tmp", "/var/tmp", "/root", "/run"]),
    case("layers", NONE, &["cat", "/layers"]),
    case(
        "every-file",
        NONE,
        &[
            "sh",
            "-c",
            "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/resolv.conf -o -path /.dockerenv \\) -prune -o -type f -printf '%p %m %U:%G %s %TY%Tm%Td%TH%TM %n\\n' -o -type l -printf '%p %l\\n' -o -printf '%p %m %U:%G\\n' | grep -v '^/ \\|^/etc [0-9]' | sort | md5sum",
        ],
    ),
    case("dockerenv", NONE, &["ls", "/.dockerenv"]),
    case(
        "file-capability",
        NONE,
        &[
            "sh",
            "-c",
            "perl -e 'exit' ; ls -l /usr/local/bin/setuid-id; su -s /bin/sh -c /usr/local/bin/setuid-id daemon",
        ],
    ),
    case(
        "read-only",
        &["--read-only"],
        &["sh", "-c", "echo x > /x; echo y > /tmp/y; echo z > /dev/shm/z && echo shm"],
    ),
    case(
        "tmpfs",
        &["--tmpfs", "/scratch"],
        &[
            "sh",
            "-c",
            "stat -c '%a %u:%g' /scratch; grep ' /scratch ' /proc/self/mountinfo | cut -d' ' -f5,6",
        ],
    ),
    case(
        "tmpfs-options",
        &["--tmpfs", "/scratch:size=1m,mode=700"],
        &["sh", "-c", "stat -c %a /scratch; df -k /scratch | tail -1 | awk '{print $2}'"],
    ),
    case("tmpfs-keeps-the-mode", &["--tmpfs", "/private"], &["stat", "-c", "%a", "/private"]),
    case("tmpfs-keeps-the-mode-of-tmp", &["--tmpfs", "/tmp"], &["stat", "-c", "%a", "/tmp"]),
    case(
        "tmpfs-twice",
        &["--tmpfs", "/t", "--tmpfs", "/t:size=1m"],
        &["sh", "-c", "df -k /t | tail -1 | awk '{print $2}'"],
    ),
    case("tmpfs-and-volume", &["--tmpfs", "/t", "-v", "@directory:/t"], &["true"]),
    case("bind-twice", &["-v", "@directory:/t", "-v", "@directory:/t"], &["ls", "/t"]),
    case("bind-two-for-one-place", &["-v", "@directory:/t", "-v", "/tmp:/t"], &["true"]),
    case(
        "bind-behind-a-dangling-link",
        &["-v", "@directory:/etc/dangling"],
        &["ls", "/nowhere/at-all"],
    ),
    case("workdir-behind-a-dangling-link", &["-w", "/etc/dangling/x"], &["pwd"]),
    case("bind-shared-from-a-private-mount", &["-v", "@directory:/t:rshared"], &["true"]),
    case("bind-slave-of-a-private-mount", &["-v", "@directory:/t:rslave"], &["true"]),
    case(
        "bind",
        &["-v", "@directory:/mnt/here"],
        &[
            "sh",
            "-c",
            "cat /mnt/here/file; echo made > /mnt/here/made; grep ' /mnt/here ' /proc/self/mountinfo | cut -d' ' -f5,6",
        ],
    ),
    case(
        "bind-read-only",
        &["-v", "@directory:/mnt/here:ro"],
        &["sh", "-c", "cat /mnt/here/file; echo no > /mnt/here/no"],
    ),
    case("bind-file", &["-v", "@directory/file:/etc/motd:ro"], &["cat", "/etc/motd"]),
    case(
        "mount-bind",
        &["--mount", "type=bind,source=@directory,target=/mnt/here,readonly"],
        &["sh", "-c", "cat /mnt/here/file; touch /mnt/here/x"],
    ),
    case(
        "mount-quoted",
        &["--mount", "type=bind,\"source=@directory\",\"target=/a\"\"b,c\""],
        &["ls", "/a\"b,c"],
    ),
    case(
        "mount-badly-quoted",
        &["--mount", "type=bind,source=\"@directory\",target=/t"],
        &["true"],
    ),
    case(
        "mount-tmpfs-keeps-the-mode",
        &["--mount", "type=tmpfs,target=/private"],
        &["stat", "-c", "%a", "/private"],
    ),
    case(
        "mount-tmpfs",
        &["--mount", "type=tmpfs,target=/t,tmpfs-size=1048576"],
        &["sh", "-c", "df -k /t | tail -1 | awk '{print $2}'"],
    ),
    case(
        "volume-named",
        &["-v", "table-volume:/usr/games"],
        &["sh", "-c", "stat -c '%a %u:%g' /usr/games; echo kept > /usr/games/kept"],
    ),
    case("volume-named-again", &["-v", "table-volume:/other"], &["cat", "/other/kept"]),
    case(
        "volume-filled-from-image",
        &["-v", "table-filled:/etc/apt"],
        &["sh", "-c", "ls /etc/apt"],
    ),
    case("volume-anonymous", &["-v", "/etc/apt"], &["sh", "-c", "ls /etc/apt | head -3"]),
    case("etc-hosts", &["--add-host", "db:10.0.0.7"], &["grep", "db", "/etc/hosts"]),
    case("etc-hosts-none", NONE, &["sh", "-c", "grep -v '^#' /etc/hosts | head -2"]),
    case(
        "etc-mounts",
        NONE,
        &["sh", "-c", "grep -c -E ' /etc/(hosts|hostname|resolv.conf) ' /proc/self/mountinfo"],
    ),
    case(
        "dns",
        &["--dns", "9.9.9.9", "--dns-search", "example.test"],
        &["grep", "-vE", "^#|^$", "/etc/resolv.conf"],
    ),
    case("devices", NONE, &["sh", "-c", DEVICES]),
    case(
        "device-flag",
        &["--device", "/dev/fuse:/dev/fusible:r"],
        &[
            "sh",
            "-c",
            "stat -c '%F %t:%T' /dev/fusible; head -c 0 /dev/fusible && echo readable; : > /dev/fusible",
        ],
    ),
    case("device-denied", NONE, &["sh", "-c", "mknod /kmsg c 1 11 && head -c 1 /kmsg"]),
    case(
        "shm-size",
        &["--shm-size", "8m"],
        &["sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"],
    ),
    case(
        "shm-default",
        NONE,
        &["sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm"],
    ),
    case("mounts", NONE, &["sh", "-c", MOUNTS]),
    // Limits.
    case("memory", &["-m", "48m"], &["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]),
    case(
        "memory-swap",
        &["-m", "48m", "--memory-swap", "48m"],
        &["sh", "-c", "cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"],
    ),
    case(
        "memory-reservation",
        &["-m", "48m", "--memory-reservation", "24m"],
        &["cat", "/sys/fs/cgroup/memory/memory.soft_limit_in_bytes"],
    ),
    case(
        "cpus",
        &["--cpus", "0.5"],
        &[
            "sh",
            "-c",
            "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us",
        ],
    ),
    case("cpu-shares", &["--cpu-shares", "512"], &["cat", "/sys/fs/cgroup/cpu/cpu.shares"]),
    case(
        "cpuset",
        &["--cpuset-cpus", "1"],
        &["sh", "-c", "nproc; cat /sys/fs/cgroup/cpuset/cpuset.cpus"],
    ),
    case("cpuset-mems-impossible", &["--cpuset-mems", "4000"], &["true"]),
    case("cpuset-impossible", &["--cpuset-cpus", "4000"], &["true"]),
    case(
        "pids-limit",
        &["--pids-limit", "20"],
        &[
            "perl",
            "-e",
            "my $n = 0; while (defined(my $p = fork)) { if (!$p) { sleep 9; exit } $n++ } print \"$n\\n\"",
        ],
    ),
    case("out-of-memory", &["-m", "32m"], &["tail", "/dev/zero"]),
    case(
        "ulimit",
        &["--ulimit", "nofile=512:1024", "--ulimit", "core=0"],
        &["bash", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c"],
    ),
    case("ulimits", NONE, &["bash", "-c", "ulimit -a; ulimit -Ha | tail -5"]),
    case("oom-score-adj", NONE, &["cat", "/proc/self/oom_score_adj"]),
    // What is unusual about the shell is the shell's own.
    around("in-a-shell-on-one-processor", &["taskset", "-c", "0"], &["nproc"]),
    around(
        "in-a-shell-with-low-limits",
        &["sh", "-c", "ulimit -Sn 777; ulimit -Ss 1024; ulimit -Sv 50000000; exec \"$@\"", "sh"],
        &[
            "bash",
            "-c",
            "[ $(ulimit -Sn) != 777 ] && echo files; ulimit -Ss; ulimit -v; ulimit -Hi; ulimit -l; ulimit -q",
        ],
    ),
    around(
        "in-a-shell-that-is-nice",
        &["nice", "-n", "7", "chrt", "-b", "0", "ionice", "-c", "3"],
        &["sh", "-c", "nice; chrt -p 1 | cut -d: -f2; ionice -p 1"],
    ),
    around(
        "in-a-shell-that-may-be-killed-first",
        &["choom", "-n", "300", "--"],
        &["cat", "/proc/self/oom_score_adj"],
    ),
    around(
        "in-a-shell-of-another-personality",
        &["setarch", "-R", "-3"],
        &["cat", "/proc/self/personality"],
    ),
    around(
        "in-a-shell-that-ignores-signals",
        &["sh", "-c", "trap '' INT QUIT USR1; umask 077; exec \"$@\"", "sh"],
        &[
            "sh",
            "-c",
            "grep -E 'SigBlk|Groups' /proc/self/status; umask; \
             sed -n 's/SigIgn.*\\(.......\\)$/\\1/p' /proc/self/status",
        ],
    ),
    around(
        "in-a-shell-that-dumps-other-memory",
        &["sh", "-c", "echo 0x7f > /proc/self/coredump_filter; exec \"$@\"", "sh"],
        &["cat", "/proc/self/coredump_filter", "/proc/self/timerslack_ns"],
    ),
    // Privileges.
    case("capabilities", NONE, &["grep", "Cap", "/proc/self/status"]),
    case("capabilities-of-user", &["-u", "33"], &["grep", "Cap", "/proc/self/status"]),
    case("cap-drop", &["--cap-drop", "ALL"], &["grep", "Cap", "/proc/self/status"]),
    case(
        "cap-add",
        &["--cap-add", "SYS_TIME", "--cap-add", "cap_net_admin", "--cap-drop", "CHOWN"],
        &["grep", "Cap", "/proc/self/status"],
    ),
    case(
        "privileged",
        &["--privileged"],
        &[
            "sh",
            "-c",
            "grep -E 'CapBnd|Seccomp:' /proc/self/status | wc -l; mount -t tmpfs t /mnt && echo mounted; ls /dev | wc -l",
        ],
    ),
    case(
        "no-new-privileges",
        &["--security-opt", "no-new-privileges"],
        &["grep", "NoNewPrivs", "/proc/self/status"],
    ),
    case("no-new-privileges-default", NONE, &["grep", "NoNewPrivs", "/proc/self/status"]),
    case("seccomp-mode", NONE, &["grep", "Seccomp:", "/proc/self/status"]),
    case(
        "seccomp-unconfined",
        &["--security-opt", "seccomp=unconfined"],
        &["sh", "-c", "grep Seccomp: /proc/self/status; unshare -U true && echo user namespace"],
    ),
    case("seccomp-system-calls", NONE, &["perl", "-e", SYSCALLS]),
    case("seccomp-with-sys-admin", &["--cap-add", "SYS_ADMIN"], &["perl", "-e", SYSCALLS]),
    case(
        "systempaths-unconfined",
        &["--security-opt", "systempaths=unconfined"],
        &["sh", "-c", "grep -c ' /proc/' /proc/self/mountinfo"],
    ),
    case(
        "masked-paths",
        NONE,
        &[
            "sh",
            "-c",
            "for p in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/acpi /proc/scsi /sys/firmware; do echo $p $(stat -c '%F %t:%T' $p 2>&1) $(ls -A $p 2>/dev/null | wc -l); done",
        ],
    ),
    case(
        "read-only-paths",
        NONE,
        &[
            "sh",
            "-c",
            "for p in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys; do echo $p $(awk -v p=$p '$5 == p { print $6 }' /proc/self/mountinfo | tail -1); done",
        ],
    ),
    case(
        "sysctl",
        &["--sysctl", "net.ipv4.ip_forward=1"],
        &["cat", "/proc/sys/net/ipv4/ip_forward"],
    ),
    case("sysctl-of-the-host", &["--sysctl", "kernel.panic=9"], &["true"]),
    case(
        "sysctl-ports",
        NONE,
        &[
            "cat",
            "/proc/sys/net/ipv4/ip_unprivileged_port_start",
            "/proc/sys/net/ipv4/ping_group_range",
        ],
    ),
    case("mount-refused", NONE, &["mount", "-t", "tmpfs", "none", "/mnt"]),
    case(
        "chown-and-setuid",
        NONE,
        &["sh", "-c", "touch /f; chown 33:33 /f; stat -c %u:%g /f; su -s /bin/sh -c id www-data"],
    ),
    // Namespaces.
    case(
        "network-none",
        NONE,
        &["sh", "-c", "cut -d: -f1 /proc/net/dev | tail -n +3; cat /sys/class/net/lo/operstate"],
    ),
    case(
        "network-host",
        &["--network", "host"],
        &["sh", "-c", "cut -d: -f1 /proc/net/dev | tail -n +3 | sort; hostname"],
    ),
    case(
        "network-host-mounts",
        &["--network", "host"],
        &["sh", "-c", "grep -cE ' - (sysfs|debugfs|tracefs|securityfs|bpf) ' /proc/self/mountinfo"],
    ),
    case(
        "network-host-limits",
        &["--network", "host", "-m", "48m"],
        &["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"],
    ),
    case(
        "pid-host",
        &["--pid", "host"],
        &[
            "sh",
            "-c",
            "[ $$ -gt 1 ] && [ -d /proc/1 ] && [ $(ls /proc | grep -c '^[0-9]') -gt 3 ] && echo the host\\'s",
        ],
    ),
    case(
        "ipc-host",
        &["--ipc", "host"],
        &["sh", "-c", "grep ' /dev/shm ' /proc/self/mountinfo | cut -d' ' -f5"],
    ),
    case(
        "ipc-none",
        &["--ipc", "none"],
        &[
            "sh",
            "-c",
            "grep -c ' /dev/shm ' /proc/self/mountinfo; readlink /proc/self/ns/ipc | cut -c1-4",
        ],
    ),
    case(
        "ipc-shareable",
        &["--ipc", "shareable", "--shm-size", "1m"],
        &["sh", "-c", "df -P /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2,6"],
    ),
    case("ipc-of-nobody", &["--ipc", "container:no-such-container"], &["true"]),
    case("uts-host", &["--uts", "host"], &["hostname"]),
    case("uts-host-hostname", &["--uts", "host", "-h", "harbour"], &["hostname"]),
    case("uts-host-domainname", &["--uts", "host", "--domainname", "example.test"], &["true"]),
    case("ipc-host-shm-size", &["--ipc", "host", "--shm-size", "8m"], &["true"]),
    case(
        "cgroup-namespace",
        NONE,
        &["sh", "-c", "cut -d: -f3 /proc/self/cgroup | sort -u | sed -E 's/[0-9a-f]{64}/ID/'"],
    ),
    case(
        "cgroupns-private",
        &["--cgroupns", "private"],
        &["sh", "-c", "cut -d: -f3 /proc/self/cgroup | sort -u"],
    ),
    case("keyring", NONE, &["sh", "-c", "cat /proc/keys | wc -l"]),
    case("label", &["--label", "a=b"], &["true"]),
    case("quiet-pull-missing", &["--pull", "never"], &["true"]),
];
