//! A request whose caller went away before it got anything: what its attempts took is noted all the same, and, where the
//! policy says so, waited for.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nearfield_api::{Locality, Usage};
use nearfield_router::attempts::Disconnect;
use nearfield_store::{AttemptEnd, End, Outcome, RowHandle};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::account::{Account, AccountParts, Accounted};
use super::attempt::Settling;
use super::lane::Lane;
use super::opening::Opening;
use super::pricing::Pricing;
use super::receipt::Receipt;

/// What is left of the request.
pub(super) struct Abandoned {
    pub(super) row: RowHandle,
    /// The attempts under way, at least one.
    pub(super) lanes: Vec<Lane>,
    pub(super) settling: Settling,
    pub(super) pricing: Arc<Pricing>,
    pub(super) admitted: Instant,
    pub(super) prompt_tokens: u64,
    /// The model as the caller wrote it.
    pub(super) model: String,
    pub(super) disconnect: Disconnect,
}

impl Abandoned {
    /// Cancels the attempts, or waits for one of them as long as the policy allows. An answer of this machine that nobody
    /// reads costs what goes on for it, so that none is waited for.
    pub(super) fn end(mut self) {
        let elsewhere = self.lanes.iter().any(|lane| lane.seller.locality == Locality::Cloud);
        match (self.disconnect, Handle::try_current()) {
            (Disconnect::Drain { time, .. }, Ok(runtime)) if elsewhere => {
                runtime.spawn(async move {
                    let settled = timeout(time, self.settled()).await.unwrap_or(None);
                    match settled {
                        Some((lane, opening)) => self.drain(lane, opening),
                        None => self.cancel(),
                    }
                });
            }
            _ => self.cancel(),
        }
    }

    /// The first attempt that settles without an error.
    async fn settled(&mut self) -> Option<(Lane, Opening)> {
        while let Some((position, opening, error)) = self.settling.next().await {
            let Some(at) = self.lanes.iter().position(|lane| lane.position == position) else { continue };
            match error {
                None => return Some((self.lanes.swap_remove(at), opening)),
                // Another may still settle. The last one is closed with the request.
                Some(error) if self.lanes.len() > 1 => {
                    let lane = self.lanes.swap_remove(at);
                    lane.permit.failed(error.kind);
                    let (_, end) = self.ended(&lane, error.kind.into());
                    self.row.end_attempt_at(position, end);
                }
                Some(error) => self.lanes.iter().for_each(|lane| lane.permit.failed(error.kind)),
            }
        }
        None
    }

    /// Reads an answer to its usage: as one that the caller left in the middle.
    fn drain(mut self, lane: Lane, opening: Opening) {
        self.settling = Settling::new();
        for other in std::mem::take(&mut self.lanes) {
            let (_, end) = self.ended(&other, Outcome::Cancelled);
            self.row.end_attempt_at(other.position, end);
        }
        lane.permit.began();
        let Self { row, pricing, admitted, prompt_tokens, model, disconnect, .. } = self;
        let receipt = Receipt::new(row.id(), &lane.backend, lane.seller.locality, &model, "");
        let account = Account::new(AccountParts {
            row,
            receipt,
            pricing,
            seller: lane.seller,
            admitted,
            prompt_tokens,
            reason: None,
            permit: lane.permit,
            shown: false,
        });
        let (events, early) = opening.into_parts();
        drop(Accounted::new(events, early, account, disconnect));
    }

    /// Closes the row with what the attempts took until now, as far as it can be told.
    fn cancel(mut self) {
        self.settling = Settling::new();
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.sort_by_key(|lane| lane.position);
        let Some(last) = lanes.pop() else { return };
        for lane in lanes {
            let (_, end) = self.ended(&lane, Outcome::Cancelled);
            self.row.end_attempt_at(lane.position, end);
        }
        let (usage, end) = self.ended(&last, Outcome::Cancelled);
        self.row.finish(Some(end), End { usage, ..End::bare(Outcome::Cancelled) });
    }

    /// What an attempt took, where anything came of it; of the rest nobody knows what it cost.
    fn ended(&self, lane: &Lane, outcome: Outcome) -> (Option<Usage>, AttemptEnd) {
        let usage = lane.answers().then(|| lane.estimate(self.prompt_tokens));
        (usage, lane.ended(&self.pricing, outcome, usage, None))
    }
}
