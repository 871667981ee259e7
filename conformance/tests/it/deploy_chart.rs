//! The chart, rendered by Helm and read as objects; published to our own registry and rendered from
//! there. No cluster is to be had: what a cell of its README's table says about one is shown by the
//! template's lines that make it so.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use conformance::checks::Checks;
use conformance::janitor::Scratch;
use conformance::registry::{Options, Registry};
use conformance::ship::chart::{self, KUBERNETES, REPOSITORY, object, objects, render};
use conformance::{bin, image, process};
use serde_json::{Value, json};

const NAME: &str = "demo-roadstead";

/// Renders the chart of the tree with an image and these arguments.
fn rendered(arguments: &[&str]) -> Result<Vec<Value>> {
    let text = text(KUBERNETES[1], arguments)?;
    objects(&text)
}

fn text(kubernetes: &str, arguments: &[&str]) -> Result<String> {
    let repository = format!("image.repository={REPOSITORY}");
    let all: Vec<&str> = ["--set", &repository].iter().chain(arguments).copied().collect();
    render(&chart::directory().to_string_lossy(), kubernetes, &all)
}

/// What Helm says when it must refuse.
fn refusal(arguments: &[&str]) -> Result<String> {
    match text(KUBERNETES[1], arguments) {
        Ok(_) => anyhow::bail!("{arguments:?} was taken"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

fn pod(objects: &[Value]) -> Result<&Value> {
    Ok(&object(objects, "StatefulSet", NAME)?["spec"]["template"]["spec"])
}

#[test]
fn two_renders_are_equal_on_every_kubernetes() -> Result<()> {
    let everything = [
        "--set",
        "ingress.enabled=true,ingress.hosts={registry.example}",
        "--set",
        "httpRoute.enabled=true,httpRoute.parentRefs[0].name=public",
        "--set",
        "networkPolicy.enabled=true,podDisruptionBudget.enabled=true",
        "--set",
        "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true",
        "--set",
        "metrics.dashboard.enabled=true",
    ];
    for kubernetes in KUBERNETES {
        for arguments in [&[][..], &everything] {
            let first = text(kubernetes, arguments)?;
            ensure!(first == text(kubernetes, arguments)?, "{kubernetes}: two renders differ");
            for object in objects(&first)? {
                ensure!(object["metadata"]["namespace"] == "images", "{object}");
            }
        }
    }
    let kinds = |objects: Vec<Value>| {
        let mut kinds: Vec<String> = objects
            .iter()
            .map(|object| object["kind"].as_str().unwrap_or("?").to_owned())
            .collect();
        kinds.sort();
        kinds.join(" ")
    };
    let plain = kinds(rendered(&[])?);
    let expected = "ConfigMap PersistentVolumeClaim Pod Service Service ServiceAccount StatefulSet";
    ensure!(plain == expected, "{plain}");
    let all = kinds(rendered(&everything)?);
    let expected = "ConfigMap ConfigMap HTTPRoute Ingress NetworkPolicy PersistentVolumeClaim Pod \
                    PodDisruptionBudget PrometheusRule Service Service ServiceAccount ServiceMonitor \
                    StatefulSet";
    ensure!(all == expected, "{all}");
    process::run(chart::helm()?.args(["lint", "--strict", "--set"]).args([
        &format!("image.repository={REPOSITORY}"),
        &*chart::directory().to_string_lossy(),
    ]))?;
    Ok(())
}

/// The Pod Security Standard `restricted`, field by field, for every pod of the chart.
#[test]
fn pods_are_restricted() -> Result<()> {
    let objects = rendered(&[])?;
    let test = &object(&objects, "Pod", &format!("{NAME}-test"))?["spec"];
    for pod in [pod(&objects)?, test] {
        let security = &pod["securityContext"];
        ensure!(security["runAsNonRoot"] == true && security["runAsUser"] == 65532, "{security}");
        ensure!(security["fsGroup"] == 65532, "{security}");
        ensure!(security["fsGroupChangePolicy"] == "OnRootMismatch", "{security}");
        ensure!(security["seccompProfile"]["type"] == "RuntimeDefault", "{security}");
        ensure!(pod["automountServiceAccountToken"] == false, "a token is mounted");
        ensure!(pod["enableServiceLinks"] == false, "service links are on");
        for container in pod["containers"].as_array().context("containers")? {
            let security = &container["securityContext"];
            ensure!(security["allowPrivilegeEscalation"] == false, "{security}");
            ensure!(security["readOnlyRootFilesystem"] == true, "{security}");
            ensure!(security["capabilities"] == json!({"drop": ["ALL"]}), "{security}");
        }
    }
    Ok(())
}

#[test]
fn a_directory_has_one_writer_and_a_volume_that_stays() -> Result<()> {
    let objects = rendered(&[])?;
    let set = &object(&objects, "StatefulSet", NAME)?["spec"];
    ensure!(set["replicas"] == 1 && set["podManagementPolicy"] == "Parallel", "{set}");
    ensure!(set["volumeClaimTemplates"].is_null(), "a claim's template cannot grow");
    let labels = &set["template"]["metadata"]["labels"];
    ensure!(labels["helm.sh/chart"].is_null(), "each version of the chart would restart the pod");
    let claim = object(&objects, "PersistentVolumeClaim", NAME)?;
    let annotations = &claim["metadata"]["annotations"];
    ensure!(annotations["helm.sh/resource-policy"] == "keep", "{annotations}");
    let grace = pod(&objects)?["terminationGracePeriodSeconds"].as_u64();
    ensure!(grace > Some(25), "{grace:?} s is less than http.draintimeout");
    let existing = rendered(&["--set", "persistence.existingClaim=mine"])?;
    ensure!(object(&existing, "PersistentVolumeClaim", NAME).is_err(), "one claim too many");
    let data = &pod(&existing)?["volumes"][0]["persistentVolumeClaim"]["claimName"];
    ensure!(data == "mine", "{data}");
    Ok(())
}

#[test]
fn probes_ask_the_port_that_has_no_accounts() -> Result<()> {
    let objects = rendered(&["--set", "livenessProbe.failureThreshold=9"])?;
    let container = &pod(&objects)?["containers"][0];
    for (probe, path) in [
        ("startupProbe", "/startupz"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz?exclude=writes"),
    ] {
        let ask = &container[probe]["httpGet"];
        ensure!(*ask == json!({"path": path, "port": "metrics"}), "{probe}: {ask}");
    }
    ensure!(container["livenessProbe"]["failureThreshold"] == 9, "the value has no effect");
    Ok(())
}

/// The configuration that is rendered, as the registry itself reads it.
fn configuration(arguments: &[&str]) -> Result<(String, Value)> {
    let objects = rendered(arguments)?;
    let text = object(&objects, "ConfigMap", NAME)?["data"]["config.yml"].clone();
    let text = text.as_str().context("config.yml")?.to_owned();
    let value = serde_saphyr::from_str(&text)?;
    Ok((text, value))
}

#[test]
fn the_configuration_is_distributions_and_false_stays_false() -> Result<()> {
    let scratch = Scratch::new("chart")?;
    let checked = |name: &str, text: &str| -> Result<String> {
        let file = scratch.join(name);
        fs::write(&file, text)?;
        let output = process::run_for(
            std::time::Duration::from_secs(20),
            Command::new(bin("registry")?).args(["config", "check"]).arg(file),
        )?;
        ensure!(output.status.success(), "{}", output.stderr);
        Ok(output.stderr)
    };
    let (text, value) = configuration(&[])?;
    ensure!(value["storage"]["delete"]["enabled"] == true, "{text}");
    ensure!(
        value["http"]["addr"] == ":5000" && value["http"]["debug"]["addr"] == ":5001",
        "{text}"
    );
    let said = checked("plain.yml", &text)?;
    ensure!(!said.contains("has no effect"), "{said}");
    let (text, value) = configuration(&[
        "--set",
        "config.storage.delete.enabled=false,config.log.level=warn,config.gc.grace=48h",
    ])?;
    ensure!(value["storage"]["delete"]["enabled"] == false, "{text}");
    ensure!(value["storage"]["filesystem"]["rootdirectory"] == "/var/lib/registry", "{text}");
    checked("changed.yml", &text)?;
    let sum = |arguments: &[&str]| -> Result<Value> {
        let objects = rendered(arguments)?;
        let set = object(&objects, "StatefulSet", NAME)?;
        Ok(set["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone())
    };
    let (plain, changed) = (sum(&[])?, sum(&["--set", "config.log.level=warn"])?);
    ensure!(
        plain.is_string() && plain != changed,
        "the pod would not notice another configuration"
    );
    Ok(())
}

#[test]
fn tls_comes_from_a_secret() -> Result<()> {
    let arguments = ["--set", "tls.existingSecret=pair"];
    let (text, value) = configuration(&arguments)?;
    ensure!(value["http"]["tls"]["key"] == "/etc/roadstead/tls/tls.key", "{text}");
    let objects = rendered(&arguments)?;
    let service = &object(&objects, "Service", NAME)?["spec"]["ports"][0];
    ensure!(service["appProtocol"] == "https", "{service}");
    let test = &object(&objects, "Pod", &format!("{NAME}-test"))?["spec"]["containers"][0]["args"];
    let url = format!("https://{NAME}.images.svc:5000/readyz");
    ensure!(*test == json!(["healthcheck", url]), "{test}");
    Ok(())
}

#[test]
fn metrics_are_nobodys_but_those_that_are_named() -> Result<()> {
    let objects = rendered(&[
        "--set",
        "networkPolicy.enabled=true,service.type=LoadBalancer",
        "--set-json",
        r#"networkPolicy.metricsFrom=[{"podSelector":{"matchLabels":{"app":"prometheus"}}}]"#,
        "--set",
        "metrics.serviceMonitor.enabled=true",
    ])?;
    let ports = &object(&objects, "Service", NAME)?["spec"]["ports"];
    ensure!(ports.as_array().is_some_and(|ports| ports.len() == 1), "{ports}");
    let policy = &object(&objects, "NetworkPolicy", NAME)?["spec"];
    ensure!(policy["policyTypes"] == json!(["Ingress"]), "{policy}");
    let [public, metrics] = policy["ingress"].as_array().context("ingress")?.as_slice() else {
        anyhow::bail!("{policy}");
    };
    ensure!(public["ports"][0]["port"] == 5000 && public["from"].is_null(), "{public}");
    ensure!(metrics["ports"][0]["port"] == 5001, "{metrics}");
    ensure!(metrics["from"][0]["podSelector"]["matchLabels"]["app"] == "prometheus", "{metrics}");
    // Nobody named: no rule, so nobody.
    let objects = rendered(&["--set", "networkPolicy.enabled=true"])?;
    let rules = &object(&objects, "NetworkPolicy", NAME)?["spec"]["ingress"];
    ensure!(rules.as_array().is_some_and(|rules| rules.len() == 1), "{rules}");
    Ok(())
}

#[test]
fn what_goes_in_front_lets_layers_through() -> Result<()> {
    let objects = rendered(&[
        "--set",
        "ingress.enabled=true,ingress.hosts={registry.example},ingress.className=nginx",
        "--set-string",
        "ingress.annotations.nginx\\.ingress\\.kubernetes\\.io/proxy-read-timeout=60",
        "--set",
        "httpRoute.enabled=true,httpRoute.parentRefs[0].name=public",
    ])?;
    let annotations = &object(&objects, "Ingress", NAME)?["metadata"]["annotations"];
    ensure!(annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == "0", "{annotations}");
    let own = &annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"];
    ensure!(own == "60", "the user's annotation is not last: {own}");
    let route = &object(&objects, "HTTPRoute", NAME)?["spec"];
    let parent = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"});
    ensure!(route["parentRefs"][0] == parent, "{route}");
    ensure!(route["rules"][0]["timeouts"]["request"] == "0s", "{route}");
    ensure!(route["rules"][0]["backendRefs"][0]["weight"] == 1, "{route}");
    Ok(())
}

/// Each refusal says which value, why, and what to do.
#[test]
fn what_cannot_work_is_refused_with_a_sentence() -> Result<()> {
    let mut checks = Checks::default();
    for (setting, words) in [
        ("replicaCount=2", "a directory has one writer"),
        ("autoscaling.enabled=true", "a directory has one writer"),
        ("s3.existingSecret=keys", "stores in a directory, not in a bucket"),
        ("config.storage.s3.bucket=images", "stores in a directory, not in a bucket"),
        ("auth.htpasswd.existingSecret=users", "mounts no users yet"),
        ("config.auth.htpasswd.path=/x", "mounts no users yet"),
        ("config.http.addr=:80", "the Service's port is service.port"),
        ("config.http.debug.addr=:6000", "the Service's port is service.port"),
        ("config.storage.filesystem.rootdirectory=/data", "mounted at /var/lib/registry"),
        ("existingConfigMap=mine,config.log.level=warn", "Leave one of them out"),
        ("existingConfigMap=mine,tls.existingSecret=pair", "Mount the Secret with extraVolumes"),
        ("podDisruptionBudget.minAvailable=1,podDisruptionBudget.maxUnavailable=1", "exclude each"),
        ("ingress.enabled=true", "name the host"),
        ("httpRoute.enabled=true", "name the Gateway"),
        ("image.repository=", "make image"),
    ] {
        checks.check(setting, || {
            let said = refusal(&["--set", setting])?;
            ensure!(said.contains(words), "{said}");
            Ok(())
        });
    }
    checks.finish()
}

/// What the schema refuses: words that are no values, and values of another kind.
#[test]
fn typos_are_refused() -> Result<()> {
    let mut checks = Checks::default();
    for setting in [
        "replicaCoutn=1",
        "image.repo=x",
        "persistence.sise=1Gi",
        "persistence.size=lots",
        "persistence.accessModes={ReadOnlyMany}",
        "service.type=Clusterip",
        "service.port=70000",
        "image.digest=sha256:12",
        "networkPolicy.enabled=maybe",
        "metrics.serviceMonitor.interval=often",
        "livenessProbe.faillureThreshold=3",
        "extraEnv[0].value=x",
    ] {
        checks.check(setting, || {
            let said = refusal(&["--set", setting])?;
            ensure!(said.contains("values don't meet the specifications"), "{said}");
            Ok(())
        });
    }
    checks.finish()
}

/// Every default is a value that the schema takes, and every value of the schema has a default.
#[test]
fn schema_and_values_name_the_same() -> Result<()> {
    let read = |name| fs::read_to_string(chart::directory().join(name));
    let schema: Value = serde_json::from_str(&read("values.schema.json")?)?;
    let values: Value = serde_saphyr::from_str(&read("values.yaml")?)?;
    // What a chart needs to be somebody's dependency.
    let foreign = ["global", "enabled"];
    fn compare(path: &str, schema: &Value, values: &Value, foreign: &[&str]) -> Result<()> {
        let Some(known) = schema["properties"].as_object() else { return Ok(()) };
        ensure!(schema["additionalProperties"] == false, "{path} takes any word");
        for (key, schema) in known {
            if path.is_empty() && foreign.contains(&key.as_str()) {
                continue;
            }
            let optional = path.ends_with("Probe.") || path == "resources.";
            let value = values.get(key);
            ensure!(value.is_some() || optional, "{path}{key} has no default in values.yaml");
            if let Some(value) = value.filter(|value| value.is_object()) {
                compare(&format!("{path}{key}."), schema, value, &[])?;
            }
        }
        for key in values.as_object().into_iter().flat_map(|values| values.keys()) {
            ensure!(known.contains_key(key), "{path}{key} is not in the schema");
        }
        Ok(())
    }
    compare("", &schema, &values, &foreign)
}

/// The rest of the values: each changes what it says, by itself.
#[test]
fn every_other_value_has_its_effect() -> Result<()> {
    let mut checks = Checks::default();
    for (arguments, words) in [
        ("image.tag=v7", "registry.example/roadstead/registry:v7"),
        ("image.pullPolicy=Always", "imagePullPolicy: Always"),
        ("imagePullSecrets[0].name=pull", "imagePullSecrets:"),
        ("nameOverride=other", "name: demo-other"),
        ("fullnameOverride=whole", "name: whole-headless"),
        ("commonLabels.team=a", "team: a"),
        ("commonAnnotations.team=b", "team: b"),
        ("existingConfigMap=mine", "name: mine"),
        ("persistence.enabled=false", "emptyDir: {}"),
        ("persistence.size=7Gi", "storage: 7Gi"),
        ("persistence.storageClass=fast", "storageClassName: fast"),
        ("persistence.accessModes={ReadWriteOncePod}", "- ReadWriteOncePod"),
        ("persistence.annotations.a=z", "a: z"),
        ("serviceAccount.create=false", "serviceAccountName: default"),
        ("serviceAccount.name=robot", "serviceAccountName: robot"),
        ("serviceAccount.annotations.role=r", "role: r"),
        ("service.type=NodePort,service.nodePort=30500", "nodePort: 30500"),
        ("service.port=80", "port: 80"),
        ("service.annotations.lb=internal", "lb: internal"),
        ("service.ipFamilyPolicy=PreferDualStack", "ipFamilyPolicy: PreferDualStack"),
        ("podDisruptionBudget.enabled=true", "maxUnavailable: 1"),
        ("podDisruptionBudget.enabled=true,podDisruptionBudget.minAvailable=1", "minAvailable: 1"),
        ("resources.limits.memory=1Gi", "memory: 1Gi"),
        ("podSecurityContext.fsGroup=7", "fsGroup: 7"),
        ("terminationGracePeriodSeconds=90", "terminationGracePeriodSeconds: 90"),
        ("podAnnotations.p=q", "p: q"),
        ("podLabels.l=m", "l: m"),
        ("nodeSelector.disk=ssd", "disk: ssd"),
        ("affinity.nodeAffinity.x=y", "nodeAffinity:"),
        ("tolerations[0].key=t", "key: t"),
        ("topologySpreadConstraints[0].topologyKey=zone", "topologyKey: zone"),
        ("priorityClassName=high", "priorityClassName: high"),
        ("runtimeClassName=gvisor", "runtimeClassName: gvisor"),
        ("hostAliases[0].ip=10.0.0.1", "ip: 10.0.0.1"),
        ("dnsConfig.nameservers={10.0.0.2}", "- 10.0.0.2"),
        ("extraArgs={--log-level,debug}", "- --log-level"),
        ("extraEnv[0].name=REGISTRY_LOG_LEVEL,extraEnv[0].value=warn", "name: REGISTRY_LOG_LEVEL"),
        ("extraEnvFrom[0].secretRef.name=env", "envFrom:"),
        ("extraVolumes[0].name=v", "- name: v"),
        ("extraVolumeMounts[0].name=v,extraVolumeMounts[0].mountPath=/v", "mountPath: /v"),
        ("initContainers[0].name=first", "initContainers:"),
        ("extraContainers[0].name=side", "- name: side"),
        ("extraObjects[0].kind=Secret,extraObjects[0].metadata.name=more", "name: more"),
        ("metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.interval=7s", "interval: 7s"),
        ("metrics.prometheusRule.enabled=true,metrics.prometheusRule.labels.p=main", "p: main"),
        ("metrics.dashboard.enabled=true", "grafana_dashboard: \"1\""),
        (
            "networkPolicy.enabled=true,networkPolicy.from[0].ipBlock.cidr=10.0.0.0/8",
            "cidr: 10.0.0.0/8",
        ),
        ("networkPolicy.enabled=true,networkPolicy.egress[0].ports[0].port=53", "- Egress"),
        (
            "ingress.enabled=true,ingress.hosts={a.example},ingress.tls[0].secretName=s",
            "secretName: s",
        ),
    ] {
        checks.check(arguments, || {
            let plain = text(KUBERNETES[1], &[])?;
            let changed = text(KUBERNETES[1], &["--set", arguments])?;
            ensure!(changed.contains(words), "{words} is not in\n{changed}");
            ensure!(plain != changed, "it changes nothing");
            objects(&changed)?;
            Ok(())
        });
    }
    checks.finish()
}

#[test]
fn strings_in_more_objects_are_templates() -> Result<()> {
    let secret = r#"extraObjects=[{"kind":"Secret","metadata":{"name":"{{ .Release.Name }}-x","namespace":"images"}}]"#;
    object(&rendered(&["--set-json", secret])?, "Secret", "demo-x").map(drop)
}

#[test]
fn it_can_be_a_dependency() -> Result<()> {
    let scratch = Scratch::new("parent")?;
    let chart = format!(
        "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n  - name: roadstead\n    \
         version: {}\n    repository: file://{}\n    condition: roadstead.enabled\n",
        conformance::ship::image::VERSION,
        chart::directory().canonicalize()?.display(),
    );
    fs::write(scratch.join("Chart.yaml"), chart)?;
    let values = format!(
        "global: {{team: a}}\nroadstead:\n  enabled: true\n  image: {{repository: {REPOSITORY}}}\n"
    );
    fs::write(scratch.join("values.yaml"), values)?;
    process::run(chart::helm()?.args(["dependency", "build"]).arg(scratch.path()))?;
    let parent = scratch.path().to_string_lossy();
    let on = objects(&render(&parent, KUBERNETES[1], &[])?)?;
    object(&on, "StatefulSet", NAME)?;
    let off = objects(&render(&parent, KUBERNETES[1], &["--set", "roadstead.enabled=false"])?)?;
    ensure!(off.is_empty(), "{off:?}");
    Ok(())
}

#[test]
fn it_is_published_to_our_registry_and_rendered_from_there() -> Result<()> {
    let scratch = Scratch::new("published")?;
    let first = chart::package(&scratch.join("a"))?;
    // Another time and another place: the same bytes.
    let second = chart::package(&scratch.join("b"))?;
    ensure!(
        image::sha256(&fs::read(&first)?) == image::sha256(&fs::read(&second)?),
        "two packages of one commit differ"
    );
    let registry = Registry::start(Options::default())?;
    let place = format!("oci://{}/charts", registry.localhost());
    process::run(chart::helm()?.args(["push", "--plain-http"]).arg(&first).arg(&place))?;
    let repository = format!("image.repository={REPOSITORY}");
    let version = conformance::ship::image::VERSION;
    let arguments = ["--plain-http", "--version", version, "--set", &repository];
    let from_there = render(&format!("{place}/roadstead"), KUBERNETES[1], &arguments)?;
    ensure!(objects(&from_there)? == rendered(&[])?, "what came back renders differently");
    Ok(())
}

/// `ROADSTEAD_WRITE=1` writes the table anew.
#[test]
fn its_readme_has_every_value() -> Result<()> {
    let read = |name| fs::read_to_string(chart::directory().join(name));
    let table = chart::values_table(&read("values.yaml")?)?;
    let readme = read("README.md")?;
    let (before, rest) = readme.split_once("<!-- values -->\n").context("<!-- values -->")?;
    let (found, after) = rest.split_once("<!-- /values -->").context("<!-- /values -->")?;
    if std::env::var_os("ROADSTEAD_WRITE").is_some() {
        let text = format!("{before}<!-- values -->\n{table}<!-- /values -->{after}");
        fs::write(chart::directory().join("README.md"), text)?;
        return Ok(());
    }
    ensure!(found == table, "README.md is not current: run this test with ROADSTEAD_WRITE=1");
    Ok(())
}
