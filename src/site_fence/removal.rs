//! The removal of a site's endpoints from an accelerator, and what is known of it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::SiteFence;
use super::accelerator::Accelerator;
use super::error::Error;
use super::notes::{By, Note, Noted, Notes, Rejoined};
use super::site::{Endpoint, EndpointGroup, Leaving, Site};
use super::turn::{End, Turn};
use super::view::Sight;
use crate::remote::aws::Failure;
use crate::remote::deadline::Deadline;

/// One of the endpoints does not exist, see [RemoveEndpoints](https://docs.aws.amazon.com/global-accelerator/latest/api/API_RemoveEndpoints.html).
const NOT_FOUND: &str = "EndpointNotFoundException";

/// The removal of a site's endpoints, as far as it was begun.
#[derive(Default)]
pub(super) struct Removal {
    /// The endpoints whose removal was requested.
    pub note: Note,
    /// When any of them may have gone last: that was answered or seen, or an answer was lost.
    gone: Option<DateTime<Utc>>,
    /// Those of them that were not only noted before, by another removal.
    requested: Vec<Noted>,
    /// What was noted before.
    before: Option<Before>,
    /// What does not exist by Global Accelerator's answer to a removal, by group, endpoint and whether clients' addresses are
    /// preserved: it may still show it for a while.
    gone_by_answer: BTreeSet<(String, String, Option<bool>)>,
    /// Whether a person has rejoined the site since.
    is_undone: bool,
}

/// What was noted of a site before its removal.
struct Before {
    note: Note,
    rejoined: Option<Rejoined>,
    /// Whether it was rejoined by force since it was taken out.
    is_void: bool,
}

impl Removal {
    /// Notes the endpoints that are about to be removed; `notes` are those before that.
    pub fn begin(&mut self, note: Note, leaving: &Leaving<'_>, site: &Site, notes: &Notes) {
        // Those that a later try reads are this removal's.
        self.before.get_or_insert_with(|| Before {
            note: notes.of(site).cloned().unwrap_or_default(),
            rejoined: notes.rejoined(site),
            is_void: notes.void(site).is_some(),
        });
        self.requested.extend(Note::default().with(leaving).endpoints);
        self.note = note;
    }

    /// Removes the note of who had taken out the site before a rejoin by force: that was another removal. If this fails, the site is
    /// taken out all the same.
    pub async fn void(&self, system: &SiteFence, accelerator: &Accelerator, site: &Site, deadline: Deadline) {
        if !self.before.as_ref().is_some_and(|before| before.is_void) {
            return;
        }
        let keys = vec![Note::key_of_by(site)];
        if let Err(failure) = system.view.accelerators.untag(accelerator, keys, deadline).await {
            warn!(%site, error = %failure, "the note of an earlier removal stays until this one has ended");
        }
    }

    /// Removes them, from one group after the other, as long as this `goes_on`: that is asked between two calls, and after the
    /// last one. Returns whether it does.
    pub async fn remove(
        &mut self,
        system: &SiteFence,
        leaving: &Leaving<'_>,
        goes_on: impl AsyncFn() -> bool,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        for (group, endpoints) in leaving {
            let mut removed = self.remove_from(system, group, endpoints, &goes_on, deadline).await;
            if is_not_found(&removed) {
                // One of them does not exist.
                for endpoint in endpoints {
                    removed = self.remove_one(system, group, endpoint, &goes_on, deadline).await;
                    if removed.is_err() && !is_not_found(&removed) {
                        break;
                    }
                }
            }
            removed.map_err(Error::Removal)?;
            if !goes_on().await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes an endpoint that may be there only with another setting than the one that is shown: someone may have changed that.
    async fn remove_one(
        &mut self,
        system: &SiteFence,
        group: &EndpointGroup,
        endpoint: &Endpoint,
        goes_on: &impl AsyncFn() -> bool,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let removed = self.remove_from(system, group, &[endpoint], goes_on, deadline).await;
        match endpoint.client_ip_preserved {
            Some(preserved) if is_not_found(&removed) => {
                let other = Endpoint { client_ip_preserved: Some(!preserved), ..endpoint.clone() };
                self.remove_from(system, group, &[&other], goes_on, deadline).await
            }
            _ => removed,
        }
    }

    async fn remove_from(
        &mut self,
        system: &SiteFence,
        group: &EndpointGroup,
        endpoints: &[&Endpoint],
        goes_on: &impl AsyncFn() -> bool,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let mut perhaps = false;
        let accelerators = &system.view.accelerators;
        let removed = accelerators.remove(group, endpoints, &mut perhaps, goes_on, deadline).await;
        if perhaps {
            self.gone = Some(Utc::now());
        }
        if let ([endpoint], Err(failure)) = (endpoints, &removed)
            && failure.is_error(NOT_FOUND)
        {
            let Endpoint { id, client_ip_preserved, .. } = endpoint;
            self.gone_by_answer.insert((group.arn.clone(), id.clone(), *client_ip_preserved));
        }
        removed
    }

    /// What is seen, without the endpoints that are gone.
    pub fn without_gone(&self, mut sight: Sight) -> Sight {
        for group in &mut sight.groups {
            let EndpointGroup { arn, endpoints, .. } = group;
            endpoints.retain(|endpoint| {
                let Endpoint { id, client_ip_preserved, .. } = endpoint;
                !self.gone_by_answer.contains(&(arn.clone(), id.clone(), *client_ip_preserved))
            });
        }
        sight
    }

    /// Leaves the site as a person has rejoined it at that time.
    ///
    /// # Errors
    /// Endpoints may be missing since, or the note that it is out stays.
    pub async fn gives_way(
        &mut self,
        rejoined: DateTime<Utc>,
        site: &Site,
        sight: &Sight,
        (system, accelerator, deadline): (&SiteFence, &Accelerator, Deadline),
    ) -> Result<(), Error> {
        let missing = self.is_undone(rejoined, &sight.groups);
        if !missing.is_empty() {
            return Err(Error::Rejoined(missing));
        }
        // It was noted after the rejoin had removed the notes.
        if sight.notes.is_out(site) {
            let keys = Note::keys(site, &sight.tags);
            system.view.accelerators.untag(accelerator, keys, deadline).await?;
        }
        Ok(())
    }

    /// A person has rejoined the site at that time. Returns, by name, the endpoints that may be missing since: those that are not
    /// in these groups, and all where one was removed after the rejoin may have looked.
    fn is_undone(&mut self, rejoined: DateTime<Utc>, groups: &[EndpointGroup]) -> String {
        self.is_undone = true;
        let is_late = self.gone.is_some_and(|gone| gone > rejoined);
        let missing = self.note.endpoints.iter().filter(|noted| is_late || !noted.is_in(groups));
        missing.map(|noted| noted.id.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The site is seen to be out.
    pub fn is_out(&mut self) {
        self.gone.get_or_insert_with(Utc::now);
    }

    /// Whether any of its endpoints may be gone.
    pub fn is_perhaps_done(&self) -> bool {
        self.gone.is_some()
    }

    /// What is on record of it. A removal whose answer was lost may have been done.
    pub fn record(&self) -> End {
        self.gone.filter(|_| !self.is_undone).map_or(End::AsBefore, End::Out)
    }

    /// Takes the note back if certainly no endpoint was removed, and all that were to be are seen in service, by a view that may not
    /// be old: it would bring back what a person takes out later.
    pub async fn end(
        &self,
        system: &SiteFence,
        accelerator: &Accelerator,
        turn: &Turn<'_>,
        site: &Site,
        deadline: Deadline,
    ) {
        let Some(before) = self.before.as_ref().filter(|before| before.note != self.note) else { return };
        if self.is_perhaps_done() || turn.has_just_left(site) {
            return;
        }
        let groups = system.view.accelerators.groups(accelerator, deadline.within(deadline.left() / 2)).await;
        if !groups.is_ok_and(|groups| self.requested.iter().all(|noted| noted.is_in(&groups))) {
            return;
        }
        if let Err(failure) = self.put_back(before, system, accelerator, site, deadline).await {
            warn!(%site, error = %failure, "the site is in service, and its endpoints stay noted: rejoin it to remove the notes");
        }
    }

    /// Notes what was noted before, unless a person has rejoined the site since. Who takes it out by another removal stays.
    async fn put_back(
        &self,
        before: &Before,
        system: &SiteFence,
        accelerator: &Accelerator,
        site: &Site,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let accelerators = &system.view.accelerators;
        let tags = accelerators.tags(accelerator, deadline.within(deadline.left() / 3)).await?;
        let notes = Notes::read(&accelerator.arn, &tags);
        if notes.rejoined(site) != before.rejoined {
            return Ok(());
        }
        let by = notes.of(site).and_then(|note| note.by.as_ref());
        let is_others = by.is_some() && by.map(By::value) != self.note.by.as_ref().map(By::value);
        let mut former = before.note.tags(site);
        former.retain(|(key, _)| !is_others || *key != Note::key_of_by(site));
        let is_other = |(key, _): &(String, String)| former.iter().all(|(kept, _)| kept != key);
        let own = Note { by: None, ..self.note.clone() }.tags(site);
        let keys: Vec<_> = own.into_iter().filter(is_other).map(|(key, _)| key).collect();
        if !former.is_empty() {
            accelerators.tag(accelerator, former, deadline.within(deadline.left() / 2)).await?;
        }
        if keys.is_empty() { Ok(()) } else { accelerators.untag(accelerator, keys, deadline).await }
    }
}

fn is_not_found(removed: &Result<(), Failure>) -> bool {
    matches!(removed, Err(failure) if failure.is_error(NOT_FOUND))
}
