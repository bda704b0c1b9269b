//! What settings must be to each other and to the machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Settings;
use super::nodes::Launch;
use super::reader::Reader;
use super::setting::Setting;
use crate::types::Stage;

/// Notes every relation between settings that does not hold, and every file that cannot be read.
pub(super) fn relations(settings: &Settings, reader: &mut Reader) {
    times_and_sizes(settings, reader);
    files(settings, reader);
    alertmanagers(settings, reader);
    exposure(settings, reader);
    names(settings, reader);
    coverage(settings, reader);
}

fn times_and_sizes(settings: &Settings, reader: &mut Reader) {
    let Settings { mesh, server, workspace, .. } = settings;
    if mesh.heartbeat_interval >= mesh.message_timeout {
        let (beat, silence) = (mesh.heartbeat_interval.show(), mesh.message_timeout.show());
        ordered(
            reader,
            ["mesh.heartbeat_interval", "mesh.message_timeout"],
            [beat, silence],
            "less than",
            "more than",
        );
    }
    let store = ("workspace.max_store_bytes", workspace.max_store_bytes);
    for ((key, value), (bound, limit)) in [
        (
            ("workspace.max_inline_bytes", workspace.max_inline_bytes),
            ("server.max_message_bytes", server.max_message_bytes),
        ),
        (
            ("workspace.max_file_bytes", workspace.max_file_bytes),
            ("workspace.max_blob_bytes", workspace.max_blob_bytes),
        ),
        (("workspace.max_blob_bytes", workspace.max_blob_bytes), store),
    ] {
        if value > limit {
            ordered(reader, [key, bound], [value.show(), limit.show()], "not more than", "not less than");
        }
    }
    if workspace.max_snapshot_bytes > workspace.max_input_bytes() {
        let keys = ["workspace.max_snapshot_bytes", store.0];
        let values = [workspace.max_snapshot_bytes.show(), store.1.show()];
        ordered(reader, keys, values, "not more than 7/8 of", "at least 8/7 of");
    }
}

/// Blames the one of two settings that somebody set: a default is not what has to change.
fn ordered(reader: &mut Reader, keys: [&str; 2], values: [String; 2], less: &str, more: &str) {
    let [small, large] = keys;
    let [small_value, large_value] = values;
    if reader.is_set(small) || !reader.is_set(large) {
        reader.conflict(small, small_value, format!("{less} {large} ({large_value})"));
    } else {
        reader.conflict(large, large_value, format!("{more} {small} ({small_value})"));
    }
}

fn files(settings: &Settings, reader: &mut Reader) {
    let tls = &settings.server.tls;
    match (&tls.cert, &tls.key) {
        (Some(cert), None) => {
            reader.conflict("server.tls.cert", cert.show(), "only together with server.tls.key".into());
        }
        (None, Some(key)) => {
            reader.conflict("server.tls.key", key.show(), "only together with server.tls.cert".into());
        }
        _ => {}
    }
    if let (Some(authorities), None) = (&tls.client_ca, &tls.cert) {
        reader.conflict(
            "server.tls.client_ca",
            authorities.show(),
            "only together with server.tls.cert".into(),
        );
    }
    let named = [("cert", &tls.cert), ("key", &tls.key), ("client_ca", &tls.client_ca)];
    let named =
        named.into_iter().filter_map(|(name, path)| Some((format!("server.tls.{name}"), path.as_ref()?)));
    let interpreters =
        settings.environments.iter().map(|(name, path)| (format!("environments.{name}"), path));
    let alertmanager_ca = settings.alerts.alertmanager_ca.as_ref();
    let alertmanager_ca = alertmanager_ca.map(|path| ("alerts.alertmanager_ca".to_owned(), path));
    for (key, path) in named.chain(interpreters).chain(alertmanager_ca) {
        let opened = File::open(path).and_then(|file| file.metadata());
        match opened {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => reader.conflict(&key, path.show(), "a file".into()),
            Err(error) => reader.conflict(&key, path.show(), format!("a readable file ({error})")),
        }
    }
    for (index, root) in settings.workspace.allowed_roots.iter().enumerate() {
        if !root.is_dir() {
            let key = format!("workspace.allowed_roots[{index}]");
            reader.conflict(&key, root.show(), "a folder that exists".into());
        }
    }
}

fn alertmanagers(settings: &Settings, reader: &mut Reader) {
    let alerts = &settings.alerts;
    for (index, url) in alerts.alertmanager_url.iter().enumerate() {
        let key = format!("alerts.alertmanager_url[{index}]");
        let is_https = url.starts_with("https://");
        if !is_https && !url.starts_with("http://") {
            reader.conflict(
                &key,
                url.show(),
                "http://HOST:PORT or https://HOST:PORT, with a path or without".into(),
            );
        } else if is_https && alerts.alertmanager_ca.is_none() {
            reader.conflict(&key, url.show(), "https only together with alerts.alertmanager_ca".into());
        }
    }
    for name in alerts.labels.keys() {
        let is_word = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !is_word(name) || ["alertname", "severity"].contains(&name.as_str()) {
            let allowed = "a name of a-z, A-Z, 0-9 and '_' other than alertname and severity";
            reader.conflict(&format!("alerts.labels.{name}"), name.show(), allowed.into());
        }
    }
}

/// Beyond loopback nobody gets in without proving who they are, and nobody listens in.
fn exposure(settings: &Settings, reader: &mut Reader) {
    let server = &settings.server;
    let has_tls = server.tls.cert.is_some() && server.tls.key.is_some();
    let is_open = |address: SocketAddr| !address.ip().to_canonical().is_loopback();
    if is_open(server.listen) && (!has_tls || settings.auth.tokens.is_empty()) {
        let allowed = "a loopback address, unless server.tls and at least one of auth.tokens are set";
        reader.conflict("server.listen", server.listen.show(), allowed.into());
    }
    if is_open(server.node_listen) && (!has_tls || settings.nodes.secrets.is_empty()) {
        let allowed = "a loopback address, unless server.tls and at least one of nodes.secrets are set";
        reader.conflict("server.node_listen", server.node_listen.show(), allowed.into());
    }
    advertise(settings, reader);
}

/// Where launched nodes dial must be an address that somebody can dial, and that a certificate can name.
fn advertise(settings: &Settings, reader: &mut Reader) {
    let server = &settings.server;
    let listens_everywhere = server.node_listen.ip().to_canonical().is_unspecified();
    match &server.advertise {
        Some(authority) if !is_dialable(authority) => {
            let allowed = "HOST:PORT, with a name or address that nodes can dial and a port above 0";
            reader.conflict("server.advertise", authority.show(), allowed.into());
        }
        None if listens_everywhere && settings.nodes.launch == Launch::Local => {
            let allowed = format!(
                "HOST:PORT with a name of the certificate: launched nodes cannot dial server.node_listen ({})",
                server.node_listen.show()
            );
            reader.conflict("server.advertise", "(not set)".into(), allowed);
        }
        _ => {}
    }
}

/// Whether it is a host and a port that can be dialled: IPv6 addresses in brackets, as in a URL.
fn is_dialable(authority: &str) -> bool {
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    let has_port = port.parse::<u16>().is_ok_and(|port| port > 0) && !port.starts_with('+');
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match (bracketed, host.parse::<Ipv4Addr>()) {
        (Some(address), _) => address.parse::<Ipv6Addr>().is_ok_and(|ip| !ip.to_canonical().is_unspecified()),
        (None, Ok(ip)) => !ip.is_unspecified(),
        (None, Err(_)) => {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.chars().all(is_word)
        }
    };
    has_port && is_host
}

fn names(settings: &Settings, reader: &mut Reader) {
    let mut ids = BTreeSet::new();
    for (index, node) in settings.nodes.specialists.iter().enumerate() {
        let key = format!("nodes.specialists[{index}].node_id");
        match &node.node_id {
            None => reader.conflict(&key, "(not set)".into(), "required".into()),
            Some(id) if !ids.insert(id) => {
                reader.conflict(&key, id.show(), "a different name for each node".into());
            }
            Some(_) => {}
        }
    }
    let tokens = settings.auth.tokens.iter().map(|token| (&token.name, &token.sha256));
    let secrets = settings.nodes.secrets.iter().map(|secret| (&secret.name, &secret.sha256));
    for (list, entries) in [("auth.tokens", tokens.collect::<Vec<_>>()), ("nodes.secrets", secrets.collect())]
    {
        let mut seen = BTreeSet::new();
        for (index, (name, hash)) in entries.into_iter().enumerate() {
            if name.is_empty() || !seen.insert(name) {
                let key = format!("{list}[{index}].name");
                reader.conflict(&key, name.show(), "required, and different for each entry".into());
            }
            if !hash.is_set() {
                let key = format!("{list}[{index}].sha256");
                reader.conflict(&key, String::new(), "required: SHA-256 of the secret".into());
            }
        }
    }
}

fn coverage(settings: &Settings, reader: &mut Reader) {
    let specs = settings.nodes.specs();
    for stage in Stage::ALL {
        let required = settings.stages.required(stage);
        let covered = specs.iter().any(|node| {
            required
                .iter()
                .all(|need| node.capabilities.contains(need) || node.fallback_capabilities.contains(need))
        });
        if !covered {
            let key = format!("stages.{}", stage.as_str().to_lowercase());
            let allowed = "capabilities that one of nodes.specialists has together, fallback ones included";
            reader.conflict(&key, required.show(), allowed.into());
        }
    }
}
