//! An HTTP/1.1 client of a few hundred lines: tests need bytes on the wire that no library sends.
//!
//! Plain TCP only. Nothing is followed, retried or corrected: what the server said is returned.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// Longer than any answer may take; a test that waits on purpose sets its own.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A head larger than this is a defect of the server.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The value of a header that must be there.
    ///
    /// # Errors
    /// When it is not, with the whole answer.
    pub fn need(&self, name: &str) -> anyhow::Result<&str> {
        self.header(name).with_context(|| format!("no {name} in {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// Passes the answer on if it has this status.
    ///
    /// # Errors
    /// When it has another, with headers and body.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "wanted {status}, got {} {:?}\n{}",
            self.status,
            self.headers,
            self.text().chars().take(2000).collect::<String>()
        );
        Ok(self)
    }

    /// Passes an OCI error on if it has this status and exactly these codes (distribution-spec,
    /// "Error Codes").
    ///
    /// # Errors
    /// When it is anything else.
    pub fn expect_error(self, status: u16, codes: &[&str]) -> anyhow::Result<Self> {
        let response = self.expect(status)?;
        let body = response.json()?;
        let errors = body["errors"].as_array().with_context(|| format!("errors in {body}"))?;
        let found: Vec<&str> = errors.iter().filter_map(|error| error["code"].as_str()).collect();
        ensure!(found == codes, "wanted the codes {codes:?}, got {body}");
        Ok(response)
    }
}

/// The body of a request.
pub enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    /// `Transfer-Encoding: chunked`, one chunk for each slice.
    Chunked(&'a [&'a [u8]]),
    /// So many bytes from a reader.
    Stream(u64, &'a mut dyn Read),
}

/// One request, built up and sent.
pub struct Request<'a> {
    method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, String)>,
    body: Body<'a>,
}

impl<'a> Request<'a> {
    /// `target` is sent as it is: path and query, encoded.
    pub fn new(method: &'a str, target: &'a str) -> Self {
        Self { method, target, headers: Vec::new(), body: Body::None }
    }

    #[must_use]
    pub fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: Body<'a>) -> Self {
        self.body = body;
        self
    }

    #[must_use]
    pub fn bytes(self, bytes: &'a [u8]) -> Self {
        self.body(Body::Bytes(bytes))
    }

    /// Sends it on a connection of its own and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn send(self, address: SocketAddr) -> anyhow::Result<Response> {
        let mut connection = Connection::open(address)?;
        connection.exchange(self.header("Connection", "close"))
    }
}

/// A connection that is kept.
pub struct Connection {
    reader: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Connection {
    /// # Errors
    /// When nobody listens.
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { reader: BufReader::with_capacity(128 << 10, stream), address })
    }

    /// The socket itself, for a test that sends what is no request.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn exchange(&mut self, request: Request<'_>) -> anyhow::Result<Response> {
        let mut body = Vec::new();
        let mut response = self.exchange_into(request, &mut body)?;
        response.body = body;
        Ok(response)
    }

    /// Like [`Connection::exchange`], with the body of the answer written to `sink` as it comes.
    ///
    /// # Errors
    /// When the connection fails or the answer is not HTTP.
    pub fn exchange_into(
        &mut self,
        request: Request<'_>,
        sink: &mut dyn Write,
    ) -> anyhow::Result<Response> {
        let line = format!("{} {}", request.method, request.target);
        let head_only = request.method == "HEAD";
        let sent = self.send(request);
        // A server may answer before it has read everything, and close: the answer counts then,
        // and the broken pipe does not.
        let received = self.receive(head_only, sink);
        match (sent, received) {
            (_, Ok(response)) => Ok(response),
            (Err(error), Err(_)) => Err(error).with_context(|| format!("send {line}")),
            (Ok(()), Err(error)) => Err(error).with_context(|| format!("answer to {line}")),
        }
    }

    /// Sends a request without waiting for the answer.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn send(&mut self, request: Request<'_>) -> anyhow::Result<()> {
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &request.body {
            Body::None if matches!(request.method, "POST" | "PUT" | "PATCH") => {
                head.push_str("Content-Length: 0\r\n");
            }
            Body::None => {}
            Body::Bytes(bytes) => head.push_str(&format!("Content-Length: {}\r\n", bytes.len())),
            Body::Stream(length, _) => head.push_str(&format!("Content-Length: {length}\r\n")),
            Body::Chunked(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        let stream = self.reader.get_mut();
        match request.body {
            Body::None => stream.write_all(head.as_bytes())?,
            Body::Bytes(bytes) if bytes.len() < 64 << 10 => {
                // One write: head and body in two would measure Nagle's algorithm.
                stream.write_all(&[head.as_bytes(), bytes].concat())?;
            }
            Body::Bytes(bytes) => {
                stream.write_all(head.as_bytes())?;
                stream.write_all(bytes)?;
            }
            Body::Chunked(chunks) => {
                stream.write_all(head.as_bytes())?;
                for chunk in chunks {
                    write!(stream, "{:x}\r\n", chunk.len())?;
                    stream.write_all(chunk)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")?;
            }
            Body::Stream(length, reader) => {
                stream.write_all(head.as_bytes())?;
                copy_exactly(reader, stream, length)?;
            }
        }
        Ok(())
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When the connection ends early or the answer is not HTTP.
    pub fn receive(&mut self, head_only: bool, sink: &mut dyn Write) -> anyhow::Result<Response> {
        loop {
            let response = self.receive_head()?;
            // 100 Continue and its kin precede the answer.
            if response.status >= 200 {
                self.receive_body(&response, head_only, sink)?;
                return Ok(response);
            }
        }
    }

    fn receive_head(&mut self) -> anyhow::Result<Response> {
        let status_line = self.line()?;
        let mut words = status_line.split(' ');
        ensure!(
            words.next().is_some_and(|version| version.starts_with("HTTP/1.")),
            "not HTTP/1: {status_line}"
        );
        let status = words.next().context("a status")?.parse().context("a status")?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').with_context(|| format!("header {line}"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn receive_body(
        &mut self,
        response: &Response,
        head_only: bool,
        sink: &mut dyn Write,
    ) -> anyhow::Result<()> {
        if head_only || matches!(response.status, 204 | 304) {
            return Ok(());
        }
        if response.header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            return self.receive_chunks(sink);
        }
        match response.header("content-length") {
            Some(length) => {
                let length = length.parse().with_context(|| format!("length {length}"))?;
                copy_exactly(&mut self.reader, sink, length)
            }
            None => {
                io::copy(&mut self.reader, sink)?;
                Ok(())
            }
        }
    }

    fn receive_chunks(&mut self, sink: &mut dyn Write) -> anyhow::Result<()> {
        loop {
            let line = self.line()?;
            let length = u64::from_str_radix(line.trim(), 16).context("the size of a chunk")?;
            copy_exactly(&mut self.reader, sink, length)?;
            ensure!(self.line()?.is_empty(), "a chunk does not end where it says");
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(HEAD_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        ensure!(read > 0, "the connection ended");
        ensure!(line.ends_with(b"\r\n"), "a line without its end");
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line)?)
    }
}

fn copy_exactly(from: &mut dyn Read, to: &mut dyn Write, length: u64) -> anyhow::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut left = length;
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = from.read(&mut buffer[..wanted])?;
        ensure!(read > 0, "the body ended {left} bytes early");
        to.write_all(&buffer[..read])?;
        left -= read as u64;
    }
    Ok(())
}
