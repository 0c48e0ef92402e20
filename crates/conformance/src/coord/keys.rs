//! One key after another.

use linchpin::Kind;
use linchpin::coord::{MAX_KEY, Rev, When};

use super::tools::*;
use crate::tools::assert_kind;
use crate::world::Space;

pub(super) async fn what_is_put_is_there(s: Space) {
    let bytes: Vec<u8> = (0..=255).collect();
    let first = s.coord.put("shop/limits", bytes.clone(), When::Always).await.unwrap();
    let entry = s.coord.get("shop/limits").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.value.as_ref()), ("shop/limits", bytes.as_slice()));
    assert_eq!((entry.created, entry.rev, &entry.lease), (first, first, &None));
    let second = s.coord.put("shop/limits", "", When::Always).await.unwrap();
    let entry = s.coord.get("shop/limits").await.unwrap().unwrap();
    assert!(entry.value.is_empty(), "an empty value is a value");
    assert_eq!((entry.created, entry.rev), (first, second));
    assert!(second > first);
    assert_eq!(s.coord.get("shop/limit").await.unwrap(), None);
    assert_eq!(s.coord.get("shop").await.unwrap(), None, "what divides keys makes none");
}

pub(super) async fn absent_means_absent(s: Space) {
    let first = s.coord.put("a", "1", When::Absent).await.unwrap();
    assert_kind(s.coord.put("a", "2", When::Absent).await, Kind::Conflict);
    let entry = s.coord.get("a").await.unwrap().unwrap();
    assert_eq!((text(&entry).as_str(), entry.rev), ("1", first), "nothing was changed");
    assert!(s.coord.delete("a", When::Always).await.unwrap());
    assert!(s.coord.put("a", "3", When::Absent).await.unwrap() > first);
}

pub(super) async fn a_revision_guards_what_it_saw(s: Space) {
    assert_kind(s.coord.put("a", "x", When::Is(Rev(1))).await, Kind::Conflict);
    let first = put(&s.coord, "a", "1").await;
    let second = s.coord.put("a", "2", When::Is(first)).await.unwrap();
    assert_kind(s.coord.put("a", "3", When::Is(first)).await, Kind::Conflict);
    assert_kind(s.coord.delete("a", When::Is(first)).await, Kind::Conflict);
    let entry = s.coord.get("a").await.unwrap().unwrap();
    assert_eq!((text(&entry).as_str(), entry.rev), ("2", second));
    // Another key's change is none of this one's.
    put(&s.coord, "b", "1").await;
    assert!(s.coord.delete("a", When::Is(second)).await.unwrap());
    assert_kind(s.coord.put("a", "4", When::Is(second)).await, Kind::Conflict);
    assert_eq!(s.coord.get("a").await.unwrap(), None);
}

pub(super) async fn deleting_tells_whether_it_was_there(s: Space) {
    let rev = put(&s.coord, "a", "1").await;
    assert!(s.coord.delete("a", When::Always).await.unwrap());
    assert!(!s.coord.delete("a", When::Always).await.unwrap());
    assert!(!s.coord.delete("a", When::Is(rev)).await.unwrap());
    assert!(!s.coord.delete("never/was", When::Always).await.unwrap());
    assert_kind(s.coord.delete("a", When::Absent).await, Kind::Invalid);
}

pub(super) async fn revisions_rise_across_delete_and_create(s: Space) {
    let mut last = Rev(0);
    for round in 0..10 {
        for key in ["a", "b", "a/b"] {
            let when = if round % 2 == 0 { When::Absent } else { When::Always };
            let rev = s.coord.put(key, "x", when).await.unwrap();
            assert!(rev > last, "{key} at {rev} after {last}");
            last = rev;
            let entry = s.coord.get(key).await.unwrap().unwrap();
            assert_eq!((entry.created, entry.rev), (rev, rev));
            assert!(s.coord.delete(key, When::Is(rev)).await.unwrap());
        }
    }
}

pub(super) async fn lists_are_in_order_and_in_pages(s: Space) {
    let mut names: Vec<String> = (0..120).map(|n| format!("list/{:03}", (n * 37) % 120)).collect();
    names.extend(
        ["list/B", "list/a", "list/Ä", "list/a b", "list/a/b", "list/a-b", "list/~"].map(str::to_owned),
    );
    for name in &names {
        put(&s.coord, name, name).await;
    }
    put(&s.coord, "lisa", "x").await;
    put(&s.coord, "lists", "x").await;
    names.sort();
    assert_eq!(keys(&s.coord, "list/").await, names);
    let mut paged = Vec::new();
    loop {
        let after = paged.last().cloned();
        let page = s.coord.engine().list("list/", after.as_deref(), 50).await.unwrap();
        let full = page.len() == 50;
        assert!(page.iter().all(|entry| text(entry) == entry.key));
        paged.extend(page.into_iter().map(|entry| entry.key));
        if !full {
            break;
        }
    }
    assert_eq!(paged, names);
    assert_eq!(s.coord.engine().list("list/", Some("zzz"), 50).await.unwrap(), []);
    assert_eq!(s.coord.engine().list("list/", Some("aaa"), 1).await.unwrap()[0].key, names[0]);
    assert_eq!(s.coord.engine().list("none/", None, 50).await.unwrap(), []);
}

pub(super) async fn a_prefix_is_taken_literally(s: Space) {
    let names = ["%/a", "*/a", "A/a", "[a]/a", "\\/a", "_/a", "a/a", "b/a", "ab/a", "a", "a/b/c", "a/b/c/d"];
    for name in names {
        put(&s.coord, name, "x").await;
    }
    for prefix in ["%", "_", "*", "[", "\\", "a", "A", "a/", "a/b/", "a/b/c", "ab", "", "c"] {
        let mut wanted: Vec<_> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        wanted.sort_unstable();
        assert_eq!(keys(&s.coord, prefix).await, wanted, "under {prefix:?}");
    }
    // The keys that look alike are different keys.
    assert!(s.coord.delete("A/a", When::Always).await.unwrap());
    assert!(is_there(&s.coord, "a/a").await);
    assert_kind(s.coord.put("a ", "x", When::Is(Rev(1))).await, Kind::Conflict);
    assert_eq!(s.coord.get("a ").await.unwrap(), None);
}

pub(super) async fn wrong_keys_are_refused(s: Space) {
    let long = "x".repeat(MAX_KEY + 1);
    for key in ["", "/", "/a", "a/", "a//b", "a/../b", ".", "a\nb", "a\0", &long] {
        let error = assert_kind(s.coord.put(key, "x", When::Always).await, Kind::Invalid);
        assert!(error.remedy().is_some(), "{error}");
        assert_kind(s.coord.get(key).await, Kind::Invalid);
        assert_kind(s.coord.delete(key, When::Always).await, Kind::Invalid);
    }
    let longest = "x".repeat(MAX_KEY);
    put(&s.coord, &longest, "x").await;
    assert_eq!(keys(&s.coord, "").await, [longest]);
}

pub(super) async fn too_large_a_value_is_refused(s: Space) {
    let max = s.coord.caps().max_value;
    // What no engine under test refuses isn't worth the memory.
    let over = max.min(64 << 20) + 1;
    if over > max {
        let error = assert_kind(s.coord.put("a", vec![7; over], When::Always).await, Kind::Invalid);
        assert!(error.to_string().contains(&max.to_string()), "{error} names the limit");
        assert_eq!(s.coord.get("a").await.unwrap(), None);
    }
    let size = max.min(16 << 20);
    s.coord.put("a", vec![7; size], When::Always).await.unwrap();
    assert_eq!(s.coord.get("a").await.unwrap().unwrap().value.len(), size);
}
