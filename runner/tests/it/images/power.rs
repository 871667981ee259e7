//! Power cuts: a file system that loses, at one moment, everything that was not written through to
//! its disk (`FS_IOC_SHUTDOWN`, ext4's and xfs's, by way of xfs_io(8)), and a boot after it.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::corpus::Encoding;
use crate::corpus::tar::{dir, file, tar};
use crate::images::host::Host;
use crate::images::island::run;
use crate::images::registry::{Fault, Registry};
use crate::images::tree;

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the pull began.
    Pulling(Duration),
    /// So long after the image's layers were marked durable.
    Marked(Duration),
}

/// The journal is written every second, so that names reach the disk before the content of their
/// files does, which the kernel keeps back for longer.
const JOURNAL: &str = "loop,commit=1";
const JOURNAL_WRITTEN: Duration = Duration::from_millis(1600);

/// A disk at `host.path()`, and the file that it lies in.
struct Disk<'a> {
    host: &'a Host,
    image: PathBuf,
}

impl Disk<'_> {
    fn attach(&self) {
        run("mount", &["-o", JOURNAL, text(&self.image), text(self.host.path())]);
    }

    /// What was not written is lost, and whoever worked there fails.
    fn cut(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", text(self.host.path())]);
    }

    fn detach(&self) {
        // The background sync of a pull may still be there, about to meet the end of its disk.
        let deadline = Instant::now() + Duration::from_secs(20);
        while nix::mount::umount(self.host.path()).is_err() {
            assert!(Instant::now() < deadline, "somebody stays on a disk without power");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Small files in a layer that is there soon, and one that takes longer to come.
fn image(registry: &Registry) -> (String, String) {
    let many = (0..100).map(|at| file(format!("d/{at}"), vec![b'x'; 5000]));
    let small = tar(std::iter::once(dir("d")).chain(many));
    let more = tar([file("tmp/y", vec![b'y'; 300_000])]);
    let slow = tar([file("z", vec![b'z'; 1 << 20])]);
    let layers = [(small, Encoding::Gzip), (more, Encoding::Gzip), (slow, Encoding::Plain)];
    let (_, blobs) = registry.image("a:1", &layers);
    (registry.reference("a:1"), blobs[2].clone())
}

#[test]
fn after_a_power_cut_no_half_layer_is_used() {
    std::thread::scope(|scope| scope.spawn(cuts).join().unwrap());
}

fn cuts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let boots = Boots::first();
    let registry = Registry::start();
    let (reference, slow) = image(&registry);
    let host = Host::new();
    host.ok(["pull", "-q", &reference]);
    let expected = tree::of_image(&host, &host.record(&reference));
    let milliseconds = Duration::from_millis;
    for moment in [
        // A layer is there, its names written; another is still coming.
        Moment::Pulling(JOURNAL_WRITTEN),
        Moment::Pulling(milliseconds(60)),
        Moment::Pulling(milliseconds(800)),
        Moment::Marked(JOURNAL_WRITTEN),
        Moment::Marked(milliseconds(0)),
    ] {
        let pause = Some(milliseconds(if matches!(moment, Moment::Pulling(_)) { 140 } else { 0 }));
        registry.state().faults.insert(slow.clone(), Fault { slow: pause, ..Fault::default() });
        survives(&boots, &registry, &reference, &expected, moment);
    }
}

fn survives(
    boots: &Boots,
    registry: &Registry,
    reference: &str,
    expected: &[String],
    moment: Moment,
) {
    let host = Host::new();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = Disk { host: &host, image: folder.path().join("disk") };
    std::fs::File::create(&disk.image).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", text(&disk.image)]);
    disk.attach();
    let mut command = host.command(["pull", "-q", reference]);
    let pull = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait(&host, pull, moment);
    disk.cut();
    disk.detach();
    boots.anew();
    disk.attach();

    registry.state().faults.clear();
    let asked = registry.state().log.len();
    let known = host.run(["image", "inspect", reference]).code == Some(0);
    host.ok(["pull", "-q", reference]);
    let blobs =
        registry.state().log[asked..].iter().filter(|line| line.contains("/blobs/")).count();
    assert_eq!(tree::of_image(&host, &host.record(reference)), expected, "{moment:?}");
    if matches!(moment, Moment::Marked(_)) {
        assert!(known, "{moment:?}: the image had been pulled");
        assert_eq!(blobs, 0, "{moment:?}: what was durable is fetched again");
    }
    disk.detach();
}

/// Waits for the moment; the pull has ended when this returns, or is killed.
fn wait(host: &Host, mut pull: Child, moment: Moment) {
    match moment {
        Moment::Pulling(after) => {
            std::thread::sleep(after);
            // The kernel writes what it likes first: here the layers' own words.
            for layer in host.names("layers") {
                let facts = host.root().join("layers").join(layer).join("layer.json");
                std::fs::File::open(facts).unwrap().sync_all().unwrap();
            }
            pull.kill().unwrap();
            pull.wait().unwrap();
        }
        Moment::Marked(after) => {
            assert!(pull.wait().unwrap().success());
            let deadline = Instant::now() + Duration::from_secs(20);
            let is_marked =
                |layer: &String| host.root().join("layers").join(layer).join("durable").exists();
            while !host.names("layers").iter().all(is_marked) {
                assert!(Instant::now() < deadline, "no layer becomes durable");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(after);
        }
    }
}

/// The boot id of whatever this thread starts.
struct Boots(tempfile::NamedTempFile);

impl Boots {
    fn first() -> Self {
        let boots = Self(tempfile::NamedTempFile::new().unwrap());
        boots.anew();
        let (own, flags) = (Some(boots.0.path()), MsFlags::MS_BIND);
        mount(own, "/proc/sys/kernel/random/boot_id", None::<&str>, flags, None::<&str>).unwrap();
        boots
    }

    fn anew(&self) {
        let uuid = std::fs::read("/proc/sys/kernel/random/uuid").unwrap();
        std::fs::write(self.0.path(), uuid).unwrap();
    }
}
