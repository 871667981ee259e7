//! What watches a registry: the rules by Prometheus' own tool, and every expression of rules and
//! dashboard asked of a real Prometheus that scrapes a registry in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::checks::Checks;
use conformance::janitor::Scratch;
use conformance::process::{self, Server};
use conformance::registry::{Options, Registry, free_port};
use conformance::ship::chart;
use conformance::{http, image, tool, wait};
use serde_json::{Value, json};

fn file(name: &str) -> PathBuf {
    chart::directory().join("files").join(name)
}

/// Each rule's name and expression.
fn rules() -> Result<Vec<(String, String)>> {
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(file("alerts.yaml"))?)?;
    let rules = rules["groups"][0]["rules"].as_array().context("rules")?;
    rules
        .iter()
        .map(|rule| {
            let text = |key: &str| rule[key].as_str().map(str::to_owned);
            Some((text("alert")?, text("expr")?))
        })
        .collect::<Option<_>>()
        .context("a rule without name or expression")
}

fn expressions() -> Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file("dashboard.json"))?)?;
    let mut expressions = rules()?;
    for panel in dashboard["panels"].as_array().context("panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["expr"].as_str().context("a target without expression")?;
            let text = text.replace("$__rate_interval", "1m");
            let text = text.replace("$job", ".+").replace("$instance", ".+");
            ensure!(!text.contains('$'), "{text}");
            expressions.push((panel["title"].as_str().unwrap_or("?").to_owned(), text));
        }
    }
    Ok(expressions)
}

#[test]
fn every_alert_fires_and_is_silent_where_it_should_be() -> Result<()> {
    let promtool = || -> Result<Command> { Ok(Command::new(tool("promtool")?)) };
    process::run(promtool()?.args(["check", "rules"]).arg(file("alerts.yaml")))?;
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for name in ["alerts_test.yaml", "alerts_month_test.yaml"] {
        process::run(promtool()?.args(["test", "rules"]).arg(file(name)))?;
        let tests: Value = serde_saphyr::from_str(&fs::read_to_string(file(name))?)?;
        for test in tests["tests"].as_array().context("tests")? {
            for case in test["alert_rule_test"].as_array().context("alert_rule_test")? {
                let expected = case["exp_alerts"].as_array().context("exp_alerts")?;
                let set = if expected.is_empty() { &mut silent } else { &mut fires };
                set.insert(case["alertname"].as_str().context("alertname")?.to_owned());
            }
        }
    }
    let alerts: BTreeSet<String> = rules()?.into_iter().map(|(name, _)| name).collect();
    let named = [
        "BlobsRotten",
        "CertificateExpires",
        "CollectionStale",
        "DiskFullIn24h",
        "Down",
        "ErrorRatio",
        "ReadOnly",
        "ScrubStale",
        "SlowManifests",
        "UploadsAbandoned",
    ];
    let named: BTreeSet<String> = named.iter().map(|name| format!("Registry{name}")).collect();
    ensure!(alerts == named, "{alerts:?}");
    ensure!(fires == alerts, "not seen to fire: {:?}", alerts.difference(&fires));
    ensure!(silent == alerts, "not seen to be silent: {:?}", alerts.difference(&silent));
    Ok(())
}

/// Some of everything that is counted.
fn load(registry: &Registry) -> Result<()> {
    let blob = image::noise(1, 100_000);
    let digest = image::push_blob(registry, "app", &blob)?;
    registry.get(&format!("/v2/app/blobs/{digest}"))?;
    registry.get("/v2/app/manifests/none")?;
    image::push_image(registry, "app", "v1", &image::oci_image(&[("file", &blob)])?)?;
    registry.get("/v2/app/manifests/v1")?;
    Ok(())
}

#[test]
fn every_expression_of_rules_and_dashboard_gives_a_series() -> Result<()> {
    let scratch = Scratch::new("prometheus")?;
    let (certificate, key) = (scratch.join("tls.crt"), scratch.join("tls.key"));
    process::run(
        Command::new(tool("openssl")?)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-days", "30", "-out"])
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key),
    )?;
    let plain = Registry::start(Options::default())?;
    let tls = Registry::start(Options::default().tls(&certificate, &key))?;
    let port = free_port()?;
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [file("alerts.yaml").canonicalize()?],
        "scrape_configs": [
            {"job_name": "plain", "static_configs": [{"targets": [plain.host()]}]},
            {"job_name": "tls", "scheme": "https", "tls_config": {"insecure_skip_verify": true},
             "static_configs": [{"targets": [tls.host()]}]},
        ],
    });
    fs::write(scratch.join("prometheus.yml"), config.to_string())?;
    let mut command = Command::new(tool("prometheus")?);
    command.arg(format!("--config.file={}", scratch.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", scratch.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let mut prometheus = Server::start(&mut command, &scratch.join("log"))?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let series = |expression: &str| -> Result<Value> {
        let target = format!("/api/v1/query?query={}", escape(expression));
        let query = http::Request::new("GET", &target);
        let answer: Value = serde_json::from_slice(&query.send(address)?.body)?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].clone())
    };
    wait::until("both registries to be scraped", Duration::from_secs(60), || {
        prometheus.check()?;
        load(&plain)?;
        Ok(series("sum(up) == 2").is_ok_and(|found| found != json!([])).then_some(()))
    })?;
    let mut checks = Checks::default();
    for (title, expression) in expressions()? {
        // A rule's condition does not hold here; what it is asked of must be there.
        let asked = without_conditions(&expression);
        checks.check(&format!("{title}: {asked}"), || {
            wait::until("a series", Duration::from_secs(30), || {
                load(&plain)?;
                Ok((series(&asked)? != json!([])).then_some(()))
            })
        });
    }
    checks.finish()
}

/// Turns each comparison into one that gives 0 or 1, and failures, which a registry that is well
/// does not have, into refusals.
fn without_conditions(expression: &str) -> String {
    let expression = expression.replace("\"5..\"", "\"[45]..\"");
    let words: Vec<String> = expression
        .split(' ')
        .map(|word| match word {
            ">" | "<" | "==" => format!("{word} bool"),
            word => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

fn escape(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
