//! Two people book the same room for the same day, each from a process of their own. One gets it, the other is told who has it.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin room_booking [URL]
//! ```
//!
//! Whether the room is free is looked up and written under a lock, so that nobody books between the two. The booking says
//! under which token it was made: a process that was frozen with the lock in hand, and goes on when somebody else has it, can be told
//! by its smaller one.

use std::time::Duration;

use linchpin::coord::{Coord, DEFAULT_TTL, When};
use linchpin::{Error, Kind, Result};
use linchpin_examples::{Meeting, ended};

#[tokio::main]
async fn main() -> Result<()> {
    let meeting = Meeting::open().await?;
    if let (Some(room), Some(person)) = (std::env::args().nth(2), std::env::args().nth(3)) {
        return book(meeting.coord, room, person).await;
    }
    // A room that no earlier run of this program has booked.
    let room = format!("blue-{}", std::process::id());
    let mut people = Vec::new();
    for person in ["Ada", "Grace"] {
        let work = book(meeting.coord.clone(), room.clone(), person.to_owned());
        people.push(meeting.start(&[&room, person], work));
    }
    for person in people {
        ended(person).await?;
    }
    let booking = meeting.coord.get(&format!("bookings/{room}")).await?;
    let booking = booking.ok_or_else(|| Error::new(Kind::NotFound, "nobody has the room"))?;
    println!("the room is {}'s", String::from_utf8_lossy(&booking.value));
    meeting.coord.delete(&booking.key, When::Is(booking.rev)).await?;
    Ok(())
}

async fn book(coord: Coord, room: String, person: String) -> Result<()> {
    let session = coord.session(DEFAULT_TTL).await?;
    let lock = session.lock(&format!("rooms/{room}"));
    let guard = lock.acquire_within(Duration::from_secs(30)).await?;
    let key = format!("bookings/{room}");
    match coord.get(&key).await? {
        Some(booking) => {
            println!("{person}: sorry, {} has it already", String::from_utf8_lossy(&booking.value));
        }
        None => {
            coord.put(&key, person.clone(), When::Absent).await?;
            println!("{person}: the room is mine, by token {}", guard.token());
        }
    }
    guard.release().await?;
    session.close().await
}
