//! Real etcd and Consul servers.

use crate::certs::Authority;
use crate::eventually;
use crate::https::Tls;
use crate::process::{Process, free_port, installed};
use anyhow::{Result, ensure};
use std::time::Duration;
use tempfile::TempDir;

/// A one-node etcd with its own data folder; data survives [`Etcd::restart`].
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    program: &'static str,
    member: Member,
    process: Process,
}

/// What one node of etcd is told.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    client_port: u16,
    peer_port: u16,
    /// All members and where they meet, as `--initial-cluster` has them.
    cluster: String,
}

impl Member {
    /// The members of a cluster, on ports of their own.
    fn cluster<const N: usize>() -> Result<[Self; N]> {
        let mut ports = [(0, 0); N];
        for pair in &mut ports {
            *pair = (free_port()?, free_port()?);
        }
        let all = ports.iter().enumerate().map(|(i, (_, peer))| format!("t{i}=http://127.0.0.1:{peer}"));
        let cluster = all.collect::<Vec<_>>().join(",");
        Ok(std::array::from_fn(|i| {
            let (client_port, peer_port) = ports[i];
            Self { name: format!("t{i}"), client_port, peer_port, cluster: cluster.clone() }
        }))
    }
}

impl Etcd {
    /// Starts the current generation (3.5) and waits until it answers.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start() -> Result<Self> {
        Self::start_version("etcd").await
    }

    /// Starts `etcd` or `etcd-3.4`.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start_version(program: &'static str) -> Result<Self> {
        let [member] = Member::cluster()?;
        let mut etcd = Self::launch(program, member)?;
        etcd.ready().await?;
        Ok(etcd)
    }

    /// Starts three nodes that are one etcd, and waits until they have a leader.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start_three() -> Result<[Self; 3]> {
        let [a, b, c] = Member::cluster()?.map(|member| Self::launch("etcd", member));
        let mut all = [a?, b?, c?];
        for etcd in &mut all {
            etcd.ready().await?;
        }
        Ok(all)
    }

    fn launch(program: &'static str, member: Member) -> Result<Self> {
        let dir = TempDir::new()?;
        let process = Self::spawn(program, &dir, &member)?;
        Ok(Self { dir, program, member, process })
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.member.client_port)
    }

    /// Kills it; the data stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same ports and data, and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = Self::spawn(self.program, &self.dir, &self.member)?;
        self.ready().await
    }

    /// Starts the current generation with TLS, for the address 127.0.0.1 by an authority, and one user: `root` with this
    /// password.
    ///
    /// # Errors
    /// It is not installed, does not start, or does not turn authentication on.
    pub async fn start_secured(authority: &Authority, password: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let [member] = Member::cluster()?;
        let (chain, key) = authority.issue(&["127.0.0.1", "localhost"])?.write(dir.path(), "etcd")?;
        let client = format!("https://127.0.0.1:{}", member.client_port);
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let args = [
            format!("--name={}", member.name),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--cert-file={}", chain.display()),
            format!("--key-file={}", key.display()),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", member.cluster),
        ];
        let mut process = Process::spawn("etcd", &installed("etcd"), args, &[], dir.path())?;
        let tls = etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(authority.pem.clone()));
        eventually("etcd turns authentication on", async || -> Result<()> {
            process.check()?;
            let options = etcd_client::ConnectOptions::new().with_tls(tls.clone());
            let mut etcd = etcd_client::Client::connect([client.as_str()], Some(options)).await?;
            let _ = etcd.user_add("root", password, None).await;
            let _ = etcd.role_add("root").await;
            let _ = etcd.user_grant_role("root", "root").await;
            match etcd.auth_enable().await {
                // Its answer was lost: it is on.
                Err(error) if error.to_string().contains("user name is empty") => Ok(()),
                other => Ok(other.map(drop)?),
            }
        })
        .await;
        Ok(Self { dir, program: "etcd", member, process })
    }

    fn spawn(program: &str, dir: &TempDir, member: &Member) -> Result<Process> {
        let Member { name, client_port, peer_port, cluster } = member;
        let (client, peer) =
            (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let data = dir.path().join("data");
        let args = [
            format!("--name={name}"),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={cluster}"),
        ];
        Process::spawn("etcd", &installed(program), args, &[], dir.path())
    }

    async fn ready(&mut self) -> Result<()> {
        let endpoint = self.endpoint();
        eventually("etcd answers", async || -> Result<()> {
            self.process.check()?;
            let mut client = etcd_client::Client::connect([&endpoint], None).await?;
            ensure!(client.status().await?.leader() != 0, "it has no leader");
            Ok(())
        })
        .await;
        Ok(())
    }
}

/// A Consul agent in development mode: in memory, so a restart forgets everything.
#[derive(Debug)]
pub struct Consul {
    dir: TempDir,
    http_port: u16,
    process: Process,
}

impl Consul {
    /// Starts it and waits until it has a leader.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start() -> Result<Self> {
        let dir = TempDir::new()?;
        let http_port = free_port()?;
        let process = Self::spawn(&dir, http_port)?;
        let mut consul = Self { dir, http_port, process };
        consul.ready().await?;
        Ok(consul)
    }

    /// Starts it with TLS, for the address 127.0.0.1 by an authority, and ACLs that deny everything to all but the
    /// holder of this token.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub async fn start_secured(authority: &Authority, token: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let http_port = free_port()?;
        let (chain, key) = authority.issue(&["127.0.0.1", "localhost"])?.write(dir.path(), "consul")?;
        let config = serde_json::json!({
            "acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": token, "agent": token}},
            "ports": {"https": http_port, "http": -1},
            "ca_file": authority.write(dir.path())?, "cert_file": chain, "key_file": key,
        });
        let file = dir.path().join("consul.json");
        std::fs::write(&file, config.to_string())?;
        let mut args: Vec<String> = [
            "agent",
            "-dev",
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
            "-node=t",
            "-grpc-port=-1",
            "-dns-port=-1",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("-config-file={}", file.display()));
        for port in ["server-port", "serf-lan-port", "serf-wan-port"] {
            args.push(format!("-{port}={}", free_port()?));
        }
        let mut process = Process::spawn("consul", &installed("consul"), args, &[], dir.path())?;
        let tls = Tls::new(&authority.pem, "localhost", None)?;
        let addr = ([127, 0, 0, 1], http_port).into();
        eventually("consul has a leader and knows the token", async || -> Result<()> {
            process.check()?;
            let header = [("x-consul-token", token)];
            let seen = tls.send(addr, "GET", "/v1/acl/token/self", &header, "").await?;
            ensure!(seen.answer.status == 200, "{}", seen.answer.text());
            Ok(())
        })
        .await;
        Ok(Self { dir, http_port, process })
    }

    /// `host:port` of its HTTP API.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }

    /// Kills it; what it knew is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, empty, on the same port.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = Self::spawn(&self.dir, self.http_port)?;
        self.ready().await
    }

    fn spawn(dir: &TempDir, http_port: u16) -> Result<Process> {
        let mut args: Vec<String> = [
            "agent",
            "-dev",
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
            "-node=t",
            "-grpc-port=-1",
            "-dns-port=-1",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("-http-port={http_port}"));
        for port in ["server-port", "serf-lan-port", "serf-wan-port"] {
            args.push(format!("-{port}={}", free_port()?));
        }
        Process::spawn("consul", &installed("consul"), args, &[], dir.path())
    }

    async fn ready(&mut self) -> Result<()> {
        let url = format!("http://{}/v1/status/leader", self.endpoint());
        let client = crate::client::Client::h1();
        eventually("consul has a leader", async || -> Result<()> {
            self.process.check()?;
            let answer = client.get(&url).await?;
            ensure!(answer.status == 200 && answer.text().contains(':'), "leader: {}", answer.text());
            Ok(())
        })
        .await;
        Ok(())
    }

    /// `PUT path` with a JSON body on its HTTP API.
    ///
    /// # Errors
    /// It is away or answers other than 200.
    pub async fn put(&self, path: &str, body: &serde_json::Value) -> Result<()> {
        let url = format!("http://{}{path}", self.endpoint());
        let answer = crate::client::Client::h1().send("PUT", &url, &[], body.to_string()).await?;
        ensure!(answer.status == 200, "PUT {path}: {} {}", answer.status, answer.text());
        Ok(())
    }

    /// Registers a service instance with a TTL check that starts out passing.
    ///
    /// # Errors
    /// Consul refuses.
    pub async fn register(&self, service: &str, id: &str, port: u16, ttl: Duration) -> Result<()> {
        let body = serde_json::json!({
            "Name": service, "ID": id, "Address": "127.0.0.1", "Port": port,
            "Check": {"CheckID": format!("check-{id}"), "TTL": format!("{}s", ttl.as_secs()), "Status": "passing"},
        });
        self.put("/v1/agent/service/register", &body).await
    }

    /// Sets a TTL check to `pass`, `warn` or `fail`.
    ///
    /// # Errors
    /// Consul refuses.
    pub async fn check(&self, id: &str, state: &str) -> Result<()> {
        self.put(&format!("/v1/agent/check/{state}/check-{id}"), &serde_json::Value::Null).await
    }

    /// Deregisters an instance.
    ///
    /// # Errors
    /// Consul refuses.
    pub async fn deregister(&self, id: &str) -> Result<()> {
        self.put(&format!("/v1/agent/service/deregister/{id}"), &serde_json::Value::Null).await
    }
}
