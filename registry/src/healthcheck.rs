//! Asking a running registry whether it is ready; an image without curl has nothing else to ask with.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use registry::config::Config;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};

/// How long is waited for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to ask [default: http.debug.addr, else http.addr, of the configuration that `serve`
    /// reads; whether pulls can be served]. With TLS nobody's certificate is checked: the question
    /// is only whether it serves
    pub(crate) url: Option<String>,
    /// Certificate to show where the registry wants one (http.tls.clientcas)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// That certificate's key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, url: &str) -> ExitCode {
    match ask(args, url) {
        Ok(status) if status.starts_with("200") => return ExitCode::SUCCESS,
        Ok(status) => eprintln!("registry: {url} answers {status}"),
        Err(error) => {
            eprintln!("registry: {url}: {error}");
            if error.to_string().contains("CertificateRequired") {
                eprintln!(
                    "hint: the registry wants a certificate (http.tls.clientcas): name one with \
                     --cert and --key, or set http.debug.addr, which is asked without"
                );
            }
        }
    }
    ExitCode::FAILURE
}

/// Where a registry that is configured so says whether pulls can be served.
pub(crate) fn url(config: &Config) -> String {
    let (scheme, address) = match (&config.http.debug, &config.tls) {
        (Some(debug), _) => ("http", debug.addr.as_str()),
        (None, Some(_)) => ("https", config.addr.as_str()),
        (None, None) => ("http", config.addr.as_str()),
    };
    // What listens everywhere listens on loopback, too.
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "5000"));
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    format!("{scheme}://{host}:{port}/readyz?exclude=writes")
}

/// The status of a GET: code and reason.
fn ask(args: &Args, url: &str) -> io::Result<String> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "no http:// or https:// address");
    let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, "readyz"));
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(invalid()),
    };
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    if scheme == "http" {
        let answer = exchange(connect(&address)?, &request)?;
        // So that the address need not be told anew when the registry is given a certificate.
        if !answer.contains("HTTP request to an HTTPS server") {
            return Ok(status(&answer));
        }
    }
    let tcp = connect(&address)?;
    let name = ServerName::from(tcp.peer_addr()?.ip());
    let client = ClientConnection::new(Arc::new(client(args)?), name).map_err(io::Error::other)?;
    exchange(StreamOwned::new(client, tcp), &request).map(|answer| status(&answer))
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidInput, "unknown host");
    let address = address.to_socket_addrs()?.next().ok_or_else(unknown)?;
    let tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer) {
        // Enough for a status.
        Err(_) if !answer.is_empty() => {}
        read => drop(read?),
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn status(answer: &str) -> String {
    let status = answer.lines().next().and_then(|line| line.split_once(' '));
    status.map_or_else(|| "nothing".to_owned(), |(_, status)| status.to_owned())
}

fn client(args: &Args) -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let (Some(cert), Some(key)) = (&args.cert, &args.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let file = |path: &PathBuf, error| io::Error::other(format!("{}: {error}", path.display()));
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|error| file(cert, error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, error))?;
    builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
}

/// Takes any certificate. Nothing secret is sent, and nothing but a status is learnt.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_configured_is_what_is_asked() {
        for (yaml, want) in [
            ("", "http://127.0.0.1:5000"),
            ("http: {addr: ':80'}", "http://127.0.0.1:80"),
            ("http: {addr: '0.0.0.0:80', debug: {addr: ''}}", "http://127.0.0.1:80"),
            ("http: {addr: '[::]:80'}", "http://[::1]:80"),
            ("http: {addr: 'r.example:80'}", "http://r.example:80"),
            ("http: {addr: ':443', tls: {certificate: /c, key: /k}}", "https://127.0.0.1:443"),
            (
                "http: {debug: {addr: 'localhost:5001'}, tls: {certificate: /c, key: /k}}",
                "http://localhost:5001",
            ),
        ] {
            let loaded = Config::parse(Path::new("config.yml"), yaml, &[]).unwrap();
            assert_eq!(url(&loaded.config), format!("{want}/readyz?exclude=writes"), "{yaml}");
        }
    }
}
