use super::super::site::Owner;
use super::*;

const ACCELERATOR: &str =
    "arn:aws:globalaccelerator::123456789012:accelerator/1234abcd-abcd-1234-abcd-1234abcdefgh";

fn noted() -> Note {
    let group = EndpointGroup {
        arn: format!("{ACCELERATOR}/listener/0123vxyz/endpoint-group/098765zyxwvu"),
        region: "ap-southeast-4".to_owned(),
        gets_traffic: true,
        endpoints: vec![Endpoint {
            id: format!(
                "arn:aws:elasticloadbalancing:ap-southeast-4:123456789012:loadbalancer/net/{}/50dc6c495c0c9188",
                "n".repeat(32)
            ),
            weight: 200,
            client_ip_preserved: Some(false),
            healthy: false,
            owner: Owner::Unknown,
        }],
    };
    let leaving = vec![(&group, group.endpoints.iter().collect())];
    let now = "2026-11-21T03:08:09.5Z".parse().unwrap();
    Note::default().with(&leaving).out(Some(&"site-a".parse().unwrap()), now)
}

#[test]
fn a_note_fits_into_tags_and_is_read_back() {
    let site: Site = "x".repeat(64).parse().unwrap();
    let tags: BTreeMap<_, _> = noted().tags(&site).into_iter().collect();
    for (key, value) in &tags {
        let fits = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c));
        assert!(key.len() <= 128 && value.len() <= 256 && fits(key) && fits(value), "{key} {value}");
    }
    assert_eq!(tags[&format!("site-fence:{site}")], "2026-11-21T03:08:09.500Z site-a");
    let notes = Notes::read(ACCELERATOR, &tags);
    let note = notes.of(&site).unwrap();
    assert_eq!(note.endpoints, noted().endpoints);
    assert_eq!(note.by, noted().by);
    let by_a_person = noted().out(None, Utc::now());
    let tags = by_a_person.tags(&site).into_iter().collect();
    assert_eq!(Notes::read(ACCELERATOR, &tags).of(&site).unwrap().by.as_ref().unwrap().reporter, None);
}

#[test]
fn a_site_is_to_stay_out_until_its_next_rejoin() {
    let site: Site = "site-b".parse().unwrap();
    let mut tags: BTreeMap<_, _> = noted().tags(&site).into_iter().collect();
    let later = |tags: &BTreeMap<_, _>| Notes::read(ACCELERATOR, tags);
    assert!(later(&tags).is_to_stay_out(&site));
    let at = |time: &str| Rejoined { at: time.parse().unwrap(), forced: true };
    tags.extend([at("2026-11-21T03:08:09.4Z").tag(&site)]);
    assert!(later(&tags).is_to_stay_out(&site));
    tags.extend([at("2026-11-21T03:08:09.6Z").tag(&site)]);
    let notes = later(&tags);
    assert!(!notes.is_to_stay_out(&site));
    assert_eq!(notes.rejoined(&site), Some(at("2026-11-21T03:08:09.6Z")));
    assert_eq!(Note::keys(&site, &tags).len(), 2, "the last rejoin stays noted");
}

#[test]
fn a_rejoin_without_force_that_left_the_note_has_not_ended() {
    let site: Site = "site-b".parse().unwrap();
    let mut tags: BTreeMap<_, _> = noted().tags(&site).into_iter().collect();
    for (time, forced, is_out, is_to_stay_out) in [
        ("2026-11-21T03:08:09.4Z", false, true, true),
        ("2026-11-21T03:08:09.6Z", false, false, true),
        ("2026-11-21T03:08:09.6Z", true, false, false),
    ] {
        tags.extend([Rejoined { at: time.parse().unwrap(), forced }.tag(&site)]);
        let notes = Notes::read(ACCELERATOR, &tags);
        assert_eq!(
            (notes.is_out(&site), notes.is_to_stay_out(&site)),
            (is_out, is_to_stay_out),
            "{time} {forced}"
        );
    }
}

#[test]
fn an_endpoint_is_noted_once_with_its_last_settings() {
    let first = noted();
    let group = EndpointGroup {
        arn: first.endpoints[0].group.clone(),
        region: String::new(),
        gets_traffic: true,
        endpoints: Vec::new(),
    };
    let mut changed = Endpoint {
        id: first.endpoints[0].id.clone(),
        weight: 7,
        client_ip_preserved: None,
        healthy: true,
        owner: Owner::Unknown,
    };
    let again = first.clone().with(&vec![(&group, vec![&changed])]);
    assert_eq!(again.endpoints.len(), 1);
    assert_eq!((again.endpoints[0].weight, again.endpoints[0].client_ip_preserved), (7, None));
    // With clients' addresses it is another endpoint of the same load balancer.
    changed.client_ip_preserved = Some(true);
    assert_eq!(first.with(&vec![(&group, vec![&changed])]).endpoints.len(), 2);
}

#[test]
fn other_tags_are_not_notes() {
    let tags = [
        ("Name", "x"),
        ("site-fence:a/b", "2026-11-21T03:08:09Z site-a"),
        ("site-fence:site-b:0", "not what was written"),
    ];
    let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let notes = Notes::read(ACCELERATOR, &tags);
    assert_eq!(notes.iter().count(), 1);
    assert_eq!(notes.of(&"site-b".parse().unwrap()), Some(&Note::default()));
    assert_eq!(Note::keys(&"site-b".parse().unwrap(), &tags), ["site-fence:site-b:0"]);
}
