//! The transports: layouts, archives and registries, honest and hostile; copies between them; the verification over them.

mod archives;
mod blobs;
mod copies;
mod images;
mod layouts;
mod oci_client;
mod pushes;
mod registries;
mod scripted;
mod tls;
mod verifies;
