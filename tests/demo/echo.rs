//! `portolan-echo NAME [IP:PORT]`: an example service that says who it is and what it was asked.

use anyhow::{Context, Result};
use e2e::upstream::Upstream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context("usage: portolan-echo NAME [IP:PORT]")?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let upstream = Upstream::bind(&name, address.parse().context("IP:PORT")?).await?;
    println!("{}", upstream.addr);
    std::future::pending().await
}
