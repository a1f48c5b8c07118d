//! The protocol of worker ids and leases as a state machine: what the server holds, what each worker process believes,
//! and the statements that are under way between them.
//!
//! # What is modelled
//! - The server under READ COMMITTED: a statement has a snapshot, takes row locks, and becomes visible at its commit. A
//!   statement that its client gave up goes on; it commits or is ended by the server later.
//! - Two worker processes. Each has a current id, retired ids, and the jobs that it knows it holds.
//! - Claim, registration, heartbeat, retirement, wind-up (deregistration), rescue, burial, finish, cancellation, and a
//!   limit of one running job over the queue.
//! - Faults: a client that gives up, a server that ends a statement, a process that freezes and goes on, a process that is
//!   killed and started again, a foreign transaction that locks a job's row, a promoted standby that lacks the last
//!   outcome. Each has a budget, so that the space is finite; what repairs has none.
//!
//! # What is left out
//! Time: a lease may expire whenever nobody is able to renew it. Redis, which decides nothing about a lease.

#![allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::unused_self,
    reason = "the steps of the machine have one shape, whatever each of them needs"
)]

use std::fmt::Debug;

use stateright::{Model, Property};

/// Worker ids. An id is used again once nothing refers to it, which keeps the space finite.
pub(crate) type Id = u8;
const IDS: Id = 5;
const PROCESSES: usize = 2;
/// Attempts that a job has, and crashes that make it poison.
const MAX_ATTEMPTS: u8 = 2;
const MAX_CRASHES: u8 = 2;

/// Which rules hold. Each `false` is a rule that release 0.1.0 at d107f0c did not have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Protocol {
    /// The claim locks its worker's row, and what deletes that row locks it first and looks for running rows afterwards.
    pub lease_is_a_lock: bool,
    /// Running rows whose worker has no row are rescued.
    pub rescues_orphans: bool,
    /// What the current id holds in the ledger and the process does not know is put back.
    pub returns_strays_of_current_id: bool,
    /// A running job that somebody cancelled does not become available again.
    pub cancel_is_kept: bool,
    /// The heartbeat of the current id waits for nothing that concerns another id.
    pub ids_are_apart: bool,
    /// A limited claim is one statement, and a transaction that waits for its client is ended by the server.
    pub locks_are_bounded: bool,
}

impl Protocol {
    pub(crate) const OLD: Self = Self {
        lease_is_a_lock: false,
        rescues_orphans: false,
        returns_strays_of_current_id: false,
        cancel_is_kept: false,
        ids_are_apart: false,
        locks_are_bounded: false,
    };
    pub(crate) const NEW: Self = Self {
        lease_is_a_lock: true,
        rescues_orphans: true,
        returns_strays_of_current_id: true,
        cancel_is_kept: true,
        ids_are_apart: true,
        locks_are_bounded: true,
    };
}

/// How often each fault may happen on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Budget {
    pub give_ups: u8,
    pub aborts: u8,
    pub freezes: u8,
    pub kills: u8,
    pub cancels: u8,
    pub foreign_locks: u8,
    pub lost_replies: u8,
    pub failovers: u8,
    pub rotations: u8,
}

#[derive(Debug, Clone)]
pub(crate) struct LeaseModel {
    pub protocol: Protocol,
    pub budget: Budget,
    pub jobs: usize,
    /// At most one job of the queue runs at a time.
    pub limited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Completed,
    Discarded,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum JobState {
    Available,
    Running(Id),
    Ended(End),
}

/// (worker, attempt, crashes): which execution an outcome belongs to.
type Fence = (Id, u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Job {
    pub state: JobState,
    attempt: u8,
    crashes: u8,
    cancel_requested: bool,
    /// Locked by a transaction that is none of ours.
    foreign_lock: bool,
    /// The fence of the outcome that was stored last, which a standby may lack.
    last_outcome: Option<Fence>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct WorkerRow {
    fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    /// The statement has its snapshot, the lock of the job's row, and that of a limited queue's row.
    ClaimPicked { job: u8 },
    /// The job's row is written, and not visible yet. The worker's row is locked where the protocol locks it.
    ClaimWritten { job: u8 },
    /// A retired id: nothing was found running under it, or all of it was put back.
    WindUpLooked,
    /// A lost worker: nothing was found running under its id.
    BurialLooked,
}

/// A statement or transaction under way on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Transaction {
    process: u8,
    id: Id,
    work: Work,
    /// The client still waits for the answer.
    awaited: bool,
}

impl Transaction {
    fn is_claim(&self) -> bool {
        matches!(self.work, Work::ClaimPicked { .. } | Work::ClaimWritten { .. })
    }

    fn holds(&self, job: usize) -> bool {
        matches!(
            self.work,
            Work::ClaimPicked { job: held } | Work::ClaimWritten { job: held } if usize::from(held) == job
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Process {
    frozen: bool,
    /// It was frozen, and has not renewed its lease since.
    overslept: bool,
    current: Id,
    registered: bool,
    /// One bit for each retired id.
    retired: u8,
    known: [Option<Fence>; 2],
}

impl Process {
    fn new(current: Id) -> Self {
        Self {
            frozen: false,
            overslept: false,
            current,
            registered: false,
            retired: 0,
            known: [None; 2],
        }
    }

    fn has_retired(&self, id: Id) -> bool {
        self.retired & (1 << id) != 0
    }

    fn knows_any_of(&self, id: Id) -> bool {
        self.known.iter().flatten().any(|(worker, ..)| *worker == id)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub jobs: Vec<Job>,
    workers: [Option<WorkerRow>; IDS as usize],
    transactions: Vec<Transaction>,
    processes: [Process; PROCESSES],
    budget: Budget,
    /// A job was given to a worker although its cancellation had been accepted.
    ran_after_cancel: bool,
    /// A job was taken from a process that was well all the time.
    healthy_process_lost_its_lease: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Register(u8),
    Heartbeat(u8),
    HeartbeatRetired(u8, Id),
    BeginClaim(u8, u8),
    WriteClaim(usize),
    CommitClaim(usize),
    BeginWindUp(u8, Id),
    CommitWindUp(usize),
    ReturnStrays(u8, Id),
    ReturnStraysOfCurrent(u8),
    Expire(Id),
    Rescue(u8, Id),
    BeginBurial(u8, Id),
    CommitBurial(usize),
    Complete(u8, u8),
    Fail(u8, u8),
    Unlock(u8),
    Rotate(u8),
    EndIdleTransaction(usize),
    // Faults and requests.
    GiveUp(usize),
    Abort(usize),
    Freeze(u8),
    Continue(u8),
    Kill(u8),
    Cancel(u8),
    LockRow(u8),
    CompleteWithoutReply(u8, u8),
    Failover(u8),
}

impl Action {
    /// What the system does by itself, without a fault, a user, or a frozen process that goes on.
    pub(crate) fn repairs(self) -> bool {
        !matches!(
            self,
            Self::GiveUp(_)
                | Self::Abort(_)
                | Self::Freeze(_)
                | Self::Continue(_)
                | Self::Kill(_)
                | Self::Cancel(_)
                | Self::LockRow(_)
                | Self::CompleteWithoutReply(..)
                | Self::Failover(_)
        )
    }
}

impl State {
    fn fence(&self, job: usize) -> Option<Fence> {
        let row = &self.jobs[job];
        match row.state {
            JobState::Running(worker) => Some((worker, row.attempt, row.crashes)),
            _ => None,
        }
    }

    fn is_locked(&self, job: usize) -> bool {
        self.jobs[job].foreign_lock || self.transactions.iter().any(|tx| tx.holds(job))
    }

    /// The jobs whose visible rows run under an id.
    fn running_under(&self, id: Id) -> impl Iterator<Item = usize> + '_ {
        (0..self.jobs.len()).filter(move |job| self.jobs[*job].state == JobState::Running(id))
    }

    fn unused_id(&self) -> Option<Id> {
        (0..IDS).find(|id| {
            self.workers[usize::from(*id)].is_none()
                && self.running_under(*id).next().is_none()
                && self.transactions.iter().all(|tx| tx.id != *id)
                && self
                    .jobs
                    .iter()
                    .all(|job| job.last_outcome.is_none_or(|(w, ..)| w != *id))
                && self.processes.iter().all(|process| {
                    process.current != *id && !process.has_retired(*id) && !process.knows_any_of(*id)
                })
        })
    }

    /// A statement of a retired id waits for a row that a foreign transaction has locked.
    fn wind_up_is_blocked(&self, process: &Process) -> bool {
        (0..IDS)
            .filter(|id| process.has_retired(*id))
            .any(|id| self.running_under(id).any(|job| self.jobs[job].foreign_lock))
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.jobs
            .iter()
            .all(|job| matches!(job.state, JobState::Ended(_)))
    }

    /// A job that was running leaves its worker without an outcome.
    fn put_back(&mut self, job: usize, protocol: Protocol) {
        let row = &mut self.jobs[job];
        let cancelled = row.cancel_requested && protocol.cancel_is_kept;
        row.state = if cancelled {
            JobState::Ended(End::Cancelled)
        } else {
            JobState::Available
        };
    }

    /// Whether the process could keep this id alive, if its own protocol lets it.
    fn keeps(&self, process: &Process, id: Id, protocol: Protocol) -> bool {
        if process.frozen {
            return false;
        }
        if process.has_retired(id) {
            return true;
        }
        let blocked = !protocol.ids_are_apart && self.wind_up_is_blocked(process);
        process.current == id && process.registered && !blocked
    }
}

impl LeaseModel {
    fn queue_lock_is_held(&self, state: &State) -> bool {
        self.limited && state.transactions.iter().any(Transaction::is_claim)
    }

    fn row_is_shared(&self, state: &State, id: Id) -> bool {
        let shares = |tx: &Transaction| matches!(tx.work, Work::ClaimWritten { .. }) && tx.id == id;
        self.protocol.lease_is_a_lock && state.transactions.iter().any(shares)
    }

    /// A transaction that deletes the worker's row has locked it.
    fn row_is_locked(&self, state: &State, id: Id) -> bool {
        self.protocol.lease_is_a_lock && state.transactions.iter().any(|tx| !tx.is_claim() && tx.id == id)
    }

    /// Whether the server takes the next step of this transaction without its client.
    fn runs_on_the_server(&self, tx: &Transaction) -> bool {
        match tx.work {
            // A claim without limits is one statement. One within limits was a dialogue over several round trips.
            Work::ClaimPicked { .. } | Work::ClaimWritten { .. } => {
                !self.limited || self.protocol.locks_are_bounded
            }
            Work::BurialLooked => !self.protocol.lease_is_a_lock,
            Work::WindUpLooked => false,
        }
    }

    fn can_step(&self, state: &State, tx: &Transaction) -> bool {
        self.runs_on_the_server(tx) || (tx.awaited && !state.processes[usize::from(tx.process)].frozen)
    }

    fn repairs_of_process(&self, state: &State, number: u8, actions: &mut Vec<Action>) {
        let process = &state.processes[usize::from(number)];
        let has = |work: fn(&Transaction) -> bool| {
            state
                .transactions
                .iter()
                .any(|tx| tx.process == number && tx.awaited && work(tx))
        };
        if !process.registered {
            actions.push(Action::Register(number));
        } else if self.protocol.ids_are_apart || !state.wind_up_is_blocked(process) {
            actions.push(Action::Heartbeat(number));
        }
        if process.registered && !has(Transaction::is_claim) {
            for job in 0..state.jobs.len() as u8 {
                actions.push(Action::BeginClaim(number, job));
            }
        }
        let claims_for_current = state
            .transactions
            .iter()
            .any(|tx| tx.process == number && tx.awaited && tx.is_claim() && tx.id == process.current);
        if self.protocol.returns_strays_of_current_id && process.registered && !claims_for_current {
            actions.push(Action::ReturnStraysOfCurrent(number));
        }
        for id in (0..IDS).filter(|id| process.has_retired(*id)) {
            actions.push(Action::HeartbeatRetired(number, id));
            let guarded = state
                .transactions
                .iter()
                .any(|tx| tx.process == number && tx.awaited && tx.is_claim() && tx.id == id);
            if guarded {
                continue;
            }
            if process.knows_any_of(id) {
                actions.push(Action::ReturnStrays(number, id));
            } else if !has(|tx| tx.work == Work::WindUpLooked) {
                actions.push(Action::BeginWindUp(number, id));
            }
        }
        for id in 0..IDS {
            actions.push(Action::Rescue(number, id));
            if !has(|tx| tx.work == Work::BurialLooked) {
                actions.push(Action::BeginBurial(number, id));
            }
        }
        for job in 0..state.jobs.len() as u8 {
            if process.known[usize::from(job)].is_some() {
                actions.extend([Action::Complete(number, job), Action::Fail(number, job)]);
            }
        }
    }

    fn faults_of_process(&self, state: &State, number: u8, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        let others_are_well = state
            .processes
            .iter()
            .enumerate()
            .all(|(other, process)| other == usize::from(number) || !process.frozen);
        if budget.freezes > 0 && others_are_well {
            actions.push(Action::Freeze(number));
        }
        if budget.rotations > 0 && state.processes[usize::from(number)].registered {
            actions.push(Action::Rotate(number));
        }
        if budget.kills > 0 {
            actions.push(Action::Kill(number));
        }
        if budget.lost_replies > 0 {
            for job in 0..state.jobs.len() as u8 {
                if state.processes[usize::from(number)].known[usize::from(job)].is_some() {
                    actions.push(Action::CompleteWithoutReply(number, job));
                }
            }
        }
    }

    /// Stores an outcome under its fence; nothing if the lease was lost.
    fn finish(&self, state: &mut State, fence: Fence, job: usize, completed: bool) {
        if state.fence(job) != Some(fence) {
            return;
        }
        let protocol = self.protocol;
        let row = &mut state.jobs[job];
        row.attempt += 1;
        row.last_outcome = Some(fence);
        if completed {
            row.state = JobState::Ended(End::Completed);
        } else if row.attempt >= MAX_ATTEMPTS {
            row.state = JobState::Ended(End::Discarded);
        } else {
            state.put_back(job, protocol);
        }
    }

    /// The claim's snapshot, with the row of a job that it could lock.
    fn begin_claim(&self, state: &mut State, number: u8, job: u8) -> Option<()> {
        let id = state.processes[usize::from(number)].current;
        if self.queue_lock_is_held(state) || state.is_locked(usize::from(job)) {
            return None;
        }
        let alive = state.workers[usize::from(id)].is_some_and(|row| row.fresh);
        let runs = state
            .jobs
            .iter()
            .any(|job| matches!(job.state, JobState::Running(_)));
        let available = state.jobs[usize::from(job)].state == JobState::Available;
        if !alive || !available || (self.limited && runs) {
            return None;
        }
        state.transactions.push(Transaction {
            process: number,
            id,
            work: Work::ClaimPicked { job },
            awaited: true,
        });
        Some(())
    }

    /// Locks the worker's row, in its newest version, and writes. Where the protocol does not, the snapshot decides.
    fn write_claim(&self, state: &mut State, at: usize) -> Option<()> {
        let tx = state.transactions[at];
        let Work::ClaimPicked { job } = tx.work else {
            return None;
        };
        if self.row_is_locked(state, tx.id) {
            return None;
        }
        let alive = state.workers[usize::from(tx.id)].is_some_and(|row| row.fresh);
        if self.protocol.lease_is_a_lock && !alive {
            state.transactions.remove(at);
        } else {
            state.transactions[at].work = Work::ClaimWritten { job };
        }
        Some(())
    }

    fn commit_claim(&self, state: &mut State, at: usize) -> Option<()> {
        let tx = state.transactions[at];
        let Work::ClaimWritten { job } = tx.work else {
            return None;
        };
        let job = usize::from(job);
        state.transactions.remove(at);
        state.jobs[job].state = JobState::Running(tx.id);
        state.ran_after_cancel |= state.jobs[job].cancel_requested;
        if tx.awaited {
            let fence = state.fence(job);
            state.processes[usize::from(tx.process)].known[job] = fence;
        }
        Some(())
    }

    fn rescue(&self, state: &mut State, id: Id) -> Option<()> {
        let lost = match state.workers[usize::from(id)] {
            Some(row) => !row.fresh,
            None => self.protocol.rescues_orphans,
        };
        let jobs: Vec<usize> = state
            .running_under(id)
            .filter(|job| !state.is_locked(*job))
            .collect();
        if !lost || jobs.is_empty() {
            return None;
        }
        for job in jobs {
            let fence = state.fence(job);
            state.healthy_process_lost_its_lease |= state
                .processes
                .iter()
                .any(|process| !process.overslept && process.known[job] == fence);
            state.jobs[job].crashes += 1;
            if state.jobs[job].cancel_requested {
                state.jobs[job].state = JobState::Ended(End::Cancelled);
            } else if state.jobs[job].crashes >= MAX_CRASHES {
                state.jobs[job].state = JobState::Ended(End::Discarded);
            } else {
                state.jobs[job].state = JobState::Available;
            }
        }
        Some(())
    }

    /// Puts back what the ledger says this id runs and its process does not know of. Waits for locked rows, or skips them.
    fn return_unknown(&self, state: &mut State, number: u8, id: Id) -> Option<()> {
        let process = state.processes[usize::from(number)];
        let (locked, strays): (Vec<usize>, Vec<usize>) = state
            .running_under(id)
            .filter(|job| process.known[*job] != state.fence(*job))
            .partition(|job| state.is_locked(*job));
        if !self.protocol.ids_are_apart && !locked.is_empty() {
            return None;
        }
        for job in strays {
            state.put_back(job, self.protocol);
        }
        Some(())
    }

    /// The first half of a deletion: the lock of the worker's row, or a look at what runs under it.
    fn begin_delete(&self, state: &mut State, number: u8, id: Id, work: Work) -> Option<()> {
        let row = state.workers[usize::from(id)]?;
        if self.row_is_shared(state, id)
            || self.row_is_locked(state, id)
            || (work == Work::BurialLooked && row.fresh)
        {
            return None;
        }
        if !self.protocol.lease_is_a_lock {
            match work {
                Work::WindUpLooked => self.return_unknown(state, number, id)?,
                _ if state.running_under(id).next().is_some() => return None,
                _ => {}
            }
        }
        state.transactions.push(Transaction {
            process: number,
            id,
            work,
            awaited: true,
        });
        Some(())
    }

    /// The second half: statements of their own, which see whatever was committed before the lock was had.
    fn commit_delete(&self, state: &mut State, at: usize) -> Option<()> {
        let tx = state.transactions[at];
        if self.protocol.lease_is_a_lock {
            if tx.work == Work::WindUpLooked {
                self.return_unknown(state, tx.process, tx.id)?;
            }
            if state.running_under(tx.id).next().is_some() {
                state.transactions.remove(at);
                return Some(());
            }
        }
        state.transactions.remove(at);
        state.workers[usize::from(tx.id)] = None;
        if tx.awaited && tx.work == Work::WindUpLooked {
            state.processes[usize::from(tx.process)].retired &= !(1 << tx.id);
        }
        Some(())
    }

    fn apply(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Register(number) => {
                let process = &mut state.processes[usize::from(number)];
                process.registered = true;
                state.workers[usize::from(process.current)] = Some(WorkerRow { fresh: true });
            }
            Action::Heartbeat(number) => {
                let id = state.processes[usize::from(number)].current;
                let renewed = state.unused_id();
                let process = &mut state.processes[usize::from(number)];
                process.overslept = false;
                if let Some(row) = &mut state.workers[usize::from(id)] {
                    row.fresh = true;
                } else {
                    process.current = renewed?;
                    process.registered = false;
                    for known in &mut process.known {
                        known.take_if(|(worker, ..)| *worker == id);
                    }
                }
            }
            Action::HeartbeatRetired(number, id) => match &mut state.workers[usize::from(id)] {
                Some(row) if row.fresh => return None,
                Some(row) => row.fresh = true,
                None => state.processes[usize::from(number)].retired &= !(1 << id),
            },
            Action::BeginClaim(number, job) => self.begin_claim(state, number, job)?,
            Action::WriteClaim(at) => self.write_claim(state, at)?,
            Action::CommitClaim(at) => self.commit_claim(state, at)?,
            Action::BeginWindUp(number, id) => self.begin_delete(state, number, id, Work::WindUpLooked)?,
            Action::BeginBurial(number, id) => self.begin_delete(state, number, id, Work::BurialLooked)?,
            Action::CommitWindUp(at) | Action::CommitBurial(at) => self.commit_delete(state, at)?,
            Action::ReturnStrays(number, id) => self.return_unknown(state, number, id)?,
            Action::ReturnStraysOfCurrent(number) => {
                let id = state.processes[usize::from(number)].current;
                self.return_unknown(state, number, id)?;
            }
            Action::Expire(id) => {
                let kept = state
                    .processes
                    .iter()
                    .any(|process| state.keeps(process, id, self.protocol));
                let row = state.workers[usize::from(id)]
                    .as_mut()
                    .filter(|row| row.fresh && !kept)?;
                row.fresh = false;
            }
            Action::Rescue(_, id) => self.rescue(state, id)?,
            Action::Complete(number, job) | Action::Fail(number, job) => {
                let job = usize::from(job);
                if state.is_locked(job) {
                    return None;
                }
                let fence = state.processes[usize::from(number)].known[job].take()?;
                self.finish(state, fence, job, matches!(action, Action::Complete(..)));
            }
            Action::CompleteWithoutReply(number, job) => {
                let job = usize::from(job);
                if state.is_locked(job) {
                    return None;
                }
                state.budget.lost_replies -= 1;
                let fence = state.processes[usize::from(number)].known[job]?;
                self.finish(state, fence, job, true);
            }
            Action::Rotate(number) => {
                state.budget.rotations -= 1;
                let renewed = state.unused_id()?;
                let process = &mut state.processes[usize::from(number)];
                process.retired |= 1 << process.current;
                process.current = renewed;
                state.workers[usize::from(renewed)] = Some(WorkerRow { fresh: true });
            }
            Action::Unlock(job) => state.jobs[usize::from(job)].foreign_lock = false,
            Action::EndIdleTransaction(at) => {
                state.transactions.remove(at);
            }
            Action::GiveUp(at) => {
                state.budget.give_ups -= 1;
                let tx = state.transactions[at];
                let renewed = state.unused_id()?;
                state.transactions[at].awaited = false;
                let process = &mut state.processes[usize::from(tx.process)];
                if process.current == tx.id {
                    process.retired |= 1 << tx.id;
                    process.current = renewed;
                    process.registered = false;
                }
            }
            Action::Abort(at) => {
                state.budget.aborts -= 1;
                state.transactions.remove(at);
            }
            Action::Freeze(number) => {
                state.budget.freezes -= 1;
                let process = &mut state.processes[usize::from(number)];
                (process.frozen, process.overslept) = (true, true);
            }
            Action::Continue(number) => state.processes[usize::from(number)].frozen = false,
            Action::Kill(number) => {
                state.budget.kills -= 1;
                let current = state.unused_id()?;
                for tx in state.transactions.iter_mut().filter(|tx| tx.process == number) {
                    tx.awaited = false;
                }
                state.processes[usize::from(number)] = Process::new(current);
            }
            Action::Cancel(job) => {
                state.budget.cancels -= 1;
                let row = &mut state.jobs[usize::from(job)];
                match row.state {
                    JobState::Available => row.state = JobState::Ended(End::Cancelled),
                    JobState::Running(_) => row.cancel_requested = true,
                    JobState::Ended(_) => return None,
                }
            }
            Action::LockRow(job) => {
                state.budget.foreign_locks -= 1;
                state.jobs[usize::from(job)].foreign_lock = true;
            }
            Action::Failover(job) => {
                state.budget.failovers -= 1;
                let row = &mut state.jobs[usize::from(job)];
                let (worker, attempt, crashes) = row.last_outcome.take()?;
                if row.state != JobState::Ended(End::Completed) {
                    return None;
                }
                (row.state, row.attempt, row.crashes) = (JobState::Running(worker), attempt, crashes);
            }
        }
        Some(())
    }
}

impl Model for LeaseModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let job = Job {
            state: JobState::Available,
            attempt: 0,
            crashes: 0,
            cancel_requested: false,
            foreign_lock: false,
            last_outcome: None,
        };
        vec![State {
            jobs: vec![job; self.jobs],
            workers: [None; IDS as usize],
            transactions: Vec::new(),
            processes: [Process::new(0), Process::new(1)],
            budget: self.budget,
            ran_after_cancel: false,
            healthy_process_lost_its_lease: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for number in 0..PROCESSES as u8 {
            if state.processes[usize::from(number)].frozen {
                actions.push(Action::Continue(number));
                continue;
            }
            self.repairs_of_process(state, number, actions);
            self.faults_of_process(state, number, actions);
        }
        for (at, tx) in state.transactions.iter().enumerate() {
            if self.can_step(state, tx) {
                actions.push(match tx.work {
                    Work::ClaimPicked { .. } => Action::WriteClaim(at),
                    Work::ClaimWritten { .. } => Action::CommitClaim(at),
                    Work::WindUpLooked => Action::CommitWindUp(at),
                    Work::BurialLooked => Action::CommitBurial(at),
                });
            } else if self.protocol.locks_are_bounded || !tx.awaited {
                // The server ends what waits for its client too long; a client that is gone closed its connection.
                actions.push(Action::EndIdleTransaction(at));
            }
            if state.budget.give_ups > 0 && tx.awaited && tx.is_claim() {
                actions.push(Action::GiveUp(at));
            }
            if state.budget.aborts > 0 {
                actions.push(Action::Abort(at));
            }
        }
        actions.extend((0..IDS).map(Action::Expire));
        for (number, job) in (0_u8..).zip(&state.jobs) {
            if job.foreign_lock {
                actions.push(Action::Unlock(number));
            } else if state.budget.foreign_locks > 0 && !state.is_locked(usize::from(number)) {
                actions.push(Action::LockRow(number));
            }
            if state.budget.cancels > 0 && !state.is_locked(usize::from(number)) {
                actions.push(Action::Cancel(number));
            }
            if state.budget.failovers > 0 && job.last_outcome.is_some() && !job.foreign_lock {
                actions.push(Action::Failover(number));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.apply(&mut next, action)?;
        // The order in which transactions began decides nothing.
        next.transactions
            .sort_unstable_by_key(|tx| (tx.process, tx.id, tx.is_claim(), tx.awaited));
        // What no standby can lack any more need not be told apart.
        if next.budget.failovers == 0 {
            next.jobs.iter_mut().for_each(|job| job.last_outcome = None);
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a running row has a worker row", |model: &Self, state: &State| {
                model.budget.failovers > 0
                    || state.jobs.iter().all(|job| match job.state {
                        JobState::Running(id) => state.workers[usize::from(id)].is_some(),
                        _ => true,
                    })
            }),
            Property::always("a fence has one holder", |_, state: &State| {
                (0..state.jobs.len()).all(|job| {
                    let fence = state.fence(job);
                    let holders = state
                        .processes
                        .iter()
                        .filter(|process| process.known[job] == fence);
                    fence.is_none() || holders.count() <= 1
                })
            }),
            Property::always("a cancelled job does not run again", |_, state: &State| {
                !state.ran_after_cancel
            }),
            Property::always("a healthy process keeps its lease", |_, state: &State| {
                !state.healthy_process_lost_its_lease
            }),
            Property::always("the limit holds", |model: &Self, state: &State| {
                let running = state
                    .jobs
                    .iter()
                    .filter(|job| matches!(job.state, JobState::Running(_)));
                !model.limited || model.budget.failovers > 0 || running.count() <= 1
            }),
        ]
    }
}
