//! The whole system at work: every operation, every app, and what it survives.
#![cfg(test)]

mod accounts;
mod acknowledged;
mod apps;
mod audit;
mod cut_off;
mod denials;
mod directory;
mod heads;
mod lease;
mod lost_replies;
mod measured;
mod names;
mod operations;
mod outage;
mod page;
mod postgres;
mod put_back;
mod readme;
mod recovery;
mod red_button;
mod remote;
mod roll;
mod runbook;
mod storm;
mod taint;
mod tokens;
