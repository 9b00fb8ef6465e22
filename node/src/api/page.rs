//! The page at `/`: the node's state and where to go from it, for people.
//!
//! One HTML document without scripts and without anything from elsewhere. It shows only what everybody may read.

use std::fmt::{self, Write as _};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use shoal_protocol::object::node::Node;

use super::respond;

/// Nothing is loaded, nothing runs, nobody frames it. Why `unsafe-inline` for styles: they stand in the page itself.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

const STYLE: &str = "\
:root{color-scheme:light dark;--line:light-dark(#d5dce3,#33404d);--soft:light-dark(#5b6b7a,#93a4b5);--warn:light-dark(#8a4b00,#ffc266)}\
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}p{margin:.5rem 0}\
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\
th{font-weight:normal;color:var(--soft);width:12rem}code,pre{font:14px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}\
pre{border:1px solid var(--line);border-radius:4px;padding:.75rem;overflow-x:auto;overflow-wrap:normal}\
.warn{border:1px solid var(--warn);color:var(--warn);border-radius:4px;padding:.5rem .75rem}.soft{color:var(--soft)}";

/// The page. `refresh_s`: load it again after so many seconds.
pub(super) fn page(node: &Node, now_ms: u64, refresh_s: Option<u32>) -> Response {
    let mut html = String::with_capacity(6 * 1024);
    // Writing into a String cannot fail.
    let _ = write(&mut html, node, now_ms, refresh_s);
    let mut response = respond::bytes_of(200, HeaderValue::from_static("text/html; charset=utf-8"), Body::from(html));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn write(html: &mut String, node: &Node, now_ms: u64, refresh_s: Option<u32>) -> fmt::Result {
    let name = Escaped(&node.name);
    html.push_str("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    if let Some(seconds) = refresh_s {
        write!(html, "<meta http-equiv=\"refresh\" content=\"{seconds}\">")?;
    }
    write!(html, "<title>{name} · Shoal</title><style>{STYLE}</style>")?;
    write!(
        html,
        "<h1>{name}</h1><p class=\"soft\">A Shoal node, version {}, up {}.",
        Escaped(&node.version),
        Span(now_ms.saturating_sub(node.started_ms.unwrap_or(now_ms)))
    )?;
    html.push_str(if refresh_s.is_some() {
        " <a href=\"/\">Do not refresh</a></p>"
    } else {
        " <a href=\"/?refresh=5\">Refresh every 5 s</a></p>"
    });
    if node.stopping {
        html.push_str("<p class=\"warn\">This node is stopping and takes no new jobs.</p>");
    }
    if node.mesh.open {
        write!(html, "<p class=\"warn\">The mesh <b>{}</b> is open: it admits anybody.</p>", Escaped(&node.mesh.name))?;
    }
    numbers(html, node)?;
    identity(html, node)?;
    links(html, node)
}

fn numbers(html: &mut String, node: &Node) -> fmt::Result {
    let (jobs, blobs) = (node.jobs.unwrap_or_default(), node.blobs.unwrap_or_default());
    html.push_str("<h2>Work</h2><table>");
    row(html, "Workers", format_args!("{}, {} slots", node.workers, node.slots))?;
    row(html, "Jobs waiting", format_args!("{}", jobs.waiting))?;
    row(html, "Jobs running", format_args!("{}", jobs.running))?;
    row(html, "Jobs settled", format_args!("{}", jobs.settled))?;
    row(html, "Jobs accepted, ever", format_args!("{} ({} forgotten)", jobs.accepted, jobs.swept))?;
    row(html, "Blobs", format_args!("{}, {}", blobs.count, Size(blobs.bytes)))?;
    row(html, "Memory", format_args!("{}", Size(node.resident_bytes.unwrap_or_default())))?;
    html.push_str("</table>");
    Ok(())
}

fn identity(html: &mut String, node: &Node) -> fmt::Result {
    html.push_str("<h2>Node</h2><table>");
    row(html, "Id", format_args!("<code>{}</code>", node.id))?;
    let admits = if node.mesh.open { "open" } else { "closed" };
    row(html, "Mesh", format_args!("{}, {admits}, <code>{}</code>", Escaped(&node.mesh.name), node.mesh.key.short()))?;
    for address in &node.addresses {
        row(html, "Clients and workers", format_args!("<code>{}</code>", Escaped(address)))?;
    }
    for address in &node.mesh_addresses {
        row(html, "Join by", format_args!("<code>{}</code>", Escaped(address)))?;
    }
    row(html, "HTTP", format_args!("<code>{}</code>", Escaped(node.http.as_deref().unwrap_or_default())))?;
    for (key, value) in &node.labels {
        row(html, "Label", format_args!("<code>{}={}</code>", Escaped(key), Escaped(value)))?;
    }
    html.push_str("</table>");
    Ok(())
}

fn links(html: &mut String, node: &Node) -> fmt::Result {
    html.push_str(
        "<h2>Go on</h2><p><a href=\"/openapi.json\">/openapi.json</a>: the API, for clients and generators<br>",
    );
    html.push_str("<a href=\"/metrics\">/metrics</a>: counters for Prometheus<br><a href=\"/healthz\">/healthz</a>: whether it takes requests</p>");
    html.push_str(
        "<p>Everything else needs the token in the file <code>token</code> of the node's data folder:</p><pre>",
    );
    let http = Escaped(node.http.as_deref().unwrap_or_default());
    write!(html, "TOKEN=$(cat DATA/token)\ncurl -H \"authorization: Bearer $TOKEN\" {http}/job\n")?;
    write!(html, "curl -H \"authorization: Bearer $TOKEN\" -H 'content-type: application/json' \\\n     ")?;
    write!(html, "-d '{{\"function\":\"NAME\",\"input\":{{\"text\":\"hello\"}}}}' {http}/job\n</pre></html>")
}

fn row(html: &mut String, what: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    write!(html, "<tr><th scope=\"row\">{what}</th><td>{value}</td></tr>")
}

/// Text that is shown as it is, whatever it holds.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A number of bytes, for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        let mut tenths = u128::from(self.0) * 10;
        let mut shown = None;
        for unit in units {
            if tenths < 10_240 {
                break;
            }
            tenths /= 1024;
            shown = Some(unit);
        }
        match shown {
            None => write!(f, "{} bytes", self.0),
            Some(unit) => write!(f, "{}.{} {unit}", tenths / 10, tenths % 10),
        }
    }
}

/// A length of time in milliseconds, for people.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, minutes) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, hours, minutes) => write!(f, "{hours} h {minutes} min"),
            (days, hours, _) => write!(f, "{days} d {hours} h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::NodeId;
    use shoal_protocol::key::SecretKey;
    use shoal_protocol::object::node::{BlobTotals, JobCounts, Mesh};

    fn node() -> Node {
        Node {
            id: NodeId([7; 32]),
            name: "edge-1".into(),
            version: "0.1.0".into(),
            mesh: Mesh { name: "default".into(), key: SecretKey::of_open_mesh("default").public(), open: true },
            labels: [("site".into(), "<b>roof</b>".into())].into(),
            addresses: vec!["quic://07@127.0.0.1:7450".into()],
            mesh_addresses: vec!["07@10.0.0.7:7452".into()],
            http: Some("http://127.0.0.1:7451".into()),
            started_ms: Some(1_000),
            workers: 3,
            slots: 12,
            jobs: Some(JobCounts { accepted: 41, waiting: 5, running: 6, settled: 30, swept: 0 }),
            blobs: Some(BlobTotals { count: 9, bytes: 3 << 20 }),
            resident_bytes: Some(50 << 20),
            stopping: false,
            draining: None,
            peer: None,
        }
    }

    fn html(node: &Node, refresh_s: Option<u32>) -> String {
        let mut html = String::new();
        write(&mut html, node, 91_000, refresh_s).unwrap();
        html
    }

    #[test]
    fn the_page_shows_the_node_and_warns_of_an_open_mesh() {
        let page = html(&node(), None);
        for part in [
            "edge-1",
            "up 1 min 30 s",
            "is open",
            "3, 12 slots",
            ">41 (0 forgotten)<",
            "9, 3.0 MiB",
            "http://127.0.0.1:7451/job",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        let mut closed = node();
        closed.mesh.open = false;
        assert!(!html(&closed, None).contains("class=\"warn\""));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_escapes_what_it_shows() {
        let page = html(&node(), Some(5));
        assert!(page.contains("content=\"5\"") && !html(&node(), None).contains("http-equiv"));
        assert!(page.contains("&lt;b&gt;roof") && !page.contains("<b>roof"));
        for forbidden in ["<script", "src=", "<link", "@import", "url("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn sizes_and_times_are_for_people() {
        let sizes = [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")];
        for (bytes, text) in sizes {
            assert_eq!(Size(bytes).to_string(), text);
        }
        let spans = [(59_999, "59 s"), (60_000, "1 min 0 s"), (3_660_000, "1 h 1 min"), (90_000_000, "1 d 1 h")];
        for (ms, text) in spans {
            assert_eq!(Span(ms).to_string(), text);
        }
    }
}
