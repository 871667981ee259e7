//! `http.tls`: distribution's keys, as far as they can be kept.

use super::ConfigError;
use super::file::{File, Tls};
use crate::tls::{Clients, Minimum, Settings, cipher_suites};

/// Reads the section. `None`: HTTP without TLS, as an empty section means with distribution too.
pub(super) fn settings(
    file: &File,
    notes: &mut Vec<String>,
) -> Result<Option<Settings>, ConfigError> {
    let Some(tls) = &file.http.tls else { return Ok(None) };
    refuse_letsencrypt(tls)?;
    let path = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (certificate, key) = match (path(&tls.certificate), path(&tls.key)) {
        (Some(certificate), Some(key)) => (certificate.into(), key.into()),
        (None, None) if asks_for_nothing(tls) => return Ok(None),
        (Some(_), None) => return refuse("http.tls.key", MISSING),
        (None, _) => return refuse("http.tls.certificate", MISSING),
    };
    if file.http.host.as_ref().is_some_and(|host| host.starts_with("http://")) {
        notes.push("http.host says http:// and http.tls is on: clients are sent elsewhere".into());
    }
    Ok(Some(Settings {
        clients: clients(tls)?,
        minimum: minimum(tls.minimumtls.as_deref(), notes)?,
        cipher_suites: suites(tls.ciphersuites.as_deref().unwrap_or_default())?,
        ..Settings::new(certificate, key)
    }))
}

const MISSING: &str = "is missing: TLS takes a certificate and its key, both as PEM files; \
     without any key under http.tls plain HTTP is served";

fn refuse<T>(key: &'static str, what: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value { key, what: what.into() })
}

/// Whether a section without certificate holds nothing that plain HTTP would break.
fn asks_for_nothing(tls: &Tls) -> bool {
    let empty = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    let none = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    empty(&tls.minimumtls)
        && empty(&tls.clientauth)
        && none(&tls.clientcas)
        && none(&tls.ciphersuites)
}

fn refuse_letsencrypt(tls: &Tls) -> Result<(), ConfigError> {
    let Some(section) = &tls.letsencrypt else { return Ok(()) };
    let empty = |value: &serde_json::Value| {
        value.is_null()
            || value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
    };
    if section.values().all(empty) {
        return Ok(());
    }
    refuse(
        "http.tls.letsencrypt",
        "certificates are not fetched: let certbot, lego or cert-manager write them to files and \
         name these in http.tls.certificate and http.tls.key; they are read again when they change",
    )
}

fn clients(tls: &Tls) -> Result<Clients, ConfigError> {
    let authorities = tls.clientcas.iter().flatten().map(Into::into).collect::<Vec<_>>();
    let word = tls.clientauth.as_deref().unwrap_or_default();
    match (word, authorities.is_empty()) {
        ("", true) => Ok(Clients::Anybody),
        ("" | "require-and-verify-client-cert", false) => Ok(Clients::Certified(authorities)),
        ("verify-client-cert-if-given", false) => Ok(Clients::CertifiedIfGiven(authorities)),
        ("require-and-verify-client-cert" | "verify-client-cert-if-given", true) => {
            refuse("http.tls.clientauth", "needs the authorities to check with: http.tls.clientcas")
        }
        ("request-client-cert" | "require-any-client-cert", _) => refuse(
            "http.tls.clientauth",
            "a certificate that nobody checks proves nothing: use require-and-verify-client-cert \
             or verify-client-cert-if-given",
        ),
        (other, _) => refuse(
            "http.tls.clientauth",
            format!(
                "{other:?} is neither require-and-verify-client-cert nor \
                 verify-client-cert-if-given"
            ),
        ),
    }
}

fn minimum(word: Option<&str>, notes: &mut Vec<String>) -> Result<Minimum, ConfigError> {
    match word.unwrap_or_default() {
        "" | "tls1.2" => Ok(Minimum::Tls12),
        "tls1.3" => Ok(Minimum::Tls13),
        old @ ("tls1.0" | "tls1.1") => {
            notes
                .push(format!("http.tls.minimumtls: {old} is broken, TLS 1.2 is the least spoken"));
            Ok(Minimum::Tls12)
        }
        other => refuse("http.tls.minimumtls", format!("{other:?} is neither tls1.2 nor tls1.3")),
    }
}

/// As with Go, which distribution is written in, the list is about TLS 1.2.
fn suites(names: &[String]) -> Result<Vec<String>, ConfigError> {
    let known = cipher_suites();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        None => Ok(names.to_vec()),
        Some(name) => refuse(
            "http.tls.ciphersuites",
            format!(
                "{name:?} is not offered, use some of {}, or leave the key out",
                known.join(", ")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, Loaded};
    use super::*;

    fn load(tls: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let text = format!("http: {{tls: {tls}}}");
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Config::parse(Path::new("config.yml"), &text, &variables)
    }

    #[test]
    fn distributions_keys_are_kept() {
        let loaded = load(
            "{certificate: /c, key: /k, clientcas: [/a, /b], minimumtls: tls1.3,
              ciphersuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256], letsencrypt: {hosts: []}}",
            &[("REGISTRY_HTTP_TLS_KEY", "/other")],
        );
        let loaded = loaded.unwrap();
        assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
        let tls = loaded.config.tls.unwrap();
        assert_eq!((tls.certificate, tls.key), ("/c".into(), "/other".into()));
        assert_eq!(tls.clients, Clients::Certified(vec!["/a".into(), "/b".into()]));
        assert_eq!((tls.minimum, tls.cipher_suites.len()), (Minimum::Tls13, 1));

        let variables = [
            ("REGISTRY_HTTP_TLS_CERTIFICATE", "/c"),
            ("REGISTRY_HTTP_TLS_KEY", "/k"),
            ("REGISTRY_HTTP_TLS_CLIENTCAS_0", "/a"),
            ("REGISTRY_HTTP_TLS_CLIENTAUTH", "verify-client-cert-if-given"),
            ("REGISTRY_HTTP_TLS_MINIMUMTLS", "tls1.0"),
        ];
        let loaded = load("", &variables).unwrap();
        assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
        let tls = loaded.config.tls.unwrap();
        assert_eq!(tls.clients, Clients::CertifiedIfGiven(vec!["/a".into()]));
        assert_eq!(tls.minimum, Minimum::Tls12);
    }

    #[test]
    fn an_empty_section_is_plain_http() {
        for tls in ["", "{}", "{certificate: '', key: ''}", "{letsencrypt: {email: '', hosts: []}}"]
        {
            assert_eq!(load(tls, &[]).unwrap().config.tls, None, "{tls}");
        }
    }

    #[test]
    fn what_would_be_less_than_asked_for_is_refused_with_what_to_do() {
        for (tls, key, hint) in [
            ("{certificate: /c}", "http.tls.key", "PEM"),
            ("{key: /k}", "http.tls.certificate", "PEM"),
            ("{minimumtls: tls1.3}", "http.tls.certificate", "PEM"),
            ("{clientcas: [/a]}", "http.tls.certificate", "PEM"),
            ("{letsencrypt: {email: a@b.c}}", "http.tls.letsencrypt", "certbot"),
            ("{certificate: /c, key: /k, minimumtls: ssl3}", "http.tls.minimumtls", "tls1.3"),
            (
                "{certificate: /c, key: /k, ciphersuites: [TLS_RSA_WITH_AES_128_CBC_SHA]}",
                "http.tls.ciphersuites",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            ),
            (
                "{certificate: /c, key: /k, clientauth: require-and-verify-client-cert}",
                "http.tls.clientauth",
                "http.tls.clientcas",
            ),
            (
                "{certificate: /c, key: /k, clientcas: [/a], clientauth: request-client-cert}",
                "http.tls.clientauth",
                "verify-client-cert-if-given",
            ),
            ("{certificate: /c, key: /k, clientauth: x}", "http.tls.clientauth", "neither"),
        ] {
            let error = load(tls, &[]).unwrap_err().to_string();
            assert!(error.starts_with(key) && error.contains(hint), "{tls}: {error}");
        }
    }
}
