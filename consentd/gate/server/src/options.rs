//! The options of the program.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::answers::Limits;
use crate::tls::TlsFiles;

/// What `--help` shows.
pub const USAGE: &str = "\
usage: consentd-gate --table DIR --listen ADDRESS --daemon SOCKET --key-fd N
                     [--tls-cert FILE --tls-key FILE [--client-ca FILE]] [--http ADDRESS] [--mapping FILE]
                     [--threads N] [--max-silence-ms N] [--max-batch-items N] [--max-message-bytes N]
       consentd-gate --check-mapping FILE

Answers Check, BatchCheck and Envoy's ext_authz from the policy table, and passes every other call on to the daemon.
`consentd serve` starts it where the section `gate` of its configuration says so.

  --table DIR          the directory of the policy table
  --listen ADDRESS     where to listen, such as 127.0.0.1:7443; without TLS, of this machine only
  --daemon SOCKET      the Unix socket on which the daemon believes this program whose call it is
  --key-fd N           a pipe from which the key of identifier hashes is read; when it ends, the program ends
  --tls-cert FILE      the server's certificate and those above it, PEM; read again on SIGHUP, like the next two
  --tls-key FILE       its private key
  --client-ca FILE     authorities of the certificates that clients must have; without it they need none
  --http ADDRESS       where to answer /metrics and /healthz, without TLS, of this machine only; without it nowhere
  --mapping FILE       which questions Envoy's requests are, TOML; read again on SIGHUP; without it all are refused
  --check-mapping FILE  say whether a mapping file is in order, and end
  --threads N          threads that answer, 1 to 64 (1)
  --max-silence-ms N   how old the writer's heartbeat may be, 1000 to 600000 (60000); after that nothing is answered here
  --max-batch-items N  most items of a batch that is answered here, 1 to 1000 (1000)
  --max-message-bytes N  most bytes of a request that is answered here (1048576)
";

/// The options.
#[derive(Debug)]
pub struct Options {
    /// The directory of the table.
    pub table: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The daemon's Unix socket.
    pub daemon: PathBuf,
    /// The files of TLS; None: none is spoken.
    pub tls: Option<TlsFiles>,
    /// Where to answer HTTP; None: nowhere.
    pub http: Option<SocketAddr>,
    /// The mapping file of ext_authz; None: there is none.
    pub mapping: Option<PathBuf>,
    /// The file descriptor of the key.
    pub key_fd: u32,
    /// How many threads answer.
    pub threads: usize,
    /// What the daemon's configuration says.
    pub limits: Limits,
}

impl Options {
    /// Read the arguments of the command line; an error says what is wrong with them.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut found: [Option<String>; 13] = Default::default();
        let names = [
            "--table",
            "--listen",
            "--daemon",
            "--key-fd",
            "--threads",
            "--max-silence-ms",
            "--max-batch-items",
            "--max-message-bytes",
            "--tls-cert",
            "--tls-key",
            "--client-ca",
            "--http",
            "--mapping",
        ];
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let at = names.iter().position(|one| *one == name).ok_or(format!("unknown option `{name}`"))?;
            let value = arguments.next().ok_or(format!("option `{name}` has no value"))?;
            if found[at].replace(value).is_some() {
                return Err(format!("option `{name}` is stated twice"));
            }
        }
        let [table, listen, daemon, key_fd, threads, silence, items, bytes, chain, key, authorities, http, mapping] =
            found;
        let required = |value: Option<String>, at: usize| value.ok_or(format!("option `{}` is missing", names[at]));
        let tls = match (chain, key, authorities) {
            (None, None, None) => None,
            (chain, key, authorities) => Some(TlsFiles {
                chain: required(chain, 8)?.into(),
                key: required(key, 9)?.into(),
                client_authorities: authorities.map(PathBuf::from),
            }),
        };
        let listen = address(&required(listen, 1)?, names[1], tls.is_some())?;
        Ok(Options {
            table: required(table, 0)?.into(),
            listen,
            daemon: required(daemon, 2)?.into(),
            tls,
            http: http.map(|value| address(&value, names[11], false)).transpose()?,
            mapping: mapping.map(PathBuf::from),
            key_fd: number(required(key_fd, 3)?, names[3], 0, 1 << 20)? as u32,
            threads: threads.map_or(Ok(1), |value| number(value, names[4], 1, 64))? as usize,
            limits: Limits {
                max_silence_ms: silence.map_or(Ok(60_000), |value| number(value, names[5], 1_000, 600_000))?,
                max_batch_items: items.map_or(Ok(1_000), |value| number(value, names[6], 1, 1_000))? as usize,
                max_message_bytes: bytes.map_or(Ok(1 << 20), |value| number(value, names[7], 1 << 16, 1 << 20))?
                    as usize,
            },
        })
    }
}

fn address(value: &str, name: &str, has_tls: bool) -> Result<SocketAddr, String> {
    let address: SocketAddr = value.parse().map_err(|_| format!("option `{name}` is no address: `{value}`"))?;
    if has_tls || address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!("option `{name}` is no address of this machine alone, and there is no TLS: `{value}`"))
}

fn number(value: String, name: &str, least: u64, most: u64) -> Result<u64, String> {
    let found = value.parse().ok().filter(|found| (least..=most).contains(found));
    found.ok_or(format!("option `{name}` is not a number from {least} to {most}: `{value}`"))
}
