//! A request where a policy file decides: what the decision needs to know, and the row that says what was decided.

use std::collections::BTreeMap;

use jiff::Zoned;
use nearfield_api::{Error, Locality, Request};
use nearfield_store::{End, NanoDollars};

use super::account::estimated_tokens;
use super::attempt::{Course, seller};
use super::opening::Gate;
use super::ruled::{Circumstances, Ruled};
use super::{Answer, Caller, Gateway, Unanswered, admission, unrecorded};

impl Gateway {
    pub(super) async fn decide_by_rules(
        &self,
        ruled: &Ruled,
        caller: &Caller,
        mut request: Box<Request>,
        gate: Gate,
    ) -> Result<Answer, Unanswered> {
        let mut looked = ruled.look(caller, &mut request, &self.facts);
        let mut circumstances = self.circumstances(ruled, caller, &request).await;
        if let Some(search) = looked.search(caller, &request, &self.facts, &circumstances) {
            let found = Box::pin(self.find_names(caller, &mut request, search)).await;
            looked.take(&mut request, found);
            circumstances = self.circumstances(ruled, caller, &request).await;
        }
        let admitted = looked.admit(caller, &request, &self.facts, circumstances);
        let reason = admitted.reason();
        let mut admission = admission(caller, &request, reason.clone(), admitted.hash());
        admission.retention = admitted.retention();
        let reserved = admitted.reserved().cloned();
        if let Some(denial) = admitted.denial() {
            if let Some((month, sum)) = reserved {
                month.settle(sum, Some(NanoDollars::ZERO));
            }
            let row = self.ledger.admit(admission).map_err(|error| unrecorded(&error))?;
            let (id, error) = (row.id().to_owned(), Error::from(denial.clone()));
            row.finish(None, End::bare(error.kind.into()));
            return Err(Unanswered { id: Some(id), error });
        }
        admission.reserved = reserved.as_ref().map(|(_, sum)| *sum);
        let mut row = self.ledger.admit_with_attempt(admission);
        if let Some((month, sum)) = reserved {
            row.on_close(move |cost| month.settle(sum, cost));
        }
        let candidates = admitted.candidates();
        let rules = Some((ruled, &admitted));
        Box::new(Course::new(self, row, candidates, rules, reason, request, gate)).run().await
    }

    /// What a decision by rules depends on beside the request.
    async fn circumstances(&self, ruled: &Ruled, caller: &Caller, request: &Request) -> Circumstances {
        let now = Zoned::now();
        let tokens = estimated_tokens(request);
        let mut engines =
            self.backends.iter().filter(|own| own.facts.engine && own.facts.may_serve(&request.model));
        let load = engines.find_map(|own| own.backend.load(&request.model, tokens));
        let (mut month, mut estimates) = (None, BTreeMap::new());
        if ruled.limit(caller).is_some() {
            month = self.budgets.month(&self.ledger, &caller.key_id, &now).await;
            for own in &self.backends {
                let facts = &own.facts;
                let (seller, model) = (seller(own), facts.upstream_model(&request.model));
                let cost = self.pricing.most(&seller, model, request, tokens);
                if let Some(cost) = cost.filter(|_| facts.locality == Locality::Cloud) {
                    estimates.insert(facts.name.clone(), cost.dollars());
                }
            }
        }
        Circumstances { now, tokens, connectivity: self.network.connectivity(), load, month, estimates }
    }
}
