//! An operator beside an administrator and a tenant: who may plant code, and who meets it.

use postgres::Client;
use tally_server_tests::Database;

/// An operator's schema `app`, an administrator who isn't superuser, a login bound to tenant a that reads and writes.
pub struct Scene {
    pub database: Database,
    pub admin: Client,
    pub adm: String,
    pub rw: String,
}

impl Scene {
    pub fn new(topic: &str) -> Self {
        let mut database = Database::new(topic);
        let [adm, rw] = [("adm", &["tally_admin"][..]), ("rw", &["tally_reader", "tally_writer"])]
            .map(|(name, groups)| database.role(name, groups));
        let mut admin = database.superuser();
        admin
            .batch_execute(&format!(
                "SELECT tally.bind_role('{rw}', 'a'); CREATE SCHEMA app AUTHORIZATION {adm}; GRANT USAGE ON SCHEMA app TO PUBLIC"
            ))
            .unwrap();
        Self { database, admin, adm, rw }
    }

    pub fn as_adm(&self) -> Client {
        self.database.connect(&self.adm)
    }
}
