//! A database whose sessions load the library when they begin, with a role of each class.

use crate::{Database, TokenSigner};
use postgres::error::SqlState;

/// The SQLSTATE of an outcome; `no error` where there is none.
pub fn code(outcome: Result<impl Sized, postgres::Error>) -> String {
    match outcome {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.code().map(SqlState::code).unwrap_or_default().to_owned(),
    }
}

/// Roles: bound to `a`, pool, trusted, a reader that is nothing, an analyst, and one that has nothing to do with pg_tally.
pub struct Confined {
    pub database: Database,
    pub signer: TokenSigner,
    pub roles: [String; 6],
}

impl Confined {
    /// Makes them.
    pub fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        let roles = [
            database.role("bound", &["tally_reader"]),
            database.role("pool", &["tally_reader"]),
            database.role("trusted", &["tally_reader"]),
            database.role("nobody", &["tally_reader"]),
            database.role("analyst", &["tally_analyst"]),
            database.role("stranger", &[]),
        ];
        let mut admin = database.superuser();
        admin
            .batch_execute(&format!(
                "ALTER DATABASE {} SET session_preload_libraries = pg_tally;
                 SELECT tally.bind_role('{}', 'a'), tally.pool_role('{}'), tally.trust_role('{}')",
                database.name(),
                roles[0],
                roles[1],
                roles[2]
            ))
            .unwrap();
        let signer = TokenSigner::new("k", 1);
        signer.register(&mut admin).unwrap();
        Confined { database, signer, roles }
    }
}
