use std::collections::BTreeMap;

use oci_spec::runtime::{Capability, LinuxNamespaceType, Mount};
use shared::Digest;

use super::*;
use crate::container::{Hosts, Ipc, RootAttributes};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn plain() -> Request {
    Request {
        name: "web".into(),
        command: vec!["true".into()],
        entrypoint: None,
        environment: Vec::new(),
        workdir: None,
        user: None,
        groups_added: Vec::new(),
        terminal: false,
        stdin_open: false,
        detached: false,
        remove_on_exit: false,
        init: false,
        stop_signal: None,
        stop_timeout_seconds: None,
        log: None,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        network: Network::None,
        ports: Vec::new(),
        publishes_all: false,
        exposed: Vec::new(),
        hosts: Hosts::default(),
        pid: Sharing::Private,
        ipc: Ipc::Private,
        uts: Sharing::Private,
        own_ids: None,
        is_of_user: false,
        cgroup: Sharing::Private,
        cgroup_parent: None,
        sysctls: BTreeMap::new(),
        mounts: Vec::new(),
        read_only: false,
        shm_size_bytes: 64 << 20,
        limits: Limits::default(),
        rlimits: Vec::new(),
        privileged: false,
        capabilities_added: Vec::new(),
        capabilities_dropped: Vec::new(),
        no_new_privileges: false,
        seccomp: SeccompRequest::Default,
        shows_system_paths: false,
        strict: false,
        devices: Vec::new(),
        device_rules: Vec::new(),
        exposed_ports: Vec::new(),
        cidfile: None,
        asked_for: Vec::new(),
    }
}

fn image(config: &str) -> ImageConfig {
    ImageConfig::parse(format!("{{\"config\": {config}}}").as_bytes()).unwrap()
}

fn make(request: &Request, config: &str) -> Result<Record, SpecError> {
    let digest = Digest::sha256(b"x");
    let image_use = ImageUse {
        reference: "localhost/app:latest".into(),
        manifest: digest.clone(),
        config: digest,
        layers: Vec::new(),
        fixups: None,
        root: RootAttributes::default(),
        foreign: None,
    };
    let host = Host {
        capabilities: capabilities_from_mask(u64::MAX),
        hostname: "laptop".into(),
        volumes: "/v".into(),
    };
    record(request, &image(config), image_use, &host, ID, "2026-01-01T00:00:00Z".into())
}

fn process(record: &Record) -> &Process {
    record.spec.process().as_ref().unwrap()
}

fn linux(record: &Record) -> &Linux {
    record.spec.linux().as_ref().unwrap()
}

fn mount_at<'a>(record: &'a Record, target: &str) -> Option<&'a Mount> {
    let mounts = record.spec.mounts().as_ref().unwrap();
    mounts.iter().find(|mount| mount.destination().to_str() == Some(target))
}

#[test]
fn entrypoint_and_command() {
    let strings = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    for (config, entrypoint, command, want) in [
        (r#"{"Cmd": ["sh"]}"#, None, &[][..], &["sh"][..]),
        (r#"{"Cmd": ["sh"]}"#, None, &["ls", "-l"], &["ls", "-l"]),
        (r#"{"Entrypoint": ["e"], "Cmd": ["c"]}"#, None, &[], &["e", "c"]),
        (r#"{"Entrypoint": ["e"], "Cmd": ["c"]}"#, None, &["x"], &["e", "x"]),
        (r#"{"Entrypoint": ["e"], "Cmd": ["c"]}"#, Some("f"), &[], &["f"]),
        (r#"{"Entrypoint": ["e"], "Cmd": ["c"]}"#, Some("f"), &["x"], &["f", "x"]),
        (r#"{"Entrypoint": ["e"], "Cmd": ["c"]}"#, Some(""), &["x"], &["x"]),
    ] {
        let mut request = plain();
        request.command = strings(command);
        request.entrypoint =
            entrypoint.map(|text: &str| if text.is_empty() { vec![] } else { strings(&[text]) });
        let record = make(&request, config).unwrap();
        assert_eq!(process(&record).args().as_ref().unwrap(), &strings(want), "{config}");
    }
    let mut request = plain();
    request.command = Vec::new();
    assert!(matches!(make(&request, "{}"), Err(SpecError::NoCommand)));
    request.entrypoint = Some(Vec::new());
    assert!(matches!(make(&request, r#"{"Cmd": ["c"]}"#), Err(SpecError::NoCommand)));
    request.command = vec![String::new()];
    assert!(matches!(make(&request, "{}"), Err(SpecError::EmptyCommand)));
}

#[test]
fn the_environment_has_dockers_order() {
    let mut request = plain();
    request.terminal = true;
    request.environment = vec![
        Variable::Set("A=1".into()),
        Variable::Set("PATH=/mine".into()),
        Variable::Unset("GONE".into()),
        Variable::Set("A=2".into()),
    ];
    let record =
        make(&request, r#"{"Env": ["PATH=/image", "GONE=x", "A=image", "B=image=b"]}"#).unwrap();
    assert_eq!(
        process(&record).env().as_ref().unwrap(),
        &["PATH=/mine", "HOSTNAME=0123456789ab", "TERM=xterm", "A=2", "B=image=b"]
    );
    let bare = make(&plain(), "{}").unwrap();
    assert_eq!(
        process(&bare).env().as_ref().unwrap(),
        &[
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME=0123456789ab"
        ]
    );
}

#[test]
fn working_directories_and_users() {
    for (flag, config, want) in [
        (None, "{}", Some("/")),
        (None, r#"{"WorkingDir": "/app"}"#, Some("/app")),
        (None, r#"{"WorkingDir": "app"}"#, Some("/app")),
        (Some("/w"), r#"{"WorkingDir": "/app"}"#, Some("/w")),
        (Some("w"), "{}", None),
    ] {
        let mut request = plain();
        request.workdir = flag.map(str::to_owned);
        let got = make(&request, config).ok();
        let got = got.map(|record| process(&record).cwd().to_str().unwrap().to_owned());
        assert_eq!(got.as_deref(), want, "{flag:?} {config}");
    }
    for (flag, valid) in [
        ("0", true),
        ("1000:1000", true),
        ("www-data", true),
        ("a.b:c_d", true),
        ("2147483647", true),
        ("2147483648", false),
        ("99999999999999999999", false),
        (":0", false),
        ("0:", false),
        ("+0", false),
        ("-1", false),
        ("1 000", false),
        ("a:b:c", false),
        ("../root", false),
    ] {
        let mut request = plain();
        request.user = Some(flag.into());
        assert_eq!(make(&request, r#"{"User": "nobody"}"#).is_ok(), valid, "{flag}");
    }
    assert_eq!(make(&plain(), r#"{"User": "nobody"}"#).unwrap().user, "nobody");
}

#[test]
fn defaults_are_dockers() {
    let record = make(&plain(), r#"{"Labels": {"a": "1"}, "StopSignal": "SIGQUIT"}"#).unwrap();
    let kinds: Vec<LinuxNamespaceType> =
        linux(&record).namespaces().as_ref().unwrap().iter().map(|one| one.typ()).collect();
    assert_eq!(kinds.len(), 6);
    assert!(!kinds.contains(&LinuxNamespaceType::User));
    let sets = process(&record).capabilities().as_ref().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 14);
    assert!(sets.inheritable().is_none() && sets.ambient().is_none());
    assert_eq!(process(&record).no_new_privileges(), Some(false));
    assert_eq!(record.seccomp, Seccomp::Docker);
    assert!(linux(&record).masked_paths().as_ref().unwrap().contains(&"/proc/kcore".to_owned()));
    assert!(linux(&record).readonly_paths().as_ref().unwrap().contains(&"/proc/sys".to_owned()));
    let sysctls = linux(&record).sysctl().as_ref().unwrap();
    assert_eq!(sysctls["net.ipv4.ip_unprivileged_port_start"], "0");
    assert_eq!(record.labels["a"], "1");
    assert_eq!(record.stop_signal.as_deref(), Some("SIGQUIT"));
    let targets: Vec<&str> = record
        .spec
        .mounts()
        .as_ref()
        .unwrap()
        .iter()
        .map(|mount| mount.destination().to_str().unwrap())
        .collect();
    assert_eq!(
        targets,
        ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"]
    );
    let shm = mount_at(&record, "/dev/shm").unwrap().options().as_ref().unwrap();
    assert!(shm.contains(&"size=67108864".to_owned()));
    assert!(linux(&record).resources().as_ref().unwrap().memory().is_none());
    let rules = linux(&record).resources().as_ref().unwrap().devices().as_ref().unwrap();
    assert!(!rules[0].allow());
}

#[test]
fn privileged_and_strict() {
    let mut request = plain();
    request.privileged = true;
    let record = make(&request, "{}").unwrap();
    let sets = process(&record).capabilities().as_ref().unwrap();
    assert!(sets.bounding().as_ref().unwrap().contains(&Capability::SysAdmin));
    assert_eq!(record.seccomp, Seccomp::Unconfined);
    assert!(linux(&record).masked_paths().is_none() && linux(&record).readonly_paths().is_none());
    let sys = mount_at(&record, "/sys").unwrap().options().as_ref().unwrap();
    assert!(sys.contains(&"rw".to_owned()));
    assert!(linux(&record).resources().as_ref().unwrap().devices().as_ref().unwrap()[0].allow());

    let mut request = plain();
    request.strict = true;
    let record = make(&request, "{}").unwrap();
    assert_eq!(process(&record).no_new_privileges(), Some(true));
    let pids = linux(&record).resources().as_ref().unwrap().pids().as_ref().unwrap();
    assert_eq!(pids.limit(), 1024);
    assert_eq!(record.seccomp, Seccomp::Strict);

    let mut request = plain();
    request.shows_system_paths = true;
    let record = make(&request, "{}").unwrap();
    assert!(linux(&record).masked_paths().is_none());
    assert_eq!(record.seccomp, Seccomp::Docker);
}

#[test]
fn limits_become_resources() {
    let mut request = plain();
    request.limits = Limits {
        memory_bytes: Some(512 << 20),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        pids: Some(100),
        ..Limits::default()
    };
    let record = make(&request, "{}").unwrap();
    let resources = linux(&record).resources().as_ref().unwrap();
    let memory = resources.memory().as_ref().unwrap();
    assert_eq!((memory.limit(), memory.swap()), (Some(512 << 20), Some(1 << 30)));
    assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(50_000));
    assert_eq!(resources.pids().as_ref().unwrap().limit(), 100);
    for unlimited in [-1, 0] {
        request.limits.pids = Some(unlimited);
        request.limits.memory_swap_bytes = Some(-1);
        let record = make(&request, "{}").unwrap();
        let resources = linux(&record).resources().as_ref().unwrap();
        assert!(resources.pids().is_none());
        assert_eq!(resources.memory().as_ref().unwrap().swap(), Some(-1));
    }
}

#[test]
fn mounts_are_ordered_and_hide_ours() {
    let mount = |target: &str, kind: MountKind| MountRequest {
        target: target.into(),
        kind,
        read_only: false,
    };
    let bind = |source: &str| MountKind::Bind {
        source: source.into(),
        propagation: None,
        recursion: BindRecursion::Enabled,
    };
    let named = MountKind::Volume { name: Some("db".into()), populate: true };
    let mut request = plain();
    request.mounts = vec![
        mount("/a/b/c", bind("/1")),
        mount("/data", named.clone()),
        mount("/dev/shm", MountKind::Tmpfs { options: vec!["exec".into(), "size=1m".into()] }),
    ];
    let record = make(&request, r#"{"Volumes": {"/data/": {}, "/cache": {}}}"#).unwrap();
    let mounts = record.spec.mounts().as_ref().unwrap();
    let targets: Vec<&str> =
        mounts[6..].iter().map(|mount| mount.destination().to_str().unwrap()).collect();
    assert_eq!(targets, ["/data", "/cache", "/dev/shm", "/a/b/c"]);
    let options = mounts[8].options().as_ref().unwrap();
    assert_eq!(options, &["nosuid", "nodev", "exec", "size=1m"]);
    assert_eq!(record.volumes.len(), 2, "/data/ of the image is /data of the flag");
    assert_eq!((record.volumes[0].mount, record.volumes[0].name.as_str()), (6, "db"));
    assert_eq!(mounts[6].source().as_ref().unwrap().to_str(), Some("/v/db/_data"));
    assert!(record.volumes[1].anonymous && record.volumes[1].name.len() == 64);

    request.mounts = vec![mount("/a", bind("/1")), mount("/a", named)];
    assert!(matches!(make(&request, "{}"), Err(SpecError::DuplicateMount(_))));
    request.mounts = vec![mount("/", bind("/1"))];
    assert!(matches!(make(&request, "{}"), Err(SpecError::MountOverRoot)));
    request.mounts = vec![mount("/dev", bind("/dev"))];
    let record = make(&request, "{}").unwrap();
    assert!(mount_at(&record, "/dev/pts").is_none() && mount_at(&record, "/dev/shm").is_none());
}

#[test]
fn shared_namespaces_and_sysctls() {
    let mut request = plain();
    request.network = Network::Host;
    let record = make(&request, "{}").unwrap();
    assert_eq!(record.hosts.hostname, "laptop");
    assert!(linux(&record).sysctl().is_none());
    assert_eq!(mount_at(&record, "/sys").unwrap().typ().as_deref(), Some("sysfs"));
    let with = |network: Network, ipc: Ipc, name: &str| {
        let mut request = plain();
        request.network = network;
        request.ipc = ipc;
        request.sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        make(&request, "{}")
    };
    for (network, ipc, name, valid) in [
        (Network::None, Ipc::Private, "net.ipv4.ip_forward", true),
        (Network::None, Ipc::Private, "net/ipv4/ip_forward", true),
        (Network::Host, Ipc::Private, "net.ipv4.ip_forward", false),
        (Network::None, Ipc::Private, "kernel.shmmax", true),
        (Network::None, Ipc::Host, "kernel.shmmax", false),
        (Network::None, Ipc::Private, "fs.mqueue.msg_max", true),
        (Network::None, Ipc::Private, "kernel.core_pattern", false),
        (Network::None, Ipc::Private, "vm.swappiness", false),
        (Network::None, Ipc::Private, "net...x", false),
        (Network::None, Ipc::Private, "net/../../proc/x", false),
    ] {
        assert_eq!(with(network, ipc, name).is_ok(), valid, "{name}");
    }
    let record = with(Network::None, Ipc::Private, "net/ipv4/ip_unprivileged_port_start");
    let record = record.unwrap();
    let sysctls = linux(&record).sysctl().as_ref().unwrap();
    assert_eq!(sysctls["net.ipv4.ip_unprivileged_port_start"], "1", "asked for beats the default");
}

#[test]
fn records_survive_json() {
    let record = make(&plain(), r#"{"Cmd": ["a"]}"#).unwrap();
    let text = serde_json::to_string(&record).unwrap();
    let back: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(back.spec, record.spec);
    assert!(text.len() < 8 << 10, "parsed on every start: {} bytes", text.len());
}
