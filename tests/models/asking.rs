//! What a thread asks of an agent, and that the agent wakes for it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use snapshim::protocol::process::Process;
use snapshim::protocol::writer_slot::{Answer, Request, Task, WriterSlot};
use snapshim::sys::sync::{Fault, planted};

use super::world::{NEXT, model};

/// The distance from one request's number to the next.
const NUMBERS: u64 = 4;

#[test]
fn an_answer_is_that_of_its_own_request() {
    model(|| {
        let slot = Arc::new(WriterSlot::default());
        let asks = |first: u64| Request { snapshot: 0, incarnation: 1, task: Task::Preserve, first, count: 1 };
        let served = Arc::new(AtomicU64::new(u64::MAX));
        let (other, told) = (Arc::clone(&slot), Arc::clone(&served));
        let agent = thread::spawn(move || {
            if let Some((request, number)) = other.pending() {
                assert_eq!(u64::from(number), request.first * NUMBERS, "half of another request");
                told.store(request.first, Ordering::Relaxed);
                other.answer(number, true);
            }
        });
        // The first request is given up, or answered already. An answer to the second means that the second was done.
        let first = slot.ask(asks(1));
        slot.withdraw_request(first);
        let second = slot.ask(asks(2));
        if slot.look_for_answer(second) == Answer::Done {
            assert_eq!(served.load(Ordering::Relaxed), 2);
        }
        agent.join().unwrap();
        if slot.look_for_answer(second) == Answer::Done {
            assert_eq!(served.load(Ordering::Relaxed), 2);
        }
    });
}

/// The agent sleeps as long as its doorbell says what it said before.
#[test]
fn an_agent_finds_what_it_was_rung_for() {
    model(|| {
        let place = Arc::new((WriterSlot::default(), Process::default()));
        let other = Arc::clone(&place);
        let agent = thread::spawn(move || {
            let (slot, record) = &*other;
            let look = || record.doorbell().load(Ordering::Acquire);
            loop {
                let mut bell = look();
                let asked = slot.pending();
                if planted(Fault::BellFirst) {
                    bell = look();
                }
                match asked {
                    Some((_, number)) => return slot.answer(number, true),
                    None => {
                        while look() == bell {
                            thread::yield_now();
                        }
                    }
                }
            }
        });
        let (slot, record) = &*place;
        let number = slot.ask(Request { snapshot: 0, incarnation: 1, task: Task::Preserve, first: 0, count: 1 });
        record.ring();
        agent.join().unwrap();
        assert_eq!(slot.look_for_answer(number), Answer::Done);
    });
}

/// The signal that asks a process for an agent would end the program that it executes next.
#[test]
fn no_summons_is_sent_to_a_program_that_has_no_handler() {
    model(|| {
        let record = Arc::new(Process::default());
        assert!(record.claim(NEXT));
        let has_handler = Arc::new(AtomicU64::new(1));
        let (other, handler) = (Arc::clone(&record), Arc::clone(&has_handler));
        let executer = thread::spawn(move || {
            other.executing.begin(NEXT);
            while other.is_summoned() {
                thread::yield_now();
            }
            handler.store(0, Ordering::Relaxed);
        });
        if record.begin_summons(NEXT, 1) {
            assert_eq!(has_handler.load(Ordering::Relaxed), 1, "the signal ends the program");
            record.end_summons(1);
        }
        executer.join().unwrap();
    });
}
