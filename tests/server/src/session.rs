//! A session that writes down everything it is sent.

use crate::Database;
use postgres::{Client, NoTls, SimpleQueryMessage};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

/// A client's session, compared with another's byte for byte.
pub struct Session {
    client: Client,
    notices: Arc<Mutex<String>>,
}

impl Session {
    /// Connects to the database `name` as a role of `of`.
    pub fn new(name: &str, of: &Database, role: &str) -> Self {
        let notices = Arc::new(Mutex::new(String::new()));
        let seen = notices.clone();
        let mut config = of.config(role);
        config.dbname(name).notice_callback(move |notice| {
            let detail = notice.detail().unwrap_or_default();
            writeln!(seen.lock().unwrap(), "{}: {} {detail}", notice.severity(), notice.message()).unwrap();
        });
        let client =
            config.connect(NoTls).unwrap_or_else(|problem| panic!("connecting as {role}: {problem}"));
        Self { client, notices }
    }

    /// Everything that a statement answers: rows, notices, errors with all their fields. A transaction that it leaves
    /// open is rolled back.
    pub fn answer(&mut self, statement: &str) -> String {
        let mut text = String::new();
        match self.client.simple_query(statement) {
            Ok(messages) => {
                for message in messages {
                    match message {
                        SimpleQueryMessage::Row(row) => {
                            let cells: Vec<_> = (0..row.len()).map(|column| row.get(column)).collect();
                            writeln!(text, "{cells:?}").unwrap();
                        }
                        SimpleQueryMessage::CommandComplete(rows) => writeln!(text, "{rows}").unwrap(),
                        _ => (),
                    }
                }
            }
            Err(error) => match error.as_db_error() {
                Some(error) => writeln!(
                    text,
                    "{} {}: {} | {:?} | {:?} | {:?} | {:?} {:?} {:?}",
                    error.severity(),
                    error.code().code(),
                    error.message(),
                    error.detail(),
                    error.hint(),
                    error.where_(),
                    error.table(),
                    error.column(),
                    error.constraint()
                )
                .unwrap(),
                None => panic!("{statement}: {error}"),
            },
        }
        self.client.batch_execute("ROLLBACK").unwrap_or_else(|error| panic!("after {statement}: {error}"));
        text + &std::mem::take(&mut *self.notices.lock().unwrap())
    }
}
