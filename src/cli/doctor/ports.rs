//! The addresses that `lintmesh serve` would listen on: whether they are free, or who has them.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::check::{Check, Section, Verdict};
use crate::cli::connect;
use crate::config::Settings;

/// How long whoever listens there may take to answer a health check.
const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// What whoever listens on a port can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// Health checks in plain text.
    Plain,
    /// Health checks, but only those who trust its certificate.
    Tls,
    /// Nodes only: it answers no health checks.
    Sessions,
}

/// The service that answers at the admin port: its process, if this user may see it. It has bound the other ports of its
/// configuration too, or it would not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Service(Option<u32>);

pub(super) async fn ports(settings: &Settings) -> Section {
    let server = &settings.server;
    let api = if server.tls.cert.is_some() { Speaks::Tls } else { Speaks::Plain };
    let listeners = [
        ("API port", server.listen, api),
        ("admin port", server.admin_listen, Speaks::Plain),
        ("node port", server.node_listen, Speaks::Sessions),
    ];
    let admin = server.admin_listen;
    let answers = admin.port() != 0 && is_alive(admin).await;
    let service = answers.then(|| Service(owner(admin.port()).map(|(process, _)| process)));
    let mut checks = Vec::new();
    for (name, address, speaks) in listeners {
        checks.push(port(name, address, speaks, service).await);
    }
    Section::new("ports", checks)
}

async fn port(name: &'static str, address: SocketAddr, speaks: Speaks, service: Option<Service>) -> Check {
    match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Check::passed(name, format!("{address}: any free port")),
        Ok(_) => Check::passed(name, format!("{address} is free")),
        Err(cause) if cause.kind() == std::io::ErrorKind::AddrInUse => {
            taken(name, address, speaks, service).await
        }
        Err(cause) => Check::wrong(
            name,
            Verdict::Failed,
            format!("cannot listen on {address}: {cause}"),
            "choose an address of this machine and a port that this user may use",
        ),
    }
}

/// A port that is in use is no fault if the service itself has it.
async fn taken(name: &'static str, address: SocketAddr, speaks: Speaks, service: Option<Service>) -> Check {
    let owner = owner(address.port());
    let who = match &owner {
        Some((process, program)) => format!("{program} (process {process})"),
        None => "a process of another user".to_owned(),
    };
    if speaks == Speaks::Plain && is_alive(address).await {
        return Check::passed(name, format!("{address}: {who} listens there and answers health checks"));
    }
    let evidence = format!("{address}: {who} listens there");
    let is_ours = owner.as_ref().is_some_and(|(_, program)| program == "lintmesh");
    let process = owner.map(|(process, _)| process);
    if speaks != Speaks::Plain && service == Some(Service(process)) {
        return Check::passed(name, format!("{evidence} and answers health checks at the admin port"));
    }
    match (is_ours, speaks) {
        (true, Speaks::Sessions) => Check::passed(name, evidence),
        (true, Speaks::Plain | Speaks::Tls) => {
            let at = if speaks == Speaks::Tls { " at the admin port" } else { "" };
            Check::wrong(
                name,
                Verdict::Warning,
                format!(
                    "{evidence} and does not answer a health check in plain text{at} within {} s",
                    ANSWER_BOUND.as_secs()
                ),
                "if its settings are others, name them: --config FILE; else see whether the process is stopped, and its \
                 log",
            )
        }
        (false, _) => Check::wrong(
            name,
            Verdict::Warning,
            evidence,
            "good if that is the service itself; else end the other program or choose another port",
        ),
    }
}

/// Whether a health service of lintmesh answers there.
async fn is_alive(address: SocketAddr) -> bool {
    let url = format!("http://{}", connect::dialled(address));
    let Ok(endpoint) = connect::endpoint(&url, None) else { return false };
    let ask = async {
        let channel = endpoint.connect().await.ok()?;
        let request = HealthCheckRequest { service: "liveness".to_owned() };
        HealthClient::new(channel).check(request).await.ok()
    };
    timeout(ANSWER_BOUND, ask).await.ok().flatten().is_some()
}

/// The process that listens on a port of this machine, as far as this user may see it: id and program.
fn owner(port: u16) -> Option<(u32, String)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let process = processes.find(|process| {
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        let mut targets = open.filter_map(|file| std::fs::read_link(file.path()).ok());
        targets.any(|target| target.to_str().is_some_and(|target| inodes.iter().any(|inode| inode == target)))
    })?;
    let program = std::fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some((process, program.trim_end().to_owned()))
}

/// The sockets that listen on a port, as links of open files name them; the table is that of proc_pid_net(5).
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let wanted = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| match row[..] {
        [_, local, _, LISTEN, _, _, _, _, _, inode, ..] if local.ends_with(&wanted) => {
            Some(format!("socket:[{inode}]"))
        }
        _ => None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_told_with_its_owner_and_a_free_one_is_not() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("bound");
        let check = port("node port", address, Speaks::Sessions, None).await;
        assert_eq!(check.verdict, Verdict::Warning, "the tests are not the service");
        let own = format!("process {}", std::process::id());
        assert!(check.evidence.contains(&own) && !check.remedy.is_empty(), "{check:?}");
        drop(silent);
        let free = "127.0.0.1:0".parse().expect("valid");
        assert_eq!(port("API port", free, Speaks::Plain, None).await.verdict, Verdict::Passed);
        let elsewhere = "192.0.2.1:1".parse().expect("valid");
        assert_eq!(port("API port", elsewhere, Speaks::Plain, None).await.verdict, Verdict::Failed);
    }

    #[tokio::test]
    async fn who_answers_at_the_admin_port_may_have_ports_that_cannot_be_asked() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("bound");
        let own = Some(Service(Some(std::process::id())));
        let of = async |speaks, service| port("a port", address, speaks, service).await.verdict;
        assert_eq!(of(Speaks::Tls, own).await, Verdict::Passed);
        assert_eq!(of(Speaks::Sessions, own).await, Verdict::Passed);
        for other in [None, Some(Service(None)), Some(Service(Some(1)))] {
            assert_eq!(of(Speaks::Tls, other).await, Verdict::Warning, "{other:?}");
        }
        assert_eq!(of(Speaks::Plain, own).await, Verdict::Warning, "it can be asked, and is silent");
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:C383 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n\
                     1: 0100007F:C383 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n\
                     2: 0100007F:C384 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 79 1\n";
        assert_eq!(listening(table, 50051), ["socket:[77]"]);
        assert!(listening("nonsense\n\n", 50051).is_empty());
    }
}
