//! Health checks and their tags, as the API shows and changes them.

use std::collections::BTreeMap;
use std::time::Duration;

use roxmltree::Node;

use super::{Done, State, child, element, text};
use crate::support::miniature::check::{Check, Endpoint, Monitors};
use crate::support::miniature::world::World;
use crate::support::rest_xml::{Failed, LocalName as _, escape};

/// The elements that an update can change.
const CHANGEABLE: [&str; 15] = [
    "AlarmIdentifier",
    "ChildHealthChecks",
    "Disabled",
    "EnableSNI",
    "FailureThreshold",
    "FullyQualifiedDomainName",
    "HealthThreshold",
    "InsufficientDataHealthStatus",
    "Inverted",
    "IPAddress",
    "Port",
    "Regions",
    "ResourcePath",
    "SearchString",
    "HealthCheckVersion",
];
/// The elements that hold others.
const NESTED: [&str; 3] = ["AlarmIdentifier", "ChildHealthChecks", "Regions"];

/// A health check, as the API knows it.
#[derive(Clone)]
pub(super) struct Settings {
    reference: String,
    version: i64,
    /// The content of each element of `HealthCheckConfig`, by name.
    config: BTreeMap<String, String>,
    children: Vec<String>,
    tags: BTreeMap<String, String>,
}

// === impl Settings ===

impl Settings {
    /// Takes the settings that the elements give, over those that are there.
    fn take(&mut self, config: Node<'_, '_>) {
        for node in config.children().filter(Node::is_element) {
            let name = node.tag_name().name();
            let content = if NESTED.contains(&name) {
                let leaves = node.children().filter(Node::is_element);
                let leaves = leaves
                    .map(|leaf| element(leaf.tag_name().name(), &escape(leaf.text().unwrap_or_default())));
                leaves.collect()
            } else {
                escape(node.text().unwrap_or_default())
            };
            if name == "ChildHealthChecks" {
                let children = node.children().filter_map(|child| child.text());
                self.children = children.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect();
            }
            self.config.insert(name.to_owned(), content);
        }
    }

    /// Adds Route 53's defaults.
    fn complete(&mut self) {
        let calculated = self.kind() == "CALCULATED";
        let endpoint = !calculated && self.kind() != "CLOUDWATCH_METRIC";
        let sni = if self.kind().starts_with("HTTPS") { "true" } else { "false" };
        for (name, value, applies) in [
            ("Inverted", "false", true),
            ("Disabled", "false", true),
            ("RequestInterval", "30", endpoint),
            ("FailureThreshold", "3", endpoint),
            ("MeasureLatency", "false", endpoint),
            ("EnableSNI", sni, endpoint),
        ] {
            if applies {
                self.config.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
    }

    fn kind(&self) -> &str {
        self.get("Type").unwrap_or_default()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.config.get(name).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, name: &str, otherwise: T) -> Result<T, Failed> {
        let number = self.get(name).map(str::parse).transpose();
        Ok(number.map_err(|_| Failed::invalid(&format!("{name} is no number")))?.unwrap_or(otherwise))
    }

    /// The check that a world understands.
    fn check(&self) -> Result<Check, Failed> {
        let monitors = match self.kind() {
            "CALCULATED" => {
                let threshold = self.number("HealthThreshold", 0)?;
                Monitors::Calculated { children: self.children.clone(), threshold }
            }
            "CLOUDWATCH_METRIC" => Monitors::Metric,
            "HTTP" | "HTTPS" => Monitors::Endpoint(self.endpoint()?),
            other => return Err(Failed::invalid(&format!("the stand-in does not serve the type {other}"))),
        };
        let is = |name| self.get(name) == Some("true");
        Ok(Check { monitors, inverted: is("Inverted"), disabled: is("Disabled") })
    }

    fn endpoint(&self) -> Result<Endpoint, Failed> {
        let https = self.kind() == "HTTPS";
        let (scheme, standard) = if https { ("https", 443) } else { ("http", 80) };
        // AWS refuses loopback addresses. The endpoints of these tests have no others.
        let address = self.get("IPAddress");
        let host = self.get("FullyQualifiedDomainName").or(address);
        let host = host.ok_or_else(|| Failed::invalid("an address or a name is required"))?;
        let port = self.number("Port", standard)?;
        let authority = if port == standard { host.to_owned() } else { format!("{host}:{port}") };
        let path = self.get("ResourcePath").unwrap_or("/").trim_start_matches('/');
        let address = address.map(str::parse).transpose();
        Ok(Endpoint {
            url: format!("{scheme}://{authority}/{}", path.replace("&amp;", "&")),
            address: address.map_err(|_| Failed::invalid("IPAddress is no address"))?,
            interval: Duration::from_secs(self.number("RequestInterval", 30)?),
            threshold: self.number("FailureThreshold", 3)?,
        })
    }

    fn xml(&self, id: &str) -> String {
        let config: String = self.config.iter().map(|(name, content)| element(name, content)).collect();
        let check = [
            element("Id", id),
            element("CallerReference", &escape(&self.reference)),
            element("HealthCheckConfig", &config),
            element("HealthCheckVersion", &self.version.to_string()),
        ];
        element("HealthCheck", &check.concat())
    }

    fn tag_set(&self, id: &str) -> String {
        let tag = |(key, value): (&String, &String)| {
            element("Tag", &(element("Key", &escape(key)) + &element("Value", &escape(value))))
        };
        let tags: String = self.tags.iter().map(tag).collect();
        let set = [element("ResourceType", "healthcheck"), element("ResourceId", id), element("Tags", &tags)];
        element("ResourceTagSet", &set.concat())
    }
}

// === impl State ===

impl State {
    pub(super) fn create_check(&mut self, world: &mut World, root: Node<'_, '_>) -> Done {
        let reference = text(root, "CallerReference").ok_or_else(|| Failed::invalid("no CallerReference"))?;
        let config =
            child(root, "HealthCheckConfig").ok_or_else(|| Failed::invalid("no HealthCheckConfig"))?;
        let mut settings = Settings {
            reference: reference.to_owned(),
            version: 1,
            config: BTreeMap::new(),
            children: Vec::new(),
            tags: BTreeMap::new(),
        };
        settings.take(config);
        settings.complete();
        let check = settings.check()?;
        let known = self.checks.iter().find(|(_, other)| other.reference == reference);
        // A repeated request returns the check, unless the settings differ.
        let id = match known {
            Some((id, other)) if other.config == settings.config => id.clone(),
            Some(_) => return Err(exists(reference)),
            None if self.spent.iter().any(|spent| spent == reference) => return Err(exists(reference)),
            None => world.create_check(check).map_err(Failed::invalid)?,
        };
        let settings = self.checks.entry(id.clone()).or_insert(settings);
        Ok(("CreateHealthCheckResponse", settings.xml(&id)))
    }

    pub(super) fn get_check(&self, id: &str) -> Done {
        Ok(("GetHealthCheckResponse", self.existing(id)?.xml(id)))
    }

    pub(super) fn update_check(&mut self, world: &mut World, id: &str, root: Node<'_, '_>) -> Done {
        let mut settings = self.existing(id)?.clone();
        let said = text(root, "HealthCheckVersion").unwrap_or_default();
        if !said.is_empty() && said.parse() != Ok(settings.version) {
            let message = format!("The health check is at version {}, not {said}.", settings.version);
            return Err(Failed { status: 409, code: "HealthCheckVersionMismatch", message });
        }
        for node in root.children().filter(Node::is_element) {
            match node.tag_name().name() {
                "ResetElements" => {
                    for name in node.children().filter_map(|name| name.text()) {
                        settings.config.remove(name);
                        if name == "ChildHealthChecks" {
                            settings.children.clear();
                        }
                    }
                }
                name if CHANGEABLE.contains(&name) => {}
                other => return Err(Failed::invalid(&format!("{other} cannot be changed"))),
            }
        }
        settings.take(root);
        for name in ["HealthCheckVersion", "ResetElements"] {
            settings.config.remove(name);
        }
        settings.version += 1;
        world.update_check(id, settings.check()?).map_err(Failed::invalid)?;
        let xml = settings.xml(id);
        self.checks.insert(id.to_owned(), settings);
        Ok(("UpdateHealthCheckResponse", xml))
    }

    /// "Route 53 doesn't prevent you from deleting a health check even if the health check is associated with one or
    /// more records", and the error `HealthCheckInUse` is "not in use".
    pub(super) fn delete_check(&mut self, world: &mut World, id: &str) -> Done {
        let settings = self.checks.remove(id).ok_or_else(|| missing(id))?;
        self.spent.push(settings.reference);
        world.delete_check(id);
        Ok(("DeleteHealthCheckResponse", String::new()))
    }

    /// A page of at most `maxitems` checks, or of 100.
    pub(super) fn list_checks(&self, query: &BTreeMap<&str, String>) -> (&'static str, String) {
        let marker = query.get("marker").map(String::as_str).unwrap_or_default();
        let most = query.get("maxitems").and_then(|most| most.parse().ok()).unwrap_or(100).min(100);
        let mut checks = self.checks.iter().skip_while(|(id, _)| id.as_str() < marker);
        let page: String = checks.by_ref().take(most).map(|(id, settings)| settings.xml(id)).collect();
        let next = checks.next().map(|(id, _)| element("NextMarker", id));
        let content = [
            element("HealthChecks", &page),
            element("Marker", marker),
            element("IsTruncated", &next.is_some().to_string()),
            next.unwrap_or_default(),
            element("MaxItems", &most.to_string()),
        ];
        ("ListHealthChecksResponse", content.concat())
    }

    /// "You can't use `GetHealthCheckStatus` to get the status of a calculated health check."
    pub(super) fn check_status(&self, world: &World, id: &str) -> Done {
        if self.existing(id)?.kind() == "CALCULATED" {
            return Err(Failed::invalid("a calculated health check has no status"));
        }
        let observation = |healthy: bool| {
            let status = if healthy {
                "Success: HTTP Status Code 200, OK"
            } else {
                "Failure: The health checker could not establish a connection within the timeout limit."
            };
            let report = element("Status", status) + &element("CheckedTime", "2026-11-26T08:00:00.000Z");
            let content = [
                element("Region", "us-east-1"),
                element("IPAddress", "15.177.2.1"),
                element("StatusReport", &report),
            ];
            element("HealthCheckObservation", &content.concat())
        };
        let observations: String = world.opinions(id).into_iter().map(observation).collect();
        Ok(("GetHealthCheckStatusResponse", element("HealthCheckObservations", &observations)))
    }

    pub(super) fn list_tags(&self, id: &str) -> Done {
        Ok(("ListTagsForResourceResponse", self.existing(id)?.tag_set(id)))
    }

    /// The tags of at most 10 checks; those that do not exist are left out.
    pub(super) fn list_all_tags(&self, root: Node<'_, '_>) -> Done {
        let ids = root.descendants().filter(|node| node.has_tag_name_local("ResourceId"));
        let ids: Vec<_> = ids.filter_map(|node| node.text()).collect();
        if ids.is_empty() || ids.len() > 10 {
            return Err(Failed::invalid("1 to 10 resources"));
        }
        let sets: String = ids.into_iter().filter_map(|id| Some(self.checks.get(id)?.tag_set(id))).collect();
        Ok(("ListTagsForResourcesResponse", element("ResourceTagSets", &sets)))
    }

    pub(super) fn change_tags(&mut self, id: &str, root: Node<'_, '_>) -> Done {
        let settings = self.checks.get_mut(id).ok_or_else(|| missing(id))?;
        let mut tags = settings.tags.clone();
        let removed = child(root, "RemoveTagKeys").into_iter().flat_map(|keys| keys.children());
        for key in removed.filter_map(|key| key.text()) {
            tags.remove(key);
        }
        for tag in root.descendants().filter(|node| node.has_tag_name_local("Tag")) {
            let of = |name| text(tag, name).unwrap_or_default().to_owned();
            tags.insert(of("Key"), of("Value"));
        }
        if tags.len() > 10 {
            return Err(Failed::invalid("a health check has 10 tags at most"));
        }
        settings.tags = tags;
        Ok(("ChangeTagsForResourceResponse", String::new()))
    }

    fn existing(&self, id: &str) -> Result<&Settings, Failed> {
        self.checks.get(id).ok_or_else(|| missing(id))
    }
}

pub(super) fn missing(id: &str) -> Failed {
    let message = format!("A health check with id {id} does not exist.");
    Failed { status: 404, code: "NoSuchHealthCheck", message }
}

fn exists(reference: &str) -> Failed {
    let message = format!("A health check with the caller reference {reference} already exists.");
    Failed { status: 409, code: "HealthCheckAlreadyExists", message }
}
