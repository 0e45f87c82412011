//! The zone, its records and their changes, as the API shows and makes them.

use std::collections::BTreeMap;

use roxmltree::Node;

use super::checks::missing;
use super::{Done, OTHER_ID, State, ZONE_ID, child, element, text};
use crate::support::miniature::records::{Alias, Change, Kind, NAMES, Record, Routing, ZONE, normal, order};
use crate::support::miniature::world::World;
use crate::support::rest_xml::{Failed, LocalName as _, escape};

pub(super) fn get(world: &World, id: &str) -> Done {
    let servers: &[&str] = if id == OTHER_ID {
        &["ns-2.awsdns-02.com"]
    } else {
        expect_zone(id)?;
        &NAMES
    };
    let servers: String = servers.iter().map(|name| element("NameServer", name)).collect();
    let servers = element("DelegationSet", &element("NameServers", &servers));
    Ok(("GetHostedZoneResponse", hosted_zone(world, id, ZONE) + &servers))
}

/// Every zone.
pub(super) fn list(world: &World, other: Option<&str>) -> (&'static str, String) {
    let other = other.map(|name| hosted_zone(world, OTHER_ID, name)).unwrap_or_default();
    let zones = element("HostedZones", &(other + &hosted_zone(world, ZONE_ID, ZONE)));
    let rest = [element("Marker", ""), element("IsTruncated", "false"), element("MaxItems", "100")];
    ("ListHostedZonesResponse", zones + &rest.concat())
}

/// The zones from `dnsname` on, in the order of their names: a subdomain's name comes after its zone.
pub(super) fn list_by_name(world: &World, query: &BTreeMap<&str, String>) -> (&'static str, String) {
    let from = query.get("dnsname").map(|name| normal(name)).unwrap_or_default();
    let listed = from.rsplit('.').le(ZONE.rsplit('.')) || from.is_empty();
    let zones = if listed { hosted_zone(world, ZONE_ID, ZONE) } else { String::new() };
    let content =
        [element("HostedZones", &zones), element("IsTruncated", "false"), element("MaxItems", "100")];
    ("ListHostedZonesByNameResponse", content.concat())
}

pub(super) fn list_records(world: &World, id: &str, query: &BTreeMap<&str, String>) -> Done {
    expect_zone(id)?;
    let of = |name| query.get(name).map(String::as_str).unwrap_or_default();
    let (name, kind, identifier) = (normal(of("name")), of("type"), of("identifier"));
    let most = of("maxitems").parse().unwrap_or(300).min(300);
    let from = (name.rsplit('.').collect::<Vec<_>>(), kind, identifier);
    let mut records = world.records().iter().skip_while(|record| !name.is_empty() && order(record) < from);
    let page: String = records.by_ref().take(most).map(record_set).collect();
    let next = records.next().map(|record| {
        let next = [
            element("NextRecordName", &format!("{}.", record.name)),
            element("NextRecordType", record.kind.name()),
            element("NextRecordIdentifier", &escape(&record.identifier)),
        ];
        // A simple record has no identifier.
        next[..if record.identifier.is_empty() { 2 } else { 3 }].concat()
    });
    let content = [
        element("ResourceRecordSets", &page),
        element("IsTruncated", &next.is_some().to_string()),
        next.unwrap_or_default(),
        element("MaxItems", &most.to_string()),
    ];
    Ok(("ListResourceRecordSetsResponse", content.concat()))
}

// === impl State ===

impl State {
    pub(super) fn change_records(&mut self, world: &mut World, id: &str, root: Node<'_, '_>) -> Done {
        expect_zone(id)?;
        let changes = root.descendants().filter(|node| node.has_tag_name_local("Change"));
        let changes = changes.map(change).collect::<Result<Vec<_>, _>>()?;
        for change in &changes {
            if let Change::Create(record) | Change::Upsert(record) = change
                && let Some(check) = record.check.as_ref().filter(|check| !self.checks.contains_key(*check))
            {
                return Err(missing(check));
            }
        }
        world.change(changes).map_err(|refused| Failed {
            status: 400,
            code: "InvalidChangeBatch",
            message: format!("[{}]", refused.join(", ")),
        })?;
        self.changes.push(world.now());
        let number = self.changes.len() - 1;
        Ok(("ChangeResourceRecordSetsResponse", self.change_info(world, number)))
    }

    pub(super) fn get_change(&self, world: &World, id: &str) -> Done {
        let number = id.strip_prefix('C').and_then(|number| number.parse().ok());
        let number = number.filter(|number: &usize| *number < self.changes.len());
        let number = number.ok_or_else(|| {
            let message = format!("Could not find resource with ID: {id}");
            Failed { status: 404, code: "NoSuchChange", message }
        })?;
        Ok(("GetChangeResponse", self.change_info(world, number)))
    }

    /// A change is in sync when every name server knows it.
    fn change_info(&self, world: &World, number: usize) -> String {
        let known = self.changes[number] + world.longest_lag();
        let content = [
            element("Id", &format!("/change/C{number}")),
            element("Status", if world.now() >= known { "INSYNC" } else { "PENDING" }),
            element("SubmittedAt", "2026-11-26T08:00:00.000Z"),
        ];
        element("ChangeInfo", &content.concat())
    }
}

fn expect_zone(id: &str) -> Result<(), Failed> {
    if id == ZONE_ID {
        return Ok(());
    }
    let message = format!("No hosted zone found with ID: {id}");
    Err(Failed { status: 404, code: "NoSuchHostedZone", message })
}

fn hosted_zone(world: &World, id: &str, name: &str) -> String {
    let content = [
        element("Id", &format!("/hostedzone/{id}")),
        element("Name", &format!("{name}.")),
        element("CallerReference", "miniature"),
        element("Config", &element("PrivateZone", "false")),
        element("ResourceRecordSetCount", &world.records().len().to_string()),
    ];
    element("HostedZone", &content.concat())
}

fn record_set(record: &Record) -> String {
    let mut content = element("Name", &format!("{}.", record.name)) + &element("Type", record.kind.name());
    if !record.identifier.is_empty() {
        content += &element("SetIdentifier", &escape(&record.identifier));
    }
    content += &match record.routing {
        Routing::Simple => String::new(),
        Routing::Primary => element("Failover", "PRIMARY"),
        Routing::Secondary => element("Failover", "SECONDARY"),
    };
    if let Some(alias) = &record.alias {
        let target = [
            element("HostedZoneId", &alias.zone),
            element("DNSName", &alias.name),
            element("EvaluateTargetHealth", &alias.evaluate.to_string()),
        ];
        content += &element("AliasTarget", &target.concat());
    } else {
        let value = |value: &String| element("ResourceRecord", &element("Value", &escape(value)));
        let values: String = record.values.iter().map(value).collect();
        content += &element("TTL", &record.ttl.to_string());
        content += &element("ResourceRecords", &values);
    }
    if let Some(check) = &record.check {
        content += &element("HealthCheckId", check);
    }
    element("ResourceRecordSet", &content)
}

fn change(change: Node<'_, '_>) -> Result<Change, Failed> {
    let set = child(change, "ResourceRecordSet").ok_or_else(|| Failed::invalid("no ResourceRecordSet"))?;
    let record = record(set)?;
    match text(change, "Action").unwrap_or_default() {
        "CREATE" => Ok(Change::Create(record)),
        "UPSERT" => Ok(Change::Upsert(record)),
        "DELETE" => Ok(Change::Delete(record)),
        other => Err(Failed::invalid(&format!("{other} is no action"))),
    }
}

fn record(set: Node<'_, '_>) -> Result<Record, Failed> {
    let kind = text(set, "Type").and_then(Kind::parse);
    let kind = kind.ok_or_else(|| Failed::invalid("the stand-in does not serve this record type"))?;
    let mut record = Record::new(text(set, "Name").unwrap_or_default(), kind, "");
    text(set, "SetIdentifier").unwrap_or_default().clone_into(&mut record.identifier);
    record.routing = match text(set, "Failover") {
        None => Routing::Simple,
        Some("PRIMARY") => Routing::Primary,
        Some("SECONDARY") => Routing::Secondary,
        Some(other) => return Err(Failed::invalid(&format!("{other} is no failover role"))),
    };
    if (record.routing == Routing::Simple) != record.identifier.is_empty() {
        return Err(Failed::invalid("a failover record has a SetIdentifier, and a simple record has none"));
    }
    record.check = text(set, "HealthCheckId").map(str::to_owned);
    let values = set.descendants().filter(|node| node.has_tag_name_local("Value"));
    record.values = values.filter_map(|value| Some(value.text()?.to_owned())).collect();
    record.alias = child(set, "AliasTarget").map(|target| Alias {
        zone: text(target, "HostedZoneId").unwrap_or_default().to_owned(),
        name: text(target, "DNSName").unwrap_or_default().to_owned(),
        evaluate: text(target, "EvaluateTargetHealth") == Some("true"),
    });
    let ttl = text(set, "TTL");
    record.ttl = ttl.unwrap_or("0").parse().map_err(|_| Failed::invalid("TTL is no number"))?;
    let alias = record.alias.is_some();
    if alias != record.values.is_empty() || alias == ttl.is_some() {
        return Err(Failed::invalid("a record has a TTL and values, or an alias target"));
    }
    Ok(record)
}
