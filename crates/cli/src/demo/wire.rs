//! Entries of the file as messages, and back.

use csv::ByteRecord;
use linchpin::bus::{CONTENT_TYPE, Message};
use linchpin::{Error, Kind, Result};

use super::data::{Entry, Order, check};

const JSON: &str = "application/json";
const CSV: &str = "text/csv";

/// The message that carries an entry: an order as JSON, keyed by its customer; a malformed row as it stood in the file.
///
/// # Errors
/// `Unexpected` if the order has no JSON form.
pub(super) fn message(entry: &Entry) -> Result<Message> {
    match entry {
        Entry::Order(order) => {
            let json = serde_json::to_vec(order);
            let json =
                json.map_err(|e| Error::new(Kind::Unexpected, "the order has no JSON form").source(e))?;
            let message = Message::new(json).id(order.id.as_str()).key(order.key().to_owned());
            Ok(message.header(CONTENT_TYPE, JSON))
        }
        Entry::Malformed(row) => {
            let message = Message::new(row.text.clone()).id(row.id().as_str()).key(row.invoice.clone());
            Ok(message.header(CONTENT_TYPE, CSV))
        }
    }
}

/// What every worker makes of a message: an order that obeys the rules, or the reason why there is none.
pub(super) fn read(message: &Message) -> Result<Order, String> {
    match message.headers.text(CONTENT_TYPE) {
        Some(JSON) => {
            let order: Order = serde_json::from_slice(&message.payload).map_err(|e| e.to_string())?;
            order.check().map(|()| order)
        }
        Some(CSV) => {
            let mut row = ByteRecord::new();
            let mut csv = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(message.payload.as_ref());
            csv.read_byte_record(&mut row).map_err(|e| e.to_string())?;
            check(&row).and_then(|sale| Err(format!("a row of invoice {} outside its order", sale.invoice)))
        }
        other => Err(format!("the content type is {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::data::{Entries, Source};

    #[test]
    fn workers_read_what_the_feeder_wrote() {
        let mut entries = Entries::new(Source::Shipped.rows().unwrap());
        let (mut orders, mut malformed) = (0, 0);
        while let Some(entry) = entries.next().unwrap() {
            let read = read(&message(&entry).unwrap());
            match entry {
                Entry::Order(order) => {
                    assert_eq!(read, Ok(order));
                    orders += 1;
                }
                Entry::Malformed(row) => {
                    assert_eq!(read, Err(row.reason));
                    malformed += 1;
                }
            }
        }
        assert_eq!((orders, malformed), (1_955, 70));
    }

    #[test]
    fn other_messages_have_a_reason_too() {
        let json = |text: &str| Message::new(text.to_owned()).header(CONTENT_TYPE, JSON);
        assert!(read(&json("{")).is_err());
        assert!(read(&Message::new("x")).unwrap_err().contains("content type"));
        let order = r#"{"id":"1","invoice":"1","customer":null,"time":"t","country":"c","lines":[]}"#;
        assert_eq!(read(&json(order)), Err("the order has no lines".into()));
    }
}
