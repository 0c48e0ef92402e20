//! Who may do what.

use linchpin_core::Kind;
use linchpin_core::coord::When;

use crate::tools::{open, said, start};

#[tokio::test]
async fn what_a_user_makes_is_that_users_alone() {
    let server = start("zookeeper");
    let url = |user: &str| server.url().replace("://", &format!("://{user}")) + "/apps/shop?timeout=5s";
    let mine = open(&url("me:s3cret@")).await.unwrap();
    let lease = mine.engine().grant(mine.caps().min_ttl * 5).await.unwrap();
    mine.put("a/b", "1", When::Absent).await.unwrap();
    mine.engine().put("a/leased", "1".into(), When::Absent, Some(&lease)).await.unwrap();
    mine.engine().renew(&lease).await.unwrap();
    assert_eq!(mine.list("").await.unwrap().len(), 2);

    for user in ["", "me:wrong@", "other:s3cret@"] {
        let error = open(&url(user)).await.unwrap_err();
        said(&error, Kind::Denied, "access list");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
    // Another space of the same servers is open to all.
    let open_to_all = open(&format!("{}/open", server.url())).await.unwrap();
    open_to_all.put("a/b", "2", When::Absent).await.unwrap();
    let again = open(&url("me:s3cret@")).await.unwrap();
    assert_eq!(again.get("a/b").await.unwrap().unwrap().value, "1");
    assert!(!format!("{again:?}").contains("s3cret"));
}
