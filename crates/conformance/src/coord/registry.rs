//! Instances that come, go, die and come back.

use std::time::Duration;

use linchpin::coord::{Coord, Endpoints, EndpointsOptions, Entry, Health, Instance, When};
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use crate::child::Child;
use crate::protocol::{CoordCommand, Event};
use crate::tools::{GRACE, LONG, MOMENT, SOON};
use crate::world::Space;

const SERVICE: &str = "time";
/// How soon everything must be in order once the server is.
const BACK: Duration = Duration::from_secs(60);

fn instance(n: usize) -> Instance {
    Instance::new(format!("127.0.0.1:{}", 7000 + n))
}

/// Until the list is as it should be.
async fn until(endpoints: &mut Endpoints, limit: Duration, what: &str, is_so: impl Fn(&Endpoints) -> bool) {
    let started = Instant::now();
    while !is_so(endpoints) {
        let left = limit.saturating_sub(started.elapsed());
        let told = timeout(left, endpoints.changed()).await;
        assert!(told.is_ok(), "not {what} within {limit:?}: {:?}", endpoints.list());
    }
}

fn count(endpoints: &Endpoints) -> usize {
    endpoints.list().len()
}

fn suspects(endpoints: &Endpoints) -> usize {
    endpoints.list().iter().filter(|endpoint| endpoint.suspect).count()
}

async fn child_registers(child: &mut Child, coord: &Coord, n: usize) {
    let ttl_ms = u64::try_from(ttl(coord).as_millis()).unwrap();
    let (service, address) = (SERVICE.to_owned(), instance(n).address);
    let answer = child.ask(&CoordCommand::Register { service, address, ttl_ms }).await;
    assert!(matches!(answer, Event::Done), "{answer:?}");
}

pub(super) async fn a_registration_is_seen_in_another_process(s: Space) {
    let mut child = s.child().await;
    child.tell(&CoordCommand::Follow { service: SERVICE.to_owned(), count: 1 }).await;
    sleep(MOMENT * 2).await;
    let registration = s.coord.register(SERVICE, instance(1)).await.unwrap();
    let seen = timeout(GRACE * 2, child.event()).await.expect("it is told");
    assert!(matches!(seen, Some(Event::Holds(1))), "{seen:?}");
    // And the other way.
    let mut here = s.coord.endpoints(SERVICE).await.unwrap();
    child_registers(&mut child, &s.coord, 2).await;
    until(&mut here, GRACE, "two", |here| count(here) == 2).await;
    registration.update(|instance| instance.zone = "north".to_owned());
    until(&mut here, GRACE, "in the north", |here| here.list()[0].instance.zone == "north").await;
    registration.update(|instance| instance.health = Health::Down);
    until(&mut here, GRACE, "one that takes calls", |here| count(here) == 1).await;
    assert_eq!(s.coord.services().await.unwrap()[SERVICE].len(), 2, "it is there, and takes no calls");
    registration.deregister().await.unwrap();
    assert_eq!(here.pick().unwrap().address(), instance(2).address);
}

/// The key of the one instance, once it is there under another revision and takes calls.
async fn registered(coord: &Coord, before: Option<&Entry>) -> Entry {
    let started = Instant::now();
    loop {
        let there = coord.list("service/").await.unwrap();
        if let [entry] = there.as_slice()
            && before.is_none_or(|before| before.created != entry.created)
        {
            return entry.clone();
        }
        assert!(started.elapsed() < SOON, "not registered again after {:?}: {there:?}", started.elapsed());
        sleep(MOMENT / 4).await;
    }
}

pub(super) async fn an_instance_registers_again(s: Space) {
    let mut endpoints = s.other().await.endpoints(SERVICE).await.unwrap();
    let registration = s.coord.register_for(SERVICE, instance(1), ttl(&s.coord) * 3).await.unwrap();
    let first = registered(&s.coord, None).await;
    // Until it watches its own key.
    sleep(MOMENT * 2).await;
    assert!(s.coord.delete(&first.key, When::Always).await.unwrap());
    let second = registered(&s.coord, Some(&first)).await;
    assert_eq!((&second.key, &second.value, &second.lease), (&first.key, &first.value, &first.lease));
    // As if its lease had ended.
    s.coord.engine().revoke(second.lease.as_ref().unwrap()).await.unwrap();
    let third = registered(&s.coord, Some(&second)).await;
    assert_eq!((&third.key, &third.value), (&first.key, &first.value));
    assert_ne!(third.lease, second.lease);
    until(&mut endpoints, SOON, "listed", |list| count(list) == 1 && suspects(list) == 0).await;
    let started = Instant::now();
    while !registration.is_registered() {
        assert!(started.elapsed() < GRACE, "it doesn't know that it is registered");
        sleep(MOMENT / 4).await;
    }
}

pub(super) async fn a_killed_instance_is_gone_after_its_lease(s: Space) {
    let (mut one, mut other) = (s.child().await, s.child().await);
    child_registers(&mut one, &s.coord, 1).await;
    child_registers(&mut other, &s.coord, 2).await;
    let mut endpoints = s.coord.endpoints(SERVICE).await.unwrap();
    assert_eq!(count(&endpoints), 2);
    // They keep their leases alive as long as they live.
    sleep(ttl(&s.coord) + s.coord.caps().slack).await;
    assert_eq!((count(&endpoints), suspects(&endpoints)), (2, 0));
    one.kill().await;
    until(&mut endpoints, latest(&s.coord) + MOMENT, "one", |list| count(list) == 1).await;
    assert_eq!(endpoints.pick().unwrap().address(), instance(2).address);
}

pub(super) async fn many_that_vanish_at_once_are_kept_as_suspects(s: Space) {
    let engine = s.coord.engine();
    let (mortal, others) = (engine.grant(LONG * 2).await.unwrap(), engine.grant(LONG * 2).await.unwrap());
    for n in 0..10 {
        let json = serde_json::to_vec(&instance(n)).unwrap();
        let (key, lease) =
            (format!("service/{SERVICE}/~{}", instance(n).id), if n < 6 { &mortal } else { &others });
        engine.put(&key, json.into(), When::Always, Some(lease)).await.unwrap();
    }
    let options = EndpointsOptions { hold: Duration::from_secs(4), ..EndpointsOptions::default() };
    let mut endpoints = s.other().await.endpoints_with(SERVICE, options).await.unwrap();
    assert_eq!((count(&endpoints), suspects(&endpoints)), (10, 0));
    engine.revoke(&mortal).await.unwrap();
    let vanished = Instant::now();
    let kept = |list: &Endpoints| (count(list), suspects(list)) == (10, 6);
    until(&mut endpoints, SOON, "ten with six suspects", kept).await;
    // One that comes back is no suspect any more; one that a call fails on is let go.
    let _back = s.coord.register(SERVICE, instance(0)).await.unwrap();
    until(&mut endpoints, SOON, "five suspects", |list| (count(list), suspects(list)) == (10, 5)).await;
    let picked = loop {
        let picked = endpoints.pick().unwrap();
        if picked.is_suspect() {
            break picked;
        }
    };
    picked.failed();
    until(&mut endpoints, GRACE * 2, "nine", |list| (count(list), suspects(list)) == (9, 4)).await;
    assert!(vanished.elapsed() < Duration::from_secs(4), "too slow to tell: {:?}", vanished.elapsed());
    until(&mut endpoints, Duration::from_secs(6), "five", |list| count(list) == 5).await;
    assert!(vanished.elapsed() >= Duration::from_secs(4), "let go after {:?}", vanished.elapsed());
}

pub(super) async fn the_last_list_stays_while_the_registry_is_gone(s: Space) {
    let (here, mut registrations) = (s.other().await, Vec::new());
    for n in 0..3 {
        registrations.push(here.register_for(SERVICE, instance(n), LONG).await.unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let options =
        EndpointsOptions { file: Some(dir.path().join("time.json")), ..EndpointsOptions::default() };
    let mut endpoints = s.coord.endpoints_with(SERVICE, options.clone()).await.unwrap();
    assert!(count(&endpoints) == 3 && !endpoints.is_stale());
    s.server().kill().await;
    until(&mut endpoints, LONG, "stale", Endpoints::is_stale).await;
    assert_eq!((count(&endpoints), suspects(&endpoints)), (3, 0));
    assert!(endpoints.pick().is_some());
    // Also a start without the registry.
    let late = timeout(LONG, s.coord.endpoints_with(SERVICE, options)).await.expect("it doesn't hang");
    let mut late = late.expect("from the file");
    assert!(count(&late) == 3 && late.is_stale());
    s.server().restart().await;
    // What comes and goes before the list is fresh again is in it.
    let started = Instant::now();
    let _fourth = loop {
        match here.register_for(SERVICE, instance(4), LONG).await {
            Ok(registration) => break registration,
            Err(error) => assert!(started.elapsed() < BACK, "{error}"),
        }
        sleep(MOMENT).await;
    };
    registrations.remove(0).deregister().await.unwrap();
    let wanted = [1, 2, 4].map(|n| instance(n).address);
    for list in [&mut endpoints, &mut late] {
        let fresh = |list: &Endpoints| {
            let there = list.list().into_iter().filter(|endpoint| !endpoint.suspect);
            !list.is_stale() && there.map(|endpoint| endpoint.instance.address).eq(wanted.iter().cloned())
        };
        until(list, BACK, "fresh, with the fourth and without the first", fresh).await;
    }
}
