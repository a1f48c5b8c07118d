//! The protocol of worker ids, claims and leases, explored exhaustively: every interleaving of two processes and the
//! server within the budget of faults that each test names. The rules are those of `worker/identity.rs`.
//!
//! Two kinds of statements are checked. *Always*: in each state that can be reached. *Every job can still end*: from each
//! state that can be reached, what the system does by itself leads to a state in which every job has ended, without the
//! help of a frozen process. A state from which no such way leads is where a job is lost.

mod model;

use std::collections::{HashMap, VecDeque};

use model::{Budget, LeaseModel, Protocol, State};
use stateright::{Checker, Model};

/// States of one exploration at most. A model that outgrows it is no longer checked exhaustively, and fails.
const MAX_STATES: usize = 300_000;

fn model(protocol: Protocol, budget: Budget) -> LeaseModel {
    LeaseModel {
        protocol,
        budget,
        jobs: 1,
        limited: false,
    }
}

/// The names of the properties that do not hold.
fn broken(model: LeaseModel) -> Vec<&'static str> {
    let checker = model
        .checker()
        .threads(2)
        .target_state_count(MAX_STATES)
        .spawn_bfs()
        .join();
    assert!(
        checker.unique_state_count() < MAX_STATES,
        "the space is too large to be explored"
    );
    let mut broken: Vec<_> = checker.discoveries().into_keys().collect();
    broken.sort_unstable();
    broken
}

/// States from which the system by itself cannot end every job; how many there are, and one of them.
fn traps(model: &LeaseModel) -> (usize, usize, Option<State>) {
    let mut number: HashMap<State, usize> = HashMap::new();
    let mut states = Vec::new();
    let mut before: Vec<Vec<usize>> = Vec::new();
    let mut queue = VecDeque::new();
    let mut enter =
        |state: State, queue: &mut VecDeque<usize>, before: &mut Vec<Vec<usize>>, states: &mut Vec<State>| {
            *number.entry(state.clone()).or_insert_with(|| {
                states.push(state);
                before.push(Vec::new());
                queue.push_back(states.len() - 1);
                states.len() - 1
            })
        };
    for state in model.init_states() {
        enter(state, &mut queue, &mut before, &mut states);
    }
    while let Some(from) = queue.pop_front() {
        assert!(states.len() < MAX_STATES, "the space is too large to be explored");
        let mut actions = Vec::new();
        model.actions(&states[from], &mut actions);
        for action in actions {
            let Some(next) = model.next_state(&states[from], action) else {
                continue;
            };
            let to = enter(next, &mut queue, &mut before, &mut states);
            if action.repairs() {
                before[to].push(from);
            }
        }
    }
    let mut ends = vec![false; states.len()];
    let mut queue: VecDeque<usize> = (0..states.len())
        .filter(|state| states[*state].all_ended())
        .collect();
    for state in &queue {
        ends[*state] = true;
    }
    while let Some(to) = queue.pop_front() {
        for from in &before[to] {
            if !std::mem::replace(&mut ends[*from], true) {
                queue.push_back(*from);
            }
        }
    }
    let trapped: Vec<usize> = (0..states.len()).filter(|state| !ends[*state]).collect();
    (
        states.len(),
        trapped.len(),
        trapped.first().map(|first| states[*first].clone()),
    )
}

fn assert_holds(model: LeaseModel) {
    let (states, trapped, example) = traps(&model);
    assert_eq!(
        trapped, 0,
        "of {states} states; one in which a job cannot end: {example:#?}"
    );
    println!("{states} states");
    assert_eq!(broken(model), Vec::<&str>::new());
}

fn assert_has_traps(model: &LeaseModel) {
    let (states, trapped, _) = traps(model);
    assert!(
        trapped > 0,
        "none of {states} states is a trap: the fault is not in the model"
    );
}

const NO_FAULTS: Budget = Budget {
    give_ups: 0,
    aborts: 0,
    freezes: 0,
    kills: 0,
    cancels: 0,
    foreign_locks: 0,
    lost_replies: 0,
    failovers: 0,
    rotations: 0,
};

const GIVE_UPS: Budget = Budget {
    give_ups: 1,
    aborts: 1,
    kills: 1,
    ..NO_FAULTS
};

#[test]
fn a_claim_that_commits_after_its_client_gave_up_leaves_no_job_without_an_owner() {
    let old = model(Protocol::OLD, GIVE_UPS);
    assert_has_traps(&old);
    assert!(broken(old).contains(&"a running row has a worker row"));
    assert_holds(model(Protocol::NEW, GIVE_UPS));
}

#[test]
fn the_lock_alone_is_enough_and_so_is_the_rescue_of_orphans_for_the_job_to_end() {
    let lock_alone = Protocol {
        rescues_orphans: false,
        ..Protocol::NEW
    };
    assert_holds(model(lock_alone, GIVE_UPS));
    let rescue_alone = Protocol {
        lease_is_a_lock: false,
        ..Protocol::NEW
    };
    assert_eq!(traps(&model(rescue_alone, GIVE_UPS)).1, 0);
    assert!(broken(model(rescue_alone, GIVE_UPS)).contains(&"a running row has a worker row"));
}

#[test]
fn a_frozen_process_that_goes_on_later_harms_nothing() {
    let budget = Budget {
        freezes: 1,
        give_ups: 1,
        aborts: 1,
        ..NO_FAULTS
    };
    assert_holds(model(Protocol::NEW, budget));
}

#[test]
fn a_cancelled_job_is_not_run_again_whatever_becomes_of_its_worker() {
    let budget = Budget {
        cancels: 1,
        freezes: 1,
        give_ups: 1,
        ..NO_FAULTS
    };
    let old = broken(model(Protocol::OLD, budget));
    assert!(old.contains(&"a cancelled job does not run again"), "{old:?}");
    assert_holds(model(Protocol::NEW, budget));
}

#[test]
fn a_locked_row_of_a_retired_id_costs_the_current_id_nothing() {
    let two_jobs = |protocol| LeaseModel {
        jobs: 2,
        ..model(
            protocol,
            Budget {
                give_ups: 1,
                foreign_locks: 1,
                ..NO_FAULTS
            },
        )
    };
    let old = broken(two_jobs(Protocol::OLD));
    assert!(old.contains(&"a healthy process keeps its lease"), "{old:?}");
    assert_holds(two_jobs(Protocol::NEW));
}

#[test]
fn an_outcome_that_a_promoted_standby_lacks_blocks_no_job() {
    let budget = Budget {
        failovers: 1,
        kills: 1,
        give_ups: 1,
        aborts: 1,
        ..NO_FAULTS
    };
    assert_has_traps(&model(Protocol::OLD, budget));
    assert_holds(model(Protocol::NEW, budget));
}

#[test]
fn a_frozen_process_does_not_stop_a_limited_queue_and_the_limit_holds() {
    let limited = |protocol, budget| LeaseModel {
        jobs: 2,
        limited: true,
        ..model(protocol, budget)
    };
    let freezes = Budget {
        freezes: 1,
        ..NO_FAULTS
    };
    assert_has_traps(&limited(Protocol::OLD, freezes));
    assert_holds(limited(Protocol::NEW, freezes));
    let give_ups = Budget {
        give_ups: 1,
        ..NO_FAULTS
    };
    assert_holds(limited(Protocol::NEW, give_ups));
}

#[test]
fn an_id_that_is_replaced_while_it_holds_jobs_loses_none() {
    let budget = Budget {
        rotations: 1,
        give_ups: 1,
        lost_replies: 1,
        ..NO_FAULTS
    };
    assert_holds(model(Protocol::NEW, budget));
}
