//! A connection to a cluster: one connection to each master, and which of them owns which slot.
//!
//! It follows what the nodes say and repeats nothing else. A command is sent again only if the reply proves that it was
//! not applied (`MOVED`, `ASK`, `TRYAGAIN`); one whose reply was lost fails as on a single server, and its caller knows
//! that it may have been applied. The client for clusters of redis-rs repeats both (docs/adr/0014).
//!
//! - *A slot has moved* (`MOVED`): the node that is named as its owner is asked for the whole layout, once for all calls
//!   that meet it, and the command goes there.
//! - *A slot is moving* (`ASK`, `TRYAGAIN`): the command goes to the new owner, or waits until its keys are together.
//! - *A master is lost*: its connection breaks, the gate drops the whole lane, and opens another once every master
//!   answers. So a cluster serves a role when all of its shards do, and until then the role is degraded as a whole.
//!
//! Redirections end with [`MOST_MOVES`]. A command waits for its keys for half of the deadline of the call, and then fails
//! with the server's `TRYAGAIN`: it was not applied, and that is no outage.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::time::{Instant, sleep};

use super::PoolError;
use super::connect::{Connector, PooledServer, of_pool};
use super::connection::Master;
use super::redirection::{Redirection, is_redirection, redirection, redirection_of};
use super::slot::{SLOTS, is_named, slot_of, slot_of_key};
use super::topology::{Address, Topology, down};

/// How many redirections one command follows at most. Two are usual: to the new owner of a slot, and on when it moves again.
const MOST_MOVES: usize = 8;
/// Pause before a command whose slot is moving is sent again.
const PAUSE: Duration = Duration::from_millis(10);
/// Owner of a slot that has none.
const UNOWNED: u16 = u16::MAX;
/// How many tags are tried for one of a master's slots; the worst case is a master with a single slot.
const MOST_TAGS: u32 = 1_000_000;

#[derive(Clone)]
pub(super) struct Cluster(Arc<ClusterState>);

struct ClusterState {
    connector: Arc<Connector>,
    view: RwLock<Arc<View>>,
    /// Held by the one call that asks for the layout anew.
    refreshing: tokio::sync::Mutex<()>,
}

/// The layout as it was last heard.
struct View {
    /// Counts the layouts.
    number: u64,
    /// The first of them own slots, the others only receive some.
    nodes: Vec<Arc<Node>>,
    masters: usize,
    /// Slot to node.
    owners: Arc<[u16]>,
}

struct Node {
    address: Address,
    connection: Arc<PooledServer>,
    /// In one of its slots.
    probe_key: String,
}

/// What one command has gone through.
struct Turns {
    moves: usize,
    /// Until when it waits for its keys.
    until: Instant,
}

impl Turns {
    fn new(connector: &Connector) -> Self {
        Self {
            moves: 0,
            until: Instant::now() + connector.command_timeout() / 2,
        }
    }
}

impl View {
    fn new(number: u64, topology: &Topology, nodes: Vec<Arc<Node>>) -> Self {
        let mut owners = vec![UNOWNED; SLOTS];
        for (first, last, master) in &topology.ranges {
            let range = usize::from(*first)..=usize::from(*last);
            if let (Some(slots), Ok(master)) = (owners.get_mut(range), u16::try_from(*master)) {
                slots.fill(master);
            }
        }
        Self {
            number,
            masters: nodes.len(),
            nodes,
            owners: owners.into(),
        }
    }

    fn owner(&self, slot: u16) -> RedisResult<(usize, &Arc<Node>)> {
        let owner = self.owners.get(usize::from(slot)).copied().unwrap_or(UNOWNED);
        let owner = usize::from(owner);
        self.nodes.get(owner).map(|node| (owner, node)).ok_or_else(down)
    }

    fn masters(&self) -> &[Arc<Node>] {
        &self.nodes[..self.masters]
    }

    fn node_at(&self, address: &Address) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.address == *address)
    }
}

impl Node {
    fn handle(&self) -> MultiplexedConnection {
        self.connection.handle()
    }
}

impl Cluster {
    /// Asks for the layout and connects to every master; all of them must be there.
    pub(super) async fn open(connector: &Arc<Connector>, limit: Duration) -> Result<Self, PoolError> {
        let topology = connector.topology(limit).await?;
        let nodes = nodes(connector, &topology, &[], limit).await?;
        Ok(Self(Arc::new(ClusterState {
            connector: Arc::clone(connector),
            view: RwLock::new(Arc::new(View::new(0, &topology, nodes))),
            refreshing: tokio::sync::Mutex::default(),
        })))
    }

    pub(super) fn masters(&self) -> Vec<Master> {
        let view = self.view();
        let masters = view.masters().iter().map(|node| Master {
            connection: node.handle(),
            probe_key: node.probe_key.clone(),
            is_of_cluster: true,
        });
        masters.collect()
    }

    pub(super) fn owner_of(&self, key: &str) -> RedisResult<MultiplexedConnection> {
        let view = self.view();
        view.owner(slot_of_key(key.as_bytes()))
            .map(|(_, node)| node.handle())
    }

    /// Sends one command to the owner of its key.
    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let Some(slot) = slot_of(command) else {
            return self.without_key(command).await;
        };
        let mut turns = Turns::new(&self.0.connector);
        loop {
            let view = self.view();
            let (_, node) = view.owner(slot)?;
            let mut from = Arc::clone(node);
            let mut reply = from.handle().req_packed_command(command).await;
            if let Some(Redirection::Ask(target)) = redirection(&reply, &from.address) {
                from = self.node_at(&target).await?;
                reply = asking(&from, command).await;
            }
            let Some(turn) = redirection(&reply, &from.address) else {
                return reply;
            };
            if !self.turn(&mut turns, turn, view.number).await? {
                return reply;
            }
        }
    }

    /// Prepares to send what was redirected again; false if it was redirected or waited for often enough.
    async fn turn(&self, turns: &mut Turns, turn: Redirection, seen: u64) -> RedisResult<bool> {
        match turn {
            Redirection::Moved(owner) => {
                turns.moves += 1;
                if turns.moves > MOST_MOVES {
                    return Err(down());
                }
                self.refresh(seen, &owner).await?;
                Ok(true)
            }
            Redirection::Ask(_) | Redirection::TryAgain => {
                sleep(PAUSE).await;
                Ok(Instant::now() < turns.until)
            }
        }
    }

    /// Scripts are loaded everywhere, and a sign of life is wanted from all; whatever else has no key may go anywhere.
    async fn without_key(&self, command: &Cmd) -> RedisResult<Value> {
        let view = self.view();
        let everywhere = is_named(command, "SCRIPT") || is_named(command, "PING");
        let asked = if everywhere { view.masters().len() } else { 1 };
        let sent = view
            .masters()
            .iter()
            .take(asked)
            .map(|node| async move { node.handle().req_packed_command(command).await?.extract_error() });
        try_join_all(sent).await?.pop().ok_or_else(down)
    }

    /// Sends a pipeline, each command to the owner of its key.
    pub(super) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let slots = slots_of(pipeline);
        if pipeline.is_transaction() {
            return self
                .transaction(pipeline, slots.first().copied().flatten(), offset, count)
                .await;
        }
        let mut replies = self.split(pipeline, &slots).await?;
        let (mut again, own) = (
            false,
            Address {
                host: String::new(),
                port: 0,
            },
        );
        for (command, reply) in pipeline.cmd_iter().zip(&mut replies) {
            // What has no key, and follows a command that is sent again, is sent again after it.
            again = match slot_of(command) {
                Some(_) => is_redirection(reply, &own),
                None => again,
            };
            if again {
                *reply = match self.command(command).await {
                    Err(error) if error.is_io_error() => return Err(error),
                    Err(error) => error_value(error)?,
                    Ok(value) => value,
                };
            }
        }
        Ok(replies)
    }

    /// One pipeline for each node, all at once; the replies in the order of the commands.
    async fn split(&self, pipeline: &Pipeline, slots: &[Option<u16>]) -> RedisResult<Vec<Value>> {
        let view = self.view();
        let owners = slots
            .iter()
            .map(|slot| slot.map_or(Ok(0), |slot| view.owner(slot).map(|(owner, _)| owner)))
            .collect::<RedisResult<Vec<usize>>>()?;
        let Some(&first) = owners.first() else {
            return Ok(Vec::new());
        };
        if owners.iter().all(|owner| *owner == first) {
            let node = view.nodes.get(first).ok_or_else(down)?;
            return node.handle().req_packed_commands(pipeline, 0, slots.len()).await;
        }
        let parts = view.nodes.iter().enumerate().filter_map(|(index, node)| {
            let mine = || {
                owners
                    .iter()
                    .enumerate()
                    .filter(move |(_, owner)| **owner == index)
            };
            let places: Vec<usize> = mine().map(|(place, _)| place).collect();
            let mut part = redis::Pipeline::with_capacity(places.len());
            for (command, _) in pipeline
                .cmd_iter()
                .zip(&owners)
                .filter(|(_, owner)| **owner == index)
            {
                part.add_command(command.clone());
            }
            (!places.is_empty()).then_some((node, places, part))
        });
        let sent = parts.map(|(node, places, part)| async move {
            let replies = node.handle().req_packed_commands(&part, 0, places.len()).await?;
            RedisResult::Ok((places, replies))
        });
        let mut replies = vec![Value::Nil; slots.len()];
        // All are waited for, so that a failure comes after what the others did.
        for part in join_all(sent).await {
            let (places, part) = part?;
            for (place, reply) in places.into_iter().zip(part) {
                if let Some(cell) = replies.get_mut(place) {
                    *cell = reply;
                }
            }
        }
        Ok(replies)
    }

    /// A transaction is refused as a whole where its keys are not.
    async fn transaction(
        &self,
        pipeline: &Pipeline,
        slot: Option<u16>,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let mut turns = Turns::new(&self.0.connector);
        loop {
            let view = self.view();
            let (_, node) = view.owner(slot.unwrap_or_default())?;
            let replies = node.handle().req_packed_commands(pipeline, offset, count).await;
            let Err(error) = &replies else {
                return replies;
            };
            let Some(turn) = redirection_of(error, &node.address) else {
                return replies;
            };
            if !self.turn(&mut turns, turn, view.number).await? {
                return replies;
            }
        }
    }

    /// Asks `owner`, which must know best, for the layout, unless another call has done so since layout `seen`.
    async fn refresh(&self, seen: u64, owner: &Address) -> RedisResult<()> {
        let _one_at_a_time = self.0.refreshing.lock().await;
        let view = self.view();
        if view.number != seen {
            return Ok(());
        }
        let limit = self.0.connector.connect_timeout();
        let told_by = self.connected(&view, owner).await?;
        let topology = Topology::ask(&mut told_by.handle(), &owner.host).await?;
        let nodes = nodes(&self.0.connector, &topology, &view.nodes, limit)
            .await
            .map_err(of_pool)?;
        self.publish(View::new(view.number + 1, &topology, nodes));
        Ok(())
    }

    /// The node at an address that another one named; it may own no slot yet.
    async fn node_at(&self, address: &Address) -> RedisResult<Arc<Node>> {
        if let Some(node) = self.view().node_at(address) {
            return Ok(Arc::clone(node));
        }
        let _one_at_a_time = self.0.refreshing.lock().await;
        let view = self.view();
        let node = self.connected(&view, address).await?;
        if view.node_at(address).is_none() {
            let mut nodes = view.nodes.clone();
            nodes.push(Arc::clone(&node));
            self.publish(View {
                number: view.number,
                nodes,
                masters: view.masters,
                owners: Arc::clone(&view.owners),
            });
        }
        Ok(node)
    }

    async fn connected(&self, view: &View, address: &Address) -> RedisResult<Arc<Node>> {
        match view.node_at(address) {
            Some(node) => Ok(Arc::clone(node)),
            None => node(
                &self.0.connector,
                address,
                None,
                self.0.connector.connect_timeout(),
            )
            .await
            .map_err(of_pool),
        }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, view: View) {
        *self.0.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

/// Connections to all masters of a layout, in its order: those that are open, and new ones.
async fn nodes(
    connector: &Arc<Connector>,
    topology: &Topology,
    open: &[Arc<Node>],
    limit: Duration,
) -> Result<Vec<Arc<Node>>, PoolError> {
    let masters = topology
        .masters
        .iter()
        .enumerate()
        .map(|(index, address)| async move {
            let mut slots = topology.ranges.iter().filter(|(_, _, master)| *master == index);
            let slots = slots.next().map(|(first, last, _)| (*first, *last));
            let Some(known) = open.iter().find(|node| node.address == *address) else {
                return node(connector, address, slots, limit).await;
            };
            if slots.is_some_and(|slots| is_within(slots, &known.probe_key)) {
                return Ok(Arc::clone(known));
            }
            // The slot of its key has moved away.
            Ok(Arc::new(Node {
                address: address.clone(),
                connection: Arc::clone(&known.connection),
                probe_key: slots.and_then(probe_key).unwrap_or_default(),
            }))
        });
    try_join_all(masters).await
}

async fn node(
    connector: &Arc<Connector>,
    address: &Address,
    slots: Option<(u16, u16)>,
    limit: Duration,
) -> Result<Arc<Node>, PoolError> {
    Ok(Arc::new(Node {
        connection: Arc::new(connector.server_at(address, limit).await?),
        probe_key: slots.and_then(probe_key).unwrap_or_default(),
        address: address.clone(),
    }))
}

/// A key in one of the slots.
fn probe_key(slots: (u16, u16)) -> Option<String> {
    (0..MOST_TAGS)
        .map(|number| format!("{{holdfast:{number}}}:probe"))
        .find(|key| is_within(slots, key))
}

fn is_within((first, last): (u16, u16), key: &str) -> bool {
    (first..=last).contains(&slot_of_key(key.as_bytes()))
}

/// The slot of each command; one without a key takes that of the command before it, or of the first that has one.
fn slots_of(pipeline: &Pipeline) -> Vec<Option<u16>> {
    let own: Vec<Option<u16>> = pipeline.cmd_iter().map(slot_of).collect();
    let mut last = own.iter().copied().flatten().next();
    own.into_iter()
        .map(|slot| {
            last = slot.or(last);
            last
        })
        .collect()
}

/// Sends a command to the node that is about to own its slot.
async fn asking(node: &Node, command: &Cmd) -> RedisResult<Value> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("ASKING").add_command(command.clone());
    let replies = node.handle().req_packed_commands(&pipeline, 0, 2).await?;
    replies.into_iter().nth(1).ok_or_else(down)
}

/// A failure as a reply in its place, so that the pipeline reads it as its server's.
fn error_value(error: RedisError) -> RedisResult<Value> {
    let again = error.clone();
    redis::ServerError::try_from(error)
        .map(Value::ServerError)
        .map_err(|_| again)
}
