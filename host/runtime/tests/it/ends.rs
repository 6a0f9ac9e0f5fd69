//! How an invocation ends from outside, and what of it is left.

use dormouse_runtime::{Error, Event, Invocation};
use tokio::sync::mpsc;

use crate::{
    guest::{CLOCK, Guest, OUTPUT},
    node::{Node, invocation},
};

/// Emits one element, then works for ever.
fn busy() -> Guest {
    Guest {
        imports: OUTPUT,
        predict: "
            (call $emit (local.get $in) (local.get $len) (i32.const 256))
            (loop $again (br $again)) unreachable",
        ..Guest::default()
    }
}

/// Waits for an hour.
fn idle() -> Guest {
    Guest {
        imports: Box::leak(format!("{OUTPUT}{CLOCK}").into_boxed_str()),
        predict: "
            (call $emit (local.get $in) (local.get $len) (i32.const 256))
            (call $block (call $after (i64.const 3600000000000))) unreachable",
        ..Guest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_future_ends_the_guest_in_wasm_and_in_the_host() {
    let node = Node::new();
    for guest in [busy(), idle()] {
        let component = node.load(&guest);
        let runtime = node.runtime.clone();
        let (events, mut said) = mpsc::channel(4);
        let task = tokio::spawn(async move { runtime.predict(&component, invocation("1"), events).await.0 });
        assert_eq!(said.recv().await, Some(Event::Output("1".into())));
        assert_eq!(node.runtime.instances(), 1);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(node.runtime.instances(), 0);
        node.answers().await;
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_guest() {
    let node = Node::new();
    for guest in [busy(), idle()] {
        let component = node.load(&guest);
        let (events, mut said) = mpsc::channel(4);
        let leaves = async {
            said.recv().await;
            drop(said);
        };
        let ((result, metrics), ()) =
            tokio::join!(node.runtime.predict(&component, invocation("1"), events), leaves);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert!(metrics.memory_bytes >= 1 << 16, "metrics come back however it ends");
        node.answers().await;
    }
}

#[tokio::test]
async fn an_invocation_sees_nothing_of_the_one_before() {
    let guest = Guest {
        more: "(global $count (mut i32) (i32.const 48))",
        setup: "
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (global.get $count)))
            (call $ok (i32.const 0) (i32.const 0))",
        predict: "
            (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1)))
            (call $ok (i32.const 4096) (i32.const 1))",
        ..Guest::default()
    };
    let node = Node::new();
    for _ in 0..3 {
        assert_eq!(node.run(&guest, "0").await.output(), "2", "one from setup, one from predict");
    }
}

#[tokio::test]
async fn a_thousand_guests_of_every_kind_leave_every_slot_free() {
    // A slot, stack, memory or table that one of them kept would leave none for the last.
    let node = Node::with(|config| config.instances_max = 1);
    let guests = [
        Guest::default(),
        Guest { predict: "unreachable", ..Guest::default() },
        Guest { setup: "unreachable", ..Guest::default() },
        Guest {
            predict: "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
                unreachable",
            ..Guest::default()
        },
        Guest { predict: "(call $predict (i32.const 1) (i32.const 1)) drop unreachable", ..Guest::default() },
    ];
    let components: Vec<_> = guests.iter().map(|guest| node.load(guest)).collect();
    for round in 0..1000 {
        let component = &components[round % components.len()];
        let mut invocation: Invocation = invocation("1");
        invocation.limits.memory_bytes = 2 << 20;
        let run = node.invoke(component, invocation).await;
        assert!(!matches!(run.result, Err(Error::Busy { .. } | Error::Host(_))), "round {round}: {run:?}");
        assert_eq!(run.result.is_ok(), round % components.len() == 0, "round {round}: {run:?}");
    }
    assert_eq!(node.runtime.instances(), 0);
}

#[tokio::test]
async fn without_room_for_a_pool_instances_are_made_on_demand() {
    // A million reservations of 4 GiB are more than any address space.
    let node = Node::with(|config| config.instances_max = 1_000_000);
    node.answers().await;
    let run = node.run(&Guest { predict: "(i32.load (i32.const -8))", ..Guest::default() }, "1").await;
    assert!(matches!(run.error(), Error::Trap(_)), "{run:?}");
}
