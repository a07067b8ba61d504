//! `portolan-echo NAME [IP:PORT [STATUS]]`: an example service that says who it is and what it was asked.

use anyhow::{Context, Result};
use e2e::upstream::Upstream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().context("usage: portolan-echo NAME [IP:PORT [STATUS]]")?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let status = args.next().unwrap_or_else(|| "200".to_owned());
    let address = address.parse().context("IP:PORT")?;
    let upstream = Upstream::answering(&name, address, status.parse().context("STATUS")?).await?;
    println!("{}", upstream.addr);
    std::future::pending().await
}
