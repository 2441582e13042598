//! What survives: kills, full disks, failover, replication, dumps, and other releases.

mod crash;
mod disk_full;
mod failover;
mod pg_upgrade;
mod replicated;
mod restore;
