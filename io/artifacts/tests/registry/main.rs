//! The registry over real sockets: the flows of the distribution-spec, and the rows of FAULTS that apply to it.

mod client;
mod crash;
mod discovery;
mod hostile;
mod pull;
mod push;
mod rules;
