//! One connection's handshake.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Tls;

/// What a client gets that speaks HTTP without TLS. The words are those of Go's server, which
/// clients and people know.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// How greeting a client ended.
pub(crate) enum Greeting {
    Done(Box<TlsStream<TcpStream>>),
    /// It has closed without a word, as probes do that ask whether the port is open.
    Silent,
    /// For the log. The client was told why, and has to be given time to read it.
    Failed(io::Error, TcpStream),
}

/// Greets a client. Waits for it without end.
///
/// # Errors
/// When the connection is broken.
pub(crate) async fn accept(tls: &Tls, mut tcp: TcpStream) -> io::Result<Greeting> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Ok(Greeting::Silent);
    }
    // TLS begins with a record of type 22 (RFC 8446 §5.1), HTTP with a method.
    if first[0].is_ascii_alphabetic() {
        tcp.write_all(PLAIN_HTTP).await?;
        let error = io::Error::other("the client speaks HTTP without TLS");
        return Ok(Greeting::Failed(error, tcp));
    }
    Ok(match TlsAcceptor::from(tls.current()).accept(tcp).into_fallible().await {
        Ok(stream) => Greeting::Done(Box::new(stream)),
        Err((error, tcp)) => Greeting::Failed(error, tcp),
    })
}
