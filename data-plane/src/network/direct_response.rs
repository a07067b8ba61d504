//! An answer of the same bytes to every connection, then its end.

use super::{BuildResult, Built, Factory, LocalBoxFuture, NetworkFilter};
use crate::http::{Connection, Deps, Worker};
use crate::stats::Scope;
use crate::transport::Stream;
use data_plane_core::config;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// See the module.
pub(super) const FACTORY: Factory = Factory { name: "envoy.filters.network.direct_response", build };

/// How long a client may take to read the answer and close.
const DEADLINE: Duration = Duration::from_secs(15);

struct DirectResponse(Arc<[u8]>);

impl NetworkFilter for DirectResponse {
    fn serve(&self, mut connection: Connection<Stream>, worker: Rc<Worker>) -> LocalBoxFuture<'static, ()> {
        let answer = Arc::clone(&self.0);
        Box::pin(async move {
            let answering = async {
                connection.io.write_all(&answer).await?;
                connection.io.flush().await?;
                connection.io.shutdown().await?;
                // Closing with bytes unread would be a reset, which may overtake the answer.
                let mut unread = [0; 512];
                while connection.io.read(&mut unread).await? > 0 {}
                std::io::Result::Ok(())
            };
            // However it ends, the connection is over.
            let _ = tokio::time::timeout(DEADLINE, answering).await;
            drop(worker);
        })
    }
}

fn build(config: &config::NetworkFilter, _: &Deps, _: &Scope) -> Option<BuildResult> {
    let config::NetworkFilter::DirectResponse(answer) = config else { return None };
    Some(Ok(Built::Terminal(Arc::new(DirectResponse(Arc::clone(answer))))))
}
