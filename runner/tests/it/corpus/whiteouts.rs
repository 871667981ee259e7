//! Layers over layers: whiteouts, opaque directories, repeats, implied parents.

use super::tar::*;
use super::{Case, Encoding};

const ROOT: &str = "d 0755 0:0 .";
const SPEC: &str = "image-spec layer.md, Whiteouts";
const DESIGN: &str = "runner-design.md §1";

fn base() -> Vec<Entry> {
    vec![dir("./"), dir("a"), file("a/x", "1"), file("a/y", "2"), file("b", "3")]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = simple();
    cases.extend(same_layer());
    cases.extend(opaque());
    cases.extend(repeats());
    cases.extend(implied());
    cases
}

fn simple() -> Vec<Case> {
    vec![
        Case::new("whiteout-file", SPEC).layer(base()).layer([file("a/.wh.x", "")]).tree(&[
            ROOT,
            "d 0755 0:0 a",
            "f 0644 0:0 a/y =2",
            "f 0644 0:0 b =3",
        ]),
        Case::new("whiteout-directory", SPEC)
            .layer(base())
            .layer([file(".wh.a", "")])
            .tree(&[ROOT, "f 0644 0:0 b =3"]),
        Case::new("whiteout-of-nothing", SPEC)
            .layer(base())
            .layer([file(".wh.nope", ""), file("a/.wh.nope", "")])
            .tree(&[
                ROOT,
                "d 0755 0:0 a",
                "f 0644 0:0 a/x =1",
                "f 0644 0:0 a/y =2",
                "f 0644 0:0 b =3",
            ]),
        Case::new("whiteout-in-the-lowest-layer", "moby: a whiteout with nothing below it")
            .layer([dir("a"), file("a/.wh.x", ""), file("a/y", "")])
            .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/y ="]),
        Case::new("whiteout-with-content", "tools that give a whiteout a size")
            .layer(base())
            .layer([file("a/.wh.x", "not empty"), file("c", "4")])
            .tree(&[
                ROOT,
                "d 0755 0:0 a",
                "f 0644 0:0 a/y =2",
                "f 0644 0:0 b =3",
                "f 0644 0:0 c =4",
            ]),
        Case::new("whiteout-as-directory-entry", "a whiteout is told by its name, not by its type")
            .layer(base())
            .layer([dir(".wh.a/")])
            .tree(&[ROOT, "f 0644 0:0 b =3"]),
        Case::new("removed-and-added-again", SPEC)
            .layer(base())
            .layer([file("a/.wh.x", "")])
            .layer([dir("a"), file("a/x", "new")])
            .tree(&[
                ROOT,
                "d 0755 0:0 a",
                "f 0644 0:0 a/x =new",
                "f 0644 0:0 a/y =2",
                "f 0644 0:0 b =3",
            ]),
        Case::new(
            "directory-removed-and-added-again",
            "containerd#4659: the old content must not return",
        )
        .layer(base())
        .layer([file(".wh.a", "")])
        .layer([dir("a"), file("a/z", "new")])
        .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/z =new", "f 0644 0:0 b =3"]),
        Case::new("aufs-bookkeeping", "moby archive/whiteouts.go: .wh..wh.plnk, .wh..wh.aufs")
            .layer([
                dir(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2", "x"),
                file(".wh..wh.aufs", ""),
                dir(".wh..wh.orph"),
                file("a", "1"),
            ])
            .tree(&[ROOT, "f 0644 0:0 a =1"]),
        Case::new("almost-whiteouts", "names that only begin alike")
            .layer([file(".wh", "1"), file(".whatever", "2"), file("x.wh.y", "3")])
            .tree(&[ROOT, "f 0644 0:0 .wh =1", "f 0644 0:0 .whatever =2", "f 0644 0:0 x.wh.y =3"]),
        Case::new("file-becomes-directory", "overlayfs: types differ between layers")
            .layer([file("a", "1")])
            .layer([dir("a"), file("a/x", "2")])
            .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/x =2"]),
        Case::new("directory-becomes-file", "overlayfs: types differ between layers")
            .layer(base())
            .layer([file("a", "now a file")])
            .tree(&[ROOT, "f 0644 0:0 a =now a file", "f 0644 0:0 b =3"]),
        Case::new("directory-becomes-symlink", "usrmerge: /bin becomes a link")
            .layer([dir("bin"), file("bin/sh", "old"), dir("usr"), dir("usr/bin")])
            .layer([symlink("bin", "usr/bin"), file("usr/bin/sh", "new")])
            .tree(&[
                ROOT,
                "l 0:0 bin -> usr/bin",
                "d 0755 0:0 usr",
                "d 0755 0:0 usr/bin",
                "f 0644 0:0 usr/bin/sh =new",
            ]),
        Case::new(
            "directory-over-symlink",
            "a layer with bin/tool over bin -> usr/bin hides the link",
        )
        .layer([dir("usr"), dir("usr/bin"), file("usr/bin/sh", "1"), symlink("bin", "usr/bin")])
        .layer([file("bin/tool", "2")])
        .tree(&[
            ROOT,
            "d 0755 0:0 bin",
            "f 0644 0:0 bin/tool =2",
            "d 0755 0:0 usr",
            "d 0755 0:0 usr/bin",
            "f 0644 0:0 usr/bin/sh =1",
        ]),
    ]
}

fn same_layer() -> Vec<Case> {
    vec![
        Case::new(
            "whiteout-before-its-file",
            "moby overlay: mknod, then the file; the file is meant",
        )
        .layer(base())
        .layer([file("a/.wh.x", ""), file("a/x", "new")])
        .tree(&[
            ROOT,
            "d 0755 0:0 a",
            "f 0644 0:0 a/x =new",
            "f 0644 0:0 a/y =2",
            "f 0644 0:0 b =3",
        ]),
        Case::new("whiteout-after-its-file", "order within a layer must not matter")
            .layer(base())
            .layer([file("a/x", "new"), file("a/.wh.x", "")])
            .tree(&[
                ROOT,
                "d 0755 0:0 a",
                "f 0644 0:0 a/x =new",
                "f 0644 0:0 a/y =2",
                "f 0644 0:0 b =3",
            ]),
        Case::new("whiteout-before-its-directory", DESIGN)
            .layer(base())
            .layer([file(".wh.a", ""), dir("a"), file("a/z", "new")])
            .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/z =new", "f 0644 0:0 b =3"]),
        Case::new("whiteout-after-its-directory", DESIGN)
            .layer(base())
            .layer([dir("a").mode(0o700), file("a/z", "new"), file(".wh.a", "")])
            .tree(&[ROOT, "d 0700 0:0 a", "f 0644 0:0 a/z =new", "f 0644 0:0 b =3"]),
        Case::new("whiteout-of-an-implied-directory", DESIGN)
            .layer([dir("a").mode(0o1777), file("a/x", "1")])
            .layer([file(".wh.a", ""), file("a/z", "new")])
            .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/z =new"]),
        Case::new("whiteout-and-symlink", "the link is what the layer wants there")
            .layer(base())
            .layer([file(".wh.a", ""), symlink("a", "b")])
            .tree(&[ROOT, "l 0:0 a -> b", "f 0644 0:0 b =3"]),
    ]
}

fn opaque() -> Vec<Case> {
    const MARK: &str = "a/.wh..wh..opq";
    vec![
        Case::new("opaque-first", SPEC)
            .layer(base())
            .layer([dir("a"), file(MARK, ""), file("a/z", "new")])
            .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/z =new", "f 0644 0:0 b =3"]),
        Case::new("opaque-last", SPEC)
            .layer(base())
            .layer([dir("a"), file("a/z", "new"), file(MARK, "")])
            .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/z =new", "f 0644 0:0 b =3"]),
        Case::new("opaque-without-a-directory-entry", "only the mark names the directory")
            .layer([dir("a").mode(0o1777), file("a/x", "1"), file("b", "3")])
            .layer([file(MARK, "")])
            .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 b =3"]),
        Case::new("opaque-in-a-deep-directory", SPEC)
            .layer([dir("a"), dir("a/b"), dir("a/b/c"), file("a/b/c/x", "1"), file("a/b/y", "2")])
            .layer([file("a/b/c/.wh..wh..opq", ""), file("a/b/c/z", "3")])
            .tree(&[
                ROOT,
                "d 0755 0:0 a",
                "d 0755 0:0 a/b",
                "d 0755 0:0 a/b/c",
                "f 0644 0:0 a/b/c/z =3",
                "f 0644 0:0 a/b/y =2",
            ]),
        Case::new("opaque-then-more-layers", "only what lies below is hidden")
            .layer(base())
            .layer([dir("a"), file(MARK, ""), file("a/z", "new")])
            .layer([dir("a"), file("a/w", "newer")])
            .tree(&[
                ROOT,
                "d 0755 0:0 a",
                "f 0644 0:0 a/w =newer",
                "f 0644 0:0 a/z =new",
                "f 0644 0:0 b =3",
            ]),
        Case::new("opaque-root", "overlayfs does not look for the mark on a layer's root")
            .layer(base())
            .layer([file(".wh..wh..opq", ""), file("only", "this")])
            .tree(&[ROOT, "f 0644 0:0 only =this"]),
        Case::new(
            "opaque-removed-again",
            "an opaque directory replaced by a file, then by a directory",
        )
        .layer(base())
        .layer([file(MARK, ""), file("a/z", "1")])
        .layer([file(".wh.a", "")])
        .layer([dir("a"), file("a/w", "2")])
        .tree(&[ROOT, "d 0755 0:0 a", "f 0644 0:0 a/w =2", "f 0644 0:0 b =3"]),
    ]
}

fn repeats() -> Vec<Case> {
    let a = [file("x", "from a"), file("only-a", "1")];
    let b = [file("x", "from b"), file(".wh.only-a", "")];
    let many = (0..130).map(|at| {
        (
            tar([file(format!("f{at:03}"), at.to_string()), file("same", at.to_string())]),
            Encoding::Plain,
        )
    });
    let mut many_lines = vec![ROOT.to_owned()];
    many_lines.extend((0..130).map(|at| format!("f 0644 0:0 f{at:03} ={at}")));
    many_lines.push("f 0644 0:0 same =129".into());
    let mut of_many = Case::new("130-layers", "moby#1171: mount options longer than a page");
    of_many.layers = many.collect();
    vec![
        Case::new("repeated-layer", "overlayfs: the same lower twice is ELOOP")
            .layer(a.clone())
            .layer(b.clone())
            .layer(a.clone())
            .tree(&[ROOT, "f 0644 0:0 only-a =1", "f 0644 0:0 x =from a"]),
        Case::new("repeated-empty-layers", "buildkit: empty layers are all the same layer")
            .layer([])
            .layer(a)
            .layer([])
            .layer([])
            .tree(&[ROOT, "f 0644 0:0 only-a =1", "f 0644 0:0 x =from a"]),
        Case::new("no-layers", "an image from scratch with nothing in it").tree(&[ROOT]),
        Case::new("only-an-empty-layer", "a tar of two zero blocks").layer([]).tree(&[ROOT]),
        Case::new("not-even-zero-blocks", "a layer of no bytes").raw(Vec::new()).tree(&[ROOT]),
        of_many.tree_of(many_lines),
    ]
}

fn implied() -> Vec<Case> {
    let tmp = || dir("tmp").mode(0o1777).owner(0, 7);
    vec![
        Case::new("implied-tmp", "runner-design.md §1: kaniko, bazel, crane append, ko, nix")
            .layer([tmp()])
            .layer([file("tmp/x", "1")])
            .tree(&[ROOT, "d 1777 0:7 tmp", "f 0644 0:0 tmp/x =1"]),
        Case::new("implied-through-several-layers", DESIGN)
            .layer([tmp()])
            .layer([file("tmp/x", "1")])
            .layer([file("tmp/y", "2")])
            .tree(&[ROOT, "d 1777 0:7 tmp", "f 0644 0:0 tmp/x =1", "f 0644 0:0 tmp/y =2"]),
        Case::new("implied-then-explicit", "the topmost entry counts")
            .layer([tmp()])
            .layer([file("tmp/x", "1")])
            .layer([dir("tmp").mode(0o700)])
            .tree(&[ROOT, "d 0700 0:0 tmp", "f 0644 0:0 tmp/x =1"]),
        Case::new("implied-deep", "every directory on the way has its own attributes")
            .layer([
                dir("a").mode(0o711).owner(1, 1),
                dir("a/b").mode(0o770).owner(2, 2),
                dir("a/b/c").mode(0o1777).owner(3, 3),
            ])
            .layer([file("a/b/c/x", "1")])
            .tree(&[
                ROOT,
                "d 0711 1:1 a",
                "d 0770 2:2 a/b",
                "d 1777 3:3 a/b/c",
                "f 0644 0:0 a/b/c/x =1",
            ]),
        Case::new(
            "implied-beside-an-opaque-parent",
            "the fixup must not make the parent transparent",
        )
        .layer([dir("a"), dir("a/t").mode(0o1777), file("a/old", "1")])
        .layer([dir("a").mode(0o750), file("a/.wh..wh..opq", ""), dir("a/t").mode(0o711)])
        .layer([file("a/t/x", "2")])
        .tree(&[ROOT, "d 0750 0:0 a", "d 0711 0:0 a/t", "f 0644 0:0 a/t/x =2"]),
        Case::new("implied-over-a-whiteout", "attributes of what was removed must not return")
            .layer([tmp()])
            .layer([file(".wh.tmp", "")])
            .layer([file("tmp/x", "1")])
            .tree(&[ROOT, "d 0755 0:0 tmp", "f 0644 0:0 tmp/x =1"]),
        Case::new("implied-over-a-removed-parent", "a whiteout further up cuts as well")
            .layer([dir("a"), dir("a/tmp").mode(0o1777)])
            .layer([file(".wh.a", "")])
            .layer([file("a/tmp/x", "1")])
            .tree(&[ROOT, "d 0755 0:0 a", "d 0755 0:0 a/tmp", "f 0644 0:0 a/tmp/x =1"]),
        Case::new("implied-over-a-file", "a file in between cuts")
            .layer([tmp()])
            .layer([file("tmp", "a file")])
            .layer([file("tmp/x", "1")])
            .tree(&[ROOT, "d 0755 0:0 tmp", "f 0644 0:0 tmp/x =1"]),
        Case::new("implied-with-xattrs", "attributes are more than mode and owner")
            .layer([dir("d").mode(0o2775).owner(5, 6).xattr("user.note", "kept")])
            .layer([file("d/x", "1")])
            .tree(&[ROOT, "d 2775 5:6 d", "x d user.note=kept", "f 0644 0:0 d/x =1"]),
        Case::new("implied-with-a-setgid-parent", "what is made inside must not inherit the group")
            .layer([dir("d").mode(0o2775).owner(5, 6), dir("d/e").mode(0o700)])
            .layer([file("d/e/x", "1")])
            .tree(&[ROOT, "d 2775 5:6 d", "d 0700 0:0 d/e", "f 0644 0:0 d/e/x =1"]),
        Case::new("implied-nowhere-explicit", "0755 0:0, as everywhere")
            .layer([file("p/q/x", "1")])
            .layer([file("p/q/y", "2")])
            .tree(&[
                ROOT,
                "d 0755 0:0 p",
                "d 0755 0:0 p/q",
                "f 0644 0:0 p/q/x =1",
                "f 0644 0:0 p/q/y =2",
            ]),
        Case::new("root-explicit", DESIGN)
            .layer([dir("./").mode(0o711).owner(3, 4)])
            .layer([file("x", "1")])
            .tree(&["d 0711 3:4 .", "f 0644 0:0 x =1"]),
        Case::new("root-topmost-counts", DESIGN)
            .layer([dir("./").mode(0o700)])
            .layer([dir("./").mode(0o1755).owner(9, 9)])
            .tree(&["d 1755 9:9 ."]),
        Case::new("root-as-slash", "kaniko writes the root as /")
            .layer([dir("/").mode(0o750), file("x", "1")])
            .tree(&["d 0750 0:0 .", "f 0644 0:0 x =1"]),
    ]
}
