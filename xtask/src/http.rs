//! A small HTTP/1.1 client for the loopback: one request per connection, whole replies or a stream that the caller may
//! leave at any moment. It knows plain and chunked bodies and nothing else. Not a general client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub struct Reply {
    pub status: u16,
    pub body: String,
}

pub fn get(address: &str, path: &str, key: &str) -> Result<Reply> {
    send(address, "GET", path, key, "")?.finish()
}

/// Sends and reads the head; the body is left in the stream. Dropping the stream closes the connection.
pub fn send(address: &str, method: &str, path: &str, key: &str, body: &str) -> Result<Stream> {
    send_patiently(address, method, path, key, body, READ_TIMEOUT)
}

/// As [`send`], waiting for each piece at most `patience`.
pub fn send_patiently(
    address: &str,
    method: &str,
    path: &str,
    key: &str,
    body: &str,
    patience: Duration,
) -> Result<Stream> {
    let socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    (&socket).write_all(request.as_bytes())?;
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let Some(status) = status else { bail!("no status in `{}`", line.trim()) };
    let mut body = Body::UntilClosed;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the connection closed inside the head");
        }
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            return Ok(Stream { status, reader, body });
        }
        if let Some(length) = header.strip_prefix("content-length:") {
            body = Body::Left(length.trim().parse().context("a content-length that is no number")?);
        } else if header.starts_with("transfer-encoding:") && header.contains("chunked") {
            body = Body::Chunked;
        }
    }
}

pub struct Stream {
    pub status: u16,
    reader: BufReader<TcpStream>,
    body: Body,
}

impl Stream {
    /// The next piece of the body, `None` at its end.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        match self.body {
            Body::Left(0) => Ok(None),
            Body::Left(length) => {
                let mut piece = vec![0; length];
                self.reader.read_exact(&mut piece)?;
                self.body = Body::Left(0);
                Ok(Some(piece))
            }
            Body::UntilClosed => {
                let mut piece = Vec::new();
                self.reader.read_to_end(&mut piece)?;
                self.body = Body::Left(0);
                Ok(Some(piece))
            }
            Body::Chunked => self.chunk(),
        }
    }

    pub fn finish(mut self) -> Result<Reply> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece()? {
            body.extend(piece);
        }
        Ok(Reply { status: self.status, body: String::from_utf8(body).context("a body that is not UTF-8")? })
    }

    fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("the connection closed before the last chunk");
        }
        let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16)
            .with_context(|| format!("`{}` is no chunk size", line.trim()))?;
        let mut piece = vec![0; size + 2];
        self.reader.read_exact(&mut piece)?;
        piece.truncate(size);
        if size == 0 {
            self.body = Body::Left(0);
            return Ok(None);
        }
        Ok(Some(piece))
    }
}

#[derive(Clone, Copy)]
enum Body {
    Left(usize),
    Chunked,
    UntilClosed,
}

const READ_TIMEOUT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one request with these bytes and closes.
    fn answering(reply: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("the test connects");
            let mut lines = BufReader::new(&socket).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            (&socket).write_all(reply.as_bytes()).expect("the test reads");
        });
        address
    }

    #[test]
    fn both_kinds_of_body_are_read() {
        for reply in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwater",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nwat\r\n2\r\ner\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nwater",
        ] {
            let reply = get(&answering(reply), "/", "key").expect("a good reply");
            assert_eq!((reply.status, reply.body.as_str()), (200, "water"));
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let cut = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwater\r\n";
        assert!(get(&answering(cut), "/", "key").is_err());
    }
}
