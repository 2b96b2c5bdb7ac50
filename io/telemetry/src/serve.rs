//! The HTTP server of the sink and the bridge, within their bounds.

use std::net::SocketAddr;
use std::sync::Arc;

use io_http::{Bodies, Limits, Site};

use crate::bounds;

pub use io_http::{Answer, Asked, Handler, Listener, json, text, wrong_method};

/// Serves at this address, under these names beside it, until `shutdown` is ready.
pub async fn serve<L: Listener, H: Handler>(
    listener: L,
    address: SocketAddr,
    names: &[String],
    handler: Arc<H>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let limits = Limits {
        connections: bounds::CONNECTIONS,
        head_bytes: bounds::REQUEST_HEAD,
        head_time: bounds::HEAD_TIME,
        grace: bounds::GRACE,
        ..Limits::default()
    };
    let bodies =
        Bodies { bytes: bounds::REQUEST, time: bounds::BODY_TIME, at_once: bounds::BODIES, wait: bounds::BODIES_WAIT };
    let site = Site::new(address, names).or_any_address();
    io_http::serve(listener, site, handler, limits, bodies, shutdown).await;
}
