//! Why a tenant's call is refused.

use crate::backend::report::Report;

/// Why a call is refused, with nothing stored.
#[derive(Debug)]
pub enum QuotaError {
    Rate { tenant: String, events_per_minute: i64, sent: i64, left: i64, wait: Option<f64>, burst: i64 },
    Batch { tenant: String, sent: i64, most: i64 },
    Quarantine { tenant: String, most: i64, added: i64 },
}

impl From<QuotaError> for Report {
    fn from(error: QuotaError) -> Self {
        let code = "53400";
        match error {
            QuotaError::Rate { tenant, events_per_minute, sent, left, wait, burst } => {
                let report = Report::new(code, format!("tenant \"{tenant}\" is over its quota of {events_per_minute} events a minute"))
                    .detail(format!("the call has {sent} events and {left} can be sent now; nothing of it was stored"));
                match wait {
                    Some(seconds) => report.hint(format!("retry in {:.0} s", seconds.ceil().max(1.0))),
                    None => report.hint(format!("at most {burst} can be sent at once: send smaller batches")),
                }
            }
            QuotaError::Batch { tenant, sent, most } => {
                Report::new(code, format!("the call has {sent} events of tenant \"{tenant}\", at most {most} are allowed"))
                    .hint("send smaller batches, at once; nothing of this one was stored")
            }
            QuotaError::Quarantine { tenant, most, added } => {
                Report::new(code, format!("tenant \"{tenant}\" may have at most {most} events in quarantine, and the call would bring more"))
                    .detail(format!("{added} of its events are not valid or conflict; nothing of it was stored"))
                    .hint(if added > most {
                        "send fewer such events in a call; a call whose events are all good goes in"
                    } else {
                        "retry once some have left it, by tally.redrive() or tally.discard(); a call whose events are all good goes in"
                    })
            }
        }
    }
}
