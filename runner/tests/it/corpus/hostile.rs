//! Layers that are made against whoever unpacks them, or that nobody could have meant.

use super::tar::*;
use super::{Case, Encoding};

const T14: &str = "reliability.md T14";

/// Where the canary stands that no layer may touch; tests replace it by a real directory of the
/// same length.
pub(crate) const OUTSIDE: &str = "/tmp/canary-outside-of-every-root-0000";

pub(super) fn cases() -> Vec<Case> {
    let mut cases = paths();
    cases.extend(through_links());
    cases.extend(overlay());
    cases.extend(broken());
    cases.extend(bombs());
    cases
}

fn paths() -> Vec<Case> {
    vec![
        Case::new("dot-dot", T14).layer([file("../evil", "x")]).refused(&["entry ../evil", "'..'"]),
        Case::new("dot-dot-inside", T14)
            .layer([dir("a"), file("a/../../evil", "x")])
            .refused(&["entry a/../../evil", "'..'"]),
        Case::new("dot-dot-at-the-end", T14).layer([dir("a/..")]).refused(&["entry a/..", "'..'"]),
        Case::new("hard-link-outwards", "CVE-2026-33056, RUSTSEC-2018-0002")
            .layer([hard_link("p", "../../../../../../etc/passwd")])
            .refused(&["entry p", "out of the layer's root"]),
        Case::new("hard-link-to-an-absolute-path", T14)
            .layer([hard_link("p", "/etc/passwd")])
            .refused(&["entry p", "etc/passwd", "not in this layer"]),
        Case::new("hard-link-to-a-lower-layer", "runner-design.md §1")
            .layer([file("a", "1")])
            .layer([hard_link("b", "a")])
            .refused(&["entry b", "not in this layer"]),
        Case::new("hard-link-to-itself", T14)
            .layer([file("a", "1"), hard_link("a", "a")])
            .refused(&["entry a", "itself"]),
        Case::new("hard-link-to-a-directory", T14)
            .layer([dir("d"), hard_link("e", "d")])
            .refused(&["entry e", "directory"]),
        Case::new("hard-link-into-what-it-replaces", T14)
            .layer([dir("d"), file("d/x", "1"), hard_link("d", "d/x")])
            .refused(&["entry d"]),
        Case::new("root-as-symlink", "CVE-2021-29136: umoci followed a root that is a link")
            .layer([symlink("./", OUTSIDE), file("evil", "x")])
            .refused(&["entry ./", "root"]),
        Case::new("root-as-file", T14).layer([file(".", "x")]).refused(&["root"]),
        Case::new("no-name", T14).layer([file("", "x")]).refused(&["without a name"]),
        Case::new("too-long-a-path", T14)
            .layer([file("p/".repeat(2100) + "x", "1")])
            .refused(&["longer than 4095"]),
        Case::new("too-long-a-name", T14)
            .layer([file("n".repeat(256), "1")])
            .refused(&["too long"]),
        Case::new("too-deep", "bombs by depth")
            .layer([dir("d/".repeat(600))])
            .refused(&["512 directories deep"]),
        Case::new("name-with-nul", "a name that ends early for the kernel only")
            .layer([file("x", "1").pax("path", b"a\0b")])
            .refused(&["path", "malformed"]),
    ]
}

fn through_links() -> Vec<Case> {
    let case = |name, link: Entry, entry: Entry, words: &[&'static str]| {
        Case::new(name, "CVE-2026-46703, CVE-2021-32760: through a link of the same layer")
            .layer([link, entry])
            .refused(words)
    };
    let out = || symlink("l", OUTSIDE);
    const LINK: &str = "symbolic link";
    vec![
        case("file-through-link", out(), file("l/evil", "x"), &["entry l/evil", LINK]),
        case(
            "file-through-relative-link",
            symlink("l", "../../../../../../../../tmp"),
            file("l/evil", "x"),
            &["entry l/evil", LINK],
        ),
        case("directory-through-link", out(), dir("l/evil"), &["entry l/evil", LINK]),
        case("deep-directory-through-link", out(), dir("l/a/b/c"), &["entry l/a/b/c", LINK]),
        case("symlink-through-link", out(), symlink("l/evil", "x"), &["entry l/evil", LINK]),
        case("device-through-link", out(), char_device("l/evil", 1, 3), &["entry l/evil", LINK]),
        case("whiteout-through-link", out(), file("l/.wh.keep", ""), &["entry l/.wh.keep", LINK]),
        case(
            "opaque-through-link",
            out(),
            file("l/.wh..wh..opq", ""),
            &["entry l/.wh..wh..opq", LINK],
        ),
        case("hard-link-through-link", out(), hard_link("p", "l/keep"), &["entry p", LINK]),
        Case::new("link-to-link", T14)
            .layer([symlink("a", "b"), symlink("b", OUTSIDE), file("a/evil", "x")])
            .refused(&["entry a/evil", LINK]),
        Case::new(
            "link-within-the-root",
            "a link where a directory is expected, even a harmless one",
        )
        .layer([dir("real"), symlink("l", "real"), file("l/x", "1")])
        .refused(&["entry l/x", LINK]),
        Case::new("file-as-a-parent", T14)
            .layer([file("f", "1"), file("f/x", "2")])
            .refused(&["entry f/x", "file stands where a directory is expected"]),
        Case::new(
            "attributes-of-a-link",
            "chmod, chown and xattrs must stay with the link (CVE-2026-33056)",
        )
        .layer([symlink("l", format!("{OUTSIDE}/keep"))
            .mode(0o7777)
            .owner(99, 99)
            .mtime(5)
            .xattr("user.evil", "1")
            .xattr("trusted.evil", "1")])
        .tree_of(vec![
            "d 0755 0:0 .".into(),
            format!("l 99:99 l -> {OUTSIDE}/keep"),
            "x l trusted.evil=1".into(),
            "t l 5.0".into(),
        ]),
        Case::new("attributes-through-a-hard-linked-link", T14)
            .layer([
                symlink("l", format!("{OUTSIDE}/keep")),
                hard_link("m", "l").mode(0o6777).owner(98, 98),
            ])
            .tree_of(vec![
                "d 0755 0:0 .".into(),
                format!("l 98:98 l -> {OUTSIDE}/keep"),
                "h l m".into(),
                format!("l 98:98 m -> {OUTSIDE}/keep"),
            ]),
    ]
}

fn overlay() -> Vec<Case> {
    vec![
        Case::new("whiteout-device", "runner-design.md §1: char 0:0 is a whiteout to overlayfs")
            .layer([char_device("a", 0, 0)])
            .refused(&["entry a", "0:0"]),
        Case::new("whiteout-of-no-name", T14)
            .layer([file(".wh.", "")])
            .refused(&["entry .wh.", "whiteout"]),
        Case::new("whiteout-of-dot", T14)
            .layer([dir("a"), file("a/.wh..", "")])
            .refused(&["entry a/.wh..", "whiteout"]),
        Case::new("whiteout-of-dot-dot", "the directory above is not to be removed")
            .layer([dir("a"), file("a/.wh...", "")])
            .refused(&["entry a/.wh...", "whiteout"]),
    ]
}

fn broken() -> Vec<Case> {
    let mut sum = tar([file("a", "1")]);
    sum[0] = b'b';
    let cut = tar([file("a", "1"), file("b", "2".repeat(2000))])[..2000].to_vec();
    let mut records = of_kind(b'x', "p").header(8);
    records.extend(padded(b"9 uid=1\n"));
    records.extend(tar([file("a", "1")]));
    let mut negative = file("a", "").header(0);
    base_256(&mut negative[124..136], -1);
    let negative = seal(negative);
    let mut not_octal = file("a", "").header(0);
    put(&mut not_octal, 100, b"0000999\0");
    let not_octal = seal(not_octal);
    let after = [tar([file("a", "1")]), vec![0; 512], tar([file("b", "2")])].concat();
    let after_one = [file("a", "1").bytes(), vec![0; 512], tar([file("b", "2")])].concat();
    let gzip_then_garbage =
        Case::new("garbage-after-gzip", "Go: invalid header after the last member");
    vec![
        Case::new("wrong-checksum", T14).raw(sum).refused(&["not a tar"]),
        Case::new("not-a-tar", T14).raw(b"hello ".repeat(200)).refused(&["not a tar"]),
        Case::new("tar-cut-off", T14).raw(cut).refused(&["entry b", "ends in the middle"]),
        Case::new("malformed-pax", "RUSTSEC-2026-0066: skipping it desynchronises readers")
            .raw(records)
            .refused(&["PAX header is malformed"]),
        Case::new("malformed-pax-number", T14)
            .layer([file("a", "1").pax("size", "1x")])
            .refused(&["size", "malformed"]),
        Case::new("negative-size", T14).raw(negative).refused(&["entry a", "size"]),
        Case::new("mode-not-octal", T14).raw(not_octal).refused(&["entry a", "mode"]),
        Case::new("owner-of-minus-one", "chown(2): -1 leaves the owner alone")
            .layer([file("a", "1").pax("uid", "4294967295")])
            .refused(&["entry a", "uid"]),
        Case::new("owner-beyond-32-bits", "CVE-2024-40635 and kin: 2^32 is not root")
            .layer([file("a", "1").pax("uid", "4294967296")])
            .refused(&["entry a", "uid"]),
        Case::new("unknown-type", "a multi-volume header")
            .layer([of_kind(b'M', "a")])
            .refused(&["entry a", "type 'M'"]),
        Case::new("entry-after-half-an-end", "readers disagree about a single zero block")
            .raw(after_one)
            .refused(&["follows the mark of its end"]),
        Case::new("second-tar-after-the-end", "docker shows the first one only")
            .raw(after)
            .tree(&["d 0755 0:0 .", "f 0644 0:0 a =1"]),
        Case::new("empty-link", "symlink(2): ENOENT")
            .layer([symlink("a", "")])
            .refused(&["entry a"]),
        Case::new("bzip2", "containers/image knows it, registries do not")
            .raw(b"BZh91AY&SY".to_vec())
            .refused(&["bzip2"]),
        gzip_then_garbage
            .raw([&GZIP_OF_NOTHING[..], b"garbage"].concat())
            .refused(&["compressed bytes are damaged"]),
        Case::new("gzip-cut-off", T14)
            .raw(GZIP_OF_NOTHING[..15].to_vec())
            .refused(&["compressed bytes are damaged"]),
        Case::new("zstd-garbage", T14)
            .raw(b"\x28\xb5\x2f\xfd garbage".to_vec())
            .refused(&["compressed bytes are damaged"]),
    ]
}

/// An empty gzip member.
const GZIP_OF_NOTHING: [u8; 20] =
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn bombs() -> Vec<Case> {
    // 4.2 GiB of zeros as a run of gzip members, as content that nothing writes to the disk: a
    // whiteout's.
    let mut long_map = b"9999999\n".to_vec();
    long_map.extend(b"1\n1\n".repeat(100));
    vec![
        Case::new("sparse-8-eib", "bombs by sparse size")
            .layer([file("GNUSparseFile.0/s", "")
                .pax("GNU.sparse.map", "")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.size", "9223372036854775807")])
            .refused(&["entry s", "more than"]),
        Case::new("sparse-old-gnu-8-eib", T14)
            .raw(gnu_sparse("s", &[(0, b"abc")], 1 << 62))
            .refused(&["entry s", "more than"]),
        Case::new("sparse-map-out-of-order", T14)
            .layer([file("x", "abcxyz")
                .pax("GNU.sparse.map", "10,3,0,3")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.size", "20")])
            .refused(&["entry s", "sparse map"]),
        Case::new("sparse-map-beyond-the-file", T14)
            .layer([file("x", "abc")
                .pax("GNU.sparse.map", "18,3")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.size", "20")])
            .refused(&["entry s", "sparse map"]),
        Case::new("sparse-map-of-other-length", T14)
            .layer([file("x", "abcdef")
                .pax("GNU.sparse.map", "0,3")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.size", "20")])
            .refused(&["entry s", "sparse map"]),
        Case::new("sparse-map-that-never-comes", "memory for ten million fragments")
            .layer([file("x", padded(&long_map))
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.realsize", "20")])
            .refused(&["entry s", "sparse map"]),
        Case::new("pax-bomb", "memory for a header of 2 MiB")
            .raw([of_kind(b'x', "p").header(2 << 20), vec![b'a'; 2 << 20]].concat())
            .refused(&["extended header"]),
        Case::new("long-name-bomb", "memory for a name of 8 EiB")
            .raw(of_kind(b'L', "p").header(1 << 62))
            .refused(&["extended header"]),
        Case::new("file-larger-than-any-disk", T14)
            .layer([file("huge", "").size(1 << 60)])
            .refused(&["entry huge", "more than"]),
        Case::new("zstd-window-of-2-gib", "memory of the decoder")
            .raw(vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00])
            .refused(&["compressed bytes are damaged"]),
        Case::new("ratio-bomb", "42.zip and its kin")
            .raw(ratio_bomb())
            .encoded(Encoding::Plain)
            .refused(&["inflates without end"]),
    ]
}

/// 4.5 GiB of zeros in some kilobytes: zstd frames of one repeated byte each (RLE blocks), as the
/// content of a whiteout, which nothing writes to the disk.
fn ratio_bomb() -> Vec<u8> {
    let head = file(".wh.x", "").size(5 << 30).bytes();
    // A raw block: header of the tar.
    let mut bytes = frame(head.len() as u64);
    let block = (head.len() as u32) << 3 | 1;
    bytes.extend(&block.to_le_bytes()[..3]);
    bytes.extend(head);
    // RLE blocks of 128 KiB, the largest that the format allows, in frames of 128 MiB.
    for _ in 0..36 {
        bytes.extend(frame(128 << 20));
        for at in 0..1024u32 {
            let last = u32::from(at == 1023);
            let block = (128u32 << 10) << 3 | 1 << 1 | last;
            bytes.extend(&block.to_le_bytes()[..3]);
            bytes.push(0);
        }
    }
    bytes
}

/// The header of a zstd frame with its content size and a window of 1 MiB (RFC 8878, 3.1.1.1).
fn frame(content: u64) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0xc0, 10 << 3];
    bytes.extend(content.to_le_bytes());
    bytes
}
