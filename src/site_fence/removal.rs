//! The removal of a site's endpoints from an accelerator, and what is known of it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::SiteFence;
use super::accelerator::Accelerator;
use super::error::Error;
use super::notes::{By, Note, Notes, Rejoined};
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
    /// Whether none of the site's endpoints were noted before.
    is_noted_anew: bool,
    /// Who had taken out the site before a rejoin by force, by its note, and that rejoin.
    former: Option<(By, Option<Rejoined>)>,
    /// What does not exist by Global Accelerator's answer to a removal, by group, endpoint and whether clients' addresses are
    /// preserved: it may still show it for a while.
    gone_by_answer: BTreeSet<(String, String, Option<bool>)>,
    /// Whether a person has rejoined the site since.
    is_undone: bool,
}

impl Removal {
    /// Notes the endpoints that are about to be removed; `before` are the notes before that.
    pub fn begin(&mut self, note: Note, site: &Site, before: &Notes) {
        // A try before may have noted them.
        let is_first = self.note.endpoints.is_empty();
        self.is_noted_anew |= before.of(site).is_none_or(|note| note.endpoints.is_empty()) && is_first;
        let former = before.void(site).map(|by| (by.clone(), before.rejoined(site)));
        self.former = former.or(self.former.take());
        self.note = note;
    }

    /// Removes the note of who had taken out the site before a rejoin by force: that was another removal. If this fails, the site is
    /// taken out all the same.
    pub async fn void(&self, system: &SiteFence, accelerator: &Accelerator, site: &Site, deadline: Deadline) {
        if self.former.is_none() {
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

    /// Takes the note back if certainly no endpoint was removed, and all are seen in service, by a view that may not be old: it
    /// would bring back what a person takes out later.
    pub async fn end(
        &self,
        system: &SiteFence,
        accelerator: &Accelerator,
        turn: &Turn<'_>,
        site: &Site,
        deadline: Deadline,
    ) {
        let has_changed_notes = self.is_noted_anew || self.former.is_some();
        if !has_changed_notes || self.is_perhaps_done() || turn.has_just_left(site) {
            return;
        }
        let groups = system.view.accelerators.groups(accelerator, deadline.within(deadline.left() / 2)).await;
        let Ok(groups) = groups else { return };
        if !self.note.endpoints.iter().all(|noted| noted.is_in(&groups)) {
            return;
        }
        if let Some(former) = &self.former {
            let deadline = deadline.within(deadline.left() / 3);
            if let Err(failure) = put_back(system, accelerator, site, former, deadline).await {
                warn!(%site, error = %failure, "that the site was rejoined by force is not noted any more");
            }
        }
        if !self.is_noted_anew {
            return;
        }
        // That of who took it out is another's.
        let keys =
            Note { by: None, ..self.note.clone() }.tags(site).into_iter().map(|(key, _)| key).collect();
        let deadline = deadline.within(deadline.left() / 2);
        if let Err(failure) = system.view.accelerators.untag(accelerator, keys, deadline).await {
            warn!(%site, error = %failure, "the site is in service, and its endpoints stay noted: rejoin it to remove the notes");
        }
    }
}

/// Notes again who had taken out the site before that rejoin by force, unless a person has rejoined it since.
async fn put_back(
    system: &SiteFence,
    accelerator: &Accelerator,
    site: &Site,
    (by, rejoined): &(By, Option<Rejoined>),
    deadline: Deadline,
) -> Result<(), Failure> {
    let tags = system.view.accelerators.tags(accelerator, deadline.within(deadline.left() / 2)).await?;
    if Notes::read(&accelerator.arn, &tags).rejoined(site) != *rejoined {
        return Ok(());
    }
    let former = Note { by: Some(by.clone()), ..Note::default() };
    system.view.accelerators.tag(accelerator, former.tags(site), deadline).await
}

fn is_not_found(removed: &Result<(), Failure>) -> bool {
    matches!(removed, Err(failure) if failure.is_error(NOT_FOUND))
}
