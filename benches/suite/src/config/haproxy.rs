//! HAProxy.

use crate::config::{Extra, Listener, Proxy, Routes};
use anyhow::Result;
use std::fmt::Write;

/// Its whole configuration; its maps are written beside it.
pub(crate) fn text(proxy: &Proxy) -> Result<String> {
    let mut out = format!(
        "global
  nbthread {}
  no strict-limits
  maxconn 12000
defaults
  mode http
  maxconn 12000
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  option http-keep-alive
  http-reuse always
",
        proxy.workers
    );
    for (at, listener) in proxy.listeners.iter().enumerate() {
        frontend(&mut out, at, listener, proxy)?;
    }
    let _ = writeln!(
        out,
        "backend up\n  server s 127.0.0.1:{} pool-max-conn -1 pool-purge-delay 1h",
        proxy.backend
    );
    for i in 0..proxy.clusters {
        let _ = writeln!(out, "backend c{i}");
        for (at, address) in proxy.addresses(i).enumerate() {
            let _ = writeln!(out, "  server s{at} {address}:{}", proxy.backend);
        }
    }
    Ok(out)
}

fn frontend(out: &mut String, at: usize, listener: &Listener, proxy: &Proxy) -> Result<()> {
    let how = match listener.extra {
        Extra::Tls => format!(" ssl crt {}/both.pem ssl-min-ver TLSv1.2 no-tls-tickets", proxy.dir.display()),
        Extra::Http2 => " proto h2".to_owned(),
        _ => String::new(),
    };
    let _ = writeln!(out, "frontend f{at}\n  bind 127.0.0.1:{}{how} backlog 8192", listener.port);
    // Tables of rules are maps, as its manual says they should be.
    let n = listener.routes.count();
    let (sample, lines): (&str, String) = match listener.routes {
        _ if proxy.clusters > 0 => {
            let _ = writeln!(out, "  default_backend c{}", proxy.clusters - 1);
            return Ok(());
        }
        Routes::Prefixes(1) => {
            let _ = writeln!(out, "  default_backend up");
            return Ok(());
        }
        Routes::Prefixes(_) => {
            ("path,map_beg", (0..n).map(|i| format!("{} up\n", listener.routes.path(i))).collect())
        }
        Routes::Regexes(_) => {
            ("path,map_reg", (0..n).map(|i| format!("^{}$ up\n", Routes::regex(i))).collect())
        }
        Routes::Hosts(_) => {
            ("req.hdr(host),map_str", (0..n).map(|i| format!("{} up\n", listener.routes.host(i))).collect())
        }
    };
    let map = proxy.dir.join(format!("haproxy.{at}.map"));
    std::fs::write(&map, lines)?;
    let _ = writeln!(out, "  use_backend %[{sample}({})]", map.display());
    Ok(())
}
