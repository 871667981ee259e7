//! Routing and what every answer has.

use crate::api::harness::Registry;

#[test]
fn row_1_and_2_the_support_probe() {
    let registry = Registry::start();
    for path in ["/v2/", "/v2"] {
        let answer = registry.get(path).expect(200);
        assert_eq!(answer.body, b"{}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(answer.header("content-encoding"), None);
        assert!(answer.header("x-request-id").is_some());
    }
    let missing = registry.get("/v2/a/manifests/b").expect_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(missing.header("docker-distribution-api-version"), Some("registry/2.0"));
    assert_eq!(missing.header("x-registry-supports-signatures"), None);
}

/// The specification's codes, and what a client gets for each kind of mistake.
#[test]
fn row_3_every_refusal_is_json_with_a_code_of_the_specification() {
    const CODES: [&str; 14] = [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DENIED",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "TOOMANYREQUESTS",
        "UNAUTHORIZED",
        "UNSUPPORTED",
    ];
    let registry = Registry::start();
    registry.push_image("a", "t", b"{}");
    let upload = registry.start_upload("a");
    let absent = format!("sha256:{}", "0".repeat(64));
    let range = [("Content-Range", "5-9")];
    let type_of = [("Content-Type", shared::media_type::OCI_MANIFEST)];
    let huge = vec![b' '; 5 << 20];
    let answers = [
        registry.get(&format!("/v2/a/blobs/{absent}")),
        registry.get("/v2/a/blobs/sha256:short"),
        registry.get(&format!("/v2/a/blobs/md5:{}", "0".repeat(32))),
        registry.get("/v2/a/manifests/none"),
        registry.get(&format!("/v2/a/manifests/{absent}")),
        registry.get("/v2/none/tags/list"),
        registry.get("/v2/A/tags/list"),
        registry.get("/v2/a/tags/list?n=-1"),
        registry.get("/v2/_catalog?n=x"),
        registry.get("/v2/a/referrers/none"),
        registry.get("/v2/a/blobs/uploads/none"),
        registry.get("/v2/a/nonsense"),
        registry.get("/nonsense"),
        registry.delete("/v2/a/manifests/none"),
        registry.delete(&format!("/v2/a/blobs/{absent}")),
        registry.delete("/v2/a/tags/list"),
        registry.send("PATCH", &upload, &range, b"12345"),
        registry.send("PUT", &upload, &[], b""),
        registry.send("PUT", &format!("{upload}?digest={absent}"), &[], b"x"),
        registry.send("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", &[], b""),
        registry.send("PUT", "/v2/a/manifests/t", &type_of, b"{"),
        registry.send("PUT", "/v2/a/manifests/t", &type_of, &huge),
        registry.send("PUT", &format!("/v2/a/manifests/{absent}"), &type_of, b"{}"),
        registry.put_manifest(
            "a",
            "t",
            &crate::api::harness::image(&absent.parse().unwrap(), 2, ""),
        ),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        assert!((400..500).contains(&answer.status), "{number}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{number}");
        let length = answer.body.len().to_string();
        assert_eq!(answer.header("content-length"), Some(length.as_str()), "{number}");
        let codes = answer.codes();
        assert!(!codes.is_empty(), "{number}");
        assert!(codes.iter().all(|code| CODES.contains(&code.as_str())), "{number}: {codes:?}");
        let errors = answer.json();
        let message = errors["errors"][0]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains("/tmp"), "{number}: {message}");
    }
}

#[test]
fn row_4_and_6_names_that_are_none() {
    let registry = Registry::start();
    let long = "a".repeat(256);
    for name in ["A", "a..b", "a//b", "-a", "a/", "%2e%2e", "%C3%A4", "a%20b", &long] {
        for path in ["manifests/x", "tags/list", "blobs/uploads/"] {
            let method = if path.ends_with('/') { "POST" } else { "GET" };
            let answer = registry.send(method, &format!("/v2/{name}/{path}"), &[], b"");
            answer.expect_error(400, "NAME_INVALID");
        }
    }
    for path in ["/v2/a%2fb/tags/list", "/v2/a%00/tags/list", "/v2/../tags/list", "/v3/", "/v2/a"] {
        let status = registry.get(path).status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
    let uploads = std::fs::read_dir(registry.root().join("uploads")).unwrap().count();
    assert_eq!(uploads, 0, "nothing is created for a name that is none");
}

#[test]
fn row_5_names_made_of_path_words() {
    let registry = Registry::start();
    for repo in ["a/manifests/b", "a/blobs/uploads", "tags/list/x", "a/referrers/b", "uploads"] {
        let pushed = registry.push_image(repo, "t", b"{}");
        assert_eq!(registry.get(&format!("/v2/{repo}/manifests/t")).expect(200).body, pushed);
        let tags = registry.get(&format!("/v2/{repo}/tags/list")).expect(200).json();
        assert_eq!(tags, serde_json::json!({ "name": repo, "tags": ["t"] }));
    }
}

#[test]
fn row_7_wrong_methods() {
    let registry = Registry::start();
    for (method, path, allow) in [
        ("POST", "/v2/", "GET, HEAD"),
        ("PUT", "/v2/_catalog", "GET, HEAD"),
        ("PATCH", "/v2/a/manifests/x", "GET, HEAD, PUT, DELETE"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("POST", "/v2/a/tags/list", "GET, HEAD"),
        ("BREW", "/v2/a/tags/list", "GET, HEAD"),
    ] {
        let answer = registry.send(method, path, &[], b"").expect_error(405, "UNSUPPORTED");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

/// Load balancers and charts ask for `/` to see whether anybody is there.
#[test]
fn the_root_is_there_and_empty() {
    let registry = Registry::start();
    for method in ["GET", "HEAD"] {
        for path in ["/", "/?x"] {
            let answer = registry.send(method, path, &[], b"").expect(200);
            assert!(answer.body.is_empty());
            assert_eq!(answer.header("content-length"), Some("0"));
        }
    }
    registry.send("POST", "/", &[], b"").expect_error(405, "UNSUPPORTED");
}

/// A browser asks so before it lets a page of another origin do something.
#[test]
fn options_tell_what_may_be_done_and_do_nothing() {
    let registry = Registry::start_with(|config| {
        config.http.headers = [
            ("Access-Control-Allow-Origin", "http://ui.example"),
            ("Access-Control-Allow-Methods", "HEAD, GET, OPTIONS, DELETE"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    });
    registry.push_image("a", "t", b"{}");
    let upload = registry.start_upload("a");
    let blob = format!("/v2/a/blobs/{}", shared::Digest::sha256(b"{}"));
    for (path, allow) in [
        ("/", "GET, HEAD"),
        ("*", "GET, HEAD"),
        ("/v2/", "GET, HEAD"),
        ("/v2/_catalog", "GET, HEAD"),
        ("/v2/a/tags/list", "GET, HEAD"),
        ("/v2/none/tags/list", "GET, HEAD"),
        ("/v2/a/manifests/t", "GET, HEAD, PUT, DELETE"),
        (&blob, "GET, HEAD, DELETE"),
        ("/v2/a/blobs/uploads/", "POST"),
        (&upload, "GET, HEAD, PATCH, PUT, DELETE"),
        ("/v2/a/referrers/x", "GET, HEAD"),
        ("/livez", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
    ] {
        let headers = [("Access-Control-Request-Method", "DELETE")];
        let answer = registry.send("OPTIONS", path, &headers, b"").expect(200);
        assert!(answer.body.is_empty(), "{path}");
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
        let origin = answer.header("access-control-allow-origin");
        assert_eq!(origin, Some("http://ui.example"), "{path}");
    }
    registry.send("OPTIONS", "/v3/", &[], b"").expect(404);
    registry.get("/v2/a/manifests/t").expect(200);
    registry.get(&blob).expect(200);
    registry.get(&upload).expect(204);
}

#[test]
fn paths_are_taken_as_scripts_write_them() {
    let registry = Registry::start();
    registry.push_image("a/b", "t", b"{}");
    for path in
        ["//v2/a/b/tags/list", "/v2/a/b/tags/list/", "/v2/a%2Fb/tags/list", "/v2/%61/b/tags%2flist"]
    {
        let answer = registry.get(path).expect(200);
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    }
    registry.get("/v2/a%zz/tags/list").expect_error(400, "NAME_INVALID");
}

/// `relativeurls: false` without a host: some clients push only to where an absolute URL leads.
#[test]
fn absolute_urls_are_those_of_the_request() {
    let registry = Registry::start_with(|config| config.http.relative_urls = false);
    let location = |headers: &[(&str, &str)]| {
        let mut request = "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: 0\r\n".to_owned();
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let answer = registry.raw(format!("{request}Connection: close\r\n\r\n").as_bytes());
        let answer = crate::api::harness::Answer::parse(&answer).unwrap().expect(202);
        let location = answer.header("location").unwrap();
        location.split("/v2/a/blobs/uploads/").next().unwrap().to_owned()
    };
    let https = ("X-Forwarded-Proto", "https");
    for (headers, want) in [
        (&[("Host", "r.example:5000")][..], "http://r.example:5000"),
        (&[("Host", "[::1]:5000")], "http://[::1]:5000"),
        (&[("Host", "r.example"), https], "https://r.example"),
        (&[("Host", "r.example"), ("X-Forwarded-Proto", "HTTPS, http")], "https://r.example"),
        (&[("Host", "r.example"), ("X-Forwarded-Proto", "ftp")], "http://r.example"),
        // From whom these come is not known.
        (&[("Host", "r.example"), ("X-Forwarded-Host", "evil.example")], "http://r.example"),
        (&[("Host", "r.example"), ("Forwarded", "host=evil.example")], "http://r.example"),
        (&[("Host", "r.example"), ("X-Forwarded-Port", "1")], "http://r.example"),
        // What is no host makes no URL.
        (&[("Host", "evil/x?")], ""),
    ] {
        assert_eq!(location(headers), want, "{headers:?}");
    }
    let config = registry.push_blob("a", b"{}");
    let manifest = crate::api::harness::image(&config, 2, "");
    for tag in ["t", "u"] {
        let answer = registry.put_manifest("a", tag, &manifest).expect(201);
        assert!(answer.header("location").unwrap().starts_with("http://registry/v2/a/manifests/"));
    }
    let link = registry.get("/v2/a/tags/list?n=1").expect(200);
    assert!(link.header("link").unwrap().starts_with("<http://registry/v2/a/tags/list"));
    let relative = Registry::start();
    assert!(relative.start_upload("a").starts_with("/v2/"));
}

/// A second listener has metrics and health alone, without what the first one asks of its clients.
#[test]
fn the_debug_listener() {
    let registry = Registry::start_with(|config| {
        config.http.debug = Some(registry::http::Debug {
            addr: "127.0.0.1:0".to_owned(),
            metrics: Some("/m".to_owned()),
        });
    });
    let debug = |path: &str| {
        let mut tcp = std::net::TcpStream::connect(registry.debug_address.unwrap()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut tcp, request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut tcp, &mut answer).unwrap();
        crate::api::harness::Answer::parse(&answer).unwrap()
    };
    for path in ["/livez", "/readyz", "/readyz?exclude=writes", "/startupz", "/healthz"] {
        registry.get(path).expect(200);
        debug(path).expect(200);
    }
    assert_eq!(debug("/debug/health").expect(200).body, b"{}");
    let metrics = debug("/m").expect(200);
    assert!(String::from_utf8_lossy(&metrics.body).contains("registry_build_info"));
    for path in ["/metrics", "/v2/", "/v2/_catalog", "/"] {
        debug(path).expect(404);
    }
    for path in ["/metrics", "/m", "/debug/health"] {
        registry.get(path).expect(404);
    }
    // Without it there is only one.
    let registry = Registry::start();
    registry.get("/metrics").expect(200);
    registry.get("/debug/health").expect(200);
}

#[test]
fn row_8_nothing_is_encoded() {
    let registry = Registry::start();
    registry.push_image("a", "t", b"{}");
    let headers = [("Accept-Encoding", "gzip, zstd, deflate")];
    let answer = registry.send("GET", "/v2/a/manifests/t", &headers, b"").expect(200);
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
}

#[test]
fn probes_and_metrics() {
    let registry = Registry::start();
    registry.push_image("a", "t", b"{}");
    registry.get("/v2/a/manifests/t").expect(200);
    for path in ["/livez", "/readyz"] {
        registry.get(path).expect(200);
    }
    let openmetrics = [("Accept", "application/openmetrics-text; version=1.0.0")];
    let answer = registry.send("GET", "/metrics", &openmetrics, b"").expect(200);
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(String::from_utf8_lossy(&answer.body).ends_with("# EOF\n"));
    let answer = registry.get("/metrics").expect(200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.body).unwrap();
    for line in [
        "# TYPE registry_build_info gauge\n",
        "# TYPE registry_pulls_total counter\n",
        "registry_http_requests_total{handler=\"manifest\",method=\"put\",code=\"201\"} 1",
        "registry_pulls_total 1",
        "registry_pushes_total{kind=\"blob\"} 1",
        "registry_storage_writable 1",
        "registry_http_request_duration_seconds_count",
        "registry_http_response_size_bytes_sum{handler=\"manifest\",method=\"get\"}",
        "registry_http_in_flight_requests{handler=\"manifest\"} 0",
        "registry_storage_action_seconds_count{driver=\"filesystem\",action=\"Move\"} 1",
        "registry_storage_action_seconds_count{driver=\"filesystem\",action=\"Sync\"} 1",
        "registry_storage_cache_requests_total 1",
        "registry_storage_cache_hits_total 0",
        "registry_upload_outcomes_total{outcome=\"completed\"} 1",
        "registry_config_last_reload_successful 1",
        "registry_scrub_last_success_timestamp_seconds",
        "registry_gc_rescued_total 0",
        "registry_build_info{version=",
        "registry_storage_repositories 1\n",
        "registry_storage_tags 1\n",
        "registry_storage_manifests 1\n",
        "registry_storage_blobs 1\n",
        "registry_storage_bytes 2\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!((1.0..value("process_max_fds")).contains(&value("process_open_fds")));
    let started = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
        - value("process_start_time_seconds");
    assert!((-2.0..3600.0).contains(&started), "started {started} s ago");
}

/// What operators' dashboards and rules may rely on, whatever the registry has done so far.
#[test]
fn every_metric_has_a_value_from_the_start() {
    let registry = Registry::start();
    let text = String::from_utf8(registry.get("/metrics").expect(200).body).unwrap();
    for name in [
        "registry_tls_handshake_errors_total",
        "registry_uploads_active",
        "registry_storage_free_bytes",
        "registry_storage_writable",
        "registry_storage_quarantined_blobs",
        "registry_gc_runs_total",
        "registry_gc_failed_runs_total",
        "registry_gc_duration_seconds_total",
        "registry_gc_last_success_timestamp_seconds",
        "registry_gc_deleted_total",
        "registry_gc_freed_bytes_total",
        "registry_gc_condemned_total",
        "registry_gc_rescued_total",
        "registry_gc_swept_files_total",
        "registry_gc_waiting_reviews",
        "registry_gc_waiting_links",
        "registry_gc_waiting_bytes",
        "registry_scrub_bytes_total",
        "registry_scrub_rotten_total",
        "registry_scrub_errors_total",
        "registry_scrub_passes_total",
    ] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {text}");
    }
    // `rate` misses the first event of a series that begins with it.
    for line in [
        "registry_errors_total{code=\"BLOB_UNKNOWN\"} 0\n",
        "registry_errors_total{code=\"TOOMANYREQUESTS\"} 0\n",
        "registry_pushes_total{kind=\"manifest\"} 0\n",
        "registry_blob_bytes_total{direction=\"out\"} 0\n",
        "registry_upload_outcomes_total{outcome=\"expired\"} 0\n",
        "registry_http_in_flight_requests{handler=\"blob_upload\"} 0\n",
        "registry_http_request_duration_seconds_count{handler=\"manifest\",method=\"put\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// The endpoints whose series begin at 0 are those that there are.
#[test]
fn every_endpoint_is_counted_under_a_name_that_begins_at_zero() {
    let registry = Registry::start();
    let series = || {
        let text = String::from_utf8(registry.get("/metrics").expect(200).body).unwrap();
        let lines = text.lines().filter(|line| line.contains("_duration_seconds_count{"));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = series();
    for path in [
        "/",
        "/v2/",
        "/v2/_catalog",
        "/v2/a/tags/list",
        "/v2/a/manifests/t",
        "/v2/a/blobs/x",
        "/v2/a/blobs/uploads/",
        "/v2/a/blobs/uploads/x",
        "/v2/a/referrers/x",
        "/livez",
        "/metrics",
    ] {
        let allow = registry.send("OPTIONS", path, &[], b"");
        for method in allow.header("allow").unwrap().split(", ") {
            registry.send(method, path, &[], b"");
        }
    }
    let new: Vec<_> = series().into_iter().filter(|name| !before.contains(name)).collect();
    assert!(new.iter().all(|name| name.contains("\"options\"")), "{new:?}");
    assert!(before.len() > 20, "{before:?}");
}

#[test]
fn a_request_id_is_taken_from_the_client_if_it_is_sensible() {
    let registry = Registry::start();
    let id = |sent| {
        let answer = registry.send("GET", "/v2/", &[("X-Request-Id", sent)], b"");
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("ci-42.a_b"), "ci-42.a_b");
    assert_ne!(id("a b"), "a b");
    assert_ne!(id(&"x".repeat(65)), "x".repeat(65));
}

#[test]
fn row_96_connections_are_kept() {
    use std::io::{Read as _, Write as _};
    let registry = Registry::start();
    let content = vec![7; 100_000];
    let digest = registry.push_blob("a", &content);
    let mut tcp = registry.connect();
    for _ in 0..20 {
        for (path, length) in [(format!("/v2/a/blobs/{digest}"), 100_000), ("/v2/".to_owned(), 2)] {
            write!(tcp, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut got = Vec::new();
            let mut buffer = [0; 65536];
            loop {
                let read = tcp.read(&mut buffer).unwrap();
                assert_ne!(read, 0, "the server must keep the connection");
                got.extend(&buffer[..read]);
                if crate::api::harness::Answer::parse(&got).is_some_and(|a| a.body.len() >= length)
                {
                    break;
                }
            }
            assert_eq!(crate::api::harness::Answer::parse(&got).unwrap().body.len(), length);
        }
    }
}

#[test]
fn a_browser_runs_nothing_of_what_is_stored() {
    let registry = Registry::start_with(|config| {
        config.http.headers = vec![("Content-Security-Policy".into(), "default-src 'self'".into())];
    });
    registry.push_image("a", "v1", b"<script>");
    for path in ["/v2/", "/v2/a/manifests/v1", "/v2/nothing/tags/list", "/livez"] {
        let answer = registry.get(path);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policies = answer.headers.iter().filter(|(name, _)| name == "content-security-policy");
        let policies: Vec<&str> = policies.map(|(_, value)| value.as_str()).collect();
        assert_eq!(policies, ["default-src 'self'"], "{path}: what is configured, once");
    }
    let registry = Registry::start();
    let policy = registry.get("/v2/").header("content-security-policy").map(str::to_owned);
    assert_eq!(policy.as_deref(), Some("default-src 'none'; sandbox"));
}
