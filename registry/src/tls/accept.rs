//! One connection's handshake.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Tls;

/// What a client gets that speaks HTTP without TLS. The words are those of Go's server, which
/// clients and people know.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// For a client to take its last answer and close.
const GOODBYE: Duration = Duration::from_secs(2);

/// Greets a client, until `deadline` at the latest. `None`: it has closed without a word, as probes
/// do that ask whether the port is open.
///
/// # Errors
/// What went wrong, for the log; the connection is of no use then.
pub(crate) async fn accept(
    tls: &Tls,
    tcp: TcpStream,
    deadline: Instant,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    let greeting = async {
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        // TLS begins with a record of type 22 (RFC 8446 §5.1), HTTP with a method.
        if first[0].is_ascii_alphabetic() {
            let mut tcp = tcp;
            tcp.write_all(PLAIN_HTTP).await?;
            part(tcp).await;
            return Err(io::Error::other("the client speaks HTTP without TLS"));
        }
        match TlsAcceptor::from(tls.current()).accept(tcp).into_fallible().await {
            Ok(stream) => Ok(Some(stream)),
            Err((error, tcp)) => {
                part(tcp).await;
                Err(error)
            }
        }
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
    timeout_at(deadline, greeting).await.map_err(late)?
}

/// Lets the client read why: closing with bytes unread would reset the connection.
async fn part(mut tcp: TcpStream) {
    let reading = async {
        tcp.shutdown().await?;
        let mut dropped = [0; 4096];
        while tcp.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(GOODBYE, reading).await;
}
