//! `kill -9` of the daemon, of keepers and of QEMU, at uniformly random moments
//! of every operation. What was acknowledged stays true.
//!
//! A round brings a VM into the state that an operation needs, asks for the
//! operation, kills somebody at a moment of the time that the operation takes
//! (which was measured before, in the same run), starts the daemon again if it
//! was killed, waits until everything is in order, and compares what is with
//! what must be.

mod fleet;
mod operation;
mod processes;
mod truth;
mod verdict;
mod victims;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use fastrand::Rng;
use lab::qemu::BOOT_LIMIT;
use uuid::Uuid;
use vmm_api::client::{Client, Error};
use vmm_api::operation::{Operation, OperationState};
use vmm_api::vm::VmSpec;

use super::Plan;
use crate::scene::{BLINK, Scene};
use crate::wait::until;
use operation::{Kind, Needs};
use truth::Vms;
use verdict::Cut;
use victims::{Hit, Victims};

/// How many rounds a full run has; somebody is killed in each.
pub const ROUNDS: u64 = 1000;

/// Every how many rounds the guest is a real one, with the agent in it. Its
/// boot takes as long as ten other rounds.
const GUEST_EVERY: u64 = 25;

/// How often an operation is played to see how long it takes.
const SAMPLES: u32 = 2;

/// By how much a moment may lie beyond the longest that was measured: what is
/// killed late is killed while the last of it is written down.
const BEYOND: f64 = 1.2;

/// Kills somebody in every round.
pub async fn run(scene: Scene, plan: Plan) -> Result<()> {
    let client = scene.start_daemon().await?;
    let with_guest = plan.rounds.contains(&plan.rounds.start.next_multiple_of(GUEST_EVERY));
    fleet::assemble(&scene, &client, with_guest).await?;
    let mut world = World { scene, client, ever: BTreeSet::new(), spans: HashMap::new(), plan };
    for round in world.plan.rounds.clone() {
        let random = world.plan.begin(round);
        world.round(round, random).await?;
    }
    Ok(())
}

/// What goes on from round to round.
struct World {
    scene: Scene,
    client: Client,
    /// All VMs that there ever were.
    ever: BTreeSet<Uuid>,
    /// How long each operation takes, with and without a real guest.
    spans: HashMap<(Kind, bool), Duration>,
    plan: Plan,
}

/// What an operation is done to.
enum Target {
    /// A VM that is there.
    Vm(Uuid),
    /// A VM that is to be there.
    New(Box<VmSpec>),
    /// The daemon.
    Daemon,
}

/// What came of asking.
enum Answer {
    /// It was acknowledged.
    Acknowledged(Operation),
    /// The VM is there.
    Created(Uuid),
    /// It was refused.
    Refused(String),
    /// The connection broke, or there was none.
    None,
    /// Nobody was asked.
    Unasked,
}

impl World {
    async fn round(&mut self, round: u64, mut random: Rng) -> Result<()> {
        let vms = self.settled().await?;
        let with_guest = round.is_multiple_of(GUEST_EVERY);
        let (kind, target) = self.choose(round, with_guest, &vms, &mut random).await?;
        let span = self.span(kind, &target, with_guest, round).await?;
        let prepared = self.prepare(kind, &target).await?;
        let victim = match prepared {
            Some(vm) if kind.has_machine() => vm,
            _ => fleet::other(&self.scene, &self.client, &vms, &mut random).await?,
        };
        let before = self.settled().await?;
        let victims = Victims::choose(kind, &mut random);
        let moment = span.mul_f64(random.f64());
        self.plan.count(kind.counted());
        let what = format!("{kind:?}, {victims} after {moment:?} of {span:?}");
        let asked = Instant::now();
        let (answer, hit) = self.cut(kind, &target, victims, victim, moment).await?;
        until("the end of who was killed", BLINK, || async {
            Ok(hit.pids.iter().all(|pid| processes::has_ended(*pid)).then_some(()))
        })
        .await?;
        self.count(&hit, &answer);
        if hit.daemon {
            self.client = self.scene.start_daemon().await?;
        }
        let cut = Cut { kind, target: prepared, victim, hit: hit.clone(), before };
        let outcome = self.judge(&cut, &target, answer).await;
        outcome.with_context(|| format!("{what}: hit {hit:?}, {:?} ago", asked.elapsed()))?;
        if let (true, Some(guest)) = (with_guest, prepared) {
            // What it was asked before the kill it may still do, in its own time.
            fleet::arrange(&self.scene, &self.client, guest, Needs::Down).await?;
        }
        Ok(())
    }

    /// Which operation, and of what.
    async fn choose(
        &mut self,
        round: u64,
        with_guest: bool,
        vms: &Vms,
        random: &mut Rng,
    ) -> Result<(Kind, Target)> {
        if with_guest {
            let obeyed = [Kind::Stop, Kind::Restart, Kind::ColdRestart];
            let kind = obeyed[random.usize(..obeyed.len())];
            let guest = self.client.vm(fleet::GUEST).await?.id;
            return Ok((kind, Target::Vm(guest)));
        }
        let kind = fleet::fitting(Kind::ALL[random.usize(..Kind::ALL.len())], vms);
        let target = match kind {
            Kind::Create => Target::New(Box::new(fleet::new_vm(&self.scene, round, random)?)),
            Kind::Recover => Target::Daemon,
            kind => Target::Vm(fleet::target(kind, vms, random)?),
        };
        Ok((kind, target))
    }

    /// Brings the target into the state that the operation needs.
    async fn prepare(&self, kind: Kind, target: &Target) -> Result<Option<Uuid>> {
        let (Target::Vm(vm), Some(needs)) = (target, kind.needs()) else { return Ok(None) };
        fleet::arrange(&self.scene, &self.client, *vm, needs).await?;
        Ok(Some(*vm))
    }

    /// How long an operation takes when nobody is killed.
    async fn span(
        &mut self,
        kind: Kind,
        target: &Target,
        with_guest: bool,
        round: u64,
    ) -> Result<Duration> {
        if let Some(span) = self.spans.get(&(kind, with_guest)) {
            return Ok(*span);
        }
        let mut longest = Duration::ZERO;
        for sample in 0..SAMPLES {
            // What a sample makes, another removes.
            let own = match kind {
                Kind::Create | Kind::Delete => {
                    let mut random = Rng::with_seed(u64::from(sample));
                    let mut spec = fleet::new_vm(&self.scene, round, &mut random)?;
                    spec.name = format!("sample-{sample}");
                    Some(spec)
                }
                _ => None,
            };
            let took = self.sample(kind, target, own).await?;
            longest = longest.max(took);
        }
        let span = longest.mul_f64(BEYOND);
        println!("{kind:?}{}: {span:.1?}", if with_guest { " of a real guest" } else { "" });
        self.spans.insert((kind, with_guest), span);
        Ok(span)
    }

    async fn sample(
        &mut self,
        kind: Kind,
        target: &Target,
        own: Option<VmSpec>,
    ) -> Result<Duration> {
        if let Some(spec) = own {
            let began = Instant::now();
            let made = self.client.create(&spec).await?;
            self.ever.insert(made.id);
            let created = began.elapsed();
            let began = Instant::now();
            self.done(Kind::Delete.ask(&self.client, &spec.name).await?).await?;
            return Ok(if kind == Kind::Create { created } else { began.elapsed() });
        }
        if kind == Kind::Recover {
            self.scene.kill_daemon()?;
            let began = Instant::now();
            self.client = self.scene.start_daemon().await?;
            return Ok(began.elapsed());
        }
        let vm = self.prepare(kind, target).await?.context("it begins without a VM")?;
        let began = Instant::now();
        self.done(kind.ask(&self.client, &vm.to_string()).await?).await?;
        Ok(began.elapsed())
    }

    async fn done(&self, operation: Operation) -> Result<()> {
        let ended = self.client.wait(operation, BOOT_LIMIT).await?;
        ensure!(ended.state == OperationState::Succeeded, "unharmed, and it failed: {ended:?}");
        Ok(())
    }

    /// Asks, and kills at the moment.
    async fn cut(
        &self,
        kind: Kind,
        target: &Target,
        victims: Victims,
        victim: Uuid,
        moment: Duration,
    ) -> Result<(Answer, Hit)> {
        if let Target::Daemon = target {
            self.scene.kill_daemon()?;
            // Whoever else is a victim is killed while nobody watches.
            let mut hit = victims.strike_machine(&self.scene, victim)?;
            self.scene.start_and_kill_daemon(moment).await?;
            hit.daemon = true;
            return Ok((Answer::Unasked, hit));
        }
        let asking = async {
            match target {
                Target::New(spec) => match self.client.create(spec).await {
                    Ok(vm) => Ok(Answer::Created(vm.id)),
                    Err(error) => unanswered(error),
                },
                Target::Vm(vm) => match kind.ask(&self.client, &vm.to_string()).await {
                    Ok(operation) => Ok(Answer::Acknowledged(operation)),
                    Err(error) => unanswered(error),
                },
                Target::Daemon => Ok(Answer::Unasked),
            }
        };
        let striking = async {
            tokio::time::sleep(moment).await;
            victims.strike(&self.scene, victim)
        };
        let (answer, hit) = tokio::join!(asking, striking);
        Ok((answer?, hit?))
    }

    async fn judge(&mut self, cut: &Cut, target: &Target, answer: Answer) -> Result<()> {
        let ended = match &answer {
            Answer::Acknowledged(operation) => {
                Some(self.client.wait(operation.clone(), BOOT_LIMIT).await?)
            }
            _ => None,
        };
        self.plan.count(match ended.as_ref().map(|operation| operation.state) {
            Some(OperationState::Succeeded) => "operations that succeeded",
            Some(_) => "operations that failed and said why",
            None => "operations without an answer to follow",
        });
        let now = self.settled().await?;
        verdict::of_bystanders(cut, &now)?;
        match (target, answer) {
            (Target::New(spec), answer) => {
                let made = match answer {
                    Answer::Created(id) => Some(id),
                    _ => None,
                };
                verdict::of_creation(cut, &now, spec, made)
            }
            (Target::Daemon, _) => verdict::of_victim(cut, &now),
            (Target::Vm(_), Answer::Refused(why)) => verdict::of_refusal(cut, &now, &why),
            (Target::Vm(_), _) => verdict::of_operation(cut, &now, ended.as_ref()),
        }
    }

    async fn settled(&mut self) -> Result<Vms> {
        let vms = truth::settled(&self.scene, &self.client, &self.ever).await?;
        self.ever.extend(vms.keys());
        Ok(vms)
    }

    fn count(&self, hit: &Hit, answer: &Answer) {
        self.plan.add("kills of the daemon", u64::from(hit.daemon));
        self.plan.add("kills of a keeper", u64::from(hit.keeper));
        self.plan.add("kills of a real QEMU", u64::from(hit.machine));
        self.plan.add("requests that got no answer", u64::from(matches!(answer, Answer::None)));
    }
}

/// A refusal is an answer; a broken connection is none. Everything else is
/// what must not happen.
fn unanswered(error: Error) -> Result<Answer> {
    match error {
        Error::Problem(problem) if problem.status == 409 => Ok(Answer::Refused(problem.detail)),
        Error::Lost(_) | Error::NotReachable { .. } => Ok(Answer::None),
        error => Err(anyhow!("the daemon answered what it must not: {error:?}")),
    }
}
