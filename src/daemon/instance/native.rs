//! The native pool of a running balancer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Failed, Process, processors};
use crate::config::Config;
use crate::daemon;
use crate::daemon::inbox::{Gone, Post, inbox};
use crate::daemon::worker::Worker;
use crate::io::{BackEnd, IoOptions};
use crate::operator::{Order, Refused};
use crate::rng::entropy;
use crate::role::balancer::{Balancer, Settings};
use crate::scale;
use crate::stats::PoolStats;

/// How long a process that has taken its sockets over leaves requests in their buffers while no server has registered.
const WAIT_FOR_SERVERS: Duration = Duration::from_millis(300);

/// A worker of the native pool.
pub type NativeWorker = Worker<Balancer, BackEnd>;

/// The native pool's workers, as they are reached from outside.
pub struct Native {
    posts: Vec<Post<NativeWorker>>,
    /// By worker, the primary first.
    pub stats: Vec<Arc<PoolStats>>,
    /// What they were made from.
    pub settings: Settings,
}

/// The settings of the native pool's role, but for the balancer's own addresses.
pub fn settings(config: &Config) -> Settings {
    let (pool, server) = (config.native(), &config.server);
    Settings {
        format: pool.format,
        key: config.key_bytes(),
        secret: rand::random(),
        workers: pool.workers,
        policy: pool.policy,
        reply_path: pool.reply_path,
        servers_max: pool.servers_max,
        max_outstanding: pool.max_outstanding,
        interval: server.interval,
        controller: config.controller,
        scale: scale::Policy {
            threshold: pool.scaling_threshold,
            grow_after: server.grow_after,
            shrink_after: server.shrink_after,
            cool_down: server.cool_down,
            min: server.min,
            max: server.max,
        },
        own: vec![],
        seed: entropy(),
    }
}

impl Native {
    /// Makes and starts the workers over these sockets: front and server side of each.
    pub fn start(
        config: &Config,
        sockets: Vec<[std::net::UdpSocket; 2]>,
        is_inherited: bool,
        process: &Process,
    ) -> Result<Native, Failed> {
        let mut settings = settings(config);
        for socket in sockets.iter().flatten() {
            settings.own.push(socket.local_addr()?);
        }
        let roles = Balancer::workers(settings.clone(), process.clock.now());
        let stats = roles.iter().map(|role| Arc::clone(role.stats())).collect();
        let options = IoOptions { prefault: true, ..config.io_options() };
        let processor = processors(config.native().pin)?;
        let mut workers = vec![];
        for (number, (role, sockets)) in roles.into_iter().zip(sockets).enumerate() {
            let io = daemon::back_end(config.io, sockets.into(), &options, process.clock)?;
            let mut worker = Worker::new(role, io, 2, processor(number), config.client.deadline);
            if is_inherited {
                worker.wait_for_servers(process.clock.now() + WAIT_FOR_SERVERS)?;
            }
            workers.push(worker);
        }
        // Only when all are there: what fails before this has started nothing.
        let mut posts = vec![];
        for (number, worker) in workers.into_iter().enumerate() {
            posts.push(start(worker, format!("worker-{number}"), process)?);
        }
        Ok(Native { posts, stats, settings })
    }

    /// Where each worker takes tasks.
    pub fn posts(&self) -> &[Post<NativeWorker>] {
        &self.posts
    }

    fn primary(&self) -> &Post<NativeWorker> {
        &self.posts[0]
    }

    /// Goes on with these settings, which it can. False if they are the same.
    pub fn change(&self, new: Settings) -> Result<bool, Failed> {
        let mut changed = false;
        for post in &self.posts {
            let settings = new.clone();
            changed |= post.call(move |worker, now| worker.role.reconfigure(now, &settings))?;
        }
        Ok(changed)
    }

    /// Carries out an order about a server.
    pub fn order(&self, id: u32, order: Order) -> Result<Result<(), Refused>, Gone> {
        self.primary().call(move |worker, now| worker.role.order(now, id, order))
    }
}

/// Starts a worker's loop.
pub fn start<R>(
    worker: Worker<R, BackEnd>,
    name: String,
    process: &Process,
) -> io::Result<Post<Worker<R, BackEnd>>>
where
    R: crate::daemon::worker::Balancing + Send + 'static,
{
    let waker = worker.io.waker();
    let (inbox, post) = inbox(waker.clone());
    let (events, clock, stop) = (Arc::clone(&process.events), process.clock, process.stop.clone());
    process.threads.spawn(name, move || {
        let _woken = stop.wake_also(waker);
        worker.run(&inbox, &events, clock, &stop)
    })?;
    Ok(post)
}
