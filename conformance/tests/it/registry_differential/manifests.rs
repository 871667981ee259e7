//! Shapes of manifests: taken or not, and kept byte for byte.

use anyhow::Result;

use super::requests::{DOCKER, digest, image, push_blobs};
use super::{Pair, Seen, describe, send};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// `NAME: BODY` with `$C` a config's digest, `$L` a layer's, `$M` a manifest's, `$0` of nothing.
struct Shape {
    name: &'static str,
    kind: &'static str,
    body: String,
}

fn shape(name: &'static str, kind: &'static str, body: &str) -> Shape {
    Shape { name, kind, body: body.to_owned() }
}

/// An OCI image with `more` behind its layers, and fields of its config and layer.
fn oci(name: &'static str, config: &str, layer: &str, more: &str) -> Shape {
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"$C"{config}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"$L"{layer}}}]{more}}}"#
    );
    Shape { name, kind: OCI, body }
}

/// An OCI index of one manifest with more fields.
fn index(name: &'static str, entry: &str, more: &str) -> Shape {
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{DOCKER}","digest":"$M","size":1{entry}}}]{more}}}"#
    );
    Shape { name, kind: INDEX, body }
}

fn odd_fields() -> Vec<Shape> {
    let size = r#","size":2"#;
    let deep = |depth: usize| format!(r#","x":{}1{}"#, "[".repeat(depth), "]".repeat(depth));
    vec![
        oci("plain", size, size, ""),
        oci("no size", "", "", ""),
        oci("size null", r#","size":null"#, r#","size":null"#, ""),
        oci("size another", r#","size":77"#, r#","size":78"#, ""),
        oci("size negative", r#","size":-1"#, size, ""),
        oci("size a text", r#","size":"2""#, size, ""),
        oci("size a fraction", r#","size":2.5"#, size, ""),
        oci("size beyond 64 bits", r#","size":99999999999999999999"#, size, ""),
        oci("urls null", size, r#","size":2,"urls":null"#, ""),
        oci("urls empty", size, r#","size":2,"urls":[]"#, ""),
        oci("urls given", size, r#","size":2,"urls":["https://a.example/l"]"#, ""),
        oci("annotations null", size, size, r#","annotations":null"#),
        oci("an annotation null", size, size, r#","annotations":{"a":null}"#),
        oci("an annotation a number", size, size, r#","annotations":{"a":1}"#),
        oci("an annotation twice", size, size, r#","annotations":{"a":"1","a":"2"}"#),
        oci("a layer's annotation null", size, r#","size":2,"annotations":{"a":null}"#, ""),
        oci("data given", r#","size":2,"data":"e30=""#, size, ""),
        oci("subject null", size, size, r#","subject":null"#),
        oci(
            "subject absent from the repository",
            size,
            size,
            r#","subject":{"mediaType":"a/b","digest":"$0","size":1}"#,
        ),
        oci("artifactType given", size, size, r#","artifactType":"a/b""#),
        oci("unknown field", size, size, r#","x":{"y":[1,null,true,"z"]}"#),
        oci("unknown field, 140 deep", size, size, &deep(140)),
        oci("unknown field, 9000 deep", size, size, &deep(9000)),
        oci("unknown field, 20000 deep", size, size, &deep(20_000)),
        oci("unknown field, number beyond f64", size, size, r#","x":1e999"#),
        oci(
            "unknown field, number of 400 digits",
            size,
            size,
            &format!(r#","x":{}"#, "9".repeat(400)),
        ),
        oci("unknown field twice", size, size, r#","x":1,"x":2"#),
        oci("layers twice", size, size, r#","layers":[]"#),
        oci("Layers beside layers", size, size, r#","Layers":[]"#),
        oci("manifests beside layers", size, size, r#","manifests":[]"#),
        oci("a layer's Digest beside its digest", size, r#","size":2,"Digest":"$0""#, ""),
        index("index", "", ""),
        index("index, platform null", r#","platform":null"#, ""),
        index(
            "index, a platform's fields null",
            r#","platform":{"architecture":null,"os":null,"os.version":null,"os.features":null,"variant":null}"#,
            "",
        ),
        index(
            "index, a platform's os.features a text",
            r#","platform":{"architecture":"a","os":"b","os.features":"c"}"#,
            "",
        ),
        index("index, annotations null", r#","annotations":null"#, r#","annotations":null"#),
        index("index, layers beside manifests", "", r#","layers":[]"#),
        index("index, config beside manifests", "", r#","config":null"#),
    ]
}

fn whole() -> Vec<Shape> {
    let image = image();
    vec![
        shape("Docker's image", DOCKER, &image),
        shape("Docker's image as OCI's", OCI, &image),
        shape("Docker's image without a type", "", &image),
        shape(
            "Docker's image, type with a parameter",
            "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8",
            &image,
        ),
        shape("Docker's image as an unknown type", "application/x-thing", &image),
        shape(
            "Docker's image without mediaType",
            DOCKER,
            &image.replace(&format!(r#""mediaType":"{DOCKER}","#), ""),
        ),
        shape(
            "Docker's image, mediaType null",
            DOCKER,
            &image.replacen(&format!("\"{DOCKER}\""), "null", 1),
        ),
        shape("Docker's image, indented", DOCKER, &image.replace(',', ",\n   ")),
        shape(
            "Docker's image, layers null",
            DOCKER,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{DOCKER}","config":{{"mediaType":"a/b","size":2,"digest":"$C"}},"layers":null}}"#
            ),
        ),
        shape(
            "Docker's image, a layer absent",
            DOCKER,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{DOCKER}","config":{{"mediaType":"a/b","size":2,"digest":"$C"}},"layers":[{{"mediaType":"a/b","size":1,"digest":"$0"}}]}}"#
            ),
        ),
        shape(
            "Docker's image, a foreign layer absent",
            DOCKER,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{DOCKER}","config":{{"mediaType":"a/b","size":2,"digest":"$C"}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","size":1,"digest":"$0","urls":["https://a.example/x"]}}]}}"#
            ),
        ),
        shape(
            "Docker's list",
            LIST,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{LIST}","manifests":[{{"mediaType":"{DOCKER}","size":1,"digest":"$M","platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#
            ),
        ),
        shape(
            "Docker's list, empty",
            LIST,
            &format!(r#"{{"schemaVersion":2,"mediaType":"{LIST}","manifests":[]}}"#),
        ),
        shape(
            "Docker's list, manifests null",
            LIST,
            &format!(r#"{{"schemaVersion":2,"mediaType":"{LIST}","manifests":null}}"#),
        ),
        shape(
            "index, empty",
            INDEX,
            &format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[]}}"#),
        ),
        shape(
            "index, manifests null",
            INDEX,
            &format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":null}}"#),
        ),
        shape(
            "index without manifests",
            INDEX,
            &format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}"}}"#),
        ),
        shape(
            "index, a manifest absent",
            INDEX,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{OCI}","size":1,"digest":"$0"}}]}}"#
            ),
        ),
        shape(
            "index of a blob",
            INDEX,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"a/b","size":10,"digest":"$L"}}]}}"#
            ),
        ),
        shape(
            "OCI image without layers",
            OCI,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{{"mediaType":"a/b","size":2,"digest":"$C"}}}}"#
            ),
        ),
        shape(
            "OCI image without config",
            OCI,
            &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI}","layers":[]}}"#),
        ),
        shape(
            "OCI image, config null",
            OCI,
            &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":null,"layers":[]}}"#),
        ),
        shape(
            "OCI image, a layer null",
            OCI,
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{{"mediaType":"a/b","size":2,"digest":"$C"}},"layers":[null]}}"#
            ),
        ),
        shape(
            "OCI image without schemaVersion",
            OCI,
            &format!(
                r#"{{"mediaType":"{OCI}","config":{{"mediaType":"a/b","size":2,"digest":"$C"}},"layers":[]}}"#
            ),
        ),
        shape(
            "OCI image, schemaVersion 3",
            OCI,
            &format!(
                r#"{{"schemaVersion":3,"mediaType":"{OCI}","config":{{"mediaType":"a/b","size":2,"digest":"$C"}},"layers":[]}}"#
            ),
        ),
        shape("OCI image of 4 MiB", OCI, &padded(4 << 20)),
        shape("OCI image of 4 MiB and one byte", OCI, &padded((4 << 20) + 1)),
        shape("OCI image of 4,393,216 bytes", OCI, &padded(4_393_216)),
        shape("OCI image of 4,393,217 bytes", OCI, &padded(4_393_217)),
        shape(
            "schema 1",
            "application/vnd.docker.distribution.manifest.v1+json",
            r#"{"schemaVersion":1,"name":"a","tag":"t","fsLayers":[],"history":[]}"#,
        ),
        shape("no JSON", OCI, "nothing"),
        shape("empty", OCI, ""),
        shape("a list", OCI, "[]"),
        shape("behind the end", DOCKER, &format!("{image} {{}}")),
    ]
}

/// An OCI image of so many bytes.
fn padded(bytes: usize) -> String {
    let frame = |pad: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{{"mediaType":"a/b","size":2,"digest":"{}"}},"layers":[],"annotations":{{"a":"{pad}"}}}}"#,
            digest(b"{}")
        )
    };
    frame(&"x".repeat(bytes - frame("").len()))
}

pub(crate) fn shapes(pair: &Pair) -> Result<Seen> {
    for registry in [&pair.theirs, &pair.ours] {
        push_blobs(registry, "shapes")?;
        registry.send("PUT", "/v2/shapes/manifests/m", DOCKER, image().as_bytes())?.expect(201)?;
    }
    let known = [
        ("$C", digest(b"{}")),
        ("$L", digest(b"0123456789")),
        ("$M", digest(image().as_bytes())),
        ("$0", digest(b"absent")),
    ];
    let mut seen = Seen::default();
    for Shape { name, kind, mut body } in odd_fields().into_iter().chain(whole()) {
        for (word, digest) in &known {
            body = body.replace(word, digest);
        }
        pair.ask(&mut seen, name, |registry| {
            let put = registry.send("PUT", "/v2/shapes/manifests/t", kind, body.as_bytes())?;
            if put.status != 201 {
                return Ok(describe(&put));
            }
            let path = format!("/v2/shapes/manifests/{}", digest(body.as_bytes()));
            let accept = [DOCKER, OCI, INDEX, LIST].join(", ");
            let got = send(registry, "GET", &path, &[("Accept", &accept)], b"")?;
            let kept = got.status == 200 && got.body == body.as_bytes();
            Ok(format!("201, {}", if kept { "kept" } else { "not kept" }))
        })?;
    }
    Ok(seen)
}
