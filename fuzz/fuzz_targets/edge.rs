//! What a precheck reads: manifests and where their operations lead, the chain of epochs, the files beside it, os-release.
#![no_main]

use libfuzzer_sys::fuzz_target;
use machines::manifest::{Destinations, Manifest, Plan};
use machines::precheck::chain::Chain;
use machines::precheck::files::{Evidence, Fingerprint, Marker};
use machines::precheck::host::os_release;
use machines::tree::Root;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(Manifest::parse(manifest.to_text().as_bytes()).as_ref(), Ok(&manifest));
        let destinations = Destinations { state_root: "/data/state".into(), allow: vec!["/srv/agent".into()] };
        if let Ok(plan) = Plan::new(&manifest, &destinations) {
            for step in &plan.steps {
                let at = step.at();
                assert!(at.path.components().count() > 0 && at.path.components().all(|part| part != ".." && part != "."));
                assert!(matches!(at.root, Root::State | Root::Allowed(0)));
                for own in ["epoch", "bootstrap", "identity", "telemetry", "runtime/binaries"] {
                    assert!(at.root != Root::State || !at.path.is_in(own), "{at:?}");
                }
            }
        }
    }
    if let Ok(chain) = Chain::parse(bytes) {
        assert_eq!(chain.bytes(), bytes);
    }
    if let Ok(file) = Fingerprint::parse(bytes) {
        assert_eq!(Fingerprint::parse(&file.to_bytes()).as_ref(), Ok(&file));
    }
    if let Ok(file) = Evidence::parse(bytes) {
        assert_eq!(Evidence::parse(&file.to_bytes()).as_ref(), Ok(&file));
    }
    if let Ok(file) = Marker::parse(bytes) {
        assert_eq!(Marker::parse(&file.to_bytes()).as_ref(), Ok(&file));
    }
    let _ = os_release(&String::from_utf8_lossy(bytes));
});
