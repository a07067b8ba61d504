//! Certificates for tests, made by the OpenSSL command line, and that command line as the other side of a handshake.

use crate::process::{Process, free_port};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Authorities and what they signed: files `NAME.pem` and `NAME.key` in one folder.
#[derive(Debug)]
pub struct Pki {
    dir: TempDir,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Now.
    Now,
    /// It was.
    Over,
    /// It will be.
    Later,
}

impl Pki {
    /// With two authorities, `ca` and `other`.
    ///
    /// # Errors
    /// OpenSSL is missing.
    pub fn new() -> Result<Self> {
        let pki = Self { dir: TempDir::new()? };
        for ca in ["ca", "other"] {
            pki.desk(ca)?;
            pki.openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {ca}.key -out {ca}.pem \
                 -days 3650 -subj /CN={ca} -addext basicConstraints=critical,CA:TRUE \
                 -addext keyUsage=critical,keyCertSign,cRLSign"
            ))?;
        }
        Ok(pki)
    }

    /// An authority `name` that `ca` vouches for.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn intermediate(&self, name: &str, ca: &str) -> Result<()> {
        self.desk(name)?;
        let more = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -addext basicConstraints=critical,CA:TRUE \
                    -addext keyUsage=critical,keyCertSign,cRLSign";
        self.sign_with(name, ca, more, Life::Now)
    }

    /// What `openssl ca` needs to sign as `ca`.
    fn desk(&self, ca: &str) -> Result<()> {
        let config = format!(
            "[ca]\ndefault_ca = d\n[d]\ndatabase = {0}/{ca}.index\nnew_certs_dir = {0}\nrand_serial = yes\n\
             default_md = sha256\npolicy = any\nunique_subject = no\ncopy_extensions = copy\n\
             certificate = {0}/{ca}.pem\nprivate_key = {0}/{ca}.key\ndefault_crl_days = 30\ncrl_extensions = crl\ncrlnumber = {0}/{ca}.crlnumber\n\
             [crl]\nauthorityKeyIdentifier = keyid\n[any]\ncommonName = supplied\n",
            self.dir().display()
        );
        std::fs::write(self.path(&format!("{ca}.cnf")), config)?;
        std::fs::write(self.path(&format!("{ca}.index")), "")?;
        std::fs::write(self.path(&format!("{ca}.crlnumber")), "01\n")?;
        Ok(())
    }

    /// A certificate `name` signed by `ca`, with these subject alternative names in OpenSSL's words.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn sign(&self, name: &str, ca: &str, sans: &str, life: Life) -> Result<()> {
        let more = format!("-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -addext subjectAltName={sans}");
        self.sign_with(name, ca, &more, life)
    }

    /// A certificate `name` signed by `ca`, its key and extensions in the words of `openssl req`.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn sign_with(&self, name: &str, ca: &str, more: &str, life: Life) -> Result<()> {
        let (start, end) = match life {
            Life::Now => ("20200101000000Z", "20480101000000Z"),
            Life::Over => ("20200101000000Z", "20210101000000Z"),
            Life::Later => ("20470101000000Z", "20480101000000Z"),
        };
        self.openssl(&format!("req -new {more} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
        self.openssl(&format!(
            "ca -batch -notext -config {ca}.cnf -in {name}.csr -out {name}.pem -startdate {start} -enddate {end}"
        ))
    }

    /// Revokes `name` and writes the authority's list to `CA.crl`.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn revoke(&self, name: &str, ca: &str) -> Result<()> {
        self.openssl(&format!("ca -config {ca}.cnf -revoke {name}.pem"))?;
        self.list(ca)
    }

    /// SHA-256 of a certificate, in hexadecimal with colons.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn hash(&self, name: &str) -> Result<String> {
        let text = self.ask(&format!("x509 -in {name}.pem -noout -fingerprint -sha256"))?;
        Ok(text.trim().split_once('=').context("a fingerprint")?.1.to_owned())
    }

    /// SHA-256 of a certificate's public key, in base64.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn spki(&self, name: &str) -> Result<String> {
        self.openssl(&format!("x509 -in {name}.pem -noout -pubkey -out {name}.pub"))?;
        self.openssl(&format!("pkey -pubin -in {name}.pub -outform DER -out {name}.spki"))?;
        self.openssl(&format!("dgst -sha256 -binary -out {name}.digest {name}.spki"))?;
        Ok(self.ask(&format!("base64 -A -in {name}.digest"))?.trim().to_owned())
    }

    /// Writes the list of what an authority has revoked to `CA.crl`.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn list(&self, ca: &str) -> Result<()> {
        self.openssl(&format!("ca -config {ca}.cnf -gencrl -out {ca}.crl"))
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file of its folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// A file of its folder as text.
    ///
    /// # Errors
    /// There is none.
    pub fn read(&self, file: &str) -> Result<String> {
        std::fs::read_to_string(self.path(file)).with_context(|| file.to_owned())
    }

    /// Puts the certificate and key `from` in the place of `NAME.pem` and `NAME.key` of `folder`, each by a move, as
    /// tools that renew certificates do.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn swap(&self, from: &str, folder: &Path, name: &str) -> Result<()> {
        for kind in ["key", "pem"] {
            let fresh = folder.join(format!(".{name}.{kind}"));
            std::fs::copy(self.path(&format!("{from}.{kind}")), &fresh)?;
            std::fs::rename(fresh, folder.join(format!("{name}.{kind}")))?;
        }
        Ok(())
    }

    fn openssl(&self, args: &str) -> Result<()> {
        self.ask(args).map(drop)
    }

    fn ask(&self, args: &str) -> Result<String> {
        let done = Command::new("openssl").args(args.split_whitespace()).current_dir(self.dir()).output();
        let done = done.context("openssl")?;
        ensure!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// `openssl s_server`, which answers every `GET` with 200.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(&self, name: &str, args: &str) -> Result<Server> {
        let port = free_port()?;
        let all = format!("s_server -www -quiet -accept 127.0.0.1:{port} {args}");
        let program = which()?;
        let process = Process::spawn(name, &program, all.split_whitespace(), &[], self.dir())?;
        Ok(Server { addr: SocketAddr::from(([127, 0, 0, 1], port)), _process: process })
    }
}

fn which() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join("openssl")).find(|file| file.exists());
    found.context("openssl is not installed")
}

/// An `openssl s_server`.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    _process: Process,
}

/// How a handshake and one request on it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The request was answered with 200.
    pub served: bool,
    /// Protocol, cipher, ALPN and the server's common name, once a handshake was done.
    pub session: String,
    /// The alert received, if any: not compared with other libraries'.
    pub alert: String,
}

/// Asks `addr` by `openssl s_client` with these arguments.
///
/// # Errors
/// It cannot be run.
pub fn ask(dir: &Path, addr: SocketAddr, args: &str) -> Result<Verdict> {
    let mut child = Command::new("timeout")
        .args(["-k", "1", "10", "openssl", "s_client", "-connect", &addr.to_string(), "-ign_eof"])
        .args(args.split_whitespace())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("openssl s_client")?;
    // A refused handshake may close the pipe before it is written.
    let _ = child
        .stdin
        .take()
        .context("stdin")?
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    let done = child.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let find = |prefix: &str| out.lines().find_map(|l| l.trim().strip_prefix(prefix)).unwrap_or("").trim();
    let mut session = String::new();
    if out.contains("Cipher is ") && !out.contains("Cipher is (NONE)") {
        let new = out.lines().find(|l| l.starts_with("New, ") || l.starts_with("Reused, ")).unwrap_or("");
        let _ = write!(session, "{new}; alpn {}; {}", find("ALPN protocol:"), find("subject="));
    }
    let alert = err.lines().chain(out.lines()).find(|line| line.contains(" alert "));
    let alert = alert.and_then(|l| l.split(':').find(|part| part.contains("alert"))).unwrap_or("");
    Ok(Verdict { served: out.contains("HTTP/1.1 200"), session, alert: alert.into() })
}

/// Waits for TCP connections to be taken.
///
/// # Errors
/// They are not, in time.
pub async fn listening(addr: SocketAddr) -> Result<()> {
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(addr).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{addr} does not listen")
}
