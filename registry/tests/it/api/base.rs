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
    let text = String::from_utf8(registry.get("/metrics").expect(200).body).unwrap();
    for line in [
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
