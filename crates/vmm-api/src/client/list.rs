//! Lists of VMs, page by page.

use super::{Client, Error, with_query};
use crate::guest::AgentState;
use crate::list::{Filter, Sort};
use crate::vm::{State, Vm, VmList};

/// The most that the daemon gives on one page.
pub const MAX_PAGE: u32 = 1000;

/// Which VMs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Which.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// How many to a page, at most [`MAX_PAGE`]; the daemon's own default when
    /// absent.
    pub limit: Option<u32>,
    /// Where to go on: `next_cursor` of a page with the same order.
    pub cursor: Option<String>,
}

impl ListQuery {
    fn path(&self) -> String {
        let states: Vec<&str> =
            self.filter.states.iter().map(|state| State::as_str(*state)).collect();
        let agents: Vec<&str> =
            self.filter.agents.iter().map(|agent| AgentState::as_str(*agent)).collect();
        let several = |words: Vec<&str>| (!words.is_empty()).then(|| words.join(","));
        let sort = (self.sort != Sort::default()).then(|| self.sort.to_string());
        let labels = self.filter.labels.iter();
        let labels = labels.map(|(key, value)| ("label", Some(format!("{key}:{value}"))));
        let parameters: Vec<(&str, Option<String>)> = [
            ("state", several(states)),
            ("agent", several(agents)),
            ("name", self.filter.name.clone()),
            ("sort", sort),
            ("limit", self.limit.map(|limit| limit.to_string())),
            ("cursor", self.cursor.clone()),
        ]
        .into_iter()
        .chain(labels)
        .collect();
        let parameters: Vec<(&str, Option<&str>)> =
            parameters.iter().map(|(name, value)| (*name, value.as_deref())).collect();
        with_query("/vms", &parameters)
    }
}

/// Pages of one list, in order. Every VM that stays meanwhile comes once.
#[derive(Debug)]
pub struct Pages<'a> {
    client: &'a Client,
    query: ListQuery,
    ended: bool,
}

impl Pages<'_> {
    /// How many VMs a page may hold from now on.
    pub fn set_limit(&mut self, limit: u32) {
        self.query.limit = Some(limit);
    }

    /// The next page, or `None` after the last one. The first always comes,
    /// if only to say that there is nothing. A page may be empty and not the
    /// last.
    ///
    /// # Errors
    ///
    /// See [`Client::health`]; [`Error::Protocol`] too when a page leads back
    /// to itself.
    pub async fn next(&mut self) -> Result<Option<VmList>, Error> {
        if self.ended {
            return Ok(None);
        }
        let page = self.client.list(&self.query).await?;
        if page.next_cursor.is_some() && page.next_cursor == self.query.cursor {
            return Err(Error::Protocol("its list of VMs has no end".to_owned()));
        }
        self.ended = page.next_cursor.is_none();
        self.query.cursor.clone_from(&page.next_cursor);
        Ok(Some(page))
    }
}

impl Client {
    /// One page of VMs.
    ///
    /// # Errors
    ///
    /// See [`Client::health`].
    pub async fn list(&self, query: &ListQuery) -> Result<VmList, Error> {
        self.get(query.path()).await
    }

    /// The pages of a list, from `query.cursor` on.
    pub fn pages(&self, query: ListQuery) -> Pages<'_> {
        Pages { client: self, query, ended: false }
    }

    /// All VMs on all pages from `query.cursor` on.
    ///
    /// # Errors
    ///
    /// See [`Pages::next`].
    pub async fn list_all(&self, query: &ListQuery) -> Result<Vec<Vm>, Error> {
        let mut pages = self.pages(query.clone());
        let mut vms = Vec::new();
        while let Some(page) = pages.next().await? {
            vms.extend(page.vms);
        }
        Ok(vms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::SortKey;

    #[test]
    fn a_query_says_what_was_asked_for_and_nothing_else() {
        assert_eq!(ListQuery::default().path(), "/vms");
        let query = ListQuery {
            filter: Filter {
                states: vec![State::Failed, State::Stopped],
                agents: vec![AgentState::Silent],
                name: Some("web-*".to_owned()),
                labels: vec![("tier".to_owned(), "front end".to_owned())],
            },
            sort: Sort { key: SortKey::CreatedAt, descending: true },
            limit: Some(50),
            cursor: Some("ab".to_owned()),
        };
        let expected = "/vms?state=failed%2Cstopped&agent=silent&name=web-%2A&sort=-created_at\
                        &limit=50&cursor=ab&label=tier%3Afront%20end";
        assert_eq!(query.path(), expected);
    }
}
