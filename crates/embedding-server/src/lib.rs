//! A real HTTP server on 127.0.0.1 that speaks the embeddings format of OpenAI: an endpoint to try ingestion with, and
//! one for tests that fails on command.
//!
//! Its vectors are those of [`HashEmbedder`]: texts that share words are near each other.
//!
//! **Owns** the listener, a thread per connection, and the faults it is told to have. **Must not know** who asks.

#![forbid(unsafe_code)]

mod fault;
mod request;
mod respond;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use plimsoll_ingest::HashEmbedder;

pub use fault::Fault;

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What the threads of a server share.
#[derive(Debug)]
struct Shared {
    embedder: HashEmbedder,
    stopping: AtomicBool,
    /// Wakes connections that hang, when the server stops.
    stop: (Mutex<bool>, Condvar),
    script: Mutex<Script>,
    requests: AtomicU64,
    texts: AtomicU64,
}

/// What a server was told to do, and what it has seen.
#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Fault>,
    always: Option<Fault>,
    refused: Option<(String, u16)>,
    key: Option<String>,
    seen: Vec<String>,
    authorization: Option<String>,
}

impl Server {
    /// Listens on a port of 127.0.0.1 (0: any free one), with vectors of `dimension` numbers.
    ///
    /// # Errors
    /// When the dimension can not be one, the port is taken, or there is no thread to be had.
    pub fn start(port: u16, dimension: usize) -> io::Result<Self> {
        let embedder = HashEmbedder::new(dimension)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            embedder,
            stopping: AtomicBool::new(false),
            stop: (Mutex::new(false), Condvar::new()),
            script: Mutex::default(),
            requests: AtomicU64::new(0),
            texts: AtomicU64::new(0),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("embedding-server".into())
                .spawn(move || accept(&listener, &shared))?
        };
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// What clients put before `/embeddings`: `http://127.0.0.1:PORT/v1`.
    pub fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The next requests that no other fault waits for have this one, one each.
    pub fn next(&self, fault: Fault) {
        self.shared.script.lock().next.push_back(fault);
    }

    /// From now on all requests have this fault, or none.
    pub fn always(&self, fault: Option<Fault>) {
        self.shared.script.lock().always = fault;
    }

    /// Requests with a text that holds `marker` are answered with `status`, as those are that a model can not read.
    pub fn refuse(&self, marker: &str, status: u16) {
        self.shared.script.lock().refused = Some((marker.to_owned(), status));
    }

    /// Requests need this API key.
    pub fn require_key(&self, key: &str) {
        self.shared.script.lock().key = Some(key.to_owned());
    }

    /// How many requests have come, with those that got a fault.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many texts have got a good vector.
    pub fn texts(&self) -> u64 {
        self.shared.texts.load(Ordering::SeqCst)
    }

    /// The texts of all requests that could be read, in the order of their arrival.
    pub fn seen(&self) -> Vec<String> {
        self.shared.script.lock().seen.clone()
    }

    /// The last `Authorization` header that has come.
    pub fn authorization(&self) -> Option<String> {
        self.shared.script.lock().authorization.clone()
    }

    /// Waits until the server stops, which it does only when it can not listen any more.
    pub fn wait(mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            // A thread that panicked has said so.
            let _ = acceptor.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        *self.shared.stop.0.lock() = true;
        self.shared.stop.1.notify_all();
        // The acceptor waits for a connection: this is one.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    /// Waits for at most a time, or until the server stops. Whether it goes on.
    fn pause(&self, time: Duration) -> bool {
        let mut stopped = self.stop.0.lock();
        if !*stopped {
            self.stop.1.wait_for(&mut stopped, time);
        }
        !*stopped
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        let shared = Arc::clone(shared);
        // A client that gets no answer because there is no thread sees a closed connection, as it should. So does one
        // that has gone away: an error of its connection is its own.
        let _ = std::thread::Builder::new()
            .name("embedding-connection".into())
            .spawn(move || drop(respond::respond(connection, &shared)));
    }
}
