//! One layer and what is in it: kinds of entries, forms of headers, ways of compression.

use super::tar::*;
use super::{Case, Encoding};

const ROOT: &str = "d 0755 0:0 .";
const GO: &str = "Go archive/tar, as Docker reads layers";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = entries();
    cases.extend(attributes());
    cases.extend(links());
    cases.extend(doubles());
    cases.extend(names());
    cases.extend(headers());
    cases.extend(sparse());
    cases.extend(compression());
    cases
}

fn entries() -> Vec<Case> {
    let large: Vec<u8> = (0..700_001u32).map(|at| (at % 251) as u8).collect();
    vec![
        Case::new("files-and-directories", "the ordinary case")
            .layer([
                dir("./"),
                dir("./etc/"),
                file("./etc/hosts", "127.0.0.1"),
                dir("./empty"),
                file("./nothing", ""),
            ])
            .tree(&[
                ROOT,
                "d 0755 0:0 empty",
                "d 0755 0:0 etc",
                "f 0644 0:0 etc/hosts =127.0.0.1",
                "f 0644 0:0 nothing =",
            ]),
        Case::new("devices-and-fifo", "debootstrap roots hold /dev")
            .layer([
                dir("dev"),
                char_device("dev/null", 1, 3).mode(0o666),
                block_device("dev/loop9", 7, 9),
                fifo("dev/initctl"),
                char_device("dev/big", 4095, 1_048_575).owner(0, 5),
            ])
            .tree(&[
                ROOT,
                "d 0755 0:0 dev",
                "c 0600 0:5 dev/big 4095,1048575",
                "p 0600 0:0 dev/initctl",
                "b 0600 0:0 dev/loop9 7,9",
                "c 0666 0:0 dev/null 1,3",
            ]),
        Case::new("large-file", "more than any buffer, and no multiple of a block")
            .layer([file("large", &large)])
            .tree(&[ROOT, "f 0644 0:0 large #4c47cf2213b6:700001"]),
        Case::new("directory-with-a-size", "old tars give directories a size; no data follows")
            .layer([dir("d").size(4096), file("d/x", "1")])
            .tree(&[ROOT, "d 0755 0:0 d", "f 0644 0:0 d/x =1"]),
        Case::new("entry-order-children-first", "find | tar from the bottom up")
            .layer([file("a/b/x", "1"), dir("a/b").mode(0o700), dir("a").mode(0o711)])
            .tree(&[ROOT, "d 0711 0:0 a", "d 0700 0:0 a/b", "f 0644 0:0 a/b/x =1"]),
    ]
}

fn attributes() -> Vec<Case> {
    vec![
        Case::new("setuid-setgid-sticky", "chown clears setuid: order matters")
            .layer([
                file("su", "1").mode(0o4755), file("sg", "1").mode(0o2755).owner(0, 12),
                file("owned-su", "1").mode(0o4711).owner(1000, 1000), dir("t").mode(0o1777),
            ])
            .tree(&[
                ROOT, "f 4711 1000:1000 owned-su =1", "f 2755 0:12 sg =1", "f 4755 0:0 su =1",
                "d 1777 0:0 t",
            ]),
        Case::new("setgid-directory-first", "mkdir(2): what is made inside inherits the group")
            .layer([dir("d").mode(0o2775).owner(0, 50), file("d/x", "1"), dir("d/e"), file("d/e/y", "2")])
            .tree(&[
                ROOT, "d 2775 0:50 d", "d 0755 0:0 d/e", "f 0644 0:0 d/e/y =2", "f 0644 0:0 d/x =1",
            ]),
        Case::new("modes-of-nothing", "umask and owner must not interfere")
            .layer([dir("d").mode(0), file("d/x", "1").mode(0), file("w", "2").mode(0o666)])
            .tree(&[ROOT, "d 0000 0:0 d", "f 0000 0:0 d/x =1", "f 0666 0:0 w =2"]),
        Case::new("large-owners", "ids over octal's 2097151: PAX and base-256")
            .layer([
                file("pax", "1").owner(4_294_967_294, 2_097_152),
                file("usual", "2").owner(65_534, 100_000),
            ])
            .tree(&[ROOT, "f 0644 4294967294:2097152 pax =1", "f 0644 65534:100000 usual =2"]),
        Case::new("owners-of-everything", "links and devices have owners too")
            .layer([
                symlink("l", "x").owner(1, 2), fifo("p").owner(3, 4), dir("d").owner(5, 6),
                char_device("c", 5, 1).owner(7, 8),
            ])
            .tree(&[ROOT, "c 0600 7:8 c 5,1", "d 0755 5:6 d", "l 1:2 l -> x", "p 0600 3:4 p"]),
        Case::new("times", "seconds, fractions, before 1970 (Docker: 1970), children after directories")
            .layer([
                dir("d").mtime(1000), file("d/x", "").mtime(0), file("d/old", "").mtime(-1),
                file("d/half", "").pax("mtime", "1234.5"), symlink("d/l", "x").mtime(77),
                file("d/late", "").mtime(4_102_444_800),
            ])
            .tree(&[
                ROOT, "d 0755 0:0 d", "t d 1000.0", "f 0644 0:0 d/half =", "t d/half 1234.500000000",
                "l 0:0 d/l -> x", "t d/l 77.0", "f 0644 0:0 d/late =", "t d/late 4102444800.0",
                "f 0644 0:0 d/old =", "t d/old 0.0", "f 0644 0:0 d/x =", "t d/x 0.0",
            ]),
        Case::new("xattrs", "moby: user attributes of files and directories")
            .layer([
                file("f", "1").xattr("user.a", "1").xattr("user.b", [0, 255]),
                dir("d").xattr("user.on", "dir").mode(0o700),
            ])
            .tree(&[
                ROOT, "d 0700 0:0 d", "x d user.on=dir", "f 0644 0:0 f =1", "x f user.a=1",
                "x f user.b=%00%ff",
            ]),
        Case::new("file-capabilities", "ping: chown after setting them takes them away")
            .layer([file("ping", "1").mode(0o755).owner(10, 10).xattr("security.capability", CAPABILITY)])
            .tree(&[ROOT, "f 0755 10:10 ping =1", "x ping security.capability=%01%00%00%02%00 %00%00%00%00%00%00%00%00%00%00%00%00%00%00"]),
        Case::new("overlay-attributes-are-dropped", "a layer must not speak to overlayfs")
            .layer([dir("a"), file("a/x", "1"), file("r", "2")])
            .layer([
                dir("a").xattr("trusted.overlay.opaque", "y").xattr("user.overlay.opaque", "y")
                    .xattr("user.kept", "1"),
                dir("m").xattr("trusted.overlay.redirect", "/a"),
                file("r", "3").xattr("trusted.overlay.metacopy", ""),
            ])
            .tree(&[
                ROOT, "d 0755 0:0 a", "x a user.kept=1", "f 0644 0:0 a/x =1", "d 0755 0:0 m",
                "f 0644 0:0 r =3",
            ]),
    ]
}

/// `cap_net_raw+ep`, version 2, as the kernel stores it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn links() -> Vec<Case> {
    vec![
        Case::new("hard-links", "three names of one file, in two directories")
            .layer([file("a", "1"), hard_link("b", "a"), dir("d"), hard_link("d/c", "./a")])
            .tree(&[
                ROOT, "f 0644 0:0 a =1", "h a b d/c", "f 0644 0:0 b =1", "d 0755 0:0 d",
                "f 0644 0:0 d/c =1",
            ]),
        Case::new("hard-link-absolute", "a target with a slash in front is the layer's root")
            .layer([dir("d"), file("d/a", "1"), hard_link("b", "/d/a")])
            .tree(&[ROOT, "f 0644 0:0 b =1", "h b d/a", "d 0755 0:0 d", "f 0644 0:0 d/a =1"]),
        Case::new("absolute-names", "names with a slash in front lie beneath the root")
            .layer([dir("/d"), file("/d/a", "1"), file("//d/./b", "2"), symlink("/d/c", "/d/b")])
            .layer([file("/d/.wh.a", ""), file("/tmp/x", "3")])
            .tree(&[
                ROOT, "d 0755 0:0 d", "f 0644 0:0 d/b =2", "l 0:0 d/c -> /d/b", "d 0755 0:0 tmp",
                "f 0644 0:0 tmp/x =3",
            ]),
        Case::new("hard-link-to-symlink", "linkat(2) must not follow")
            .layer([symlink("l", "/etc/passwd"), hard_link("m", "l").mode(0o777)])
            .tree(&[ROOT, "l 0:0 l -> /etc/passwd", "h l m", "l 0:0 m -> /etc/passwd"]),
        Case::new("hard-link-with-other-attributes", "the later header counts, as with Docker")
            .layer([file("a", "1"), hard_link("b", "a").mode(0o600).owner(7, 7)])
            .tree(&[ROOT, "f 0600 7:7 a =1", "h a b", "f 0600 7:7 b =1"]),
        Case::new("hard-link-keeps-setuid-and-capabilities", "chown to the same owner clears both")
            .layer([
                file("su", "1").mode(0o4755), hard_link("su2", "su").mode(0o4755),
                file("cap", "2").mode(0o755).xattr("security.capability", CAPABILITY),
                hard_link("cap2", "cap").mode(0o755),
            ])
            .tree(&[
                ROOT, "f 0755 0:0 cap =2",
                "x cap security.capability=%01%00%00%02%00 %00%00%00%00%00%00%00%00%00%00%00%00%00%00",
                "h cap cap2", "f 0755 0:0 cap2 =2",
                "x cap2 security.capability=%01%00%00%02%00 %00%00%00%00%00%00%00%00%00%00%00%00%00%00",
                "f 4755 0:0 su =1", "h su su2", "f 4755 0:0 su2 =1",
            ]),
        Case::new("symlinks-are-data", "absolute, upwards, dangling, in a circle: never followed here")
            .layer([
                symlink("abs", "/etc/passwd"), symlink("up", "../../../../etc/passwd"),
                symlink("none", "nowhere"), symlink("c1", "c2"), symlink("c2", "c1"),
                symlink("self", "."), symlink("utf", "gr\u{fc}n"),
            ])
            .tree(&[
                ROOT, "l 0:0 abs -> /etc/passwd", "l 0:0 c1 -> c2", "l 0:0 c2 -> c1",
                "l 0:0 none -> nowhere", "l 0:0 self -> .", "l 0:0 up -> ../../../../etc/passwd",
                "l 0:0 utf -> gr%c3%bcn",
            ]),
    ]
}

fn doubles() -> Vec<Case> {
    vec![
        Case::new("file-twice", "the last one counts")
            .layer([file("a", "old").mode(0o755).xattr("user.old", "1"), file("a", "new")])
            .tree(&[ROOT, "f 0644 0:0 a =new"]),
        Case::new("directory-twice", "merged, with the last one's attributes")
            .layer([dir("d").mode(0o700), file("d/x", "1"), dir("d").mode(0o711).owner(1, 1)])
            .tree(&[ROOT, "d 0711 1:1 d", "f 0644 0:0 d/x =1"]),
        Case::new("directory-then-file", "Docker removes the directory with all in it")
            .layer([dir("d"), dir("d/e"), file("d/e/x", "1"), file("d", "file")])
            .tree(&[ROOT, "f 0644 0:0 d =file"]),
        Case::new("file-then-directory", "Docker removes the file")
            .layer([file("d", "file"), dir("d"), file("d/x", "1")])
            .tree(&[ROOT, "d 0755 0:0 d", "f 0644 0:0 d/x =1"]),
        Case::new("directory-file-directory", "nothing of the first one may return")
            .layer([
                dir("d").mode(0o700),
                file("d/old", "1"),
                file("d", "file"),
                dir("d"),
                file("d/new", "2"),
            ])
            .tree(&[ROOT, "d 0755 0:0 d", "f 0644 0:0 d/new =2"]),
        Case::new("symlink-then-directory", "the entry replaces the link, not what it leads to")
            .layer([dir("real"), symlink("d", "real"), dir("d").mode(0o700), file("d/x", "1")])
            .tree(&[ROOT, "d 0700 0:0 d", "f 0644 0:0 d/x =1", "d 0755 0:0 real"]),
        Case::new("symlink-then-file", "writing must not go through the link")
            .layer([file("real", "1"), symlink("l", "real"), file("l", "2")])
            .tree(&[ROOT, "f 0644 0:0 l =2", "f 0644 0:0 real =1"]),
        Case::new("hard-link-then-file", "replacing one name must leave the other")
            .layer([file("a", "1"), hard_link("b", "a"), file("b", "2")])
            .tree(&[ROOT, "f 0644 0:0 a =1", "f 0644 0:0 b =2"]),
        Case::new("non-empty-directory-then-symlink", "usrmerge inside one layer")
            .layer([dir("lib"), file("lib/x", "1"), dir("usr/lib"), symlink("lib", "usr/lib")])
            .tree(&[ROOT, "l 0:0 lib -> usr/lib", "d 0755 0:0 usr", "d 0755 0:0 usr/lib"]),
    ]
}

fn names() -> Vec<Case> {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
    let deep: Vec<String> = (1..=100).map(|depth| vec!["n"; depth].join("/")).collect();
    let mut deep_lines = vec![ROOT.to_owned()];
    deep_lines.extend(deep.iter().map(|path| format!("d 0755 0:0 {path}")));
    let mut split = file("x", "1");
    split.name = b"name".to_vec();
    let mut header = split.header(1);
    put(&mut header, 345, b"some/prefix");
    let prefixed = [seal(header), padded(b"1"), vec![0; 1024]].concat();
    let mut gnu = gnu_long(b'L', long.as_bytes());
    gnu.extend(file("cut", "1").bytes());
    gnu.extend(gnu_long(b'K', "t".repeat(200).as_bytes()));
    gnu.extend(symlink("l", "cut").bytes());
    gnu.extend(vec![0; 1024]);
    let target = "t".repeat(200);
    vec![
        Case::new("pax-long-name", "names over 100 bytes")
            .layer([file(&long, "1"), symlink("l", &target)])
            .tree_of(vec![
                ROOT.into(),
                format!("d 0755 0:0 {}", "d".repeat(90)),
                format!("f 0644 0:0 {long} =1"),
                format!("l 0:0 l -> {target}"),
            ]),
        Case::new("gnu-long-name-and-link", "GNU tar's ././@LongLink").raw(gnu).tree_of(vec![
            ROOT.into(),
            format!("d 0755 0:0 {}", "d".repeat(90)),
            format!("f 0644 0:0 {long} =1"),
            format!("l 0:0 l -> {target}"),
        ]),
        Case::new("ustar-prefix", "POSIX ustar: prefix/name").raw(prefixed).tree(&[
            ROOT,
            "d 0755 0:0 some",
            "d 0755 0:0 some/prefix",
            "f 0644 0:0 some/prefix/name =1",
        ]),
        Case::new("longest-name", "NAME_MAX is 255 bytes")
            .layer([file("n".repeat(255), "1")])
            .tree_of(vec![ROOT.into(), format!("f 0644 0:0 {} =1", "n".repeat(255))]),
        Case::new("names-that-are-not-utf-8", "Linux names are bytes")
            .layer([file(b"caf\xe9", "1"), dir(b"\xff\xfe"), file(b"\xff\xfe/x", "2")])
            .tree(&[ROOT, "f 0644 0:0 caf%e9 =1", "d 0755 0:0 %ff%fe", "f 0644 0:0 %ff%fe/x =2"]),
        Case::new(
            "names-with-separators",
            "commas and colons end overlayfs' options, backslashes escape",
        )
        .layer([
            dir("a,b:c\\d"),
            file("a,b:c\\d/x", "1"),
            file("lowerdir=x", "2"),
            file("sp ace", "3"),
            file("new\nline", "4"),
            file("%41", "5"),
            file("-rf", "6"),
            file("*", "7"),
        ])
        .tree(&[
            ROOT,
            "f 0644 0:0 %2541 =5",
            "f 0644 0:0 * =7",
            "f 0644 0:0 -rf =6",
            "d 0755 0:0 a,b:c\\d",
            "f 0644 0:0 a,b:c\\d/x =1",
            "f 0644 0:0 lowerdir=x =2",
            "f 0644 0:0 new%0aline =4",
            "f 0644 0:0 sp ace =3",
        ]),
        Case::new("twins", "case, and two spellings of one letter, are different names")
            .layer([file("A", "1"), file("a", "2"), file("\u{fc}", "3"), file("u\u{308}", "4")])
            .tree(&[
                ROOT,
                "f 0644 0:0 A =1",
                "f 0644 0:0 a =2",
                "f 0644 0:0 u%cc%88 =4",
                "f 0644 0:0 %c3%bc =3",
            ]),
        Case::new("dots-and-slashes", "./, //, /./ and a slash at the end mean nothing")
            .layer([
                dir(".//a/./b//"),
                file("././a//b/x", "1"),
                file("...", "2"),
                file("a/..b", "3"),
            ])
            .tree(&[
                ROOT,
                "f 0644 0:0 ... =2",
                "d 0755 0:0 a",
                "f 0644 0:0 a/..b =3",
                "d 0755 0:0 a/b",
                "f 0644 0:0 a/b/x =1",
            ]),
        Case::new("a-hundred-levels", "deeper than usual, and legal")
            .layer(deep.iter().map(dir))
            .tree_of(deep_lines),
    ]
}

fn headers() -> Vec<Case> {
    let mut old = file("old", "1").header(1);
    old[156] = 0;
    old[257..].fill(0);
    let mut old_dir = file("olddir/", "").header(0);
    old_dir[156] = 0;
    old_dir[257..].fill(0);
    let version_7 = [seal(old), padded(b"1"), seal(old_dir), vec![0; 1024]].concat();
    let mut big = file("big", "1").header(1);
    base_256(&mut big[108..116], 3_000_000);
    base_256(&mut big[124..136], 1);
    let base_256_fields = [seal(big), padded(b"1"), vec![0; 1024]].concat();
    let mut global = of_kind(b'g', "pax_global_header").header(24);
    global.extend(padded(&pax_records(&[("comment".into(), b"abcdefghi".to_vec())])));
    global.truncate(1024);
    global.extend(tar([file("a", "1")]));
    let mut signed = file(b"caf\xe9", "1").header(1);
    signed[148..156].fill(b' ');
    let sum: i64 = signed.iter().map(|&byte| i64::from(byte.cast_signed())).sum();
    let text = format!("{sum:06o}\0 ");
    put(&mut signed, 148, text.as_bytes());
    let signed = [signed, padded(b"1"), vec![0; 1024]].concat();
    let no_end: Vec<u8> = file("a", "1").bytes();
    let one_block = [file("a", "1").bytes(), vec![0; 512]].concat();
    let after =
        [tar([file("a", "1")]), b"what follows the end belongs to the DiffID".to_vec()].concat();
    vec![
        Case::new("version-7-headers", "a name that ends with a slash is a directory")
            .raw(version_7)
            .tree(&[ROOT, "f 0644 0:0 old =1", "d 0644 0:0 olddir"]),
        Case::new("base-256-numbers", "GNU's binary fields")
            .raw(base_256_fields)
            .tree(&[ROOT, "f 0644 3000000:0 big =1"]),
        Case::new("contiguous-file", "type 7 is a file")
            .layer([file("a", "1").kind(b'7')])
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
        Case::new("global-pax-header", "git archive writes a comment")
            .raw(global)
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
        Case::new("signed-checksum", "old programs summed signed characters")
            .raw(signed)
            .tree(&[ROOT, "f 0644 0:0 caf%e9 =1"]),
        Case::new("pax-size-counts", "CVE-2025-62518: readers that skip by the other size")
            .layer([file("a", "0123456789").size(0).pax("size", "10"), file("b", "1")])
            .tree(&[ROOT, "f 0644 0:0 a =0123456789", "f 0644 0:0 b =1"]),
        Case::new("pax-path-and-owner", GO)
            .layer([file("short", "1").pax("path", "other").pax("uid", "12").pax("gid", "13")])
            .tree(&[ROOT, "f 0644 12:13 other =1"]),
        Case::new("pax-empty-value", "an empty value takes back what was said")
            .layer([file("a", "1").pax("path", "b").pax("path", "")])
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
        Case::new("pax-unknown-records", GO)
            .layer([file("a", "1")
                .pax("ctime", "1")
                .pax("VENDOR.thing", "x=y")
                .pax("hdrcharset", "BINARY")])
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
        Case::new("no-end-of-archive", "the bytes end after the last entry")
            .raw(no_end)
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
        Case::new("half-an-end-of-archive", "one zero block, then the end")
            .raw(one_block)
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
        Case::new("bytes-after-the-end", "they belong to the DiffID and to nothing else")
            .raw(after)
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
    ]
}

fn sparse() -> Vec<Case> {
    let many: Vec<(u64, &[u8])> = (0..30).map(|at| (at * 8192, &b"data"[..])).collect();
    let mut extended = gnu_sparse("s", &many, 300_000);
    extended.extend(file("after", "1").bytes());
    let map = "2\n0\n3\n10000\n3\n";
    let stored = [padded(map.as_bytes()), b"abcxyz".to_vec()].concat();
    let zero = |size: &str| {
        file("GNUSparseFile.0/s", "abcxyz").pax("GNU.sparse.name", "s").pax("GNU.sparse.size", size)
    };
    const TREE: [&str; 2] = [ROOT, "f 0644 0:0 s #dfec3797e50a:20000"];
    vec![
        Case::new("sparse-old-gnu", "GNU tar manual, Old GNU Format")
            .raw(gnu_sparse("s", &[(0, b"abc"), (10_000, b"xyz")], 20_000))
            .tree(&TREE),
        Case::new("sparse-old-gnu-extended", "more fragments than the header and one block hold")
            .raw(extended)
            .tree(&[ROOT, "f 0644 0:0 after =1", "f 0644 0:0 s #448450cd102c:300000"]),
        Case::new("sparse-pax-0.0", "GNU tar manual, PAX Format 0.0")
            .layer([zero("20000")
                .pax("GNU.sparse.numblocks", "2")
                .pax("GNU.sparse.offset", "0")
                .pax("GNU.sparse.numbytes", "3")
                .pax("GNU.sparse.offset", "10000")
                .pax("GNU.sparse.numbytes", "3")])
            .tree(&TREE),
        Case::new("sparse-pax-0.1", "GNU tar manual, PAX Format 0.1")
            .layer([zero("20000").pax("GNU.sparse.map", "0,3,10000,3")])
            .tree(&TREE),
        Case::new("sparse-pax-1.0", "GNU tar manual, PAX Format 1.0")
            .layer([file("GNUSparseFile.0/s", stored)
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.realsize", "20000")])
            .tree(&TREE),
        Case::new("sparse-all-hole", "a file of nothing")
            .layer([file("GNUSparseFile.0/s", "")
                .pax("GNU.sparse.map", "")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.size", "1000000")])
            .tree(&[ROOT, "f 0644 0:0 s #d29751f2649b:1000000"]),
    ]
}

fn compression() -> Vec<Case> {
    let case = |name, source, encoding| {
        Case::new(name, source)
            .layer([file("a", "1"), file("b", "2".repeat(100_000))])
            .encoded(encoding)
            .tree(&[ROOT, "f 0644 0:0 a =1", "f 0644 0:0 b #823bac2fb14d:100000"])
    };
    vec![
        case("gzip", "what nearly every image has", Encoding::Gzip),
        case("zstd", "image-spec: +zstd", Encoding::Zstd),
        case("gzip-of-two-members", "RFC 1952: members may follow each other", Encoding::GzipTwice),
        case(
            "zstd-of-several-frames",
            "zstd:chunked: skippable frames and many others",
            Encoding::ZstdFrames,
        ),
        case(
            "gzip-said-to-be-plain",
            "Docker looks at the bytes, not at the media type",
            Encoding::GzipUnsaid,
        ),
    ]
}
