//! One request from a connection, of bounded length.

use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;

use serde::Deserialize;

const MAX_HEAD: u64 = 64 << 10;
const MAX_BODY: usize = 256 << 20;

/// The parts of a request that matter here.
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What the body says.
#[derive(Deserialize)]
pub(crate) struct Body {
    pub(crate) model: String,
    pub(crate) input: Input,
}

/// One text or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Input {
    One(String),
    Several(Vec<String>),
}

/// Reads a request.
///
/// # Errors
/// When the connection ends or the request is longer than any should be.
pub(crate) fn read(connection: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(connection);
    let mut head = (&mut reader).take(MAX_HEAD);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut length = 0usize;
    let mut authorization = None;
    loop {
        let mut header = String::new();
        if head.read_line(&mut header)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?,
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    if length > MAX_BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { line, authorization, body })
}
