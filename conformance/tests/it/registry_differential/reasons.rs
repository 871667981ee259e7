//! Why each difference is one. The first pattern that fits a row's name gives its reason.

const METHODS: &str = "The endpoint does not know the method, and says so with an error that is JSON and \
     with `Allow`; distribution's is text, and `/` and `/v2/` answer any method there.";
const CLEAN: &str = "A slash too many at either end, or an encoded one, is served at once; distribution \
     redirects, which turns a POST into a GET. Elsewhere a path that is no name is an error.";
const WORD: &str = "The error has a code that clients print.";
const RELATIVE: &str =
    "A URL without scheme and host works behind every proxy: `http.relativeurls`.";
const NO_EFFECT: &str = "It has no effect here, which the log and `config check` say, and so no value of it \
     is wrong: docs/configuration.md has the reason.";
const STRICT: &str = "A value that is not what the key takes is an error: distribution passes over it, and \
     does something else than was asked.";
const DEFAULTS: &str = "Each key has a default of its own; distribution ends unless all are given.";
const NOWHERE: &str = "Without a driver the data goes where distribution's image has it: \
     `/var/lib/registry`.";
const ACCOUNTS: &str =
    "Users are those of `auth.htpasswd`; serving without what was asked for is not safe.";
const TWICE: &str =
    "Two readers could understand it differently; the first, the last, or both count.";
const ACCEPT: &str = "What a client accepts is not looked at: another form would have another digest, and \
     clients that say nothing get what was pushed.";
const OURS: &str = "Ours.";
const NOBODYS: &str = "Somebody else may have set it: it warns.";

pub(crate) const REASONS: &[(&str, &str)] = &[
    ("OPTIONS /nothing", WORD),
    ("http.debug.addr: GET *", WORD),
    ("OPTIONS *", "`Allow` names what the route knows; a session's routes are told apart here."),
    ("* /metrics", "Metrics are served without `http.debug.addr`, too."),
    ("* /livez", OURS),
    ("* /readyz", OURS),
    ("* /debug/health", "Health is served without `http.debug.addr`, too."),
    ("* /v2/NAME/referrers/*", "Referrers are part of the specification since 1.1."),
    ("GET /v2", CLEAN),
    ("HEAD /v2", CLEAN),
    ("HEAD /v2/_catalog", "HEAD is answered wherever GET is."),
    ("HEAD /v2/*/tags/list", "HEAD is answered wherever GET is."),
    ("GET /v2/NAME/manifests/t", ACCEPT),
    ("HEAD /v2/NAME/manifests/t", ACCEPT),
    ("DELETE /v2/*/manifests/*", "Tags can be deleted, as the specification says."),
    ("PUT /v2/NAME/manifests/DIGEST", "Nothing was sent, which is another digest's."),
    ("* /v2/NAME/blobs/uploads/", "The path starts uploads: POST. Its Location is relative."),
    ("POST UPLOAD", "POST starts uploads; on one that was started it means nothing."),
    ("DELETE UPLOAD", "The upload that ended needs no name."),
    ("BREW UPLOAD", METHODS),
    ("* UPLOAD", RELATIVE),
    ("GET /nothing", WORD),
    ("* /nothing", WORD),
    ("GET /v2/app/web/tags/list?n=-1", STRICT),
    ("GET /v2/app/web/tags/list?n=x", STRICT),
    ("GET /v2/app/web/tags/list/", CLEAN),
    (
        "GET /v2/app/web/tags/list*",
        "Lists of tags come in pages, as the specification says; 2.8 knows none.",
    ),
    ("GET //v2/app/web/tags/list", CLEAN),
    ("GET /v2/app/web/manifests/a/", CLEAN),
    ("GET /v2/_catalog/", CLEAN),
    ("GET /v2//app/web/tags/list", CLEAN),
    ("GET /v2/app//web/tags/list", CLEAN),
    ("GET /v2/app/./web/tags/list", CLEAN),
    ("GET /v2/app/../app/web/tags/list", CLEAN),
    ("GET /v2/%2e%2e/tags/list", CLEAN),
    ("GET /v2/_catalog?n=-1", STRICT),
    ("GET /v2/_catalog?n=x", STRICT),
    (
        "GET /v2/_catalog?n=100000",
        "A page is cut to `catalog.maxentries`, with a link to the next.",
    ),
    (
        "GET /v2/app/web/manifests/*:*",
        "A digest that is none is the client's mistake, not the server's.",
    ),
    ("GET /v2/app/web/blobs/nonsense", "What is no digest is said to be none."),
    ("GET /v2/app/web/blobs/uploads/", METHODS),
    ("GET /v2/app/web/blobs/uploads/nonsense", WORD),
    ("GET /v2/A*", "What is no name is said to be none."),
    ("GET /v2/app%*", WORD),
    ("GET /v2/app..web/tags/list", "What is no name is said to be none."),
    ("GET /v2/-app/tags/list", "What is no name is said to be none."),
    ("GET /v2/app/web*", WORD),
    ("GET /V2/", WORD),
    ("GET /v1/", WORD),
    (
        "PATCH to the location*",
        "A Location stays good: a client whose connection broke has only an older one.",
    ),
    ("PATCH with Content-Range in order", RELATIVE),
    (
        "PATCH with Content-Range*",
        "A chunk that does not fit is refused with 416, as the specification says; 2.8 appends it.",
    ),
    ("POST?digest=*", "One request is enough for a blob, as the specification says."),
    ("POST, PATCH, PUT", RELATIVE),
    ("GET of an upload's state", RELATIVE),
    ("DELETE of an upload, twice", "The upload that ended needs no name."),
    ("mount without from", "A mount without `from` is in the specification since 1.1."),
    ("mount*", RELATIVE),
    ("DELETE of a tag*", "Tags can be deleted, as the specification says."),
    ("DELETE of a digest*", "A repository without manifests is none; it stays listed there."),
    (
        "GET blob, Range:*",
        "A range that cannot be served is 416, an unknown unit is passed over; 2.8 breaks off.",
    ),
    ("GET Docker's manifest, Accept:*", ACCEPT),
    ("size negative", "No client reads it."),
    ("urls given", "The URLs of a layer are its own business."),
    ("an annotation twice", TWICE),
    ("layers twice", TWICE),
    ("Layers beside layers", TWICE),
    ("a layer's Digest beside its digest", TWICE),
    ("index, a platform's os.features a text", "What the registry does not use decides nothing."),
    ("Docker's image without a type", "The type that the manifest names is taken."),
    ("Docker's image without mediaType", "The type that the request names is taken."),
    ("Docker's image, mediaType null", "The type that the request names is taken."),
    ("Docker's image, a foreign layer absent", "Such a layer is not kept in registries."),
    ("index without manifests", "It could be an image as well."),
    ("OCI image*null", WORD),
    ("OCI image without config", WORD),
    ("OCI image without schemaVersion", "It is the client's mistake, not the server's."),
    ("OCI image, schemaVersion 3", "It is the client's mistake, not the server's."),
    ("OCI image of*", "The limit is what containerd reads, 4,393,216 bytes, and beyond it is 413."),
    ("storage.delete.enabled: false: *", "`Allow` names what is left."),
    ("storage.maintenance.readonly.enabled: true: *", WORD),
    (
        "http.relativeurls: false: *",
        "Anybody may send these: they count from nobody. `http.host` names another host.",
    ),
    ("version: *", "It chooses the defaults and is taken from a file; without one, ours hold."),
    ("log.fields: *", NO_EFFECT),
    ("log.hooks: *", NO_EFFECT),
    ("log.reportcaller: true*", NO_EFFECT),
    ("log.reportcaller: *", STRICT),
    ("loglevel: *", "`log.level` stands beside it, and wins."),
    ("storage: filesystem (file)", "The driver is a section: `storage: {filesystem: {}}`."),
    ("storage: *", NOWHERE),
    ("storage.filesystem.rootdirectory: *", STRICT),
    ("storage.filesystem.maxthreads: *", NO_EFFECT),
    ("storage.*: empty (variable)", NOWHERE),
    ("storage.cache.*", NO_EFFECT),
    ("storage.redirect.*", NO_EFFECT),
    ("storage.delete.enabled: *", STRICT),
    ("storage.maintenance.*", DEFAULTS),
    ("auth.*: empty (variable)", "An empty variable is as if not set."),
    ("auth*", ACCOUNTS),
    ("reporting.*", NO_EFFECT),
    (
        "http.prefix: *",
        "Without a prefix nothing is served elsewhere: give the registry a host name of its own.",
    ),
    ("http.host: *", STRICT),
    ("http.secret: *", NO_EFFECT),
    ("http.tls*", "A key of TLS without a certificate is an error; there plain HTTP is served."),
    ("http.debug.prometheus.*", "Without `http.debug.addr` it has no effect, which is said."),
    ("http.http2.*", NO_EFFECT),
    ("notifications.*", NO_EFFECT),
    ("redis.*", NO_EFFECT),
    ("health.*", NO_EFFECT),
    ("proxy.*", "Without `proxy.remoteurl` the section asks for nothing."),
    ("compatibility.*", NO_EFFECT),
    ("validation.manifests.urls.*", "Rules on the URLs of layers are not supported."),
    ("validation.*", NO_EFFECT),
    ("policy.*", NO_EFFECT),
    ("REGISTRY_AUTH_*", "It is podman's, or a Service's of Kubernetes."),
    ("REGISTRY_HTTP_ADR=*", NOBODYS),
    ("REGISTRY_NOBODYS=*", NOBODYS),
    ("REGISTRY_*=*", "What it should have shut would be open."),
    ("* /", METHODS),
    ("* /v2", METHODS),
    ("* /v2/*", METHODS),
];
