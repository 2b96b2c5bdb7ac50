//! `autonomy oci serve`: a folder as a registry.

use daemon_common::failure::Ended;
use io_artifacts::serve::{self, Settings, Token};
use tokio::signal::unix::SignalKind;

use crate::artifacts::block_on;
use crate::cli;
use crate::runtime::handler;

/// Serves until SIGTERM or SIGINT.
pub fn serve(args: &cli::OciServe) -> Ended {
    let settings = Settings {
        hosts: args.hosts.clone(),
        token: args.token_file.as_deref().map(Token::read).transpose()?,
        private: args.private,
        read_only: args.read_only,
        deletes: args.deletes,
        ..Settings::new(&args.dir)
    };
    block_on(async {
        let mut terminate = handler(SignalKind::terminate())?;
        let mut interrupt = handler(SignalKind::interrupt())?;
        // On stderr, as a log line would be: results go to stdout, and a server has none.
        let ready = |address| eprintln!("oci registry: listening on http://{address}");
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(serve::listen(args.listen, settings, ready, stop).await?)
    })?;
    Ok(0)
}
