//! Whom a row of a policy names at a Unix socket, and how often it lets him through. What may be asked there is for
//! each daemon to say.

mod rate;
mod users;

pub use rate::{Bucket, Rate};
pub use users::User;
