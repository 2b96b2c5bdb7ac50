//! What every HTTP listener of this house has in common, each rule in one place (SPEC 1): who may ask ([`Site`], [`Token`],
//! [`unix`]), how much and how long ([`Limits`], [`Patient`], [`lengths`]), and how it ends ([`accept`], [`connection`]).
//!
//! [`serve`] is a whole small server for whoever answers whole requests; who streams bodies takes [`accept`] and
//! [`connection`]. Both are generic over the [`Listener`], so that a simulated network can stand in.

mod connection;
pub mod lengths;
mod listen;
mod patient;
mod site;
mod token;
pub mod unix;
mod whole;

pub use connection::{ACCEPT_PAUSE, Limits, Stop, accept, connection, is_of_one_connection, told_to_stop, turn_away};
pub use listen::{BindError, Listener, bind, bind_loopback};
pub use patient::{PACE, Patient};
pub use site::{Foreign, Site};
pub use token::{Token, TokenError};
pub use unix::{Credentials, UnixSocket};
pub use whole::{Answer, Asked, Bodies, Handler, json, serve, text, wrong_method};
