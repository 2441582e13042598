//! The extension as a whole: installing, updating, dropping it, what it grants, and what is written about it.

mod administrator;
mod ambient;
mod bi_views;
mod capture;
mod dbt;
mod doctor;
mod dropping;
mod frameworks;
mod harness;
mod installation;
mod monitoring;
mod package;
mod privileges;
mod readme;
mod reference;
mod runbooks;
mod superset;
mod upgrade;
