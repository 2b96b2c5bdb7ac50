//! Connections: names are resolved here, and what is connected to are the very addresses that were checked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::time::timeout;

use super::{Options, Timeouts};
use crate::Fault;

/// To how many origins connections are kept: the registry, who gives out its tokens, and where its blobs lie.
const MAX_ORIGINS: usize = 16;

/// Clients by origin, each bound to the addresses that its name had when it was made.
pub(super) struct Net {
    place: String,
    tls: rustls::ClientConfig,
    /// An authority was named: TLS is meant.
    tls_only: bool,
    plain_http: bool,
    timeouts: Timeouts,
    clients: Mutex<BTreeMap<String, Client>>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("tls_only", &self.tls_only).finish_non_exhaustive()
    }
}

impl Net {
    pub(super) fn new(place: &str, options: &Options) -> Result<Self, Fault> {
        let tls = io_telemetry::client::tls_config(options.ca.as_deref(), None, None)
            .map_err(|error| Fault::broken(place, error.to_string()))?;
        Ok(Self {
            place: place.to_owned(),
            tls: tls.as_ref().clone(),
            tls_only: options.ca.is_some(),
            plain_http: options.plain_http,
            timeouts: options.timeouts,
            clients: Mutex::default(),
        })
    }

    /// Where a registry is spoken to, by its name with or without a port.
    pub(super) async fn base(&self, host: &str) -> Result<Url, Fault> {
        let parse = |scheme: &str| {
            let url = Url::parse(&format!("{scheme}://{host}/"));
            url.map_err(|error| Fault::refused(&self.place, format!("{host} is no registry's name: {error}")))
        };
        let secure = parse("https")?;
        if self.tls_only {
            return Ok(secure);
        }
        let plain = parse("http")?;
        let loopback = self.resolve(&plain).await?.iter().all(|address| is_loopback(address.ip()));
        Ok(if loopback || self.plain_http { plain } else { secure })
    }

    /// The client for a URL's origin. Plain HTTP goes to loopback addresses only, unless it was asked for.
    pub(super) async fn client(&self, url: &Url) -> Result<Client, Fault> {
        let plain = match url.scheme() {
            "https" => false,
            "http" => true,
            other => return Err(self.fault(format!("{other} is not spoken; only https and http are"))),
        };
        let origin = url.origin().ascii_serialization();
        if let Some(client) = self.clients().get(&origin) {
            return Ok(client.clone());
        }
        let addresses = self.resolve(url).await?;
        if plain && !self.plain_http && !addresses.iter().all(|address| is_loopback(address.ip())) {
            return Err(self.fault(format!("plain HTTP to {origin} is refused: not every address of it is loopback")));
        }
        let mut builder = Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .connect_timeout(self.timeouts.connect)
            .redirect(Policy::none())
            .referer(false)
            // What is configured is what is spoken to: proxy variables are not read.
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(8)
            .user_agent(concat!("autonomy/", env!("CARGO_PKG_VERSION")));
        if let Some(name) = url.domain() {
            builder = builder.resolve_to_addrs(name, &addresses);
        }
        let client = builder.build().map_err(|error| self.fault(format!("no client can be made: {error}")))?;
        let mut clients = self.clients();
        if clients.len() >= MAX_ORIGINS {
            clients.clear();
        }
        clients.insert(origin, client.clone());
        Ok(client)
    }

    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, Fault> {
        let port = url.port_or_known_default().unwrap_or(443);
        let host = url.host_str().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        match timeout(self.timeouts.connect, tokio::net::lookup_host((bare, port))).await {
            Ok(Ok(found)) => {
                let addresses: Vec<_> = found.collect();
                if addresses.is_empty() {
                    return Err(self.fault(format!("{bare} has no address")));
                }
                Ok(addresses)
            }
            Ok(Err(error)) => Err(self.fault(format!("{bare} cannot be resolved: {error}"))),
            Err(_) => Err(self.fault(format!("{bare} was not resolved in time"))),
        }
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, why: String) -> Fault {
        Fault::Unreachable { place: self.place.clone(), why }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_loopback(),
        IpAddr::V6(six) => six.is_loopback() || six.to_ipv4_mapped().is_some_and(|four| four.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_what_never_leaves_the_machine() {
        for (address, loopback) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("::", false),
            ("::ffff:10.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), loopback, "{address}");
        }
    }

    #[tokio::test]
    async fn plain_http_is_for_loopback_alone_and_tls_for_who_names_an_authority() {
        let net = |change: &dyn Fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            Net::new("t", &options).unwrap()
        };
        let usual = net(&|_| {});
        assert_eq!(usual.base("127.0.0.1:5000").await.unwrap().as_str(), "http://127.0.0.1:5000/");
        assert_eq!(usual.base("[::1]:5000").await.unwrap().scheme(), "http");
        assert_eq!(usual.base("192.0.2.1:5000").await.unwrap().as_str(), "https://192.0.2.1:5000/");
        assert_eq!(net(&|o| o.plain_http = true).base("192.0.2.1").await.unwrap().scheme(), "http");
        let refused = usual.client(&Url::parse("http://192.0.2.1/").unwrap()).await.unwrap_err();
        assert!(refused.to_string().contains("plain HTTP"), "{refused}");
        assert!(usual.client(&Url::parse("ftp://127.0.0.1/").unwrap()).await.is_err());
    }
}
