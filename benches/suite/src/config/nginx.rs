//! nginx.

use crate::config::{Extra, Listener, Proxy, Routes};
use std::fmt::Write;
use std::path::Path;

/// What every nginx here says, up to within `http {`.
pub(crate) fn head(dir: &Path, name: &str, workers: usize) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{name}.{kind}; ", dir.display()))
        .concat();
    format!(
        "worker_processes {workers}; daemon off; master_process {master}; pid {dir}/{name}.pid; error_log {dir}/{name}.err error;
events {{ worker_connections 19000; use epoll; multi_accept on; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; tcp_nodelay on;
  server_names_hash_max_size 65536; server_names_hash_bucket_size 512; {temporary}",
        dir = dir.display(),
        // Without, a process less.
        master = if workers > 1 { "on" } else { "off" },
    )
}

/// Its whole configuration.
pub(crate) fn text(proxy: &Proxy) -> String {
    let mut out = head(&proxy.dir, "nginx", proxy.workers);
    let _ = write!(
        out,
        "
  client_max_body_size 4m; client_body_buffer_size 128k;
  proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
  upstream up {{ server 127.0.0.1:{}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 1h; }}
",
        proxy.backend,
    );
    for i in 0..proxy.clusters {
        let servers: String =
            proxy.addresses(i).map(|address| format!("server {address}:{}; ", proxy.backend)).collect();
        let _ = writeln!(out, "  upstream c{i} {{ {servers}}}");
    }
    for listener in &proxy.listeners {
        servers(&mut out, listener, proxy);
    }
    out + "}\n"
}

fn servers(out: &mut String, listener: &Listener, proxy: &Proxy) {
    let how = match listener.extra {
        Extra::Tls => " ssl",
        Extra::Http2 => " http2",
        _ => "",
    };
    let log = match listener.extra {
        // As Envoy does: written by the buffer, and once a second.
        Extra::AccessLog => {
            format!("access_log {}/nginx.access.log combined buffer=64k flush=1s;", proxy.dir.display())
        }
        _ => String::new(),
    };
    // In its own server: from above, each of thousands would load it.
    let certificate = match listener.extra {
        Extra::Tls => format!(
            "ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.2 TLSv1.3; \
             ssl_session_cache off;",
            dir = proxy.dir.display()
        ),
        _ => String::new(),
    };
    let listen = format!("listen 127.0.0.1:{}{how}", listener.port);
    let _ = writeln!(out, "  server {{ {listen} backlog=8192; {log}{certificate}");
    let location = |out: &mut String, what: &str, to: &str| {
        let _ = writeln!(out, "    location {what} {{ proxy_pass http://{to}; }}");
    };
    match listener.routes {
        _ if proxy.clusters > 0 => location(out, "/", &format!("c{}", proxy.clusters - 1)),
        Routes::Prefixes(1) => location(out, "/", "up"),
        Routes::Prefixes(n) => (0..n).for_each(|i| location(out, &listener.routes.path(i), "up")),
        Routes::Regexes(n) => {
            (0..n).for_each(|i| location(out, &format!("~ ^{}$", Routes::regex(i)), "up"));
        }
        Routes::Hosts(n) => {
            let _ = writeln!(out, "    location / {{ return 404; }}");
            for i in 0..n {
                let _ = writeln!(out, "  }}\n  server {{ {listen}; server_name {};", listener.routes.host(i));
                location(out, "/", "up");
            }
        }
    }
    out.push_str("  }\n");
}
