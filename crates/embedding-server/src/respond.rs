//! The answer to a request, or what a fault makes of it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plimsoll_ingest::{Embedder, TextKind};
use serde_json::{Value, json};

use crate::request::{Body, Input, Request};
use crate::{Fault, Shared, request};

/// Serves one connection: one request, one answer.
pub(crate) fn respond(mut connection: TcpStream, shared: &Shared) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.set_nodelay(true)?;
    let reset = {
        let mut script = shared.script.lock();
        let reset = script.next.front().or(script.always.as_ref()) == Some(&Fault::Reset);
        if reset {
            script.next.pop_front();
        }
        reset
    };
    if reset {
        // Closing a connection with bytes in it that nobody has read resets it.
        shared.requests.fetch_add(1, Ordering::SeqCst);
        return connection.read_exact(&mut [0]);
    }
    let request = request::read(&connection)?;
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let fault = {
        let mut script = shared.script.lock();
        script.authorization.clone_from(&request.authorization);
        script.next.pop_front().or_else(|| script.always.clone())
    };
    answer(&mut connection, shared, &request, fault)
}

fn answer(to: &mut TcpStream, shared: &Shared, request: &Request, fault: Option<Fault>) -> io::Result<()> {
    let mut words = request.line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("GET"), Some("/health" | "/")) => return send(to, 200, "", b"{\"status\": \"ok\"}"),
        (Some("POST"), Some("/v1/embeddings")) => {}
        _ => return error(to, 404, "", "there is POST /v1/embeddings"),
    }
    let Ok(body) = serde_json::from_slice::<Body>(&request.body) else {
        return error(to, 400, "", "the body needs model and input");
    };
    let texts = match body.input {
        Input::One(text) => vec![text],
        Input::Several(texts) => texts,
    };
    let (refused, key) = {
        let mut script = shared.script.lock();
        script.seen.extend(texts.iter().cloned());
        (script.refused.clone(), script.key.clone())
    };
    if key.is_some_and(|key| request.authorization != Some(format!("Bearer {key}"))) {
        let sent = request.authorization.as_deref().unwrap_or("none");
        return error(to, 401, "", &format!("incorrect API key provided: {sent}"));
    }
    if let Some((marker, status)) = refused
        && let Some(at) = texts.iter().position(|text| text.contains(&marker))
    {
        return error(to, status, "", &format!("input {at} can not be read"));
    }
    let references: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut vectors = Vec::new();
    for (at, vector) in
        shared.embedder.embed(&references, TextKind::Passage).unwrap_or_default().into_iter().enumerate()
    {
        match vector {
            Ok(vector) => vectors.push(vector),
            Err(failure) => return error(to, 400, "", &format!("input {at}: {failure}")),
        }
    }
    match fault {
        None | Some(Fault::Shuffled) => {
            shared.texts.fetch_add(texts.len() as u64, Ordering::SeqCst);
            send(to, 200, "", &list(&body.model, &vectors, fault.as_ref()))
        }
        Some(fault) => fail(to, shared, &body.model, vectors, &fault),
    }
}

fn fail(
    to: &mut TcpStream,
    shared: &Shared,
    model: &str,
    vectors: Vec<Vec<f32>>,
    fault: &Fault,
) -> io::Result<()> {
    match fault {
        Fault::Status(status, header) => error(to, *status, header, "told to"),
        Fault::Hang => {
            while shared.pause(Duration::from_secs(60)) {}
            Ok(())
        }
        Fault::Drip => {
            let body = list(model, &vectors, None);
            to.write_all(head(200, "", body.len()).as_bytes())?;
            for byte in body {
                if !shared.pause(Duration::from_millis(100)) {
                    break;
                }
                to.write_all(&[byte])?;
            }
            Ok(())
        }
        Fault::Truncated => {
            let body = list(model, &vectors, None);
            to.write_all(head(200, "", body.len()).as_bytes())?;
            to.write_all(body.get(..body.len() / 2).unwrap_or_default())
        }
        Fault::HalfJson => {
            let body = list(model, &vectors, None);
            send(to, 200, "", body.get(..body.len() / 2).unwrap_or_default())
        }
        Fault::Huge => {
            to.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"data\": [",
            )?;
            // Until the client has had enough.
            loop {
                to.write_all(&[b' '; 64 << 10])?;
            }
        }
        Fault::Nonsense => send(to, 200, "", b"<html>sign in</html>"),
        fault => send(to, 200, "", &list(model, &vectors, Some(fault))),
    }
}

/// The list of vectors, with a fault that leaves it a list.
fn list(model: &str, vectors: &[Vec<f32>], fault: Option<&Fault>) -> Vec<u8> {
    let last = vectors.len().saturating_sub(1);
    let mut items: Vec<Value> = Vec::new();
    for (index, vector) in vectors.iter().enumerate() {
        let mut numbers: Vec<Value> = vector.iter().map(|number| json!(number)).collect();
        match fault {
            Some(Fault::AllShort) => drop(numbers.pop()),
            Some(Fault::OneShort) if index == last => drop(numbers.pop()),
            Some(Fault::Null) if index == last => {
                if let Some(first) = numbers.first_mut() {
                    *first = Value::Null;
                }
            }
            _ => {}
        }
        let index = if fault == Some(&Fault::SameIndex) { 0 } else { index };
        items.push(json!({"object": "embedding", "index": index, "embedding": numbers}));
    }
    match fault {
        Some(Fault::TooFew) => drop(items.pop()),
        Some(Fault::TooMany) => items.extend(items.last().cloned()),
        Some(Fault::Shuffled) => items.reverse(),
        _ => {}
    }
    let body =
        json!({"object": "list", "model": model, "data": items, "usage": {"prompt_tokens": 0}}).to_string();
    match fault {
        Some(Fault::NotANumber) => body.replacen("\"embedding\":[", "\"embedding\":[NaN,", 1).into_bytes(),
        _ => body.into_bytes(),
    }
}

fn error(to: &mut TcpStream, status: u16, header: &str, message: &str) -> io::Result<()> {
    send(to, status, header, json!({"error": {"message": message}}).to_string().as_bytes())
}

fn send(to: &mut TcpStream, status: u16, header: &str, body: &[u8]) -> io::Result<()> {
    to.write_all(head(status, header, body.len()).as_bytes())?;
    to.write_all(body)?;
    to.flush()
}

fn head(status: u16, header: &str, length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\n");
    if !header.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(head, "{header}\r\n");
    }
    let _ = write!(head, "content-length: {length}\r\nconnection: close\r\n\r\n");
    head
}
