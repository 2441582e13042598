//! What the protocol allows and no client library of Rust's does: the call of a function, and a statement whose transaction the client
//! hasn't ended.

use crate::Database;
use postgres::config::Host;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A connection by messages.
pub struct Wire {
    stream: UnixStream,
    /// Process of the backend.
    pub pid: i32,
}

impl Wire {
    /// Connects as `role`.
    pub fn connect(database: &Database, role: &str) -> Wire {
        let config = database.config(role);
        let [Host::Unix(directory)] = config.get_hosts() else { panic!("tests connect by a socket") };
        let socket = directory.join(format!(".s.PGSQL.{}", config.get_ports()[0]));
        let stream = UnixStream::connect(socket).expect("connecting");
        let mut wire = Wire { stream, pid: 0 };
        let mut hello = 196_608_i32.to_be_bytes().to_vec();
        hello.extend(format!("user\0{role}\0database\0{}\0\0", database.name()).bytes());
        wire.send(&[], &hello);
        loop {
            match wire.message().expect("the server greets") {
                (b'K', body) => wire.pid = i32::from_be_bytes(body[..4].try_into().expect("a number")),
                (b'E', body) => panic!("{}", String::from_utf8_lossy(&body)),
                (b'Z', _) => return wire,
                _ => {}
            }
        }
    }

    /// Calls a function without arguments: the SQLSTATE of its error, or `V`, as the protocol names a value.
    pub fn call(&mut self, function: u32) -> String {
        let mut call = function.to_be_bytes().to_vec();
        call.extend([0; 6]);
        self.send(b"F", &call);
        let mut answer = String::new();
        while let Some((kind, body)) = self.message() {
            match kind {
                b'V' => answer = "V".to_owned(),
                b'E' => {
                    let fields = String::from_utf8_lossy(&body).into_owned();
                    let code = fields.split('\0').find_map(|field| field.strip_prefix('C'));
                    answer = code.expect("an error has an SQLSTATE").to_owned();
                }
                b'Z' => break,
                _ => {}
            }
        }
        answer
    }

    /// Runs a statement by the extended protocol, without saying that this was all, until the server has done it; the first column of
    /// its first row.
    pub fn execute(&mut self, statement: &str) -> Option<String> {
        self.begin(statement, &message(b"H", b""));
        let mut first = None;
        loop {
            match self.message().expect("the server answers") {
                (b'D', body) if first.is_none() => {
                    let length = u32::from_be_bytes(body[2..6].try_into().expect("a length")) as usize;
                    first = Some(String::from_utf8_lossy(&body[6..6 + length]).into_owned());
                }
                (b'C', _) => return first,
                (b'E', body) => panic!("{}", String::from_utf8_lossy(&body)),
                _ => {}
            }
        }
    }

    /// Sends a statement with `rest` behind it, and doesn't wait.
    pub fn begin(&mut self, statement: &str, rest: &[u8]) {
        let parse = message(b"P", format!("\0{statement}\0\0\0").as_bytes());
        let all = [&parse, &message(b"B", &[0; 8]), &message(b"E", &[0; 5]), rest].concat();
        self.stream.write_all(&all).expect("sending");
    }

    /// Says that this was all, which ends the transaction.
    pub fn sync(&mut self) {
        self.send(b"S", b"");
        while self.message().expect("the server answers").0 != b'Z' {}
    }

    fn send(&mut self, kind: &[u8], body: &[u8]) {
        self.stream.write_all(&message(kind, body)).expect("sending");
    }

    /// The server's next message; `None` at its end.
    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let length = i32::from_be_bytes(head[1..].try_into().expect("four bytes")) as usize;
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some((head[0], body))
    }
}

/// A message of the client's; the first one of a connection has no kind.
fn message(kind: &[u8], body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("short").to_be_bytes();
    [kind, &length, body].concat()
}
